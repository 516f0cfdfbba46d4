"""Models and a gateway in this process, and an HTTP server for its application; without Ray."""

import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from coldstart.config.recipe import Data, Serving, Store
from coldstart.data.content import Content
from coldstart.data.item_table import ItemTable
from coldstart.methods.available import find_method
from coldstart.registry import Release
from coldstart.serving.api.app import make_app
from coldstart.serving.api.schemas import ReleaseResponse
from coldstart.serving.core.scoring import Floats, RankQuery, score
from coldstart.serving.deployment.gateway import Gateway, ReleaseSpec
from coldstart.serving.store.row_layout import Row, adapt_table, pack_rows
from coldstart.serving.store.store_bootstrap import bootstrap_store


class LocalModels:
    """Encoder, adaptor and scorer of a release, called directly."""

    def __init__(self, release: Release) -> None:
        method = find_method(release.method)
        self.encoder = method.load_encoder(release.paths, "cpu")
        self.adaptor, self.scorer = method.load_adaptor(release.paths), method.load_scorer(release.paths)

    async def rank(self, query: RankQuery) -> Floats:
        return score(self.scorer, [query])[0]

    async def row(self, content: Content) -> Row:
        encoded = pack_rows(self.encoder.encode([content]), self.encoder.outputs)
        return adapt_table(self.adaptor, ItemTable.from_rows(encoded))[0]


class Handle:
    """A deployment handle that calls a coroutine."""

    def __init__(self, call: Callable[[Any], Coroutine[Any, Any, Any]]) -> None:
        self.call, self.encode, self.adapt = call, self, self

    async def remote(self, argument: Any) -> tuple[Any, int]:
        return await self.call(argument), 1


def local_client(release: Release, stores: Path) -> TestClient:
    """A client of a gateway that serves a release, whose scorer it has in this process."""
    bootstrap_store(release, stores, Store())
    models = LocalModels(release)

    async def encode(item: Content) -> Content:
        return item

    response = ReleaseResponse(
        release=release.name, project=release.project, alias=None, versions={}, fingerprints=release.fingerprints
    )
    spec = ReleaseSpec(response, release.method, release.paths, Handle(encode), Handle(models.row))
    return TestClient(make_app(Gateway([spec], None, Serving(), Data(), stores)))


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """Serves the application on a free loopback port; yields its URL."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="warning", lifespan="off", timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
