"""Golden requests: fixed rank requests that compare the serving path of a release with its evaluation path.

They are generated from the release alone, so every version can be checked at any time. Legend: `N` items.
"""

import statistics
import time
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from coldstart.data.batches import UserWindows
from coldstart.data.features import OWNERS, FeatureSchema, TargetFeatures
from coldstart.data.item_table import ItemTable, Rows
from coldstart.data.schema import TEST, TRAIN
from coldstart.data.sequences import Sequences
from coldstart.methods.available import find_method
from coldstart.metrics.clicks import sigmoid
from coldstart.rankers.scorer import Scorer
from coldstart.registry import Release
from coldstart.serving.core.scoring import RankQuery, score
from coldstart.serving.store.row_layout import adapt_table

ITEMS, REQUESTS, EVENTS, CANDIDATES = 256, 64, 50, 32
"""Catalog items to sample from; requests; history events and candidates per request."""
_NOW = 1_700_000_000


@dataclass(frozen=True)
class GoldenRequests:
    """A release's models and its golden requests.

    Attributes:
        scorer: In eval mode.
        encoded: [N + 1] the first rows of the release's item table, input of the adaptor.
        rows: [N + 1] the same items as the store has them, output of the adaptor.
        sequences: One user per request: the history, then the candidates, all at the same time.
    """

    scorer: Scorer
    encoded: ItemTable
    rows: Rows
    sequences: Sequences

    def online(self) -> tuple[list[float], np.ndarray]:
        """CPU milliseconds of each request, and the click probabilities of all candidates on the serving path.

        CPU time of all threads, because wall time depends on the load of the machine.
        """
        milliseconds, answers = [], []
        for query in self.queries():
            began = time.process_time()
            answers.append(score(self.scorer, [query])[0])
            milliseconds.append(1000 * (time.process_time() - began))
        return milliseconds, np.concatenate(answers)

    @torch.inference_mode()
    def offline(self) -> np.ndarray:
        """The same click probabilities on the evaluation path."""
        windows = UserWindows(self.sequences, history=self.scorer.max_history, splits=[TEST])
        items, found = ItemTable.from_rows(self.rows), np.zeros(len(self.sequences.label), np.float32)
        for batch in windows.iter_eval(windows_per_step=REQUESTS):
            # A gateway knows no users.
            logits = self.scorer(replace(batch, user_idx=torch.full_like(batch.user_idx, -1)), items)
            is_target = batch.weight > 0
            found[batch.event_index[is_target].numpy()] = logits[is_target].numpy()
        return sigmoid(found[windows.event_indices])

    def queries(self) -> list[RankQuery]:
        """The requests in the form in which a gateway sends them to the scorer."""
        events, queries = self.sequences, []
        for user, (start, end) in enumerate(pairwise(events.offsets)):
            past, targets = slice(start, end - CANDIDATES), slice(end - CANDIDATES, end)
            items, history = (events.item_idx[span].astype(np.int64) for span in (targets, past))
            read = [items, history] if self.scorer.reads_history else [items]
            queries.append(
                RankQuery(
                    history_idx=history,
                    history_label=events.label[past].astype(np.int64),
                    history_time=events.timestamp[past],
                    item_idx=items,
                    now=_NOW,
                    rows=self.rows[np.concatenate([[0], *read])],
                    item_row=np.arange(1, CANDIDATES + 1),
                    history_row=np.arange(EVENTS) + CANDIDATES + 1 if self.scorer.reads_history else None,
                    features=events.features.lookup(np.full(CANDIDATES, user), items, np.arange(end - CANDIDATES, end)),
                )
            )
        return queries


def load_golden_requests(release: Release) -> GoldenRequests:
    """Loads the scorer and the adaptor of a release and generates its golden requests."""
    method = find_method(release.method)
    scorer, adaptor = method.load_scorer(release.paths), method.load_adaptor(release.paths)
    table = ItemTable.open(release.items.path).select(adaptor.inputs)
    encoded = ItemTable(table.gather(torch.arange(min(len(table), ITEMS + 1))))
    requests = _requests(len(encoded) - 1, scorer.features)
    return GoldenRequests(scorer, encoded, adapt_table(adaptor, encoded), requests)


def golden_metrics(release: Release) -> dict[str, float]:
    """Metrics of the golden requests.

    Returns:
        `rank_cost_ms`, the median CPU time of a request, and `online_offline_gap`, the largest difference between the
        click probabilities of the serving path and the evaluation path.
    """
    requests = load_golden_requests(release)
    requests.online()  # The first run warms up.
    milliseconds, online = requests.online()
    gap = float(np.abs(online - requests.offline()).max())
    return {"rank_cost_ms": statistics.median(milliseconds), "online_offline_gap": gap}


def _requests(items: int, schema: FeatureSchema) -> Sequences:
    rng = np.random.default_rng(17)
    each = EVENTS + CANDIDATES
    targets = np.tile(np.arange(each) >= EVENTS, REQUESTS)
    times = np.sort(rng.integers(_NOW - 10_000_000, _NOW, (REQUESTS, EVENTS)), axis=1)
    return Sequences(
        offsets=np.arange(0, (REQUESTS + 1) * each, each, dtype=np.int64),
        item_idx=rng.integers(1, items + 1, REQUESTS * each).astype(np.int32),
        label=rng.integers(0, 2, REQUESTS * each).astype(np.int8),
        timestamp=np.concatenate([times, np.full((REQUESTS, CANDIDATES), _NOW)], axis=1).ravel(),
        split=np.where(targets, TEST, TRAIN).astype(np.int8),
        user_id=[str(number) for number in range(REQUESTS)],
        features=_features(schema, {"item": items + 1, "user": REQUESTS, "context": REQUESTS * each}),
    )


def _features(schema: FeatureSchema, counts: dict[str, int]) -> TargetFeatures:
    """Random features for the given numbers of items, users and contexts."""
    rng = np.random.default_rng(18)
    features = {}
    for owner in OWNERS:
        own, count = schema.of(owner), counts[owner]
        columns = {one.key: rng.integers(0, one.cardinality, count) for one in own.categorical}
        columns |= {one.key: rng.normal(size=count).astype(np.float32) for one in own.numeric}
        features[owner] = own.stack(columns, count)
    return TargetFeatures(schema, **features)
