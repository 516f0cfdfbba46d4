import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coldstart.config import MetricsLog, UserError, check_same_artifact, read_artifact, write_artifact


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
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {".dataset.draft", ".dataset.lock"}
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


def test_the_draft_of_a_living_writer_stays(tmp_path):
    program = f"""
import pathlib, sys
from coldstart.config import write_artifact
with write_artifact(pathlib.Path({str(tmp_path / "dataset")!r}), "dataset", {{}}, {{}}) as draft:
    print(draft, flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    draft = Path(other.stdout.readline().strip())
    write(tmp_path / "dataset")
    with write_artifact(tmp_path / "dataset", "dataset", {}, {}) as mine:
        write(tmp_path / "dataset", "other")
        assert mine.is_dir()
    assert draft.is_dir()
    other.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


@pytest.mark.parametrize(
    ("owner", "days", "stays"),
    [
        (socket.gethostname(), 0, False),
        (socket.gethostname(), 30, False),
        (f"other-{socket.gethostname()}", 0, True),
        (f"other-{socket.gethostname()}", 30, False),
    ],
)
def test_a_draft_of_another_host_stays_until_it_is_old(tmp_path, owner, days, stays):
    draft = tmp_path / f".dataset.draft-{owner}-0123"
    draft.mkdir()
    (draft / "part.txt").write_text("half")
    then = time.time() - days * 86_400
    for path in (draft / "part.txt", draft):
        os.utime(path, (then, then))
    write(tmp_path / "dataset")
    assert draft.is_dir() == stays


def test_a_draft_of_another_host_that_is_still_written_stays(tmp_path):
    draft = tmp_path / ".dataset.draft-other-0123"
    draft.mkdir()
    (draft / "part.txt").write_text("half")
    os.utime(draft, (0, 0))
    write(tmp_path / "dataset")
    assert draft.is_dir()


def test_a_node_with_another_copy_is_named(tmp_path):
    write(tmp_path / "dataset")
    fingerprint = read_artifact(tmp_path / "dataset", "dataset").fingerprint
    check_same_artifact(tmp_path / "dataset", "dataset", fingerprint)
    with pytest.raises(UserError, match=rf"node {socket.gethostname()} has another dataset .* out of date; mount"):
        check_same_artifact(tmp_path / "dataset", "dataset", "0" * 64)
    with pytest.raises(UserError, match=rf"node {socket.gethostname()} does not see the dataset .*; mount"):
        check_same_artifact(tmp_path / "nowhere", "dataset", fingerprint)


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


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is not JSON"),
        (b'{"kind": "da', "it is not JSON"),
        (b"\xff\xfe\x00", "it is not JSON"),
        (b"[]", "it is no manifest"),
        (b"{}", "it is no manifest"),
    ],
)
def test_a_damaged_manifest_is_an_error_with_the_fix(tmp_path, content, problem):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"manifest.json is damaged: {problem}.*; create the dataset again"):
        read_artifact(tmp_path, "dataset")
