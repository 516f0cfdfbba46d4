"""A registry on a team's server: real MLflow on PostgreSQL, with artifacts in S3."""

from importlib.util import find_spec

import mlflow
import pytest

from coldstart.config.recipe import Registry as Settings
from coldstart.registry import Registry, promote, resolve, rollback
from tests.registry.conftest import Run
from tests.registry.servers import MlflowServer, Moto, Postgres, postgres_binaries

pytestmark = pytest.mark.slow
UNGATED = Settings(gates=())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if postgres_binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    for module in ("psycopg", "boto3", "moto"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install -e '.[dev]'")
    directory = tmp_path_factory.mktemp("remote")
    with Postgres(directory) as database, Moto(directory) as s3:
        server = MlflowServer(
            directory, backend=database.uri, artifacts="s3://models/coldstart", environment=s3.environment_of_clients
        )
        with server:
            yield server


@pytest.fixture
def run(new_run, server, tmp_path):
    local = new_run()
    return Run(local.recipe, Registry(server.uri, local.recipe.project, cache=tmp_path / "cache"))


def files(release) -> dict[str, bytes]:
    parts = (*release.parts.values(), release.items)
    return {
        f"{part.kind}/{path.relative_to(part.path)}": path.read_bytes()
        for part in parts
        for path in sorted(part.path.rglob("*"))
        if path.is_file()
    }


def test_register_promote_load_and_roll_back(run, tmp_path):
    first = run.register_all(0.6).version
    promote(run.registry, first, UNGATED)
    before = files(resolve(run.registry))
    second = run.register_scorer(0.7)
    promote(run.registry, second, UNGATED)
    assert resolve(run.registry).versions["scorer"] == second

    rollback(run.registry, reason="the new posters are worse")
    elsewhere = Registry(run.registry.tracking_uri, run.recipe.project, cache=tmp_path / "another machine")
    release = resolve(elsewhere)
    assert release.versions == {"scorer": 1, "ranker": 1, "encoder": 1}
    assert files(release) == before
    assert release.scorer.path.is_relative_to(tmp_path / "another machine")
    assert [logged.event.action for logged in elsewhere.promotion_log.read_verified().events] == [
        "promoted",
        "promoted",
        "rolled back",
    ]


def test_downloaded_model_has_signature_and_metrics(run, tmp_path):
    version = run.register("ranker", cold_gauc=0.6).version
    source = run.registry.version("ranker", version).source
    path = mlflow.artifacts.download_artifacts(
        artifact_uri=source, tracking_uri=run.registry.tracking_uri, dst_path=str(tmp_path)
    )
    model = mlflow.models.Model.load(path)
    assert model.signature.inputs.input_names()[0] == "history_item_ids"
    assert run.registry.metrics("ranker", version)["cold_gauc"] == 0.6
