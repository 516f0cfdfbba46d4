"""Runs the commands of workloads/README.md on custom rankers from an installed wheel in an empty directory."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from coldstart.config import read_artifact

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "workloads" / "README.md").read_text().split("## Bring your own ranker\n")[1].split("\n## ")[0]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", SECTION, re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and the packages of this environment, but without the checkout."""
    path = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(path), str(ROOT)]
    subprocess.run(wheel, check=True)
    venv.create(path / "venv", symlinks=True)
    packages = next((path / "venv").glob("lib/python*/site-packages"))
    # Python does not read .pth files in a directory that a .pth file adds, so the editable install stays hidden.
    (packages / "base.pth").write_text(sysconfig.get_path("purelib"))
    install = [*pip, "--python", str(path / "venv"), "install", "--no-deps", "--no-index", "--force-reinstall"]
    subprocess.run([*install, *map(str, path.glob("*.whl"))], check=True)
    return path / "venv" / "bin"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory that contains only the files of the section."""
    for kind, text in BLOCKS:
        if kind != "bash":
            name, body = text.split("\n", 1)
            (tmp_path / name.removeprefix("# ")).write_text(body)
    return tmp_path


def run_commands(commands: list[str], directory: Path, installed: Path) -> str:
    environment = os.environ | {"PATH": f"{installed}:{os.environ['PATH']}", "PYTHONPATH": ""}
    output = ""
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=directory, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        output += done.stdout
    return output


def test_a_ranker_is_imported_and_registered_from_the_wheel(directory: Path, installed: Path) -> None:
    output = run_commands(
        [line for line in COMMANDS if "pipeline" not in line and "export" not in line], directory, installed
    )
    assert "my_ranker:MyRanker meets the interface: shop-ranker v1" in output
    assert "site-packages" in run_commands(
        ['python -c "import coldstart; print(coldstart.__file__)"'], directory, installed
    )
    ranker = read_artifact(directory / "runs" / "shop" / "ranker", "ranker")
    assert ranker.metadata["imported"] == "my_ranker:MyRanker"
    assert 0 < ranker.metadata["items_with_row"] < 400
    without_slot = "s/def forward(self, batch: RankBatch, slots: Tensor)/def forward(self, batch: RankBatch)/"
    run_commands([f"sed -i '{without_slot}' my_ranker.py"], directory, installed)
    with pytest.raises(AssertionError, match=r"no item slot: forward\(batch, slots\)"):
        run_commands([line for line in COMMANDS if "import-ranker" in line], directory, installed)


@pytest.mark.slow
def test_every_command_of_the_section_runs(directory: Path, installed: Path) -> None:
    output = run_commands(COMMANDS, directory, installed)
    assert pq.read_table(directory / "proxies.parquet").num_rows == 400
    assert "shop-scorer v1" in output
    run = directory / "runs" / "shop"
    ranker = read_artifact(run / "ranker", "ranker")
    assert read_artifact(run / "evaluation", "evaluation").lineage["ranker"] == ranker.fingerprint
