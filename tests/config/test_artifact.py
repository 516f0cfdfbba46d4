import json

import pytest

from coldstart.config import MetricsLog, UserError, read_artifact, write_artifact


def write(path, text="hello"):
    metadata = {"rows": 0}
    with write_artifact(path, "dataset", {"source": "abc"}, metadata) as draft:
        (draft / "part.txt").write_text(text)
        metadata["rows"] = 3


def test_round_trip_keeps_lineage_and_metadata_added_while_writing(tmp_path):
    write(tmp_path / "dataset")
    artifact = read_artifact(tmp_path / "dataset", "dataset")
    assert artifact.lineage == {"source": "abc"}
    assert artifact.metadata == {"rows": 3}


def test_fingerprint_depends_on_content_only(tmp_path):
    for name, text in (("a", "hello"), ("b", "hello"), ("c", "other")):
        write(tmp_path / name, text)
    prints = {name: read_artifact(tmp_path / name, "dataset").fingerprint for name in "abc"}
    assert prints["a"] == prints["b"] != prints["c"]


def test_a_failed_write_keeps_the_old_artifact(tmp_path):
    write(tmp_path / "dataset")

    def fail():
        with write_artifact(tmp_path / "dataset", "dataset", {}, {}) as draft:
            (draft / "half.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read_artifact(tmp_path / "dataset", "dataset").metadata == {"rows": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_tampering_a_missing_file_and_a_wrong_kind_are_refused(tmp_path):
    path = tmp_path / "dataset"
    with pytest.raises(UserError, match="run the stage"):
        read_artifact(path, "dataset")
    write(path)
    with pytest.raises(UserError, match="is a dataset, not a ranker"):
        read_artifact(path, "ranker")
    (path / "part.txt").write_text("hello!")
    with pytest.raises(UserError, match=r"part.txt is missing or differs"):
        read_artifact(path, "dataset")
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "lineage": {"source": "forged"}}))
    with pytest.raises(UserError, match="changed after it was written"):
        read_artifact(path, "dataset")
    (path / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    with pytest.raises(UserError, match="schema version 99"):
        read_artifact(path, "dataset")


def test_a_follower_reads_complete_lines_once(tmp_path):
    metrics_log = MetricsLog(tmp_path / "metrics" / "stage.jsonl")
    assert list(metrics_log.follow()) == []
    metrics_log.write(1, 3, loss=0.5)
    follower = MetricsLog(metrics_log.path)
    assert [entry["done"] for entry in follower.follow()] == [1]
    with metrics_log.path.open("a") as stream:
        stream.write('{"done": 2, "tot')
    assert list(follower.follow()) == []
    with metrics_log.path.open("a") as stream:
        stream.write('al": 3}\n')
    assert [entry["done"] for entry in follower.follow()] == [2]
    assert [entry["done"] for entry in metrics_log.read()] == [1, 2]
