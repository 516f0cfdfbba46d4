"""Error messages of `import-ranker` and `export`."""

import sys
from pathlib import Path

import pytest

from coldstart.cli import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["import-ranker"], ["no dataset", "run the stage that creates it first"]),
        (["import-ranker", "--set", "ranker.pretrained.id_table=ids.npz"], ["exclude each other"]),
        (["export", "proxies.parquet"], ["no item_table", "run the stage that creates it first"]),
    ],
)
def test_errors_have_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.setenv("COLDSTART_RANKER", "")
    options = ["my_ranker:MyRanker", "--weights", "my.safetensors"] if arguments[0] == "import-ranker" else []
    monkeypatch.setattr(sys, "argv", ["coldstart", *arguments, *options, "--set", f"paths.runs={tmp_path}"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    message = capfd.readouterr().err
    assert len(message.strip().splitlines()) <= 2
    for word in words:
        assert word in message
