import json
from dataclasses import replace

import pytest
import torch

from coldstart.config import UserError
from coldstart.config.recipe import Ranker as Settings
from coldstart.data.batches import rank_request
from coldstart.data.item_table import ItemTable
from coldstart.methods.idproxy.adaptor import Adaptor
from coldstart.methods.idproxy.item_vectors import ProxyVectors
from coldstart.methods.idproxy.joint_ranker import JointRanker, check_supports_joint, load_joint, save_joint
from coldstart.rankers import Ranker, ranker_class

ITEMS, WIDTH = 12, 8


def build(kind: str = "din_dcn", *, structure_reuse: bool = True) -> JointRanker:
    torch.manual_seed(0)
    ranker = ranker_class(kind)(ITEMS + 1, Settings(kind=kind, embedding_dim=WIDTH, max_history=6, mlp_units=(6,)))
    torch.nn.init.normal_(ranker.id_table.weight)
    torch.nn.init.normal_(ranker.mlp[-1].weight)
    ranker.trained[1:9] = True
    events = torch.tensor([0] + [200] * 8 + [0] * 4)
    vectors = ProxyVectors(Adaptor(WIDTH, 2, 5, mlp_units=4, dropout=0.0))
    return JointRanker(ranker, vectors, events, structure_reuse=structure_reuse).eval()


def request():
    return rank_request([1, 2, 9, 3], [1, 0, 1, 1], [10, 20, 30, 40], [4, 5, 10, 11], 50, history=6)


def content() -> ItemTable:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(ITEMS + 1, WIDTH, generator=generator)
    return ItemTable({"coarse": coarse, "states": torch.randn(ITEMS + 1, 2, 5, generator=generator)})


def scored(joint: JointRanker, table: torch.Tensor) -> torch.Tensor:
    batch = request()
    with torch.no_grad():
        return joint(batch, table[batch.target_idx])


@pytest.mark.parametrize("structure_reuse", [True, False])
@pytest.mark.parametrize("kind", ["din", "dcn_v2", "din_dcn", "transformer"])
def test_it_starts_as_the_original_ranker_for_items_with_ids(kind, structure_reuse):
    joint = build(kind, structure_reuse=structure_reuse)
    batch = request()
    with torch.no_grad():
        before = joint.ranker(batch, joint.ranker.id_slots(batch.target_idx))[0, :2]
    assert torch.allclose(scored(joint, joint.table(content()))[0, :2], before, atol=0.05)


@pytest.mark.parametrize("structure_reuse", [True, False])
def test_content_distinguishes_items_without_an_id(structure_reuse):
    joint = build(structure_reuse=structure_reuse)
    torch.nn.init.normal_(joint.mlp[0].weight)
    logits = scored(joint, joint.table(content()))
    assert not torch.allclose(logits[0, 2], logits[0, 3])
    blank = ItemTable({name: torch.zeros_like(values) for name, values in content().columns.items()})
    logits = scored(joint, joint.table(blank))
    assert torch.allclose(logits[0, 2], logits[0, 3])


def test_a_hidden_id_gives_the_slot_of_an_unknown_item():
    joint = build()
    vectors = torch.randn(4, 2, WIDTH)
    hidden = joint.slots(torch.tensor([0, 0, 0, 0]), vectors)
    cold = joint.slots(torch.tensor([9, 10, 11, 12]), vectors)
    known = joint.slots(torch.tensor([1, 2, 3, 4]), vectors)
    assert torch.equal(hidden, cold)
    assert hidden.shape == (4, joint.slot_width)
    assert (known[:, -1] > 1).all()
    assert (hidden[:, -1] == 0).all()


def test_targets_do_not_depend_on_each_other_or_on_masked_events():
    joint = build()
    torch.nn.init.normal_(joint.mlp[0].weight)
    table = joint.table(content())
    before = scored(joint, table)
    batch = request()
    other = replace(batch, target_idx=torch.tensor([[4, 6, 10, 11]]))
    with torch.no_grad():
        after = joint(other, table[other.target_idx])
    assert torch.allclose(before[0, [0, 2, 3]], after[0, [0, 2, 3]])
    assert not torch.allclose(before[0, 1], after[0, 1])
    changed = replace(batch, history_label=1 - batch.history_label, history_mask=torch.zeros_like(batch.history_mask))
    masked = replace(batch, history_mask=torch.zeros_like(batch.history_mask))
    with torch.no_grad():
        assert torch.equal(joint(changed, table[batch.target_idx]), joint(masked, table[batch.target_idx]))


@pytest.mark.parametrize("structure_reuse", [True, False])
def test_a_loaded_joint_ranker_scores_as_the_saved_one(structure_reuse, tmp_path):
    joint = build(structure_reuse=structure_reuse)
    torch.nn.init.normal_(joint.mlp[0].weight)
    save_joint(joint, tmp_path, [f"i{n}" for n in range(ITEMS)])
    again = load_joint(tmp_path)
    assert not again.training
    assert torch.equal(scored(again, again.table(content())), scored(joint, joint.table(content())))


def test_a_damaged_joint_ranker_is_refused(tmp_path):
    with pytest.raises(UserError, match="run the align_fine stage"):
        load_joint(tmp_path)
    save_joint(build(), tmp_path, [f"i{n}" for n in range(ITEMS)])
    config = json.loads((tmp_path / "joint.json").read_text())
    (tmp_path / "joint.json").write_text(json.dumps({**config, "structure_reuse": False}))
    with pytest.raises(UserError, match="complete joint ranker"):
        load_joint(tmp_path)


def test_a_custom_ranker_without_interact_is_refused_with_the_fix():
    class OnePart(Ranker):
        def forward(self, batch, slots):
            return slots.sum(-1)

    with pytest.raises(UserError, match=r"InteractionRanker .*or set method.mode: frozen"):
        check_supports_joint(OnePart(ITEMS + 1, Settings(embedding_dim=WIDTH)))
