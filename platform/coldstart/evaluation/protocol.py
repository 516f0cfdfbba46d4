"""The protocol: what is measured, fixed before any row is read, so that every part of the rows measures the same.

Legend: `n` rows, `K` variants, `M` scores, `S` slices, `W` warm-up bins.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.scored_rows import APPEAL, LOGIT, ScoredRows
from coldstart.evaluation.slices import SLICES, slices
from coldstart.evaluation.variants import BASELINE, CONTEXTS, MEANINGS, TRUTHS

DIGITS = 5
"""Decimals of a score that count; float noise between equal slots must not break their tie."""
SERVED, BY_ITEM, BY_APPEAL = "served", "by item", "by appeal"
"""How rows are ranked: by the logit as it is served, by what the slot adds to it, by the part all users share."""


@dataclass(frozen=True)
class Protocol:
    """What is measured.

    Attributes:
        variants: In order; must hold `oov`.
        appeal: Variants whose appeal was scored, on cold rows.
        edges: Lower edges, in train clicks, of the warm-up curve's bins.
        top: `K` of NDCG@K and Recall@K.
        bins: Of the calibration error.
    """

    variants: tuple[str, ...]
    appeal: tuple[str, ...]
    edges: tuple[int, ...]
    top: int
    bins: int

    @classmethod
    def of(cls, columns: Collection[str], settings: Evaluation, *, edges: Sequence[int]) -> "Protocol":
        """For scored rows that have these columns.

        Args:
            columns: Names of the columns of scored rows.
            settings: The recipe's section.
            edges: Of the warm-up curve.
        """
        variants, appeal = (tuple(name for name in MEANINGS if prefix + name in columns) for prefix in (LOGIT, APPEAL))
        return cls(variants, appeal, tuple(edges), settings.top, settings.calibration_bins)

    @cached_property
    def scores(self) -> tuple[tuple[str, str], ...]:
        """[M] way of ranking and variant of every score that users' rows are ranked by."""
        ways = [(way, name) for way in (SERVED, BY_ITEM) for name in self.variants]
        return (*ways, *((BY_APPEAL, name) for name in self.appeal))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """[S + W] names of the slices and then of the warm-up bins."""
        return (*SLICES, *map(warm_up_group, self.edges))

    def members(self, rows: ScoredRows) -> NDArray[np.bool_]:
        """[S + W, n] which rows belong to each of `groups`."""
        bins = np.searchsorted(self.edges, rows.train_clicks, side="right") - 1
        return np.stack(
            [*slices(rows.train_events, rows.age_s).values(), *(bins == place for place in range(len(self.edges)))]
        )

    def values(self, rows: ScoredRows) -> Iterator[NDArray[np.floating]]:
        """[n] values of each of `scores`."""
        for way, name in self.scores:
            if way == SERVED:
                yield rows.logits[name]
            elif way == BY_APPEAL:
                yield np.round(rows.appeal[name], DIGITS)
            elif name in TRUTHS:
                yield np.round(rows.logits[name], DIGITS)
            else:
                yield np.round(rows.logits[name] - rows.logits[CONTEXTS.get(name, BASELINE)], DIGITS)

    def asked(self, score: int, group: int) -> bool:
        """Whether a score is measured on a group: appeal is known on cold rows only."""
        return self.scores[score][0] != BY_APPEAL or self.groups[group] == "cold"


def warm_up_group(edge: int) -> str:
    """Name of a bin of the warm-up curve."""
    return f"clicks from {edge}"
