"""The server dies in the middle of a promotion, which then has happened completely or not at all."""

import pytest

from coldstart.config import UserError
from coldstart.config.recipe import Registry as Settings
from coldstart.registry import Registry, promote, resolve
from tests.registry.conftest import Run, alias_versions
from tests.registry.servers import MlflowServer

pytestmark = pytest.mark.slow
UNGATED = Settings(gates=())
MOVE = "set_registered_model_alias"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # Do not wait for the dead server.
    with MlflowServer(tmp_path) as server:
        yield server


def kill_at(server: MlflowServer, registry: Registry, method: str, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills the server just before it receives the n-th call of a method, counted from 1."""
    original, calls = getattr(registry.client, method), 0

    def dying(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            server.kill()
        return original(*arguments, **options)

    monkeypatch.setattr(registry.client, method, dying)


def test_promotion_is_atomic_when_the_server_is_killed(server, new_run, tmp_path, monkeypatch):
    recipe = new_run().recipe

    def connect() -> Registry:
        return Registry(server.uri, recipe.project, cache=tmp_path / "cache")

    run = Run(recipe, connect())
    promote(run.registry, run.register_all(0.6).version, UNGATED)
    current, version = 1, 1
    for method, call, recorded in [("create_model_version", 1, False), (MOVE, 1, True), (MOVE, 3, True)]:
        for kind in ("ranker", "encoder", "item_table", "scorer"):
            run.make(kind, f"{method} {call}")
        version = run.register_all(0.7).version
        registry = connect()
        kill_at(server, registry, method, call, monkeypatch)
        with pytest.raises(UserError, match="if it was logged"):
            promote(registry, version, UNGATED)

        server.start()
        current = version if recorded else current
        release = resolve(connect())
        assert release.versions["scorer"] == current
        assert set(alias_versions(run).values()) == {current}
        assert run.registry.promotion_log.read_verified().problem is None
