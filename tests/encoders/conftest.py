import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.config.recipe import Modalities
from coldstart.encoders import Encoder, create_tiny_mllm

SETTINGS = EncoderSettings(image_size=32, max_text_tokens=12, layer_groups=2)
TEXTS = ["red round vase with stripes", "blue steel lamp", "a small box of old paper"]


@pytest.fixture(scope="session")
def mllm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mllm")
    create_tiny_mllm(path, TEXTS * 20, image_size=32, seed=1)
    return path


@pytest.fixture
def make_encoder(mllm: Path) -> Callable[..., Encoder]:
    def make(settings: EncoderSettings = SETTINGS, content: Modalities | None = None) -> Encoder:
        return Encoder.create(str(mllm), settings, width=8, content=content or Modalities(), seed=3)

    return make


@pytest.fixture
def encoder(make_encoder: Callable[..., Encoder]) -> Encoder:
    encoder = make_encoder()
    encoder.layers = ((1,), (3,))
    return encoder.eval()


@pytest.fixture(scope="session")
def image() -> bytes:
    return encode(np.random.default_rng(0).integers(0, 255, (20, 50, 3), dtype=np.uint8))


def encode(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
