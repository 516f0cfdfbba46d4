"""Events from some time on do not change anything before that time: batches, features, logits."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch, UserWindows
from coldstart.data.features import Categorical, EncodedFeatures, FeatureSchema, Numeric, TargetFeatures
from coldstart.data.sequences import Sequences
from coldstart.rankers.ranker_classes import RANKERS

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
    return EncodedFeatures(rng.integers(0, 3, (rows, categorical)), rng.normal(size=(rows, numeric)).astype(np.float32))


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
    """Changes items, labels, times (to later ones) and contexts from `since` on."""
    rng = np.random.default_rng(seed)
    later = sequences.timestamp >= since
    # All events of a user move together, so that their order stays the same.
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
            context=EncodedFeatures(
                np.where(later[:, None], other.categorical, context.categorical),
                np.where(later[:, None], other.numeric, context.numeric),
            ),
        ),
    )


def inputs_before(sequences: Sequences, since: int, ranker=None) -> dict[str, np.ndarray]:
    """All model inputs of targets before `since`, by event, and their logits."""
    out: dict[str, list[np.ndarray]] = {}
    windows = UserWindows(sequences, history=6, splits=[0], targets=9)
    for index in range(0, len(windows), 10):
        batch = windows.batch(np.arange(index, min(index + 10, len(windows))))
        early = (batch.weight > 0) & (batch.target_time < since)
        length = batch.history_idx.shape[1]
        parts = {"row": batch.event_index[early]}
        for field in fields(RankBatch):
            if field.name == "history_mask":
                continue
            value = getattr(batch, field.name)
            if field.name.startswith("history_"):
                # Models do not read masked events; padding may differ in length.
                by_target = value[:, None, :].expand(-1, batch.target_idx.shape[1], length)
                value = torch.where(batch.history_mask, by_target, torch.zeros_like(by_target)).double().sum(-1)
            elif value.dim() == 1:
                value = value[:, None].expand(early.shape)
            parts[field.name] = value[early]
        if ranker is not None:
            with torch.inference_mode():
                parts["logit"] = ranker(batch, ranker.id_slots(batch.target_idx))[early]
        for name, value in parts.items():
            out.setdefault(name, []).append(value.numpy())
    order = np.argsort(np.concatenate(out["row"]))
    return {name: np.concatenate(values)[order] for name, values in out.items()}


@pytest.mark.parametrize("seed", range(5))
def test_batches_of_earlier_targets_do_not_depend_on_later_events(seed):
    sequences, since = log(seed), 35
    before, after = inputs_before(sequences, since), inputs_before(scrambled(sequences, since, seed), since)
    assert len(before["row"]) > 100
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)


@pytest.mark.parametrize("kind", sorted(RANKERS))
def test_logits_of_earlier_targets_do_not_depend_on_later_events(kind):
    torch.manual_seed(0)
    ranker = RANKERS[kind](
        ITEMS + 1, RankerSettings(kind=kind, embedding_dim=8, max_history=6, mlp_units=(16,)), SCHEMA
    ).eval()
    ranker.trained[1:] = True
    with torch.no_grad():
        for weight in ranker.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    sequences, since = log(), 35
    before = inputs_before(sequences, since, ranker)
    other = inputs_before(scrambled(sequences, since, 1), since, ranker)
    np.testing.assert_allclose(before["logit"], other["logit"], atol=1e-5)
    # The same change does reach later logits, so the test can fail.
    original, changed = (
        inputs_before(log, 10**9, ranker)["logit"] for log in (sequences, scrambled(sequences, since, 1))
    )
    assert np.abs(original - changed).max() > 0.01


@pytest.mark.parametrize("kind", sorted(RANKERS))
def test_every_feature_reaches_the_logit(kind):
    torch.manual_seed(0)
    ranker = RANKERS[kind](
        ITEMS + 1, RankerSettings(kind=kind, embedding_dim=8, max_history=6, mlp_units=(16,)), SCHEMA
    ).eval()
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
