"""Errors of users are reported in one or two lines with the fix, before a cluster is started."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Command

ITEMS = {"item_id": ["a", "b"], "title": ["one", "two"], "image": pa.array([None, None], pa.large_binary())}
EVENTS = {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [1, 2], "label": [0, 1]}


def tables(path: Path, items: dict, events: dict) -> Path:
    path.mkdir(exist_ok=True)
    pq.write_table(pa.table(items), path / "items.parquet")
    pq.write_table(pa.table(events), path / "events.parquet")
    return path


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: mine\ndata: {source: files}\n")
    return ["run", "pipeline", "--recipe", str(recipe), "--set", f"paths.runs={tmp_path / 'runs'}"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--set", "data.files.root=nowhere"], ["nowhere/items.parquet", "does not exist"]),
        (["--set", "data.files.columns.title=titel"], ["data.files.columns.title", "'titel'", "'title'"]),
        (["--set", "data.files.columns.label=clicked"], ["data.files.columns.label", "'clicked'"]),
        (["--set", "method.coarse.zero_stge=1"], ["zero_stge", "zero_stage"]),
        (["--set", "registry.tracking_uri=http://127.0.0.1:9"], ["http://127.0.0.1:9", "MLflow"]),
        (["--set", "encoder.mllm=."], ["encoder.mllm", "config.json"]),
        (["--address", "127.0.0.1:9"], ["127.0.0.1:9", "Ray"]),
    ],
)
def test_the_pipeline_refuses_wrong_input_at_once(
    coldstart: Command, tmp_path: Path, command: list[str], extra: list[str], words: list[str]
) -> None:
    data = tables(tmp_path / "data", ITEMS, EVENTS)
    done = coldstart(*command, "--set", f"data.files.root={data}", *extra)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) <= 2
    for word in words:
        assert word in done.stderr


def test_an_empty_table_is_named(coldstart: Command, tmp_path: Path, command: list[str]) -> None:
    empty = {name: pa.array([], pa.table(EVENTS)[name].type) for name in EVENTS}
    done = coldstart(*command, "--set", f"data.files.root={tables(tmp_path / 'data', ITEMS, empty)}")
    assert done.returncode == 2
    assert "events.parquet" in done.stderr
    assert "empty" in done.stderr or "no rows" in done.stderr


def test_unknown_workload_recipe_and_version(coldstart: Command, tmp_path: Path) -> None:
    for arguments, words in (
        (["run", "trian_ranker"], ["trian_ranker", "train_ranker"]),
        (["validate", "dmeo"], ["dmeo", "demo"]),
        (["promote", "scorer", "7", "--set", f"paths.runs={tmp_path}"], ["version 7", "coldstart models"]),
        (["submit", "prepare", "--set", f"paths.runs={tmp_path}", "--address", "http://127.0.0.1:9"], ["127.0.0.1:9"]),
    ):
        done = coldstart(*arguments)
        assert done.returncode == 2, done.stderr
        for word in words:
            assert word in done.stderr


def test_verbs_print_json_and_help(coldstart: Command, tmp_path: Path) -> None:
    assert '"valid": true' in coldstart("validate", "demo", "--json").stdout
    assert "qwen2.5-vl-3b" in coldstart("recipes").stdout
    assert '"zero_stage"' in coldstart("schema").stdout
    assert "xample: coldstart promote" in coldstart("promote", "--help").stdout
    assert coldstart("models", "--json", "--set", f"paths.runs={tmp_path}").stdout.strip() == "[]"
