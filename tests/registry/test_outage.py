"""The server dies in the middle of a promotion: afterwards it has happened wholly or not at all."""

import pytest

from coldstart.config import UserError
from coldstart.config.recipe import Registry as Settings
from coldstart.registry import Registry, promote, resolve
from tests.registry.conftest import Run, standing
from tests.registry.servers import MlflowServer

pytestmark = pytest.mark.slow
UNGATED = Settings(gates=())
MOVE = "set_registered_model_alias"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # A dead server is not waited for here.
    with MlflowServer(tmp_path) as server:
        yield server


def kill_at(server: MlflowServer, registry: Registry, method: str, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the server die just before it receives that call of a method, counted from 1."""
    original, calls = getattr(registry.client, method), 0

    def dying(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            server.kill()
        return original(*arguments, **options)

    monkeypatch.setattr(registry.client, method, dying)


def test_a_promotion_during_which_the_server_is_killed_is_whole(server, new_run, tmp_path, monkeypatch):
    recipe = new_run().recipe

    def connect() -> Registry:
        return Registry(server.uri, recipe.project, cache=tmp_path / "cache")

    run = Run(recipe, connect())
    promote(run.registry, "adaptor", run.register_all(0.6).version, UNGATED)
    stands, version = 1, 1
    for method, call, recorded in [("create_model_version", 1, False), (MOVE, 1, True), (MOVE, 3, True)]:
        for kind in ("ranker", "encoder", "proxies", "adaptor"):
            run.make(kind, f"{method} {call}")
        version = run.register_all(0.7).version
        registry = connect()
        kill_at(server, registry, method, call, monkeypatch)
        with pytest.raises(UserError, match="on record"):
            promote(registry, "adaptor", version, UNGATED)

        server.start()
        stands = version if recorded else stands
        release = resolve(connect())
        assert release.versions["adaptor"] == stands
        assert set(standing(run).values()) == {stands}
        assert run.registry.ledger.trusted().problem is None
