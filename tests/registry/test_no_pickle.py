"""No pickle: not in what is registered, and not on any way by which it is loaded."""

import ast
import io
import pickle
import pickletools
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch

from coldstart.alignment import load_adaptor
from coldstart.encoders import Encoder
from coldstart.rankers import load_ranker
from coldstart.registry import Registry
from tests.serving.tiny import register_run, tiny_recipe, write_run

ROOT = Path(__file__).parents[2]
KINDS = ("ranker", "encoder", "adaptor")
CALLS = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
FOUND: list[str] | None = None
"""What was unpickled since it was made a list; `None` while nobody looks."""


def _watch(event: str, given: tuple[object, ...]) -> None:
    if FOUND is not None and event == "pickle.find_class":
        FOUND.append(".".join(map(str, given)))


sys.addaudithook(_watch)  # Python calls it for every class or function that any unpickler looks up.


def holds_pickle(content: bytes) -> bool:
    """Whether a file is a pickle stream of any protocol, or an archive with one in it."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(holds_pickle(archive.read(name)) for name in archive.namelist())
    try:
        operations = [operation.name for operation, _, _ in pickletools.genops(content)]
    except Exception:
        return False
    return len(operations) > 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_detector_sees_a_pickle(protocol):
    assert holds_pickle(pickle.dumps({"weights": [1, 2], "path": Path("x")}, protocol))


def test_the_detector_sees_what_torch_writes_and_passes_plain_files():
    archive = io.BytesIO()
    torch.save({"weight": torch.ones(2)}, archive)
    assert holds_pickle(archive.getvalue())
    assert not holds_pickle(b'{"weights": 1}')
    assert not holds_pickle(b"name: ranker\n")


@pytest.fixture(scope="module")
def registry(tracking_uri, tmp_path_factory) -> Registry:
    recipe = tiny_recipe(tmp_path_factory.mktemp("runs"), "no-pickle")
    write_run(recipe)
    registry = Registry(tracking_uri, recipe.project)
    register_run(recipe, registry)
    return registry


def files(registry: Registry) -> Iterator[Path]:
    """Everything that registering wrote: the models, and what their runs hold."""
    for kind in KINDS:
        entry = registry.version(kind, 1)
        run = registry.client.get_run(entry.run_id)
        for place in (entry.source, run.info.artifact_uri):
            yield from (path for path in Path(place.removeprefix("file://")).rglob("*") if path.is_file())


def test_nothing_that_is_registered_holds_one(registry):
    found = list(files(registry))
    assert {"MLmodel", "model.safetensors", "part-00000.parquet", "recipe.yaml"} <= {path.name for path in found}
    assert not [path for path in found if holds_pickle(path.read_bytes())]


@pytest.mark.parametrize("kind", KINDS)
def test_loading_and_predicting_unpickles_nothing(registry, kind, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registry.tracking_uri)
    monkeypatch.setattr(sys.modules[__name__], "FOUND", [])
    try:
        model = mlflow.pyfunc.load_model(f"models:/{registry.model_name(kind)}/1")
        assert len(model.predict(model.input_example)) == 1
    finally:
        mlflow.set_tracking_uri(before)
    assert FOUND == []


def test_the_platforms_own_loaders_unpickle_nothing(registry, monkeypatch):
    release = registry.release(1)
    monkeypatch.setattr(sys.modules[__name__], "FOUND", [])
    load_ranker(release.ranker.path)
    Encoder.load(release.encoder.path, "cpu")
    load_adaptor(release.adaptor.path)
    assert FOUND == []


def test_the_watch_sees_an_unpickling(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "FOUND", [])
    pickle.loads(pickle.dumps(Path("x")))
    assert FOUND


def test_no_code_of_ours_unpickles():
    """Resuming a training reads DeepSpeed's own checkpoints from the run's storage, which is no registry's."""
    for path in sorted((ROOT / "platform").rglob("*.py")) + sorted((ROOT / "workloads").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
                assert not CALLS & {name.split(".")[0] for name in names}, path
            if isinstance(node, ast.Call):
                keywords = {one.arg: ast.unparse(one.value) for one in node.keywords}
                assert keywords.get("allow_pickle", "False") == "False", path
                assert keywords.get("trust_remote_code", "False") == "False", path
                if ast.unparse(node.func) == "torch.load":
                    assert keywords.get("weights_only") == "True", path
