import numpy as np
import pytest
import torch

from coldstart.config.recipe import Encoder as Settings
from coldstart.config.recipe import Modalities
from coldstart.data.content import Content
from coldstart.encoders import Encoder
from coldstart.encoders.varlen_attention import ATTENTION_NAME
from tests.encoders.conftest import encode
from tests.families import make_family


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("sizes", [[(168, 168)] * 2, [(168, 168), (150, 60), (84, 140)]])
def test_batched_segments_equal_separate_segments(family, sizes, tmp_path, monkeypatch):
    checkpoint = str(make_family(family, tmp_path))
    settings = Settings(mllm=checkpoint, image_size=168, max_text_tokens=8, dynamic_resolution=True)
    encoder = Encoder.create(checkpoint, settings, width=8, content=Modalities(), seed=0).train()
    tower = encoder.mllm.get_encoder("image")
    assert tower.config._attn_implementation == ATTENTION_NAME
    rng = np.random.default_rng(0)
    images = [encode(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]
    inputs = encoder.inputs(encoder.prepare([Content("red vase", None, image) for image in images]), "cpu")

    def read():
        encoder.zero_grad()
        coarse, _ = encoder(inputs)
        (coarse * torch.arange(8.0)).sum().backward()
        return coarse.detach(), tower.patch_embed.proj.weight.grad.clone()

    together = read()
    encoder.save(tmp_path / "saved")
    assert ATTENTION_NAME not in (tmp_path / "saved" / "checkpoint" / "config.json").read_text()
    monkeypatch.setattr(tower.config, "_attn_implementation", "sdpa")
    for batched, separate in zip(together, read(), strict=True):
        torch.testing.assert_close(batched, separate, rtol=1e-4, atol=1e-5)


def test_other_towers_keep_their_attention(tmp_path):
    checkpoint = str(make_family("internvl", tmp_path))
    settings = Settings(mllm=checkpoint, image_size=56)
    encoder = Encoder.create(checkpoint, settings, width=8, content=Modalities(), seed=0)
    assert encoder.mllm.get_encoder("image").config._attn_implementation == "sdpa"
