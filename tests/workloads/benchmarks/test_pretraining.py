"""The losses of pre-training: next-token prediction and image-text contrast."""

import math

import numpy as np
import pytest
import torch

from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.config.recipe import Modalities
from coldstart.data.content import Content
from coldstart.encoders import Encoder, create_tiny_mllm
from tests.serving.tiny import png_image
from workloads.benchmarks import pretraining
from workloads.benchmarks.pretraining import PreparedItems, losses

NAMES = ("a red harbour", "two quiet boats at dusk", "lamp", "the long way home")


class Items:
    def contents(self, item_idx):
        return [Content(NAMES[index % len(NAMES)], None, png_image(60 * int(index))) for index in item_idx]


@pytest.fixture
def encoder(tmp_path) -> Encoder:
    create_tiny_mllm(tmp_path, NAMES, image_size=32, seed=1)
    settings = EncoderSettings(image_size=32, max_text_tokens=12)
    return Encoder.create(str(tmp_path), settings, width=8, content=Modalities(), seed=1)


def test_an_untrained_model_predicts_at_chance(encoder):
    items = PreparedItems(encoder, Items(), np.arange(4))
    language, contrastive, _ = losses(encoder, items.full, items.text_only)
    assert language.item() == pytest.approx(math.log(encoder.mllm.config.text_config.vocab_size), abs=1.5)
    assert contrastive.item() > 0.3


def test_image_vectors_do_not_depend_on_the_text(encoder, monkeypatch):
    items = PreparedItems(encoder, Items(), np.arange(4))
    pooled_states = []
    monkeypatch.setattr(encoder.projection, "forward", lambda pooled: pooled_states.append(pooled) or pooled[:, :8])
    losses(encoder, items.full, items.text_only)
    others = {**items.full, "input_ids": items.full["input_ids"].copy()}
    prefix = int(encoder.prompt.lengths(others)[0]) - len(encoder.prompt._suffix) - int(others["num_text_tokens"][0])
    others["input_ids"][:, prefix] -= 1
    losses(encoder, others, items.text_only)
    (first, _), (second, _) = pooled_states[:2], pooled_states[2:]
    assert torch.allclose(first, second, atol=1e-6)


def test_both_losses_fall(encoder, monkeypatch):
    monkeypatch.setattr(pretraining, "BATCH", 4)
    items = PreparedItems(encoder, Items(), np.arange(4))
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    history = []
    for _ in range(40):
        for full, text_only in items.batches(np.random.default_rng(0)):
            language, contrastive, _ = losses(encoder, full, text_only)
            optimizer.zero_grad()
            (language + contrastive).backward()
            optimizer.step()
            history.append((language.item(), contrastive.item()))
    assert history[-1][0] < history[0][0] / 2
    assert history[-1][1] < history[0][1] / 2
