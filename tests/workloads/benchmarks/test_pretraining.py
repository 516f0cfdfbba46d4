"""What an MLLM is pre-trained on: words foretold, and pictures that find them."""

import math

import numpy as np
import pytest
import torch

from coldstart.config.recipe import ContentSwitch
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.data.content import Content
from coldstart.encoders import Encoder, make_mllm
from tests.serving.tiny import picture
from workloads.benchmarks import pretraining
from workloads.benchmarks.pretraining import Readings, losses

NAMES = ("a red harbour", "two quiet boats at dusk", "lamp", "the long way home")


class Items:
    def contents(self, item_idx):
        return [Content(NAMES[index % len(NAMES)], None, picture(60 * int(index))) for index in item_idx]


@pytest.fixture
def encoder(tmp_path) -> Encoder:
    make_mllm(tmp_path, NAMES, picture_size=32, seed=1)
    settings = EncoderSettings(picture_size=32, max_text_tokens=12)
    return Encoder.create(str(tmp_path), settings, width=8, content=ContentSwitch(), seed=1)


def test_an_untrained_model_foretells_by_chance(encoder):
    read = Readings(encoder, Items(), np.arange(4))
    spelled, contrast, _ = losses(encoder, read.whole, read.words)
    assert spelled.item() == pytest.approx(math.log(encoder.mllm.config.text_config.vocab_size), abs=1.5)
    assert contrast.item() > 0.3


def test_a_picture_finds_its_words_without_having_seen_them(encoder, monkeypatch):
    """Other words beside the same pictures change nothing of what pictures ask for."""
    read = Readings(encoder, Items(), np.arange(4))
    asked = []
    monkeypatch.setattr(encoder.projection, "forward", lambda pooled: asked.append(pooled) or pooled[:, :8])
    losses(encoder, read.whole, read.words)
    others = {**read.whole, "input_ids": read.whole["input_ids"].copy()}
    prefix = int(encoder.prompt.lengths(others)[0]) - len(encoder.prompt._suffix) - int(others["words"][0])
    others["input_ids"][:, prefix] -= 1
    losses(encoder, others, read.words)
    (seen, _), (again, _) = asked[:2], asked[2:]
    assert torch.allclose(seen, again, atol=1e-6)


def test_both_losses_fall(encoder, monkeypatch):
    monkeypatch.setattr(pretraining, "BATCH", 4)
    read = Readings(encoder, Items(), np.arange(4))
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    course = []
    for _ in range(40):
        for whole, words in read.batches(np.random.default_rng(0)):
            spelled, contrast, _ = losses(encoder, whole, words)
            optimizer.zero_grad()
            (spelled + contrast).backward()
            optimizer.step()
            course.append((spelled.item(), contrast.item()))
    assert course[-1][0] < course[0][0] / 2
    assert course[-1][1] < course[0][1] / 2
