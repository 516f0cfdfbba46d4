"""The split of gains into item effect and personalization, against a generated world with known parts."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from coldstart.config.recipe import Generated
from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch
from coldstart.data.synthetic_images import IMAGE_TRAITS, TEXT_TRAITS
from coldstart.data.synthetic_world import PREFERENCE_DIM, click_probabilities, make_world
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.scoring import mean_logits, score_rows
from coldstart.evaluation.protocol.summary import Summary
from coldstart.evaluation.protocol.variants import leave_one_out_item_mean, to_logit
from coldstart.metrics.clicks import gauc
from coldstart.rankers.interface import Ranker
from coldstart.training.ctr_trainer import slot_score
from tests.evaluation.rows import scored_rows, summary_of

USERS, ITEMS, EVENTS = 250, 250, 25_000
WIDTH = 1 + PREFERENCE_DIM


class TruthRanker(Ranker):
    """Reads item effect and preference vector from the slot, and the user's preference from the context."""

    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        return slots[..., 0] + (slots[..., 1:] * batch.numeric).sum(-1)


class World:
    """Generated events with known item effects and preferences."""

    def __init__(self, personalization_share: float) -> None:
        rng = np.random.default_rng(7)
        settings = Generated(
            items=ITEMS, users=USERS, events=EVENTS, personalization_share=personalization_share, unobserved_share=0.1
        )
        levels = {name: rng.integers(0, n, ITEMS) for name, n in (IMAGE_TRAITS | TEXT_TRAITS).items()}
        world = make_world(settings, levels, levels, rng)
        self.user, self.item = rng.integers(0, USERS, EVENTS), rng.integers(0, ITEMS, EVENTS)
        when = rng.uniform(size=EVENTS)
        p_click, self.p_content = click_probabilities(world, self.user, self.item, when, np.ones(ITEMS, bool))
        self.label = (rng.uniform(size=EVENTS) < p_click).astype(np.int64)
        sides = (world.image, world.text)
        self.item_effect = sum(side.item_effect[side.combo] for side in sides)
        self.preference = sum(side.preference[side.combo] for side in sides)
        self.preference_of_user = world.users.preferences(self.user, when)

    @property
    def truth(self) -> float:
        """Share of the true gain in GAUC that the item effect alone reaches."""
        item_effect = self.item_effect[self.item]
        whole = item_effect + (self.preference[self.item] * self.preference_of_user).sum(1)
        alone, both = (gauc(self.user, self.label, score) - 0.5 for score in (item_effect, whole))
        return alone / both

    def batch(self, rows: np.ndarray) -> RankBatch:
        one = torch.zeros(len(rows), 1)
        some = {name: one for name in (field.name for field in fields(RankBatch))}
        whole = {name: one.long() for name in ("history_idx", "history_row", "history_time", "target_time")}
        return RankBatch(
            **some
            | whole
            | {
                "user_idx": torch.zeros(len(rows), dtype=torch.int64),
                "target_idx": torch.from_numpy(self.item[rows, None] + 1),
                "target_row": torch.from_numpy(self.item[rows, None] + 1),
                "history_mask": torch.zeros(len(rows), 1, 1, dtype=torch.bool),
                "weight": one + 1,
                "event_index": torch.from_numpy(rows[:, None]),
                "categorical": torch.zeros(len(rows), 1, 0, dtype=torch.int64),
                "numeric": torch.from_numpy(self.preference_of_user[rows, None]).float(),
            }
        )

    def rows(self, logits: dict[str, np.ndarray], item_effect: dict[str, np.ndarray]) -> ScoredRows:
        cold = np.zeros(EVENTS, np.int64)
        everything = {"oov": np.zeros(EVENTS), **logits}
        return scored_rows(self.user, self.label, cold, everything, item_effect, item=self.item + 1)

    def summary(self, rows: ScoredRows) -> Summary:
        return summary_of(rows, num_resamples=200)


@pytest.mark.parametrize("personalization_share", [0.2, 0.5, 0.8])
def test_true_probabilities_are_split_as_the_world_is_made(personalization_share: float) -> None:
    world = World(personalization_share)
    logit = to_logit(world.p_content)
    rows = world.rows({"content_oracle": logit}, {"content_oracle": leave_one_out_item_mean(logit, world.item)})
    share = world.summary(rows)["item_effect_share"]["content_oracle"]
    assert share["share"] == pytest.approx(world.truth, abs=0.03)
    assert share["low"] < world.truth < share["high"]


def _through_a_ranker(world: World, slots: np.ndarray) -> dict[str, float]:
    """The split of a proxy that is scored like a variant: rows in their context, items over sampled contexts."""
    ranker = TruthRanker(ITEMS + 1, RankerSettings(embedding_dim=WIDTH)).eval()
    table = torch.from_numpy(np.concatenate([np.zeros((1, WIDTH)), slots])).float()
    event, logits = score_rows([world.batch(np.arange(EVENTS))], {"fine": slot_score(ranker, table)})
    assert event.tolist() == list(range(EVENTS))
    contexts = world.batch(np.random.default_rng(1).permutation(EVENTS)[:128])
    item_effect = mean_logits(contexts, np.arange(1, ITEMS + 1), {"fine": slot_score(ranker, table)})["fine"]
    rows = world.rows({"fine": logits["fine"]}, {"fine": item_effect[world.item]})
    found: dict[str, float] = world.summary(rows)["item_effect_share"]["fine"]
    return found


@pytest.mark.parametrize("personalization_share", [0.2, 0.5, 0.8])
def test_a_proxy_that_knows_everything_is_split_as_the_world_is_made(personalization_share: float) -> None:
    world = World(personalization_share)
    found = _through_a_ranker(world, np.column_stack([world.item_effect, world.preference]))
    assert found["share"] == pytest.approx(world.truth, abs=0.03)


def test_item_effect_and_personalization_are_not_mixed_up() -> None:
    world = World(0.5)
    nothing = np.zeros(ITEMS)
    effect_only = _through_a_ranker(world, np.column_stack([world.item_effect, 0 * world.preference]))
    preference_only = _through_a_ranker(world, np.column_stack([nothing, world.preference]))
    assert effect_only["share"] == pytest.approx(1, abs=1e-6)
    assert effect_only["personalization"] == pytest.approx(0, abs=1e-6)
    # Can be below zero: the mean preference of few users is not zero.
    assert preference_only["share"] < 0.1
    assert preference_only["personalization"] > 0.1
