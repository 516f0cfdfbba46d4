"""`coldstart inspect` shows a prepared dataset and writes a page."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coldstart.data.dataset import part_path
from tests.cli.conftest import Command
from tests.evaluation.inspection.datasets import healthy, write_dataset

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    contents, users = healthy(users=20, items=40)
    write_dataset(tmp_path / "[red]shop" / "dataset", contents, users)
    return tmp_path / "[red]shop"


def test_a_run_is_shown_and_its_page_is_written(run: Path, coldstart: Command) -> None:
    done = coldstart("inspect", str(run))
    assert done.returncode == 0, done.stderr
    assert "[red]shop  800 events of 20 users on 40 items" in done.stdout
    assert "warning  few cold test rows" in done.stdout
    assert f"page   {run / 'inspect.html'}" in done.stdout
    page = (run / "inspect.html").read_text()
    assert "Dataset of [red]shop" in page
    assert "few cold test rows" in page.lower()


def test_a_dataset_is_printed_as_json(run: Path, tmp_path: Path, coldstart: Command) -> None:
    page = tmp_path / "elsewhere.html"
    done = coldstart("inspect", str(run / "dataset"), "--json", "--html", str(page))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["items"], found["users"], found["events"]) == (40, 20, 800)
    assert "few_cold_rows" in [one["name"] for one in found["warnings"]]
    assert found["page"] == str(page)
    assert page.is_file()
    assert not (run / "inspect.html").exists()


def test_what_cannot_be_inspected_is_an_error_with_the_fix(run: Path, tmp_path: Path, coldstart: Command) -> None:
    done = coldstart("inspect", str(tmp_path))
    assert done.returncode == 2
    assert "no dataset at" in done.stderr
    assert "coldstart run prepare" in done.stderr
    done = coldstart("inspect", str(run), "--html", str(run / "dataset" / "manifest.json" / "page.html"))
    assert done.returncode == 2
    assert "name another file with --html" in done.stderr
    file = part_path(run / "dataset" / "items", 0)
    file.write_bytes(file.read_bytes()[:100])
    done = coldstart("inspect", str(run))
    assert done.returncode == 2
    assert "part-00000.parquet is missing or differs from its manifest; create the dataset again" in done.stderr
    assert not done.stdout


def test_neither_ray_nor_torch_is_loaded(run: Path) -> None:
    program = "import sys; from coldstart.cli.app import app; import coldstart.cli; "
    program += "app(['inspect', sys.argv[1]], standalone_mode=False); "
    program += "print([name for name in ('torch', 'ray', 'mlflow', 'transformers', 'sklearn') if name in sys.modules])"
    path = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", program, str(run)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
