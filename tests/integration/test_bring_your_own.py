"""The README's section on bringing a ranker, as it is printed, from an installed wheel in an empty directory."""

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
SECTION = (ROOT / "README.md").read_text().split("## Bring your own ranker\n")[1].split("\n## ")[0]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", SECTION, re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has the wheel, and sees the packages of this one but not the checkout."""
    path = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(path), str(ROOT)]
    subprocess.run(wheel, check=True)
    venv.create(path / "venv", symlinks=True)
    packages = next((path / "venv").glob("lib/python*/site-packages"))
    # A .pth inside a .pth's directory is not read, so the editable install stays out of sight.
    (packages / "base.pth").write_text(sysconfig.get_path("purelib"))
    into = [*pip, "--python", str(path / "venv"), "install", "--no-deps", "--no-index", "--force-reinstall"]
    subprocess.run([*into, *map(str, path.glob("*.whl"))], check=True)
    return path / "venv" / "bin"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with nothing but the files that the section shows."""
    for kind, text in BLOCKS:
        if kind != "bash":
            name, body = text.split("\n", 1)
            (tmp_path / name.removeprefix("# ")).write_text(body)
    return tmp_path


def follow(commands: list[str], here: Path, installed: Path) -> str:
    environment = os.environ | {"PATH": f"{installed}:{os.environ['PATH']}", "PYTHONPATH": ""}
    told = ""
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=here, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        told += done.stdout
    return told


def test_a_ranker_is_registered_from_the_wheel(here: Path, installed: Path) -> None:
    told = follow([line for line in COMMANDS if "pipeline" not in line and "export" not in line], here, installed)
    assert "my_ranker:MyRanker meets the interface: mine-ranker v1" in told
    assert "site-packages" in follow(['python -c "import coldstart; print(coldstart.__file__)"'], here, installed)
    ranker = read_artifact(here / "runs" / "mine" / "ranker", "ranker")
    assert ranker.about["brought"] == "my_ranker:MyRanker"
    assert 0 < ranker.about["items_with_row"] < 400
    without_slot = "s/def forward(self, batch: RankBatch, slots: Tensor)/def forward(self, batch: RankBatch)/"
    follow([f"sed -i '{without_slot}' my_ranker.py"], here, installed)
    with pytest.raises(AssertionError, match=r"no item slot: forward\(batch, slots\)"):
        follow([line for line in COMMANDS if "register" in line], here, installed)


@pytest.mark.slow
def test_every_command_of_the_section_runs(here: Path, installed: Path) -> None:
    told = follow(COMMANDS, here, installed)
    assert pq.read_table(here / "proxies.parquet").num_rows == 400
    assert "mine-adaptor v1" in told
    run = here / "runs" / "mine"
    ranker = read_artifact(run / "ranker", "ranker")
    assert read_artifact(run / "evaluation", "evaluation").lineage["ranker"] == ranker.fingerprint
