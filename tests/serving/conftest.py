"""A gateway with fake models that answer, wait, refuse or fail."""

import asyncio

import numpy as np
import pytest
from fastapi.testclient import TestClient
from ray.serve.exceptions import BackPressureError

from coldstart.config.recipe import Data, Serving
from coldstart.rankers import DinDcn, save_ranker
from coldstart.serving.api.app import make_app
from coldstart.serving.api.schemas import ReleaseResponse
from coldstart.serving.deployment.gateway import Gateway, ReleaseSpec
from tests.serving.tiny import IDS, ITEMS, TRAINED, fill_store, proxy_rows, tiny_recipe

SPACE = "a" * 64


class Model:
    """A fake deployment handle: `model.method.remote(...)` returns `answer`, or behaves as `behavior` says."""

    def __init__(self, answer):
        self.answer, self.behavior, self.asked = answer, "fine", []
        self.encode = self.adapt = self.rank = self

    async def remote(self, argument):
        if asyncio.iscoroutine(argument):
            argument = await argument
        self.asked += argument if isinstance(argument, list) else [argument]
        await asyncio.sleep(0)
        if self.behavior == "slow":
            await asyncio.sleep(60)
        if self.behavior == "full":
            raise BackPressureError(num_queued_requests=9, max_queued_requests=9)
        if self.behavior == "broken":
            raise RuntimeError("secret /path/of/weights")
        return self.answer(argument)


@pytest.fixture
def gateway(tmp_path):
    ranker = DinDcn(ITEMS + 1, tiny_recipe(tmp_path, "gateway").ranker)
    ranker.trained[1 : TRAINED + 1] = True
    save_ranker(ranker, tmp_path, IDS)
    fill_store(tmp_path, SPACE, np.arange((ITEMS + 1) * 8, dtype=np.float32).reshape(-1, 8))
    release = ReleaseResponse(
        release="demo-scorer/1", project="demo", alias=None, versions={}, fingerprints={"scorer": SPACE}
    )
    settings = Serving(max_candidates=40, max_request_bytes=200_000, request_timeout_s=0.3)
    models = (
        Model(lambda content: (content, 1)),
        Model(lambda encoded: (proxy_rows(np.full((1, 8), 3.0, np.float32))[0], 1)),
        Model(lambda queries: [np.linspace(0, 1, len(query.item_idx), dtype=np.float32) for query in queries]),
    )
    return Gateway(
        [ReleaseSpec(release, "idproxy", {"ranker": tmp_path}, *models)],
        None,
        settings,
        Data(max_image_bytes=50_000, max_image_pixels=10_000),
        tmp_path,
    )


@pytest.fixture
def client(gateway):
    return TestClient(make_app(gateway), raise_server_exceptions=False)
