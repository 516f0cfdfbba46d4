"""Models in this process, and an HTTP server for a gateway's application; without Ray."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from coldstart.data.content import Content
from coldstart.data.item_table import ItemTable
from coldstart.methods.available import find_method
from coldstart.registry import Release
from coldstart.serving.core.scoring import Floats, RankQuery, score
from coldstart.serving.store.row_layout import Row, adapt_table, pack_rows


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
