"""The ceiling: one uvicorn process with the same validation, vectors and ranker, without Ray, batching or framework."""

import argparse
from pathlib import Path
from typing import Any

import torch
import uvicorn

from coldstart.config.recipe import Data, Serving
from coldstart.data.content import Content
from coldstart.rankers import load_ranker
from coldstart.serving.catalog import Catalog
from coldstart.serving.json_body import read_json, validated
from coldstart.serving.proxy_store import ProxyStore
from coldstart.serving.rank_call import RankCall
from coldstart.serving.release_server import ReleaseServer
from coldstart.serving.schemas import RankRequest, ReleaseResponse
from coldstart.serving.scoring import Floats, RankQuery, score
from coldstart.serving.stats_collector import StatsCollector


class InProcess:
    """The ranker in the process that handles the request."""

    def __init__(self, ranker: Path) -> None:
        self.ranker = load_ranker(ranker)

    async def rank(self, query: RankQuery) -> Floats:
        """Returns click probabilities `[T]`."""
        return score(self.ranker, [query], history=self.ranker.max_history)[0]

    async def proxy(self, content: Content) -> Floats:
        """Never called: the benchmark sends no candidates with content, which would need the encoder."""
        raise NotImplementedError


class UvicornBaseline:
    """An ASGI application that answers every request as `POST /v1/rank`."""

    def __init__(self, run: Path, store: Path, space: str) -> None:
        torch.set_num_threads(1)
        proxies = ProxyStore(store, space)
        release = ReleaseResponse(
            release="uvicorn", project="uvicorn", alias=None, versions={}, fingerprints={"adaptor": space}
        )
        models: Any = InProcess(run / "ranker")
        catalog, serving = Catalog(run / "ranker", run / "adaptor", proxies), Serving()
        self.server = ReleaseServer(release, models, catalog, proxies, serving, Data(), StatsCollector(serving, None))

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
    parser.add_argument("--space", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    app = UvicornBaseline(arguments.run, arguments.store, arguments.space)
    uvicorn.run(app, port=arguments.port, log_level="error", lifespan="off", access_log=False)


if __name__ == "__main__":
    main()
