"""Whatever happens from some time on, what stands before that time stays as it was: batches, features and logits."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch, UserWindows
from coldstart.data.features import Categorical, Coded, FeatureSchema, Numeric, TargetFeatures
from coldstart.data.sequences import Sequences
from coldstart.rankers.kinds import CLASSES

ITEMS, USERS, EVENTS = 30, 25, 40
SCHEMA = FeatureSchema(
    categorical=(
        Categorical(owner="item", name="brand", values=("a", "b", "c")),
        Categorical(owner="user", name="country", values=("x", "y")),
        Categorical(owner="context", name="device", values=("p", "q")),
    ),
    numeric=(Numeric(owner="context", name="hour", mean=0, scale=1),),
)


def draw(rng, rows, *, categorical, numeric):
    return Coded(rng.integers(0, 3, (rows, categorical)), rng.normal(size=(rows, numeric)).astype(np.float32))


def log(seed=0) -> Sequences:
    rng = np.random.default_rng(seed)
    total = USERS * EVENTS
    features = TargetFeatures(
        SCHEMA,
        item=draw(rng, ITEMS + 1, categorical=1, numeric=0),
        user=draw(rng, USERS, categorical=1, numeric=0),
        context=draw(rng, total, categorical=1, numeric=1),
    )
    return Sequences(
        np.arange(USERS + 1) * EVENTS,
        rng.integers(1, ITEMS + 1, total).astype(np.int32),
        rng.integers(0, 2, total).astype(np.int8),
        np.sort(rng.integers(0, 60, (USERS, EVENTS)), axis=1).ravel(),
        np.zeros(total, np.int8),
        [str(user) for user in range(USERS)],
        features=features,
    )


def scrambled(sequences: Sequences, since: int, seed: int) -> Sequences:
    """Other items, labels, later times and contexts from `since` on."""
    rng = np.random.default_rng(seed)
    later = sequences.timestamp >= since
    # Moved as whole users, so that times stay in order.
    shift = np.repeat(rng.integers(0, 50, USERS), EVENTS)
    context = sequences.features.context
    other = draw(rng, len(later), categorical=1, numeric=1)
    return replace(
        sequences,
        item_idx=np.where(later, rng.integers(1, ITEMS + 1, len(later)), sequences.item_idx),
        label=np.where(later, rng.integers(0, 2, len(later)), sequences.label),
        timestamp=np.where(later, sequences.timestamp + shift, sequences.timestamp),
        features=replace(
            sequences.features,
            context=Coded(
                np.where(later[:, None], other.categorical, context.categorical),
                np.where(later[:, None], other.numeric, context.numeric),
            ),
        ),
    )


def told(sequences: Sequences, since: int, ranker=None) -> dict[str, np.ndarray]:
    """Everything a model may read of targets before `since`, by row; and their logits."""
    out: dict[str, list[np.ndarray]] = {}
    windows = UserWindows(sequences, history=6, splits=[0], targets=9)
    for index in range(0, len(windows), 10):
        batch = windows.batch(np.arange(index, min(index + 10, len(windows))))
        early = (batch.weight > 0) & (batch.target_time < since)
        length = batch.history_idx.shape[1]
        parts = {"row": batch.row[early]}
        for field in fields(RankBatch):
            value = getattr(batch, field.name)
            if field.name.startswith("history"):
                # What is not visible is not read; padding may differ in length.
                seen = value[:, None, :].expand(-1, batch.target_idx.shape[1], length)
                value = torch.where(batch.visible, seen, torch.zeros_like(seen)).double().sum(-1)
            if field.name != "visible":
                parts[field.name] = value[early]
        if ranker is not None:
            with torch.inference_mode():
                parts["logit"] = ranker(batch, ranker.id_slots(batch.target_idx))[early]
        for name, value in parts.items():
            out.setdefault(name, []).append(value.numpy())
    order = np.argsort(np.concatenate(out["row"]))
    return {name: np.concatenate(values)[order] for name, values in out.items()}


@pytest.mark.parametrize("seed", range(5))
def test_batches_of_earlier_targets_do_not_know_what_comes(seed):
    sequences, since = log(seed), 35
    before, after = told(sequences, since), told(scrambled(sequences, since, seed), since)
    assert len(before["row"]) > 100
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_logits_of_earlier_targets_do_not_know_what_comes(kind):
    torch.manual_seed(0)
    ranker = CLASSES[kind](ITEMS + 1, RankerSettings(kind=kind, width=8, history=6, hidden=(16,)), SCHEMA).eval()
    ranker.trained[1:] = True
    with torch.no_grad():
        for weight in ranker.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    sequences, since = log(), 35
    before = told(sequences, since, ranker)
    other = told(scrambled(sequences, since, 1), since, ranker)
    np.testing.assert_allclose(before["logit"], other["logit"], atol=1e-5)
    # The same scrambling does reach logits from that time on, so the test can fail.
    whole, changed = (told(log, 10**9, ranker)["logit"] for log in (sequences, scrambled(sequences, since, 1)))
    assert np.abs(whole - changed).max() > 0.01


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_every_feature_reaches_the_logit(kind):
    torch.manual_seed(0)
    ranker = CLASSES[kind](ITEMS + 1, RankerSettings(kind=kind, width=8, history=6, hidden=(16,)), SCHEMA).eval()
    with torch.no_grad():
        for weight in ranker.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    batch = UserWindows(log(), history=6, splits=[0], targets=9).batch([0, 1])
    slots = ranker.id_slots(batch.target_idx)
    with torch.inference_mode():
        plain = ranker(batch, slots)
        for column in range(3):
            codes = batch.categorical.clone()
            codes[..., column] = (codes[..., column] + 1) % 3
            assert not torch.allclose(ranker(replace(batch, categorical=codes), slots), plain)
        assert not torch.allclose(ranker(replace(batch, numeric=batch.numeric + 1), slots), plain)
