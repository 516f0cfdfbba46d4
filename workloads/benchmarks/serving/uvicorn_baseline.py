"""The ceiling: one uvicorn process with the same validation, rows and scorer, without Ray, batching or framework."""

import argparse
from pathlib import Path
from typing import Any

import torch
import uvicorn

from coldstart.config.recipe import Data, Serving
from coldstart.data.content import Content
from coldstart.methods.available import find_method
from coldstart.registry import Release
from coldstart.serving.api.json_body import read_json, validated
from coldstart.serving.api.rank_call import RankCall
from coldstart.serving.api.schemas import RankRequest, ReleaseResponse
from coldstart.serving.core.catalog import Catalog
from coldstart.serving.core.release_server import ReleaseServer
from coldstart.serving.core.scorer_info import ScorerInfo
from coldstart.serving.core.scoring import Floats, RankQuery, score
from coldstart.serving.monitoring.stats_collector import StatsCollector
from coldstart.serving.store.item_store import ItemStore, store_directory
from coldstart.serving.store.row_layout import Row
from workloads.benchmarks.serving import fixtures


class InProcess:
    """The scorer in the process that handles the request."""

    def __init__(self, release: Release) -> None:
        self.scorer = find_method(release.method).load_scorer(release.paths)

    async def rank(self, query: RankQuery) -> Floats:
        """Returns click probabilities `[T]`."""
        return score(self.scorer, [query])[0]

    async def row(self, content: Content) -> Row:
        """Never called: the benchmark sends no candidates with content, which would need the encoder."""
        raise NotImplementedError


class UvicornBaseline:
    """An ASGI application that answers every request as `POST /v1/rank`."""

    def __init__(self, run: Path, store: Path) -> None:
        torch.set_num_threads(1)
        release = fixtures.release(run)
        info = ScorerInfo.read(store_directory(store, release.scorer.fingerprint))
        items = ItemStore(store, release.scorer.fingerprint, info.columns)
        response = ReleaseResponse(
            release="uvicorn", project="uvicorn", alias=None, versions={}, fingerprints=release.fingerprints
        )
        models: Any = InProcess(release)
        catalog, serving = Catalog(find_method(release.method).catalog_dir(release.paths), info, items), Serving()
        self.server = ReleaseServer(response, models, catalog, items, serving, Data(), StatsCollector(serving, None))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers one request; ASGI's entry point."""
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        response = await self.server.rank(RankCall.from_request(validated(RankRequest, read_json(body))))
        content = response.__pydantic_serializer__.to_json(response)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def main() -> None:
    """Serves until the process is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    app = UvicornBaseline(arguments.run, arguments.store)
    uvicorn.run(app, port=arguments.port, log_level="error", lifespan="off", access_log=False)


if __name__ == "__main__":
    main()
