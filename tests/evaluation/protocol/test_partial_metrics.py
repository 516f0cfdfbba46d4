import numpy as np
import pyarrow as pa
import pytest

from coldstart.evaluation.protocol.partial_metrics import (
    MergedMetrics,
    compute_metrics,
    count_rows,
    range_metrics,
    range_of,
    sample_probabilities,
    user_metrics,
)
from coldstart.evaluation.protocol.protocol import EvaluationProtocol
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.slices import SLICES
from coldstart.metrics.clicks import sigmoid
from tests.evaluation.rows import drawn_rows, protocol_of


def in_parts(rows: ScoredRows, protocol: EvaluationProtocol, parts: int) -> MergedMetrics:
    """The steps of a distributed engine in a loop: any parts, then ranges of each variant, then parts of users."""
    blocks = [rows.take(np.arange(len(rows)) % parts == part) for part in range(parts)]
    sample = np.concatenate([sample_probabilities(block, protocol, size=50) for block in blocks], axis=1)
    cuts = np.quantile(sample, np.arange(1, parts) / parts, axis=1, method="nearest").T
    found = [count_rows(block, protocol, cuts) for block in blocks]
    counts = {name: sum(part[name] for part in found) for name in found[0]}
    total = counts["clicked"] + counts["skipped"]
    below = np.cumsum(total, axis=-1) - total
    ranges = {"wins": 0, "bins": 0}
    for k, name in enumerate(protocol.variants):
        place = range_of(sigmoid(rows.logits[name]), cuts[k])
        for p in range(parts):
            chosen = rows.take(place == p)
            part = range_metrics(
                chosen.logits[name],
                chosen.label,
                protocol.members(chosen)[: len(SLICES)],
                below=below[k, :, p],
                total=total[k].sum(-1),
                bins=protocol.bins,
            )
            for key, values in part.items():
                whole = np.zeros((len(protocol.variants), *values.shape))
                whole[k] = values
                ranges[key] = ranges[key] + whole
    users = [user_metrics(rows.take(rows.user_idx % parts == part), protocol) for part in range(parts)]
    return MergedMetrics.merge(protocol, counts, ranges, pa.concat_tables(users))


def same(found: MergedMetrics, expected: MergedMetrics) -> None:
    for name in ("rows", "clicked", "skipped", "histogram", "wins"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("loss", "bins"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-9)
    assert list(found.ranks) == list(expected.ranks)
    for group, ranks in expected.ranks.items():
        for name in ("weight", "auc", "item_rows", "left_out"):
            np.testing.assert_array_equal(getattr(found.ranks[group], name), getattr(ranks, name))
        for name in ("auc_gradient", "gradient_products", "ndcg", "recall"):
            np.testing.assert_allclose(getattr(found.ranks[group], name), getattr(ranks, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("parts", [2, 7])
@pytest.mark.parametrize("digits", [None, 0])
def test_parts_add_up_to_the_metrics_of_all_rows_with_and_without_ties(parts: int, digits: int | None) -> None:
    rows = drawn_rows()
    if digits is not None:
        rows.logits.update({name: np.round(values, digits) for name, values in rows.logits.items()})
    protocol = protocol_of(rows)
    same(in_parts(rows, protocol, parts), compute_metrics(rows, protocol))


def test_rows_with_probability_one_are_ranked_by_logit() -> None:
    rows = drawn_rows()
    rows.logits.update({name: values + 60.0 for name, values in rows.logits.items()})
    protocol = protocol_of(rows)
    assert (sigmoid(rows.logits["fine"]) == 1).mean() > 0.9
    found = in_parts(rows, protocol, 3)
    assert found.auc("fine", "all") == compute_metrics(drawn_rows(), protocol).auc("fine", "all")


def test_metrics_are_equal_after_a_table_round_trip(rows: ScoredRows) -> None:
    again = ScoredRows.from_table(rows.to_table())
    protocol = protocol_of(rows)
    same(compute_metrics(again, protocol), compute_metrics(rows, protocol))
