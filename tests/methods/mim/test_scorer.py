"""CiUBM: its units against direct formulas, where it starts, what trains, and its files."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from coldstart.config import UserError
from coldstart.data.batches import RankBatch, rank_request
from coldstart.data.item_table import ItemTable
from coldstart.methods.mim.config import Interest
from coldstart.methods.mim.interest_units import BUCKETS, ContentInterest, DtaFusion, FigureFusion, History, SaTaFusion
from coldstart.methods.mim.scorer import (
    ContentInterestScorer,
    MaxSimilarity,
    check_supports_interest,
    load_scorer,
    save_scorer,
)
from coldstart.rankers import DinDcn
from coldstart.rankers.interface import Ranker
from tests.methods.mim.conftest import HISTORY, ITEMS, WIDTH

SWITCHES = [
    {"content": content, "histogram": histogram, "fusion": fusion}
    for content, histogram, fusion in product((True, False), (True, False), ("figure", "sa_ta", "dta", "none"))
]


def scorer_of(ranker: Ranker, *, random: bool = True, **switches: object) -> ContentInterestScorer:
    torch.manual_seed(4)
    scorer = ContentInterestScorer(check_supports_interest(ranker), WIDTH, Interest.model_validate(switches)).eval()
    if random:
        with torch.no_grad():
            for weight in scorer.mlp.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
    return scorer


@pytest.mark.parametrize("switches", SWITCHES)
def test_it_starts_as_the_ranker(ranker: DinDcn, items: ItemTable, batch: RankBatch, switches: dict[str, object]):
    scorer = scorer_of(ranker, random=False, **switches)
    torch.testing.assert_close(scorer(batch, items), ranker(batch, ranker.id_slots(batch.target_idx)))


@pytest.mark.parametrize("fusion", ["figure", "sa_ta", "dta"])
def test_scores_depend_on_content_of_target_and_history(
    ranker: DinDcn, items: ItemTable, batch: RankBatch, fusion: str
):
    scorer = scorer_of(ranker, fusion=fusion)
    before = scorer(batch, items)
    for row, changed in ((20, [True] * 3), (2, [True, False, False])):
        other = items.columns["content"].clone()
        other[row] = -other[row]
        moved = (scorer(batch, ItemTable({"content": other})) != before)[0, :3]
        assert moved.tolist() == changed


@pytest.mark.parametrize("fusion", ["figure", "sa_ta", "dta"])
def test_content_units_do_not_depend_on_the_order_of_the_history(
    ranker: DinDcn, items: ItemTable, batch: RankBatch, fusion: str
):
    scorer = scorer_of(ranker, fusion=fusion)
    order = torch.tensor([4, 2, 0, 3, 1])
    shuffled = replace(
        batch,
        **{name: getattr(batch, name)[:, order] for name in ("history_idx", "history_row", "history_label")},
        history_mask=batch.history_mask[:, :, order],
    )
    units = []
    for one in (batch, shuffled):
        columns = [items.gather(rows)["content"] for rows in (one.target_row, one.history_row)]
        history = scorer._history(one, scorer.id_unit.id_slots(one.target_idx), *columns)
        units.append([*scorer.content_unit(history), scorer.fusion_unit(history)])
    for found, wanted in zip(*units, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def history() -> History:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    content, target = (F.normalize(draw(2, count, WIDTH), dim=-1) for count in (7, 3))
    seen = torch.rand(2, 3, 7, generator=generator) < 0.8
    clicked = torch.rand(2, 1, 7, generator=generator) < 0.6
    return History(draw(2, 3, 6), draw(2, 7, 6), content, target @ content.mT, seen & clicked, seen & ~clicked)


def test_content_interest_is_the_mean_of_clicked_content_weighted_by_similarity():
    unit, one = ContentInterest(WIDTH, histogram=True), history()
    interest, tiers = unit(one)
    counts = tiers.expm1().round()
    assert torch.equal(counts[..., :20].sum(-1), one.clicked.sum(-1).float())
    assert torch.equal(counts[..., 20:].sum(-1), one.skipped.sum(-1).float())
    for row, target in product(range(2), range(3)):
        chosen = one.clicked[row, target]
        weights = torch.softmax(one.similarity[row, target][chosen] / 0.1, dim=0)
        torch.testing.assert_close(interest[row, target], weights @ one.content[row][chosen])


def test_the_figures_fusion_is_the_weighted_sum_of_mapped_ids_and_content():
    unit, one = FigureFusion(6, WIDTH), history()
    fused = unit(one)
    for row, target in product(range(2), range(3)):
        chosen = one.clicked[row, target]
        weights = torch.softmax(one.similarity[row, target][chosen] / 0.1, dim=0)
        values = [
            unit.values.weight @ torch.cat([one.ids[row, j], one.content[row, j]]) for j in chosen.nonzero()[:, 0]
        ]
        torch.testing.assert_close(fused[row, target], weights @ torch.stack(values))
    assert torch.equal(unit(replace(one, target_id=0 * one.target_id)), fused)


def test_sa_ta_weights_ids_by_attention_similarity_and_their_product():
    unit, one = SaTaFusion(6, WIDTH), history()
    torch.nn.init.uniform_(unit.gains)
    fused = unit(one)
    for row, target in product(range(2), range(3)):
        chosen = one.clicked[row, target]
        ids, similarity = one.ids[row][chosen], one.similarity[row, target][chosen]
        by_id = torch.softmax(ids @ one.target_id[row, target] / 6**0.5, dim=0)
        weights = unit.gains[0] * by_id + unit.gains[1] * similarity + unit.gains[2] * by_id * similarity
        torch.testing.assert_close(fused[row, target], weights @ ids)


def test_dta_adds_similarity_buckets_to_keys_and_values():
    unit, one = DtaFusion(6, WIDTH), history()
    fused = unit(one)
    for row, target in product(range(2), range(3)):
        chosen = one.clicked[row, target]
        bucket = ((one.similarity[row, target][chosen] + 1) / 2 * BUCKETS).long()
        keys = unit.key(one.ids[row][chosen]) + unit.bucket_key(bucket)
        values = unit.value(one.ids[row][chosen]) + unit.bucket_value(bucket)
        weights = torch.softmax(keys @ unit.query(one.target_id[row, target]) / 6**0.5, dim=0)
        torch.testing.assert_close(fused[row, target], weights @ values)


@pytest.mark.parametrize("unit", [FigureFusion(6, WIDTH), SaTaFusion(6, WIDTH), DtaFusion(6, WIDTH)])
def test_without_clicks_the_interests_are_zeros(unit: torch.nn.Module):
    one = history()
    nothing = replace(one, clicked=torch.zeros_like(one.clicked), skipped=torch.zeros_like(one.skipped))
    interest, tiers = ContentInterest(WIDTH, histogram=True)(nothing)
    for found in (interest, tiers, unit(nothing)):
        assert not found.any()


def test_items_without_content_and_unknown_ones_are_in_no_sum(ranker: DinDcn, items: ItemTable, batch: RankBatch):
    scorer = scorer_of(ranker)
    columns = [items.gather(rows)["content"] for rows in (batch.target_row, batch.history_row)]
    seen = scorer._history(batch, scorer.id_unit.id_slots(batch.target_idx), *columns)
    assert seen.clicked[0, 0].tolist() == [True, False, True, False, True]
    assert seen.skipped[0, 0].tolist() == [False, False, False, True, False]
    assert not (seen.clicked | seen.skipped)[0, 3:].any()
    assert torch.isfinite(scorer(batch, items)).all()


def test_an_empty_history_gives_finite_scores(ranker: DinDcn, items: ItemTable):
    empty = rank_request([], [], [], [2, 19, 0], 40, history=HISTORY)
    for fusion in ("figure", "sa_ta", "dta"):
        assert torch.isfinite(scorer_of(ranker, fusion=fusion)(empty, items)).all()


def test_the_largest_similarity_is_that_of_a_clicked_event(ranker: DinDcn, items: ItemTable, batch: RankBatch):
    scores, content = MaxSimilarity(ranker, WIDTH)(batch, items), items.columns["content"]
    wanted = [max(float(content[target] @ content[item]) for item in (3, 20, 7)) for target in (2, 7, 19)]
    assert scores[0].tolist() == pytest.approx([*wanted, 0, 0], abs=1e-6)


@pytest.mark.parametrize("switches", [SWITCHES[0], SWITCHES[6], SWITCHES[-2]])
def test_a_saved_scorer_gives_the_same_scores(
    ranker: DinDcn, items: ItemTable, batch: RankBatch, tmp_path: Path, switches: dict[str, object]
):
    scorer = scorer_of(ranker, **switches)
    save_scorer(scorer, tmp_path, [f"item-{index}" for index in range(1, ITEMS + 1)])
    assert torch.equal(load_scorer(tmp_path)(batch, items), scorer(batch, items))
    assert not any(file.suffix in (".pt", ".bin", ".pkl") for file in tmp_path.rglob("*"))


def test_files_that_do_not_match_are_refused(ranker: DinDcn, tmp_path: Path):
    with pytest.raises(UserError, match=r"interest\.json or weights\.safetensors is missing; run the train_scorer"):
        load_scorer(tmp_path)
    save_scorer(scorer_of(ranker, fusion="dta"), tmp_path, ["x"] * ITEMS)
    config = (tmp_path / "interest.json").read_text()
    (tmp_path / "interest.json").write_text(config.replace('"dta"', '"figure"'))
    with pytest.raises(UserError, match="does not hold a complete scorer of MIM"):
        load_scorer(tmp_path)


def test_a_ranker_in_one_piece_is_refused(ranker: DinDcn):
    class Whole(Ranker):
        def forward(self, batch, slots):
            return slots.sum(-1)

    with pytest.raises(UserError, match=r"method\.name mim needs an InteractionRanker"):
        check_supports_interest(Whole(4, ranker.settings))
