"""Scores parsed rank queries; the part of the scorer deployment that is free of Ray.

Legend: `B` queries, `L` history, `T` candidates.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from coldstart.data.batches import RankBatch
from coldstart.data.content import Content
from coldstart.data.features import EncodedFeatures
from coldstart.data.item_table import ItemTable, Rows, check_columns, specs_of
from coldstart.rankers.feature_embedding import FeatureSchema
from coldstart.rankers.scorer import Scorer
from coldstart.serving.store.row_layout import Row

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
GOLDEN_CONTENT = Content(title="golden request", text="read before a replica counts as ready", image=None)


@dataclass(frozen=True)
class RankQuery:
    """The history and candidates of one user, with ids resolved to catalog indices and rows.

    Attributes:
        history_idx: [L] catalog indices, 0 for unknown items.
        history_label: [L] 0 or 1.
        history_time: [L] Unix seconds.
        item_idx: [T] catalog indices of the candidates.
        now: Unix seconds.
        rows: [R] rows of the store; row 0 is the unknown item.
        item_row: [T] number of each candidate's row; 0 if it has none.
        history_row: [L] the same for the history; `None` if the scorer does not read it.
        features: [T, C] and [T, N] encoded features of the candidates; `None`: all are unknown.
    """

    history_idx: Ints
    history_label: Ints
    history_time: Ints
    item_idx: Ints
    now: int
    rows: Rows
    item_row: Ints
    history_row: Ints | None = None
    features: EncodedFeatures | None = None


def golden_query(row: Row) -> RankQuery:
    """A query for any scorer: an item with `row` as history; as candidates an unknown item and one with `row`."""
    one = np.ones(1, np.int64)
    rows = np.zeros(2, row.dtype)
    rows[1] = row
    return RankQuery(
        0 * one, one, 1_700_000_000 * one, np.zeros(2, np.int64), 1_700_000_060, rows, np.array([0, 1]), one
    )


def score(scorer: Scorer, queries: list[RankQuery]) -> list[Floats]:
    """Click probabilities `[T]` of each query, in one forward pass.

    Args:
        scorer: In eval mode.
        queries: At least one; all have rows of the same columns.

    Raises:
        UserError: the rows do not have the columns that the scorer reads.
    """
    rows = queries[0].rows
    if len(queries) > 1:
        rows = np.concatenate([rows, *(query.rows[1:] for query in queries[1:])])
    check_columns(specs_of(rows.dtype), scorer.inputs, table="a row of the gateway", reader="the scorer")
    batch = collate(queries, scorer.max_history, scorer.features)
    with torch.inference_mode():
        probabilities = torch.sigmoid(scorer(batch, ItemTable.from_rows(rows))).numpy()
    return [row[: len(query.item_idx)] for row, query in zip(probabilities, queries, strict=True)]


def collate(queries: list[RankQuery], history: int, schema: FeatureSchema) -> RankBatch:
    """Stacks queries to a padded batch; padding has weight 0 and no visible history.

    Each row equals that of `rank_request`, apart from the numbers of item rows: these are numbers in the rows of all
    queries, one after the other, with row 0 only once. The batch is built at once because row by row costs as much as
    the ranker.
    """
    visible = [_visible_events(query, history) for query in queries]
    rows, past = len(queries), max(1, *(len(order) for order in visible))
    shape = rows, max(len(query.item_idx) for query in queries)
    history_idx, history_time = np.zeros((rows, past), np.int64), np.zeros((rows, past), np.int64)
    history_label, history_mask = np.zeros((rows, past), np.float32), np.zeros((*shape, past), np.bool_)
    target_idx, target_time = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    history_row, target_row = np.zeros((rows, past), np.int64), np.zeros(shape, np.int64)
    before = 0
    weight, known = np.zeros(shape, np.float32), [query.features or schema.unknown(0) for query in queries]
    categorical = np.zeros((*shape, known[0].categorical.shape[1]), np.int64)
    numeric = np.zeros((*shape, known[0].numeric.shape[1]), np.float32)
    for row, (query, order, features) in enumerate(zip(queries, visible, known, strict=True)):
        length, targets = len(order), len(query.item_idx)
        history_idx[row, :length] = query.history_idx[order]
        history_label[row, :length] = query.history_label[order]
        history_time[row, :length] = query.history_time[order]
        history_mask[row, :targets, :length] = True
        target_idx[row, :targets] = query.item_idx
        target_time[row, :targets] = query.now
        target_row[row, :targets] = np.where(query.item_row > 0, query.item_row + before, 0)
        if query.history_row is not None:
            numbers = query.history_row[order]
            history_row[row, :length] = np.where(numbers > 0, numbers + before, 0)
        before += len(query.rows) - 1
        weight[row, :targets] = 1
        if query.features is not None:
            categorical[row, :targets], numeric[row, :targets] = features.categorical, features.numeric
    return RankBatch(
        user_idx=torch.full((rows,), -1),
        history_idx=torch.from_numpy(history_idx),
        history_row=torch.from_numpy(history_row),
        history_label=torch.from_numpy(history_label),
        history_time=torch.from_numpy(history_time),
        target_idx=torch.from_numpy(target_idx),
        target_row=torch.from_numpy(target_row),
        target_time=torch.from_numpy(target_time),
        history_mask=torch.from_numpy(history_mask),
        label=torch.zeros(shape),
        weight=torch.from_numpy(weight),
        event_index=torch.full(shape, -1, dtype=torch.int64),
        categorical=torch.from_numpy(categorical),
        numeric=torch.from_numpy(numeric),
    )


def _visible_events(query: RankQuery, history: int) -> Ints:
    """Positions of the visible events in order of time: the last `history` ones earlier than `now`."""
    time = query.history_time
    if not len(time) or (time[-1] < query.now and (time[1:] >= time[:-1]).all()):
        return np.arange(max(len(time) - history, 0), len(time))
    order: Ints = np.argsort(time, kind="stable")
    return order[time[order] < query.now][-history:]
