"""The served scorers of IDProxy."""

from dataclasses import replace

import pytest
import torch

from coldstart.data.batches import RankBatch, rank_request
from coldstart.data.item_table import ItemTable
from coldstart.methods.base import adapt
from coldstart.methods.idproxy.adaptor import Adaptor
from coldstart.methods.idproxy.item_vectors import ProxyVectors
from coldstart.methods.idproxy.joint_ranker import JointRanker
from coldstart.methods.idproxy.joint_training import TrainableJointScorer
from coldstart.methods.idproxy.scorers import FineProxies, FrozenScorer, JointProxies, JointScorer
from coldstart.methods.idproxy.warmup_blend import blend_slots
from coldstart.rankers.interface import Ranker
from coldstart.rankers.scorer import unknown_targets


@pytest.fixture
def items() -> ItemTable:
    generator = torch.Generator().manual_seed(1)
    columns = {"coarse": torch.randn(21, 6, generator=generator), "states": torch.randn(21, 2, 4, generator=generator)}
    return ItemTable(columns)


@pytest.fixture
def adaptor() -> Adaptor:
    torch.manual_seed(2)
    return Adaptor(6, 2, 4, mlp_units=8, dropout=0.0).eval()


@pytest.fixture
def batch() -> RankBatch:
    return rank_request([3, 5, 20], [1, 0, 1], [10, 20, 30], [2, 7, 19, 20, 0], 40, history=8)


def test_the_frozen_scorer_is_the_ranker_with_blended_slots(
    ranker: Ranker, items: ItemTable, adaptor: Adaptor, batch: RankBatch
) -> None:
    weight = torch.linspace(0, 1, 21) * ranker.trained
    served = adapt(FineProxies(adaptor), items)
    scores = FrozenScorer(ranker.eval(), weight)(batch, served)
    ids = ranker.id_slots(torch.arange(21))
    table = blend_slots(ids, served.columns["proxy"], weight)
    table[0] = ids[0]
    assert torch.equal(scores, ranker(batch, table[batch.target_idx]))


def test_an_item_without_a_row_keeps_its_id(
    ranker: Ranker, items: ItemTable, adaptor: Adaptor, batch: RankBatch
) -> None:
    scorer = FrozenScorer(ranker.eval(), torch.zeros(21))
    without = replace(batch, target_row=torch.zeros_like(batch.target_row))
    served = adapt(FineProxies(adaptor), items)
    assert torch.equal(scorer(without, served), ranker(batch, ranker.id_slots(batch.target_idx)))


def test_an_item_outside_the_catalog_is_scored_by_its_content(
    ranker: Ranker, items: ItemTable, adaptor: Adaptor, batch: RankBatch
) -> None:
    """Its index is 0, its row is one that the catalog does not have."""
    scorer = FrozenScorer(ranker.eval(), torch.ones(21) * ranker.trained)
    served = adapt(FineProxies(adaptor), items)
    new = replace(batch, target_idx=torch.zeros_like(batch.target_idx), target_row=torch.full((1, 5), 4))
    expected = ranker(new, served.columns["proxy"][new.target_row])
    assert torch.equal(scorer(new, served), expected)
    assert not torch.equal(scorer(new, served), scorer(unknown_targets(new), served))


@pytest.mark.parametrize("structure_reuse", [True, False])
def test_the_joint_scorer_serves_what_was_trained(
    ranker: Ranker, items: ItemTable, adaptor: Adaptor, batch: RankBatch, structure_reuse: bool
) -> None:
    joint = JointRanker(ranker, ProxyVectors(adaptor), torch.arange(21), structure_reuse=structure_reuse)
    torch.nn.init.normal_(joint.mlp[0].weight, std=0.1)
    joint.eval()
    served = adapt(JointProxies(joint.vectors), items)
    assert {name: spec.shape for name, spec in served.specs.items()} == {"coarse": (6,), "proxy": (6,)}
    with torch.no_grad():
        trained = TrainableJointScorer(joint)(batch, items)
        assert torch.allclose(JointScorer(joint)(batch, served), trained, atol=1e-6)
        assert torch.equal(trained, joint(batch, joint.table(items)[batch.target_idx]))
