"""The ceiling: uvicorn, one process, the same validation, vectors and ranker, no Ray, no batching and no framework."""

import argparse
from pathlib import Path
from typing import Any

import torch
import uvicorn

from coldstart.config.recipe import Data, Serving
from coldstart.data.content import Content
from coldstart.rankers import load_ranker
from coldstart.serving.arm import Arm
from coldstart.serving.body import read_json, validated
from coldstart.serving.call import RankCall
from coldstart.serving.catalogue import Catalogue
from coldstart.serving.proxy_store import ProxyStore
from coldstart.serving.schemas import RankRequest, ReleaseAnswer
from coldstart.serving.scoring import Floats, RankQuery, score
from coldstart.serving.watch import Watch


class InProcess:
    """The ranker where the request is."""

    def __init__(self, ranker: Path) -> None:
        self.ranker = load_ranker(ranker)

    async def rank(self, query: RankQuery) -> Floats:
        """Click probabilities `[T]`."""
        return score(self.ranker, [query], history=self.ranker.history)[0]

    async def proxy(self, content: Content) -> Floats:
        """Not asked here: candidates given by content need the encoder."""
        raise NotImplementedError


class Bare:
    """One path, one method."""

    def __init__(self, run: Path, store: Path, space: str) -> None:
        torch.set_num_threads(1)
        proxies = ProxyStore(store, space)
        told = ReleaseAnswer(release="bare", project="bare", alias=None, versions={}, fingerprints={"adaptor": space})
        models: Any = InProcess(run / "ranker")
        catalogue, serving = Catalogue(run / "ranker", run / "adaptor", proxies), Serving()
        self.arm = Arm(told, models, catalogue, proxies, serving, Data(), Watch(serving, None))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        answer = await self.arm.rank(RankCall.of(validated(RankRequest, read_json(body))))
        content = answer.__pydantic_serializer__.to_json(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def main() -> None:
    """Serves until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--space", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    app = Bare(given.run, given.store, given.space)
    uvicorn.run(app, port=given.port, log_level="error", lifespan="off", access_log=False)


if __name__ == "__main__":
    main()
