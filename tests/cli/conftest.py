import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from coldstart.cli import main


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def coldstart(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["coldstart", *arguments])
        try:
            main()
            code: object = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capfd.readouterr()
        assert isinstance(code, int)
        return Done(code, out, err)

    return run
