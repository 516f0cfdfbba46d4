"""Every bash block of every README runs as printed: the quick ones here, all of them in `make test-slow`.

A comment above a block says why it is not quick. `<!-- slow: reason -->` leaves it to the slow test;
`<!-- not run: reason -->` leaves it out, because it cannot run on such a machine. A block of another language whose
first line is `# name.ext` is a file that the commands find in the working directory.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHELL = ("bash", "sh", "console", "shell")
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[\w ]+): (?P<reason>.+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL
)
NAMED = re.compile(r"# ([\w.-]+\.\w+)\n")
FIRST = ("README.md", "workloads/README.md", "cluster/README.md")
"""The slow test runs these first and in this order: later READMEs use the models that `make demo` leaves."""


@dataclass(frozen=True)
class Block:
    readme: str
    line: int
    language: str
    mark: str | None
    text: str


def tracked(*patterns: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.split()


READMES = sorted(tracked("*README.md"), key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def blocks(readme: str) -> list[Block]:
    text = (ROOT / readme).read_text()
    return [
        Block(readme, text.count("\n", 0, found.start("text")) + 1, found["language"], found["mark"], found["text"])
        for found in BLOCK.finditer(text)
    ]


ALL = [block for readme in READMES for block in blocks(readme)]
COMMANDS = [block for block in ALL if block.language in SHELL]


def checkout(path: Path) -> Path:
    """A copy of the tracked files, with their times, so that make sees nothing new."""
    for name in tracked():
        if (ROOT / name).exists():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, path / name)
    return path


def run(here: Path, readme: str, marks: tuple[str | None, ...], environment: dict[str, str]) -> None:
    for block in blocks(readme):
        if block.language not in SHELL and (named := NAMED.match(block.text)):
            (here / named[1]).write_text(block.text)
    script = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT"]
    for block in (block for block in COMMANDS if block.readme == readme and block.mark in marks):
        script += [f"echo '>>> {readme}:{block.line}' >&2", block.text]
    process = subprocess.Popen(
        ["bash", "-c", "\n".join(script)],
        cwd=here,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)
    assert process.returncode == 0, printed[-6000:]


def test_marks_are_known_and_counted() -> None:
    assert len(READMES) >= 6
    assert {block.language for block in ALL} <= {"bash", "python", "yaml", ""}
    assert {block.mark for block in ALL} <= {None, "slow", "not run"}
    assert {block.mark for block in ALL if block.language not in SHELL} == {None}
    by_mark = {mark: sum(block.mark == mark for block in COMMANDS) for mark in (None, "slow", "not run")}
    # A block more or less is a decision: is it quick, is it slow, or can it not run here?
    assert by_mark == {None: 6, "slow": 16, "not run": 2}


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_bash_block_is_found() -> None:
    """The pattern above misses no fence: both counts come from the text in different ways."""
    fences = sum(line.startswith("```") for readme in READMES for line in (ROOT / readme).read_text().splitlines())
    assert fences == 2 * len(ALL)


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "readme", [name for name in READMES if any(b.mark is None for b in COMMANDS if b.readme == name)]
)
def test_quick_commands_run_as_printed(readme: str, tmp_path: Path) -> None:
    here = checkout(tmp_path / "coldstart")
    (tmp_path / "home").mkdir()
    (here / ".venv").symlink_to(sys.prefix)
    environment = os.environ | {
        "HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{here / 'platform'}:{here}",
    }
    run(here, readme, (None,), environment)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A fresh checkout without an environment, and a home without a token; pip keeps its cache."""
    path = tmp_path_factory.mktemp("stranger")
    (path / "home").mkdir()
    cache = os.environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip"))
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    path_without_venv = [part for part in os.environ["PATH"].split(":") if not part.startswith(sys.prefix)]
    environment |= {"HOME": str(path / "home"), "PIP_CACHE_DIR": cache, "PATH": ":".join(path_without_venv)}
    return checkout(path / "coldstart"), environment


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("readme", [name for name in READMES if any(b.readme == name for b in COMMANDS)])
def test_all_commands_run_as_printed(readme: str, stranger: tuple[Path, dict[str, str]]) -> None:
    here, environment = stranger
    if (here / ".venv").exists():
        environment = environment | {"PATH": f"{here / '.venv' / 'bin'}:{environment['PATH']}"}
    run(here, readme, (None, "slow"), environment)
