import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from coldstart.config import UserError
from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import UserWindows
from coldstart.data.item_table import ItemTable
from coldstart.methods.saviorrec.model import (
    CODES,
    CONTENT,
    Catalog,
    MBABlock,
    check_supports_interaction,
    load_scorer,
    save_scorer,
)
from coldstart.methods.saviorrec.scorer_training import make_optimizer
from coldstart.modules.time_gap import time_gap_buckets
from coldstart.rankers import save_ranker
from coldstart.rankers.interface import Ranker
from tests.methods.saviorrec.conftest import RANK, SIZES, WIDTH, make_scorer

ABLATIONS = [{}, {"without_mba": True}, {"without_cross_space": True}, {"sum_codebooks": True}]


@pytest.fixture
def batch(clicks):
    return UserWindows(clicks, history=12, splits=[0], targets=8).batch(np.arange(20))


def randomized(scorer):
    """The scorer with codebooks and MLP of a trained one."""
    torch.manual_seed(4)
    with torch.no_grad():
        for weight in [*(scorer.mba.parameters() if scorer.mba else []), *scorer.mlp.parameters()]:
            weight.add_(0.3 * torch.randn_like(weight))
        for book in scorer.mba.codebooks if scorer.mba else []:
            book[0] = 0
    return scorer


def test_a_new_block_changes_nothing(items):
    block, (content, codes) = MBABlock(WIDTH, SIZES, 16), items.columns.values()
    assert torch.equal(block(content, codes), content)
    assert torch.equal(MBABlock(WIDTH, SIZES, None)(content, codes), content)


def test_a_new_scorer_scores_as_without_the_block_and_near_its_ranker(ranker, items, batch):
    with torch.no_grad():
        whole, without = make_scorer(ranker).eval(), make_scorer(ranker, without_mba=True).eval()
        without.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("mba.")})
        logits = whole(batch, items)
        assert torch.equal(logits, without(batch, items))
        assert torch.allclose(logits, ranker(batch, ranker.id_slots(batch.target_idx)), atol=0.1)


@pytest.mark.parametrize("ablate", [{}, {"sum_codebooks": True}])
@pytest.mark.parametrize("frozen", [False, True])
def test_one_step_reaches_the_codebooks_and_never_the_content(ranker, items, batch, frozen, ablate):
    ranker = copy.deepcopy(ranker)
    before = copy.deepcopy(ranker.state_dict())
    scorer = make_scorer(ranker, frozen=frozen, **ablate).train()
    content = items.columns[CONTENT].clone()
    optimizer = make_optimizer(scorer, scorer.settings)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(scorer(batch, items), batch.label)
    loss.backward()
    assert items.columns[CONTENT].grad is None
    for weight in scorer.parameters():
        if weight.grad is not None and weight.grad.is_sparse:
            weight.grad = weight.grad.to_dense()
    optimizer.step()
    assert torch.equal(items.columns[CONTENT], content)
    seen = torch.cat([batch.target_row.flatten(), batch.history_row.flatten()])
    for level, book in enumerate(scorer.mba.codebooks):
        used = items.columns[CODES][seen[seen > 0], level].unique().long()
        assert (book[used].abs().sum(1) > 0).any()
        assert torch.equal(book[0], torch.zeros(WIDTH))
    changed = [name for name, value in ranker.state_dict().items() if not torch.equal(value, before[name])]
    assert bool(changed) != frozen


def test_items_with_the_same_codes_share_the_correction_also_if_never_trained(ranker, items, batch):
    scorer = randomized(make_scorer(ranker)).train()
    codes = items.columns[CODES].clone()
    codes[60] = codes[1]
    # Item 60 is in no batch of training, so only its codes tell anything about it.
    assert 60 not in batch.target_row
    assert 60 not in batch.history_row
    content = items.columns[CONTENT]
    delta = scorer.aligned(content, codes) - content
    assert torch.allclose(delta[60], delta[1], atol=1e-6)
    assert delta[60].abs().sum() > 0
    assert (delta[60] - delta[2]).abs().sum() > 1e-3
    assert torch.equal(delta[0], torch.zeros(WIDTH))


