"""The rules of the house, as tests."""

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "platform" / "coldstart"
ROOMS = [
    ["config"],
    ["data"],
    ["encoders", "rankers"],
    ["alignment"],
    ["training"],
    ["evaluation"],
    ["registry"],
    ["serving"],
    ["client"],
    ["cli"],
]
RANK = {room: place for place, rooms in enumerate(ROOMS) for room in rooms}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def modules() -> list[Path]:
    found = sorted(path for path in LIBRARY.rglob("*.py") if path.parent != LIBRARY)
    assert len(found) > 30
    return found


def test_rooms_import_only_from_rooms_to_their_left():
    for path in modules():
        room = path.relative_to(LIBRARY).parts[0]
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "coldstart" and len(parts) > 1:
                other = parts[1]
                assert other == room or RANK[other] < RANK[room], f"{path} imports {name}"


def test_ray_and_mlflow_stay_at_the_edges():
    for path in modules():
        where = path.relative_to(LIBRARY).as_posix()
        tops = {name.split(".")[0] for name in imports(path)}
        if "ray" in tops:
            edges = ("data/streaming.py", "training/launch.py", "training/notice.py")
            assert where in edges or where.startswith(("serving/", "cli/")), where
        if "mlflow" in tops:
            assert where.startswith("registry/"), where


def test_top_level_holds_only_what_was_agreed():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    tops = {name.split("/")[0] for name in tracked if name}
    agreed = {"pyproject.toml", "constraints.txt", "README.md", "Makefile", "LICENSE"}
    agreed |= {"platform", "workloads", "cluster", "tests"}
    assert {top for top in tops if not top.startswith(".")} <= agreed
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_modules_are_readable_in_one_sitting():
    for path in [*modules(), *sorted((ROOT / "workloads").rglob("*.py"))]:
        assert len(path.read_text().splitlines()) <= 450, path
