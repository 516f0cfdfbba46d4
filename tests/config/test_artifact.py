import json

import pytest

from coldstart.config import Journal, UserError, read_artifact, write_artifact


def make(path, text="hello"):
    about = {"rows": 0}
    with write_artifact(path, "dataset", {"source": "abc"}, about) as draft:
        (draft / "part.txt").write_text(text)
        about["rows"] = 3


def test_round_trip_keeps_lineage_and_facts_found_while_writing(tmp_path):
    make(tmp_path / "dataset")
    artifact = read_artifact(tmp_path / "dataset", "dataset")
    assert artifact.lineage == {"source": "abc"}
    assert artifact.about == {"rows": 3}


def test_fingerprint_depends_on_content_only(tmp_path):
    for name, text in (("a", "hello"), ("b", "hello"), ("c", "other")):
        make(tmp_path / name, text)
    prints = {name: read_artifact(tmp_path / name, "dataset").fingerprint for name in "abc"}
    assert prints["a"] == prints["b"] != prints["c"]


def test_a_failed_writer_leaves_the_old_artifact(tmp_path):
    make(tmp_path / "dataset")

    def fail():
        with write_artifact(tmp_path / "dataset", "dataset", {}, {}) as draft:
            (draft / "half.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read_artifact(tmp_path / "dataset", "dataset").about == {"rows": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_tampering_a_missing_file_and_a_wrong_kind_are_refused(tmp_path):
    path = tmp_path / "dataset"
    with pytest.raises(UserError, match="run the stage"):
        read_artifact(path, "dataset")
    make(path)
    with pytest.raises(UserError, match="holds a dataset, not a ranker"):
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


def test_a_follower_sees_whole_lines_once(tmp_path):
    journal = Journal(tmp_path / "journals" / "stage.jsonl")
    assert list(journal.follow()) == []
    journal.write(1, 3, loss=0.5)
    follower = Journal(journal.path)
    assert [entry["done"] for entry in follower.follow()] == [1]
    with journal.path.open("a") as stream:
        stream.write('{"done": 2, "tot')
    assert list(follower.follow()) == []
    with journal.path.open("a") as stream:
        stream.write('al": 3}\n')
    assert [entry["done"] for entry in follower.follow()] == [2]
    assert [entry["done"] for entry in journal.read()] == [1, 2]