def test_the_four_attentions_read_weights_and_values_of_their_spaces(ranker, items, batch):
    scorer = randomized(make_scorer(ranker)).eval()
    a = RANK["attention_width"]
    seen = {}
    scorer.mlp.register_forward_hook(lambda module, inputs, output: seen.update(inputs=inputs[0]))
    with torch.no_grad():
        logits = scorer(batch, items)
        time_gap = time_gap_buckets(batch.target_time, batch.history_time, batch.history_mask)
        aligned = scorer.aligned(items.columns[CONTENT], items.columns[CODES])
        spaces = {
            "modal": (scorer.modal, aligned[batch.target_row], aligned[batch.history_row]),
            "behavior": (
                scorer.behavior,
                ranker.id_slots(batch.target_idx),
                ranker.id_slots(batch.history_idx),
            ),
        }
        parts = {name: [space.project(x) for x in vectors] for name, (space, *vectors) in spaces.items()}
        value = {name: target[..., -a:] for name, (target, _) in parts.items()}
        outputs = {}
        for weights in parts:
            attention = scorer.modal.attention if weights == "modal" else scorer.behavior.attention
            target, history = parts[weights]
            others = [weights, "behavior" if weights == "modal" else "modal"]
            values = torch.cat([parts[name][1][..., -a:] for name in others], -1)
            found = attention(target[..., :a], history[..., a : 2 * a], values, batch.history_label, time_gap)
            outputs |= {(weights, name): part for name, part in zip(others, found.split(a, -1), strict=True)}
        pairs = [("modal", "modal"), ("modal", "behavior"), ("behavior", "behavior"), ("behavior", "modal")]
        base, interactions = ranker.interact(batch, ranker.id_slots(batch.target_idx))
        expected = torch.cat(
            [
                value["modal"],
                value["behavior"],
                *(outputs[pair] for pair in pairs),
                *(outputs[pair] * value[pair[1]] for pair in pairs),
                interactions,
            ],
            -1,
        )
        assert torch.allclose(seen["inputs"], expected, atol=1e-5)
        whole = base + (ranker.mlp(interactions) + scorer.mlp(expected)).squeeze(-1)
        assert torch.allclose(logits, whole, atol=1e-5)


@pytest.mark.parametrize("ablate", ABLATIONS)
def test_a_user_without_history_gets_finite_scores_that_no_padding_changes(ranker, items, batch, ablate):
    scorer = randomized(make_scorer(ranker, **ablate)).eval()
    empty = replace(batch, history_mask=torch.zeros_like(batch.history_mask))
    other = replace(
        empty,
        history_idx=empty.history_idx.flip(1),
        history_row=empty.history_row.flip(1),
        history_label=1 - empty.history_label,
    )
    with torch.no_grad():
        logits = scorer(empty, items)
        assert logits.isfinite().all()
        assert torch.allclose(logits, scorer(other, items), atol=1e-6)


def test_without_cross_space_leaves_out_the_other_values(ranker):
    own = make_scorer(ranker, without_cross_space=True)
    assert own.modal.attention.label_gain.weight.shape[1] == RANK["attention_width"]
    difference = make_scorer(ranker).mlp[0].in_features - own.mlp[0].in_features
    assert difference == 4 * RANK["attention_width"]


def test_content_and_codes_of_target_and_history_change_the_score(ranker, items, batch):
    scorer = randomized(make_scorer(ranker)).eval()
    with torch.no_grad():
        before = scorer(batch, items)
        for rows in ("target_row", "history_row"):
            moved = replace(batch, **{rows: (getattr(batch, rows) % 40) + 5})
            assert not torch.allclose(scorer(moved, items), before, atol=1e-3), rows
        for name in (CONTENT, CODES):
            turned = ItemTable({**items.columns, name: items.columns[name].roll(1, 0)})
            assert not torch.allclose(scorer(batch, turned), before, atol=1e-3), name


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("ablate", ABLATIONS)
def test_a_scorer_survives_the_disk(ranker, items, batch, tmp_path, frozen, ablate):
    scorer = randomized(make_scorer(copy.deepcopy(ranker), frozen=frozen, **ablate)).eval()
    ids = [f"film-{index}" for index in range(1, 61)]
    for name in ("ranker", "scorer"):
        (tmp_path / name).mkdir()
    save_ranker(ranker, tmp_path / "ranker", ids)
    save_scorer(scorer, tmp_path / "scorer", Catalog(ids))
    assert (tmp_path / "scorer" / "ranker").is_dir() != frozen
    loaded = load_scorer(tmp_path / "scorer", tmp_path / "ranker")
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(batch, items), scorer(batch, items))


def test_a_damaged_scorer_is_named(ranker, tmp_path):
    with pytest.raises(UserError, match=r"no SaviorRec scorer at .*run the train_scorer stage"):
        load_scorer(tmp_path, tmp_path)
    save_scorer(make_scorer(copy.deepcopy(ranker)), tmp_path, Catalog([f"film-{index}" for index in range(1, 61)]))
    config = tmp_path / "saviorrec.json"
    config.write_text(config.read_text().replace(f'"width": {WIDTH}', f'"width": {WIDTH + 1}'))
    with pytest.raises(UserError, match="does not hold a complete SaviorRec scorer"):
        load_scorer(tmp_path, tmp_path)


def test_a_ranker_without_an_interaction_part_is_refused():
    class Plain(Ranker):
        def forward(self, batch, slots):
            return slots.sum(-1)

    with pytest.raises(UserError, match="SaviorRec needs an InteractionRanker"):
        check_supports_interaction(Plain(5, RankerSettings()))
