"""Properties of every built-in ranker."""

import dataclasses

import pytest
import torch

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import UserWindows, rank_request
from coldstart.data.features import Categorical, EncodedFeatures, FeatureSchema, Numeric
from coldstart.rankers.ranker_classes import RANKERS
from tests.training.clicks import low_rank_clicks

ITEMS, HISTORY = 60, 12
SCHEMA = FeatureSchema(
    categorical=(Categorical(owner="item", name="brand", values=("a", "b")),),
    numeric=(Numeric(owner="context", name="price", mean=0.0, scale=1.0),),
)


def build(kind, **options):
    torch.manual_seed(0)
    model = RANKERS[kind](
        ITEMS + 1, RankerSettings(kind=kind, embedding_dim=8, mlp_units=(16,), max_history=HISTORY), **options
    )
    model.trained[1:50] = True
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(params=list(RANKERS))
def ranker(request):
    return build(request.param)


@pytest.fixture
def request_batch():
    return rank_request(
        [3, 9, 3, 17, 5], [1, 0, 1, 1, 0], [100, 200, 5_000, 9_000, 90_000], [1, 2, 55, 3], 100_000, history=HISTORY
    )


@torch.no_grad()
def scores(ranker, batch):
    return ranker(batch, ranker.id_slots(batch.target_idx))


def changed(batch, field, place, value):
    values = getattr(batch, field).clone()
    values[place] = value
    return dataclasses.replace(batch, **{field: values})


def stacked(short, longer):
    """Two rows in one batch, the shorter one padded with targets and masked events."""

    def padded(name):
        first, second = getattr(short, name), getattr(longer, name)
        padding = [
            size
            for one, other in zip(first.shape[:0:-1], second.shape[:0:-1], strict=True)
            for size in (0, other - one)
        ]
        return torch.cat([torch.nn.functional.pad(first, padding), second])

    return type(short)(**{field.name: padded(field.name) for field in dataclasses.fields(short)})


def test_there_are_four_built_in_rankers():
    assert set(RANKERS) == {"din", "dcn_v2", "din_dcn", "transformer"}


def test_properties(ranker):
    assert (ranker.vocab_size, ranker.embedding_dim, ranker.max_history) == (ITEMS + 1, 8, HISTORY)
    assert ranker.id_rows().shape == (ITEMS + 1, 8)
    assert not ranker.id_rows().requires_grad


def test_the_item_is_read_from_the_slot_alone(ranker, request_batch):
    elsewhere = dataclasses.replace(request_batch, target_idx=torch.full_like(request_batch.target_idx, 5))
    slots = ranker.id_slots(request_batch.target_idx)
    with torch.no_grad():
        assert torch.equal(ranker(elsewhere, slots), ranker(request_batch, slots))
        assert scores(ranker, request_batch).shape == (1, 4)


def test_every_number_of_the_slot_reaches_its_own_logit_and_no_other(ranker, request_batch):
    slots = ranker.id_slots(request_batch.target_idx).detach().requires_grad_()
    logits = ranker(request_batch, slots)
    for target in range(4):
        (gradient,) = torch.autograd.grad(logits[0, target], slots, retain_graph=True)
        assert (gradient[0, target] != 0).all()
        gradient[0, target] = 0
        assert not gradient.any()


def test_untrained_items_read_the_oov_row(ranker):
    slots = ranker.id_slots(torch.tensor([[1, 51, 60, 0]]))
    assert torch.equal(slots[0, 1], ranker.id_rows()[0])
    assert torch.equal(slots[0, 2], slots[0, 3])
    assert not torch.equal(slots[0, 0], slots[0, 1])


def test_masked_events_change_nothing(ranker, request_batch):
    masked = changed(request_batch, "history_mask", (..., -1), False)
    other = changed(masked, "history_label", (0, -1), 1)
    other = changed(other, "history_idx", (0, -1), 6)
    other = changed(other, "history_time", (0, -1), 7)
    assert torch.equal(scores(ranker, masked), scores(ranker, other))
    assert not torch.equal(scores(ranker, masked), scores(ranker, request_batch))


