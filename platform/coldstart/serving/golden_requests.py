"""Golden requests: fixed rank requests that compare the serving path of a release with its evaluation path.

They are generated from the release alone, so every version can be checked at any time.

Legend: `N` items, `d` ID width, `D` MLLM width, `G` layer groups.
"""

import statistics
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from coldstart.alignment import load_adaptor
from coldstart.alignment.warmup_blend import blend_slots, load_id_weight
from coldstart.data.batches import UserWindows
from coldstart.data.features import OWNERS, FeatureSchema, TargetFeatures
from coldstart.data.schema import TEST, TRAIN
from coldstart.data.sequences import Sequences
from coldstart.encoders.item_embeddings import read_first_proxies
from coldstart.evaluation.metrics import sigmoid
from coldstart.evaluation.scoring import score_rows
from coldstart.rankers import Ranker, load_ranker
from coldstart.registry import Release
from coldstart.serving.scoring import Floats, RankQuery, score

ITEMS, REQUESTS, EVENTS, CANDIDATES = 256, 64, 50, 32
"""Catalog items to sample from; requests; history events and candidates per request."""
_NOW = 1_700_000_000


@dataclass(frozen=True)
class GoldenRequests:
    """A release's models and its golden requests.

    Attributes:
        ranker: In eval mode.
        slots: [N + 1, d] item vectors: the ID row, the fine proxy, or a blend of both during warm-up.
        id_weight: [N + 1] weight of the ID row in the item vector.
        coarse: [N, d] coarse proxies, input of the adaptor.
        states: [N, G, D] layer states, input of the adaptor.
        fine: [N, d] fine proxies, output of the adaptor.
        sequences: One user per request: the history, then the candidates, all at the same time.
    """

    ranker: Ranker
    slots: Tensor
    id_weight: Floats
    coarse: Floats
    states: Floats
    fine: Floats
    sequences: Sequences

    def online(self) -> tuple[list[float], np.ndarray]:
        """CPU milliseconds of each request, and the click probabilities of all candidates on the serving path.

        CPU time of all threads, because wall time depends on the load of the machine.
        """
        milliseconds, answers = [], []
        for query in self.queries():
            began = time.process_time()
            answers.append(score(self.ranker, [query], history=self.ranker.max_history)[0])
            milliseconds.append(1000 * (time.process_time() - began))
        return milliseconds, np.concatenate(answers)

    def offline(self) -> np.ndarray:
        """The same click probabilities on the evaluation path."""
        windows = UserWindows(self.sequences, history=self.ranker.max_history, splits=[TEST])
        with torch.inference_mode():
            rows, logits = score_rows(
                self.ranker, windows.iter_eval(windows_per_step=REQUESTS), {"release": self.slots}
            )
        return sigmoid(logits["release"])[np.argsort(rows)]

    def queries(self) -> list[RankQuery]:
        """The requests in the form in which a gateway sends them to the ranker."""
        events, queries = self.sequences, []
        for user, (start, end) in enumerate(pairwise(events.offsets)):
            past, targets = slice(start, end - CANDIDATES), slice(end - CANDIDATES, end)
            items = events.item_idx[targets].astype(np.int64)
            positions = np.flatnonzero(self.id_weight[items] < 1)
            items_by_proxy = items[positions]
            queries.append(
                RankQuery(
                    history_idx=events.item_idx[past].astype(np.int64),
                    history_label=events.label[past].astype(np.int64),
                    history_time=events.timestamp[past],
                    item_idx=items,
                    now=_NOW,
                    positions=positions,
                    proxies=self.fine[items_by_proxy - 1],
                    features=events.features.lookup(np.full(CANDIDATES, user), items, np.arange(end - CANDIDATES, end)),
                    id_weight=self.id_weight[items_by_proxy],
                )
            )
        return queries


def load_golden_requests(release: Release) -> GoldenRequests:
    """Loads the ranker and the adaptor of a release and generates its golden requests."""
    ranker = load_ranker(release.ranker.path)
    coarse, states = read_first_proxies(release.proxies.path, ITEMS, groups=int(release.proxies.metadata["groups"]))
    with torch.inference_mode():
        fine = load_adaptor(release.adaptor.path)(torch.from_numpy(coarse), torch.from_numpy(states))
        item_idx = torch.arange(len(fine) + 1)
        slots = ranker.id_slots(item_idx[None])[0].clone()
        id_weight = load_id_weight(release.adaptor.path, ranker.trained)[: len(slots)]
        slots[1:] = blend_slots(slots[1:], fine, id_weight[1:])
    requests = _requests(len(fine), ranker.features)
    return GoldenRequests(ranker, slots, id_weight.numpy(), coarse, states, fine.numpy(), requests)


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
