"""Models in this process, and an HTTP server for a gateway's application; without Ray."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI

from coldstart.alignment import load_adaptor
from coldstart.encoders import Encoder
from coldstart.rankers import load_ranker
from coldstart.serving.scoring import score


class LocalModels:
    """Encoder, adaptor and ranker of a run directory, called directly."""

    def __init__(self, run_dir: Path) -> None:
        self.encoder = Encoder.load(run_dir / "encoder", "cpu")
        self.adaptor, self.ranker = load_adaptor(run_dir / "adaptor"), load_ranker(run_dir / "ranker")

    async def rank(self, query):
        return score(self.ranker, [query], history=self.ranker.max_history)[0]

    async def proxy(self, content):
        with torch.inference_mode():
            return self.adaptor(*self.encoder(self.encoder.inputs(self.encoder.prepare([content]), "cpu")))[0].numpy()


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
