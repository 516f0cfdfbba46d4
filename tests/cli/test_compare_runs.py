"""`coldstart compare-runs` compares two evaluated runs."""

import json
import sys
from pathlib import Path

import pytest

from coldstart.cli import main
from coldstart.config import Recipe
from tests.evaluation.evaluated import scored_rows, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    at = tmp_path_factory.mktemp("runs")
    recipes = [Recipe.model_validate({"name": n, "evaluation": {"num_resamples": 100}}) for n in ("one", "two", "part")]
    rows = [scored_rows(noise=noise, training=1) for noise in (2.0, 0.5, 0.5)]
    rows[2] = rows[2].take(rows[2].event < 5000)
    return [str(write_run(at / r.name, scored, r)) for r, scored in zip(recipes, rows, strict=True)]


def _printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["coldstart", "compare-runs", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    return capsys.readouterr().out


def test_table_json_and_html_output(
    runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = _printed(monkeypatch, capsys, *runs[:2])
    assert "item GAUC of one and two" in text
    assert "not paired" not in text
    assert "\u2026" not in text.partition("made with")[0]
    found = json.loads(_printed(monkeypatch, capsys, *runs[:2], "--json", "--html", str(tmp_path / "page.html")))
    assert found["paired"]
    page = (tmp_path / "page.html").read_text()
    assert "exactly the same rows" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_runs_on_other_rows_are_not_paired(
    runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = _printed(monkeypatch, capsys, runs[0], runs[2])
    assert "not paired" in text
    assert "different rows" in text


def test_a_directory_without_an_evaluation_is_named(
    runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["coldstart", "compare-runs", runs[0], str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert str(tmp_path) in capsys.readouterr().err
