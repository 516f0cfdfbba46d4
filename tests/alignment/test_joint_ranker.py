import json
from dataclasses import replace

import pytest
import torch

from coldstart.alignment import Adaptor, JointRanker, ProxyVectors, load_joint, save_joint
from coldstart.alignment.joint_ranker import check_joint
from coldstart.config import UserError
from coldstart.config.recipe import Ranker as Settings
from coldstart.data.batches import rank_request
from coldstart.rankers import Ranker, ranker_class

ITEMS, WIDTH = 12, 8


def made(kind: str = "din_dcn", *, reuse: bool = True) -> JointRanker:
    torch.manual_seed(0)
    ranker = ranker_class(kind)(ITEMS + 1, Settings(kind=kind, width=WIDTH, history=6, hidden=(6,)))
    torch.nn.init.normal_(ranker.id_table.weight)
    torch.nn.init.normal_(ranker.mlp[-1].weight)
    ranker.trained[1:9] = True
    events = torch.tensor([0] + [200] * 8 + [0] * 4)
    vectors = ProxyVectors(Adaptor(WIDTH, 2, 5, hidden=4, dropout=0.0))
    return JointRanker(ranker, vectors, events, reuse=reuse).eval()


def request():
    return rank_request([1, 2, 9, 3], [1, 0, 1, 1], [10, 20, 30, 40], [4, 5, 10, 11], 50, history=6)


def content():
    drawn = torch.Generator().manual_seed(1)
    return torch.randn(ITEMS + 1, WIDTH, generator=drawn), torch.randn(ITEMS + 1, 2, 5, generator=drawn)


def scored(joint: JointRanker, table: torch.Tensor) -> torch.Tensor:
    batch = request()
    with torch.no_grad():
        return joint(batch, table[batch.target_idx])


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("kind", ["din", "dcn_v2", "din_dcn", "transformer"])
def test_it_starts_as_the_ranker_it_is_made_from_where_ids_are_known(kind, reuse):
    joint = made(kind, reuse=reuse)
    batch = request()
    with torch.no_grad():
        before = joint.ranker(batch, joint.ranker.id_slots(batch.target_idx))[0, :2]
    assert torch.allclose(scored(joint, joint.table(*content()))[0, :2], before, atol=0.05)


@pytest.mark.parametrize("reuse", [True, False])
def test_content_tells_items_without_an_id_apart(reuse):
    joint = made(reuse=reuse)
    torch.nn.init.normal_(joint.mlp[0].weight)
    logits = scored(joint, joint.table(*content()))
    assert not torch.allclose(logits[0, 2], logits[0, 3])
    blank = torch.zeros(ITEMS + 1, WIDTH), torch.zeros(ITEMS + 1, 2, 5)
    logits = scored(joint, joint.table(*blank))
    assert torch.allclose(logits[0, 2], logits[0, 3])


def test_an_id_that_is_hidden_is_that_of_an_unknown_item():
    joint = made()
    vectors = torch.randn(4, 2, WIDTH)
    hidden = joint.slots(torch.tensor([0, 0, 0, 0]), vectors)
    cold = joint.slots(torch.tensor([9, 10, 11, 12]), vectors)
    known = joint.slots(torch.tensor([1, 2, 3, 4]), vectors)
    assert torch.equal(hidden, cold)
    assert hidden.shape == (4, joint.slot_width)
    assert (known[:, -1] > 1).all()
    assert (hidden[:, -1] == 0).all()


def test_targets_do_not_see_each_other_nor_the_future():
    joint = made()
    torch.nn.init.normal_(joint.mlp[0].weight)
    table = joint.table(*content())
    before = scored(joint, table)
    batch = request()
    other = replace(batch, target_idx=torch.tensor([[4, 6, 10, 11]]))
    with torch.no_grad():
        after = joint(other, table[other.target_idx])
    assert torch.allclose(before[0, [0, 2, 3]], after[0, [0, 2, 3]])
    assert not torch.allclose(before[0, 1], after[0, 1])
    unseen = replace(batch, history_label=1 - batch.history_label, visible=torch.zeros_like(batch.visible))
    blind = replace(batch, visible=torch.zeros_like(batch.visible))
    with torch.no_grad():
        assert torch.equal(joint(unseen, table[batch.target_idx]), joint(blind, table[batch.target_idx]))


@pytest.mark.parametrize("reuse", [True, False])
def test_a_loaded_joint_ranker_scores_as_the_saved_one(reuse, tmp_path):
    joint = made(reuse=reuse)
    torch.nn.init.normal_(joint.mlp[0].weight)
    save_joint(joint, tmp_path, [f"i{n}" for n in range(ITEMS)])
    again = load_joint(tmp_path)
    assert not again.training
    assert torch.equal(scored(again, again.table(*content())), scored(joint, joint.table(*content())))


def test_a_damaged_one_is_refused(tmp_path):
    with pytest.raises(UserError, match="run the align_fine stage"):
        load_joint(tmp_path)
    save_joint(made(), tmp_path, [f"i{n}" for n in range(ITEMS)])
    card = json.loads((tmp_path / "joint.json").read_text())
    (tmp_path / "joint.json").write_text(json.dumps({**card, "reuse": False}))
    with pytest.raises(UserError, match="whole joint ranker"):
        load_joint(tmp_path)


def test_a_ranker_of_ones_own_that_is_not_in_two_parts_is_refused_with_the_way_out():
    class Whole(Ranker):
        def forward(self, batch, slots):
            return slots.sum(-1)

    with pytest.raises(UserError, match=r"ReadingRanker .*or set fine.mode: frozen"):
        check_joint(Whole(ITEMS + 1, Settings(width=WIDTH)))
