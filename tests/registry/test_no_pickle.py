"""No pickle: neither in registered files nor in any loader."""

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

from coldstart.methods.available import find_method
from coldstart.registry import Registry, read_release
from tests.serving.tiny import register_run, tiny_recipe, write_run

ROOT = Path(__file__).parents[2]
KINDS = ("ranker", "encoder", "scorer")
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
ALLOWED_IMPORT = "from joblib import cpu_count"
UNPICKLED: list[str] | None = None
"""Names that were unpickled since it was set to a list; `None` while recording is off."""


def _record_unpickling(event: str, args: tuple[object, ...]) -> None:
    if UNPICKLED is not None and event == "pickle.find_class":
        UNPICKLED.append(".".join(map(str, args)))


sys.addaudithook(_record_unpickling)  # Called for every class or function that any unpickler looks up.


def contains_pickle(content: bytes) -> bool:
    """Whether a file is a pickle stream of any protocol, or an archive that contains one."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(contains_pickle(archive.read(name)) for name in archive.namelist())
    try:
        operations = [operation.name for operation, _, _ in pickletools.genops(content)]
    except Exception:
        return False
    return len(operations) > 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_detector_finds_a_pickle(protocol):
    assert contains_pickle(pickle.dumps({"weights": [1, 2], "path": Path("x")}, protocol))


def test_detector_finds_torch_files_and_ignores_plain_files():
    archive = io.BytesIO()
    torch.save({"weight": torch.ones(2)}, archive)
    assert contains_pickle(archive.getvalue())
    assert not contains_pickle(b'{"weights": 1}')
    assert not contains_pickle(b"name: ranker\n")


@pytest.fixture(scope="module")
def registry(tracking_uri, tmp_path_factory) -> Registry:
    recipe = tiny_recipe(tmp_path_factory.mktemp("runs"), "no-pickle")
    write_run(recipe)
    registry = Registry(tracking_uri, recipe.project)
    register_run(recipe, registry)
    return registry


def files(registry: Registry) -> Iterator[Path]:
    """All files of the registered models and of their runs."""
    for kind in KINDS:
        entry = registry.version(kind, 1)
        run = registry.client.get_run(entry.run_id)
        for place in (entry.source, run.info.artifact_uri):
            yield from (path for path in Path(place.removeprefix("file://")).rglob("*") if path.is_file())


def test_registered_files_contain_no_pickle(registry):
    found = list(files(registry))
    assert {"MLmodel", "model.safetensors", "coarse.npy", "recipe.yaml"} <= {path.name for path in found}
    assert not [path for path in found if contains_pickle(path.read_bytes())]


@pytest.mark.parametrize("kind", KINDS)
def test_loading_and_predicting_unpickles_nothing(registry, kind, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registry.tracking_uri)
    monkeypatch.setattr(sys.modules[__name__], "UNPICKLED", [])
    try:
        model = mlflow.pyfunc.load_model(f"models:/{registry.model_name(kind)}/1")
        assert len(model.predict(model.input_example)) == 1
    finally:
        mlflow.set_tracking_uri(before)
    assert UNPICKLED == []


def test_platform_loaders_unpickle_nothing(registry, monkeypatch):
    release = read_release(registry, 1)
    monkeypatch.setattr(sys.modules[__name__], "UNPICKLED", [])
    method = find_method(release.method)
    method.load_encoder(release.paths, "cpu")
    method.load_adaptor(release.paths)
    method.load_scorer(release.paths)
    assert UNPICKLED == []


def test_audit_hook_sees_an_unpickling(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "UNPICKLED", [])
    pickle.loads(pickle.dumps(Path("x")))
    assert UNPICKLED


def test_code_does_not_unpickle():
    """An exception outside the registry: resuming a training reads DeepSpeed's own checkpoints."""
    for path in sorted((ROOT / "platform").rglob("*.py")) + sorted((ROOT / "workloads").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom) and ast.unparse(node) != ALLOWED_IMPORT:
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
                assert not FORBIDDEN_MODULES & {name.split(".")[0] for name in names}, path
            if isinstance(node, ast.Call):
                keywords = {one.arg: ast.unparse(one.value) for one in node.keywords}
                assert keywords.get("allow_pickle", "False") == "False", path
                assert keywords.get("trust_remote_code", "False") == "False", path
                if ast.unparse(node.func) == "torch.load":
                    assert keywords.get("weights_only") == "True", path
