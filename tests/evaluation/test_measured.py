import numpy as np
import pyarrow as pa
import pytest

from coldstart.evaluation.measured import (
    Measured,
    count_rows,
    measure,
    measure_range,
    measure_users,
    range_of,
    sample_probabilities,
)
from coldstart.evaluation.metrics import sigmoid
from coldstart.evaluation.protocol import Protocol
from coldstart.evaluation.scored_rows import ScoredRows
from coldstart.evaluation.slices import SLICES
from tests.evaluation.rows import drawn_rows, protocol_of


def in_parts(rows: ScoredRows, protocol: Protocol, parts: int) -> Measured:
    """What an engine does, in a loop: sums over any parts, then ranges of each variant, then parts of users."""
    blocks = [rows.take(np.arange(len(rows)) % parts == part) for part in range(parts)]
    sample = np.concatenate([sample_probabilities(block, protocol, most=50) for block in blocks], axis=1)
    cuts = np.quantile(sample, np.arange(1, parts) / parts, axis=1, method="nearest").T
    found = [count_rows(block, protocol, cuts) for block in blocks]
    counts = {name: sum(part[name] for part in found) for name in found[0]}
    total = counts["clicked"] + counts["skipped"]
    below = np.cumsum(total, axis=-1) - total
    ranges = {"wins": 0, "bins": 0}
    for k, name in enumerate(protocol.variants):
        place = range_of(sigmoid(rows.logits[name]), cuts[k])
        for p in range(parts):
            mine = rows.take(place == p)
            part = measure_range(
                mine.logits[name],
                mine.label,
                protocol.members(mine)[: len(SLICES)],
                below=below[k, :, p],
                total=total[k].sum(-1),
                bins=protocol.bins,
            )
            for key, values in part.items():
                whole = np.zeros((len(protocol.variants), *values.shape))
                whole[k] = values
                ranges[key] = ranges[key] + whole
    users = [measure_users(rows.take(rows.user_idx % parts == part), protocol) for part in range(parts)]
    return Measured.merge(protocol, counts, ranges, pa.concat_tables(users))


def same(found: Measured, expected: Measured) -> None:
    for name in ("rows", "clicked", "skipped", "histogram", "wins"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("loss", "bins"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-9)
    assert list(found.ranks) == list(expected.ranks)
    for group, ranks in expected.ranks.items():
        for name in ("weight", "auc", "item_rows", "left_out"):
            np.testing.assert_array_equal(getattr(found.ranks[group], name), getattr(ranks, name))
        for name in ("pull", "product", "ndcg", "recall"):
            np.testing.assert_allclose(getattr(found.ranks[group], name), getattr(ranks, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("parts", [2, 7])
@pytest.mark.parametrize("digits", [None, 0])
def test_parts_add_up_to_the_whole_also_with_ties(parts: int, digits: int | None) -> None:
    rows = drawn_rows()
    if digits is not None:
        rows.logits.update({name: np.round(values, digits) for name, values in rows.logits.items()})
    protocol = protocol_of(rows)
    same(in_parts(rows, protocol, parts), measure(rows, protocol))


def test_a_ranges_rows_are_told_apart_by_logit_where_probabilities_meet_at_one() -> None:
    rows = drawn_rows()
    rows.logits.update({name: values + 60.0 for name, values in rows.logits.items()})
    protocol = protocol_of(rows)
    assert (sigmoid(rows.logits["fine"]) == 1).mean() > 0.9
    found = in_parts(rows, protocol, 3)
    assert found.auc("fine", "all") == measure(drawn_rows(), protocol).auc("fine", "all")


def test_parts_survive_parquet(rows: ScoredRows) -> None:
    again = ScoredRows.from_table(rows.to_table())
    protocol = protocol_of(rows)
    same(measure(again, protocol), measure(rows, protocol))
