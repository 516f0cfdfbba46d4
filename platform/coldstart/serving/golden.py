"""Golden requests: the same few rankings for every release, as they are served and as they are evaluated.

Drawn from the release alone, so that they can be asked of any version at any time.

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
from coldstart.alignment.hand_over import blend, load_id_shares
from coldstart.data.batches import UserWindows
from coldstart.data.contract import TEST, TRAIN
from coldstart.data.features import OWNERS, FeatureSchema, TargetFeatures
from coldstart.data.sequences import Sequences
from coldstart.encoders.proxies import first_proxies
from coldstart.evaluation.metrics import sigmoid
from coldstart.evaluation.scoring import score_rows
from coldstart.rankers import Ranker, load_ranker
from coldstart.registry import Release
from coldstart.serving.scoring import Floats, RankQuery, score

ITEMS, REQUESTS, SEEN, CANDIDATES = 256, 64, 50, 32
"""Catalogue items that are drawn from, requests, and events and candidates of each."""
_NOW = 1_700_000_000


@dataclass(frozen=True)
class Golden:
    """A release's models and its golden requests.

    Attributes:
        ranker: In eval mode.
        slots: [N + 1, d] vector that stands for each of the first items: ID row, fine proxy, or both while it warms up.
        id_shares: [N + 1] the ID row's share of it.
        coarse: [N, d] what the adaptor reads of them.
        states: [N, G, D] likewise.
        fine: [N, d] what it makes of that.
        sequences: One user per request: what was seen, then the candidates, all at one time.
    """

    ranker: Ranker
    slots: Tensor
    id_shares: Floats
    coarse: Floats
    states: Floats
    fine: Floats
    sequences: Sequences

    def served(self) -> tuple[list[float], np.ndarray]:
        """Milliseconds of processor time of each request, and the probabilities of all candidates in order.

        Processor time, all threads together: what a request waits for depends on who else uses the machine.
        """
        milliseconds, answers = [], []
        for query in self.queries():
            began = time.process_time()
            answers.append(score(self.ranker, [query], history=self.ranker.history)[0])
            milliseconds.append(1000 * (time.process_time() - began))
        return milliseconds, np.concatenate(answers)

    def offline(self) -> np.ndarray:
        """The same probabilities on the path that evaluation takes."""
        windows = UserWindows(self.sequences, history=self.ranker.history, splits=[TEST])
        with torch.inference_mode():
            rows, logits = score_rows(self.ranker, windows.sweep(windows_per_step=REQUESTS), {"release": self.slots})
        return sigmoid(logits["release"])[np.argsort(rows)]

    def queries(self) -> list[RankQuery]:
        """The requests, as a gateway sends them to the ranker."""
        events, queries = self.sequences, []
        for user, (start, end) in enumerate(pairwise(events.offsets)):
            past, asked = slice(start, end - CANDIDATES), slice(end - CANDIDATES, end)
            items = events.item_idx[asked].astype(np.int64)
            positions = np.flatnonzero(self.id_shares[items] < 1)
            asked_by_proxy = items[positions]
            queries.append(
                RankQuery(
                    history_idx=events.item_idx[past].astype(np.int64),
                    history_label=events.label[past].astype(np.int64),
                    history_time=events.timestamp[past],
                    item_idx=items,
                    now=_NOW,
                    positions=positions,
                    proxies=self.fine[asked_by_proxy - 1],
                    features=events.features.at(np.full(CANDIDATES, user), items, np.arange(end - CANDIDATES, end)),
                    id_shares=self.id_shares[asked_by_proxy],
                )
            )
        return queries


def golden(release: Release) -> Golden:
    """Loads a release's ranker and adaptor and draws its golden requests."""
    ranker = load_ranker(release.ranker.path)
    coarse, states = first_proxies(release.proxies.path, ITEMS, groups=int(release.proxies.about["groups"]))
    with torch.inference_mode():
        fine = load_adaptor(release.adaptor.path)(torch.from_numpy(coarse), torch.from_numpy(states))
        known = torch.arange(len(fine) + 1)
        slots = ranker.id_slots(known[None])[0].clone()
        shares = load_id_shares(release.adaptor.path, ranker.trained)[: len(slots)]
        slots[1:] = blend(slots[1:], fine, shares[1:])
    requests = _requests(len(fine), ranker.features)
    return Golden(ranker, slots, shares.numpy(), coarse, states, fine.numpy(), requests)


def golden_figures(release: Release) -> dict[str, float]:
    """`golden_ms`, the median cost of a ranking, and `golden_parity`, the largest gap between served and offline."""
    drawn = golden(release)
    drawn.served()
    milliseconds, served = drawn.served()
    gap = float(np.abs(served - drawn.offline()).max())
    return {"golden_ms": statistics.median(milliseconds), "golden_parity": gap}


def _requests(items: int, schema: FeatureSchema) -> Sequences:
    rng = np.random.default_rng(17)
    each = SEEN + CANDIDATES
    asked = np.tile(np.arange(each) >= SEEN, REQUESTS)
    times = np.sort(rng.integers(_NOW - 10_000_000, _NOW, (REQUESTS, SEEN)), axis=1)
    return Sequences(
        offsets=np.arange(0, (REQUESTS + 1) * each, each, dtype=np.int64),
        item_idx=rng.integers(1, items + 1, REQUESTS * each).astype(np.int32),
        label=rng.integers(0, 2, REQUESTS * each).astype(np.int8),
        timestamp=np.concatenate([times, np.full((REQUESTS, CANDIDATES), _NOW)], axis=1).ravel(),
        split=np.where(asked, TEST, TRAIN).astype(np.int8),
        user_id=[str(number) for number in range(REQUESTS)],
        features=_features(schema, {"item": items + 1, "user": REQUESTS, "context": REQUESTS * each}),
    )


def _features(schema: FeatureSchema, counts: dict[str, int]) -> TargetFeatures:
    """Drawn codes and numbers for so many items, users and contexts."""
    rng = np.random.default_rng(18)
    drawn = {}
    for owner in OWNERS:
        part, count = schema.of(owner), counts[owner]
        columns = {one.key: rng.integers(0, one.cardinality, count) for one in part.categorical}
        columns |= {one.key: rng.normal(size=count).astype(np.float32) for one in part.numeric}
        drawn[owner] = part.stack(columns, count)
    return TargetFeatures(schema, **drawn)
