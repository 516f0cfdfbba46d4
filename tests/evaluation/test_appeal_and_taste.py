"""The report's split of gains into appeal and taste, against a generated world that knows the two."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from coldstart.config.recipe import Generated
from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data import generator
from coldstart.data.batches import RankBatch
from coldstart.data.drawing import PICTURE_TRAITS, WORD_TRAITS
from coldstart.evaluation.metrics import gauc
from coldstart.evaluation.scored_rows import ScoredRows
from coldstart.evaluation.scoring import mean_logits, score_rows
from coldstart.evaluation.summary import Summary
from coldstart.evaluation.variants import item_appeal, to_logit
from coldstart.rankers.interface import Ranker
from tests.evaluation.rows import scored_rows, summary_of

USERS, ITEMS, EVENTS = 250, 250, 25_000
WIDTH = 1 + generator.TASTE_WIDTH


class TruthRanker(Ranker):
    """Reads an appeal and a taste vector from the slot, and the user's taste at that moment from the context."""

    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        return slots[..., 0] + (slots[..., 1:] * batch.numeric).sum(-1)


class World:
    """Events of a platform whose items are clicked for known reasons."""

    def __init__(self, taste_share: float) -> None:
        rng = np.random.default_rng(7)
        settings = Generated(items=ITEMS, users=USERS, events=EVENTS, taste_share=taste_share, hidden_share=0.1)
        levels = {name: rng.integers(0, n, ITEMS) for name, n in (PICTURE_TRAITS | WORD_TRAITS).items()}
        world = generator._make_world(settings, levels, rng)
        self.user, self.item = rng.integers(0, USERS, EVENTS), rng.integers(0, ITEMS, EVENTS)
        when = rng.uniform(size=EVENTS)
        p_click, self.p_content = generator._probabilities(world, self.user, self.item, when, np.ones(ITEMS, bool))
        self.label = (rng.uniform(size=EVENTS) < p_click).astype(np.int64)
        sides = (world.picture, world.words)
        self.appeal = sum(side.appeal[side.combo] for side in sides)
        self.taste = sum(side.taste[side.combo] for side in sides)
        self.taste_of_user = world.users.taste(self.user, when)

    @property
    def truth(self) -> float:
        """Share of what knowing appeal and taste gains in GAUC that knowing the appeal alone gains."""
        appeal = self.appeal[self.item]
        whole = appeal + (self.taste[self.item] * self.taste_of_user).sum(1)
        alone, both = (gauc(self.user, self.label, score) - 0.5 for score in (appeal, whole))
        return alone / both

    def batch(self, rows: np.ndarray) -> RankBatch:
        one = torch.zeros(len(rows), 1)
        some = {name: one for name in (field.name for field in fields(RankBatch))}
        whole = {name: one.long() for name in ("history_idx", "history_time", "target_time")}
        return RankBatch(
            **some
            | whole
            | {
                "target_idx": torch.from_numpy(self.item[rows, None] + 1),
                "visible": torch.zeros(len(rows), 1, 1, dtype=torch.bool),
                "weight": one + 1,
                "row": torch.from_numpy(rows[:, None]),
                "categorical": torch.zeros(len(rows), 1, 0, dtype=torch.int64),
                "numeric": torch.from_numpy(self.taste_of_user[rows, None]).float(),
            }
        )

    def rows(self, logits: dict[str, np.ndarray], appeal: dict[str, np.ndarray]) -> ScoredRows:
        cold = np.zeros(EVENTS, np.int64)
        everything = {"oov": np.zeros(EVENTS), **logits}
        return scored_rows(self.user, self.label, cold, everything, appeal, item=self.item + 1)

    def summary(self, rows: ScoredRows) -> Summary:
        return summary_of(rows, bootstrap=200)


@pytest.mark.parametrize("taste_share", [0.2, 0.5, 0.8])
def test_true_probabilities_are_split_as_the_world_is_made(taste_share: float) -> None:
    world = World(taste_share)
    logit = to_logit(world.p_content)
    rows = world.rows({"content_oracle": logit}, {"content_oracle": item_appeal(logit, world.item)})
    share = world.summary(rows)["appeal_share"]["content_oracle"]
    assert share["share"] == pytest.approx(world.truth, abs=0.03)
    assert share["low"] < world.truth < share["high"]


def _through_a_ranker(world: World, slots: np.ndarray) -> dict[str, float]:
    """The split of a proxy that is scored as every variant is: rows in their context, items over sampled contexts."""
    ranker = TruthRanker(ITEMS + 1, RankerSettings(width=WIDTH)).eval()
    table = torch.from_numpy(np.concatenate([np.zeros((1, WIDTH)), slots])).float()
    event, logits = score_rows(ranker, [world.batch(np.arange(EVENTS))], {"fine": table})
    assert event.tolist() == list(range(EVENTS))
    contexts = world.batch(np.random.default_rng(1).permutation(EVENTS)[:128])
    appeal = mean_logits(ranker, contexts, np.arange(1, ITEMS + 1), {"fine": table})["fine"]
    rows = world.rows({"fine": logits["fine"]}, {"fine": appeal[world.item]})
    found: dict[str, float] = world.summary(rows)["appeal_share"]["fine"]
    return found


@pytest.mark.parametrize("taste_share", [0.2, 0.5, 0.8])
def test_a_proxy_that_knows_everything_is_split_as_the_world_is_made(taste_share: float) -> None:
    world = World(taste_share)
    found = _through_a_ranker(world, np.column_stack([world.appeal, world.taste]))
    assert found["share"] == pytest.approx(world.truth, abs=0.03)


def test_appeal_is_not_sold_as_taste_nor_taste_as_appeal() -> None:
    world = World(0.5)
    nothing = np.zeros(ITEMS)
    appeal = _through_a_ranker(world, np.column_stack([world.appeal, 0 * world.taste]))
    taste = _through_a_ranker(world, np.column_stack([nothing, world.taste]))
    assert appeal["share"] == pytest.approx(1, abs=1e-6)
    assert appeal["taste"] == pytest.approx(0, abs=1e-6)
    # Below zero where the few users' mean taste happens to point away from what is liked.
    assert taste["share"] < 0.1
    assert taste["taste"] > 0.1
