"""The page "Add a method" of `platform/README.md`: one folder and one name are a method that is trained and served."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAME = "content_match"
FILE = re.compile(r"```\w+\n# (?P<path>[\w./]+)\n(?P<text>.*?)```", re.DOTALL)
NAMES = re.compile(r"^METHOD_NAMES = \((.*)\)$", re.MULTILINE)
SMALL = (
    "data.generated.items=150",
    "data.generated.users=100",
    "data.generated.events=8000",
    "data.generated.weeks=2",
    "data.generated.image_size=16",
    "mature_events=5",
    "ranker.embedding_dim=8",
    "ranker.epochs=1",
    "cluster.workers=1",
    "cluster.embed_actors=1",
    "cluster.ray_data_cpus=1",
    "evaluation.num_resamples=20",
    "method.epochs=2",
    "method.dim=4",
)


def page_files() -> dict[str, str]:
    """Path -> text of the files that the page shows."""
    readme = (ROOT / "platform" / "README.md").read_text()
    page = readme[readme.index("## Add a method") :]
    return {found["path"]: found["text"] for found in FILE.finditer(page)}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the library with the folder and the name of the page, and nothing else."""
    root = tmp_path_factory.mktemp("library")
    package = root / "coldstart"
    shutil.copytree(ROOT / "platform" / "coldstart", package, ignore=shutil.ignore_patterns("__pycache__"))
    before = {path for path in package.rglob("*") if path.is_file()}
    for path, text in page_files().items():
        (file := (package if "/" in path else root) / path).parent.mkdir(exist_ok=True)
        file.write_text(text)
    added = {path.parent for path in package.rglob("*") if path.is_file() and path not in before}
    assert added == {package / "methods" / NAME}
    registry = package / "config" / "recipe" / "method.py"
    text, count = NAMES.subn(lambda found: f'METHOD_NAMES = ({found[1].rstrip(",")}, "{NAME}")', registry.read_text())
    assert count == 1
    registry.write_text(text)
    return root


def run(library: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{library}:{ROOT}"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def found(library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    runs = tmp_path_factory.mktemp("runs")
    recipe, stores = str(library / "match.yaml"), str(runs / "stores")
    done = run(library, "-m", "tests.methods.added_method", recipe, stores, f"paths.runs={runs}", *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.mark.slow
def test_its_stages_run_and_its_models_are_registered(found: dict) -> None:
    stages = ["prepare", "train_ranker", "embed_items", "train_match", "evaluate", "register"]
    assert found["stages"] == stages
    assert found["models"] == {"ranker": 1, "scorer": 1}


@pytest.mark.slow
def test_it_is_evaluated_by_all_that_no_method_brings(found: dict) -> None:
    summary = found["evaluation"]
    shared = ["oov", "id", "text_similarity"]
    assert list(summary["metrics"]) == [*shared, "release", "content_oracle", "oracle"]
    assert summary["headline"] == "release"
    release, oov = (summary["metrics"][name]["cold"] for name in ("release", "oov"))
    assert release["gauc_item"] != oov["gauc_item"] == 0.5
    assert "release" in summary["warm_up"]["gauc_item"]
    assert "release" in summary["item_effect_share"]
    assert {"variant": "release", "against": "oov"}.items() <= next(
        entry for entry in summary["comparisons"] if entry["variant"] == "release"
    ).items()
    assert summary["weak_slices"]["tried"] > 0
    diagnostics = summary["diagnostics"]
    assert diagnostics["gains"]["items"] + diagnostics["gains"]["left_out"] > 0
    assert diagnostics["id_space"] is diagnostics["attention"] is None
    inputs = diagnostics["modalities"]["inputs"]
    assert inputs["text"]["drop"]["value"] == pytest.approx(0, abs=1e-6)
    assert inputs["image"]["gain"]["value"] != inputs["both"]["gain"]["value"]


@pytest.mark.slow
def test_a_thousand_served_rows_have_the_scores_of_the_evaluation(found: dict) -> None:
    assert found["gap"] < 1e-5


@pytest.mark.slow
def test_an_item_published_a_second_ago_is_read_in_the_history(found: dict) -> None:
    published = found["published"]
    assert published["after"] == pytest.approx(published["offline"], abs=1e-5)
    assert abs(published["after"] - published["before"]) > 1e-4
    assert found["neighbors"] == 3


def test_a_replica_that_encodes_nothing_does_not_load_the_training_stack(library: Path) -> None:
    program = (
        "import sys, coldstart.methods.available; print({'sklearn', 'ray.train', 'transformers'} & {*sys.modules})"
    )
    done = run(library, "-c", program)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("content.use_text=false",), "reads the text of items, but content.use_text is false"),
        (
            ("data.source=files", "data.files.columns.title=null"),
            "data.files.columns names no column for it; set data.files.columns.title or text",
        ),
        (("method.name=content_mach",), "no method 'content_mach'; did you mean 'content_match'?"),
        (("method.dims=4",), "unknown key 'dims': did you mean 'dim'?"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(library: Path, overrides: tuple[str, ...], message: str) -> None:
    program = "import sys, pathlib, coldstart.config as c; c.load_recipe(pathlib.Path(sys.argv[1]), sys.argv[2:])"
    done = run(library, "-c", program, str(library / "match.yaml"), *overrides)
    assert done.returncode == 1
    assert message in done.stderr


def test_a_command_of_another_method_is_refused(library: Path) -> None:
    program = "from coldstart.cli import main; main()"
    done = run(library, "-c", program, "export", "out.parquet", "--recipe", str(library / "match.yaml"))
    assert done.returncode == 2
    assert "method.name is content_match, but this command works with idproxy only" in done.stderr
