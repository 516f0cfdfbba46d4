import json
import os
import signal
import socket
import subprocess
import sys

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


def killed_while_writing(path) -> None:
    """Runs a process that writes an artifact and is killed half-way."""
    program = f"""
import os, pathlib, signal
from coldstart.config import write_artifact
with write_artifact(pathlib.Path({str(path)!r}), "dataset", {{}}, {{}}) as draft:
    (draft / "half.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL


def test_what_a_killed_process_left_is_cleared_by_the_next_one(tmp_path):
    killed_while_writing(tmp_path / "dataset")
    assert [path.name.startswith(".dataset.draft-") for path in tmp_path.iterdir()] == [True]
    write(tmp_path / "dataset")
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_an_artifact_that_a_killed_process_had_moved_aside_is_restored(tmp_path):
    write(tmp_path / "dataset")
    killed_while_writing(tmp_path / "dataset")
    (draft,) = tmp_path.glob(".dataset.draft-*")
    (tmp_path / "dataset").rename(tmp_path / draft.name.replace(".draft-", ".old-"))
    with pytest.raises(RuntimeError), write_artifact(tmp_path / "dataset", "dataset", {}, {}):
        raise RuntimeError
    assert read_artifact(tmp_path / "dataset", "dataset").metadata == {"rows": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


@pytest.mark.parametrize("owner", [f"{socket.gethostname()}-{os.getppid()}", "another-machine-1", "not-a-pid"])
def test_drafts_of_living_processes_and_of_other_machines_stay(tmp_path, owner):
    (tmp_path / f".dataset.draft-{owner}").mkdir()
    write(tmp_path / "dataset")
    assert (tmp_path / f".dataset.draft-{owner}").is_dir()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file is not writable.*set paths.runs"):
        write(tmp_path / "file" / "dataset")


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
