"""The encoder of SaviorRec, trained on co-click pairs of a catalog where users click items of two of four colors."""

from pathlib import Path

import numpy as np
import pytest
import torch

from coldstart.config import Recipe, UserError
from coldstart.config.recipe import Contrastive
from coldstart.data.pairs import CoClickPairs
from coldstart.encoders import Encoder, create_tiny_mllm
from coldstart.methods.saviorrec.content_encoder import ContentEncoder, fit_content_encoder
from coldstart.methods.saviorrec.encoder_training import train_on_pairs
from coldstart.training.contrastive_trainer import ContrastiveContext
from tests.methods.colored_catalog import ITEMS, contents, reader

SETTINGS = Contrastive(epochs=3, batch=16, learning_rate=2e-3, holdout_fraction=0.2)
GROUPS = np.arange(ITEMS + 1)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    mllm = tmp_path_factory.mktemp("mllm")
    create_tiny_mllm(mllm, [item.title or "" for item in contents()] * 4, image_size=32, seed=1)
    return Recipe.model_validate(
        {
            "name": "colors",
            "encoder": {"mllm": str(mllm), "image_size": 32, "max_text_tokens": 12},
            "method": {"name": "saviorrec", "encoder": {"width": 16}},
        }
    )


@pytest.fixture
def encoder(recipe: Recipe) -> Encoder:
    return fit_content_encoder(recipe, recipe.encoder.mllm, contents()[1:], "cpu")[0]


@pytest.fixture(scope="module")
def pairs() -> CoClickPairs:
    """Even or odd items are clicked together: red with green, blue with white. Each has four partners."""
    rng = np.random.default_rng(0)
    both = []
    for item in range(1, ITEMS + 1):
        partners = [other for other in range(1, ITEMS + 1) if other % 4 == (item + 2) % 4]
        both += [(item, int(other)) for other in rng.choice(partners, 4, replace=False)]
    trigger, target = np.array(both, np.int32).T
    return CoClickPairs(trigger, target, np.ones(len(both), np.float32), np.ones(len(both), np.int32))


def gap(encoder: Encoder) -> float:
    """Mean cosine of items of colors that are clicked together, less that of items of colors that are not."""
    vectors = torch.from_numpy(ContentEncoder(encoder.eval(), "cpu").encode(contents()[1:])["content"])
    color = torch.arange(1, ITEMS + 1) % 4
    distance, cosines = (color[:, None] - color) % 4, vectors @ vectors.T
    return float(cosines[distance == 2].mean() - cosines[distance % 2 == 1].mean())


def test_items_that_the_same_users_click_become_similar(encoder: Encoder, pairs: CoClickPairs) -> None:
    before = gap(encoder)
    curve = train_on_pairs(encoder, pairs, GROUPS, SETTINGS, reader(contents()), ContrastiveContext(3))
    assert gap(encoder) > before + 0.5
    assert curve[-1]["item_mean_cosine"] > curve[0]["item_mean_cosine"]
    assert curve[-1]["item_mean_rank"] < curve[0]["item_mean_rank"]


def test_training_starts_from_the_principal_components(encoder: Encoder, pairs: CoClickPairs, recipe: Recipe) -> None:
    start = fit_content_encoder(recipe, recipe.encoder.mllm, contents()[1:], "cpu")[0]
    none = SETTINGS.model_copy(update={"epochs": 0})
    train_on_pairs(encoder, pairs, GROUPS, none, reader(contents()), ContrastiveContext(3))
    for name, value in start.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value), name


def test_triggers_that_measure_are_in_no_trained_pair(encoder: Encoder, pairs: CoClickPairs, monkeypatch) -> None:
    seen = {}

    class Trainer:
        def __init__(self, model, train, heldout, settings, context) -> None:
            seen.update(train=train, heldout=heldout)

        def run(self) -> list[dict[str, float]]:
            return []

    monkeypatch.setattr("coldstart.methods.saviorrec.encoder_training.ContrastiveTrainer", Trainer)
    train_on_pairs(encoder, pairs, GROUPS, SETTINGS, reader(contents()), ContrastiveContext(3))
    triggers = {name: set(part.query_groups[:, 1].tolist()) for name, part in seen.items()}
    assert not triggers["train"] & triggers["heldout"]
    assert len(triggers["heldout"]) == round(0.2 * len(set(pairs.trigger.tolist())))
    assert len(seen["train"]) + len(seen["heldout"]) == len(pairs)
    # The positive of a pair is always masked out of its own negatives.
    for part in seen.values():
        assert (part.query_groups[:, 0] == part.item_groups[:, 0]).all()


def test_too_few_pairs_name_the_setting(encoder: Encoder, pairs: CoClickPairs) -> None:
    large = SETTINGS.model_copy(update={"batch": 4000})
    with pytest.raises(UserError, match=r"method\.encoder\.contrast: batch 4000 exceeds the \d+ training pairs"):
        train_on_pairs(encoder, pairs, GROUPS, large, reader(contents()), ContrastiveContext(3))


def test_half_precision_is_refused_before_training(tmp_path: Path) -> None:
    values = {"name": "x", "method": {"name": "saviorrec"}, "encoder": {"mllm": str(tmp_path), "dtype": "bfloat16"}}
    with pytest.raises(ValueError, match=r"set encoder\.dtype: float32, or method\.encoder\.train: none"):
        Recipe.model_validate(values)
    Recipe.model_validate(values | {"method": {"name": "saviorrec", "encoder": {"train": "none"}}})
