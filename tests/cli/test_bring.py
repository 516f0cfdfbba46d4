"""Mistakes with a ranker of one's own, as the command line tells them."""

import sys
from pathlib import Path

import pytest

from coldstart.cli import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["register", "encoder"], ["only a ranker", "coldstart run register"]),
        (["register", "ranker"], ["no dataset", "run the stage that makes it first"]),
        (["register", "ranker", "--set", "bring.id_table=ids.npz"], ["exclude each other"]),
        (["export", "proxies.parquet"], ["no proxies", "run the stage that makes it first"]),
    ],
)
def test_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.setenv("COLDSTART_RANKER", "")
    own = ["--from", "my_ranker:MyRanker", "--weights", "my.safetensors"] if arguments[0] == "register" else []
    monkeypatch.setattr(sys, "argv", ["coldstart", *arguments, *own, "--set", f"paths.runs={tmp_path}"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    told = capfd.readouterr().err
    assert len(told.strip().splitlines()) <= 2
    for word in words:
        assert word in told