@pytest.mark.parametrize("field", ["history_label", "history_idx", "history_time"])
def test_every_part_of_the_history_counts(ranker, request_batch, field):
    value = {"history_label": 1, "history_idx": 12, "history_time": 99_000}[field]
    other = changed(request_batch, field, (0, 4), value)
    assert not torch.allclose(scores(ranker, request_batch), scores(ranker, other))


def test_an_empty_history_gives_finite_scores_and_gradients(ranker):
    batch = rank_request([], [], [], [1, 2], 10, history=5)
    logits = ranker(batch, ranker.id_slots(batch.target_idx))
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad.to_dense()).all() for p in ranker.parameters() if p.grad is not None)


def test_targets_of_a_row_do_not_see_each_other(ranker, request_batch):
    names = ("target_idx", "target_time", "history_mask", "categorical", "numeric")
    alone = dataclasses.replace(request_batch, **{name: getattr(request_batch, name)[:, 1:2] for name in names})
    assert torch.allclose(scores(ranker, alone)[0, 0], scores(ranker, request_batch)[0, 1], atol=1e-6)


def test_padding_changes_nothing(ranker, request_batch):
    longer = rank_request([2] * 12, [0, 1] * 6, range(12), [4] * 9, 50, history=HISTORY)
    together = scores(ranker, stacked(request_batch, longer))
    assert torch.allclose(together[0, :4], scores(ranker, request_batch)[0], atol=1e-6)
    assert torch.allclose(together[1], scores(ranker, longer)[0], atol=1e-6)


def test_the_future_and_tied_events_change_nothing_in_a_training_window(ranker):
    clicks = low_rank_clicks(users=3)
    # Three events share each timestamp.
    clicks = dataclasses.replace(clicks, timestamp=clicks.timestamp // (3 * 3600))
    batch = UserWindows(clicks, history=HISTORY, splits=[0]).batch([0, 1, 2])
    before = scores(ranker, batch)
    target = 13
    now = int(batch.target_time[1, target])
    late = batch.history_time[1] >= now
    assert 0 < int(late.sum()) < late.numel()
    other = changed(batch, "history_label", (1, late), 1 - batch.history_label[1, late])
    other = changed(other, "history_idx", (1, late), 33)
    after = scores(ranker, other)
    same = batch.target_time[1] <= now
    assert torch.equal(before[1, same], after[1, same])
    assert not torch.equal(before[1, ~same], after[1, ~same])


def test_a_score_is_the_same_in_any_window_and_in_a_request(ranker):
    clicks = low_rank_clicks(users=3)
    found = {}
    for targets in (40, 7):
        windows = UserWindows(clicks, history=HISTORY, splits=[0, 1, 2], targets=targets)
        batch = windows.batch(range(len(windows)))
        found[targets] = dict(
            zip(batch.event_index.flatten().tolist(), scores(ranker, batch).flatten().tolist(), strict=True)
        )
    rows = range(3 * 40)
    assert [found[7][row] for row in rows] == pytest.approx([found[40][row] for row in rows], abs=1e-5)
    own = slice(40, 40 + 31)
    request = rank_request(
        clicks.item_idx[own], clicks.label[own], clicks.timestamp[own], [clicks.item_idx[71], 7],
        int(clicks.timestamp[71]), history=HISTORY,
    )  # fmt: skip
    assert float(scores(ranker, request)[0, 0]) == pytest.approx(found[7][71], abs=1e-5)


@pytest.mark.parametrize("kind", list(RANKERS))
def test_features_reach_the_logit_of_their_target(kind, request_batch):
    ranker = build(kind, features=SCHEMA)

    def with_features(codes, prices):
        coded = EncodedFeatures(torch.tensor(codes)[:, None].numpy(), torch.tensor(prices)[:, None].numpy())
        return rank_request([3, 9], [1, 0], [100, 200], [1, 2], 1000, history=HISTORY, features=coded)

    plain = scores(ranker, with_features([1, 1], [0.5, 0.5]))
    for other in (with_features([1, 2], [0.5, 0.5]), with_features([1, 1], [0.5, 0.7])):
        assert scores(ranker, other)[0, 0] == plain[0, 0]
        assert scores(ranker, other)[0, 1] != plain[0, 1]
