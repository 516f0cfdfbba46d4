"""The evaluation protocol: metrics, slices and variants, fixed before any row is read, so that all parts agree.

Legend: `n` rows, `K` variants, `M` scores, `S` slices, `W` warm-up bins.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe import Evaluation
from coldstart.config.recipe.method import RELEASE
from coldstart.evaluation.protocol.scored_rows import ITEM_EFFECT, LOGIT, ScoredRows
from coldstart.evaluation.protocol.slices import SLICES, slices
from coldstart.evaluation.protocol.variants import GROUND_TRUTH, VARIANTS, oov_scores

DIGITS = 5
"""Scores are rounded to this number of decimals, so that float noise does not break ties of equal slots."""
RAW, MINUS_OOV, ITEM_MEAN = "raw", "minus_oov", "item_mean"
"""Scores that rank the rows: raw logit, logit minus that of the OOV row, and mean logit of the item over users."""


@dataclass(frozen=True)
class EvaluationProtocol:
    """Variants and metrics of an evaluation.

    Attributes:
        variants: In order; must hold `oov`.
        item_effect: Variants that have item effects, on cold rows.
        edges: Lower edges, in train clicks, of the warm-up curve's bins.
        top: `K` of NDCG@K and Recall@K.
        bins: Number of calibration bins.
        headline: The variant that the report is about.
    """

    variants: tuple[str, ...]
    item_effect: tuple[str, ...]
    edges: tuple[int, ...]
    top_k: int
    bins: int
    headline: str = RELEASE

    @classmethod
    def of(
        cls, columns: Collection[str], settings: Evaluation, *, edges: Sequence[int], headline: str = RELEASE
    ) -> "EvaluationProtocol":
        """The protocol of scored rows with these columns.

        Args:
            columns: Names of the columns of scored rows.
            settings: The recipe's section.
            edges: Of the warm-up curve.
            headline: The variant that the report is about.
        """
        variants, item_effect = (
            tuple(name for name in VARIANTS if prefix + name in columns) for prefix in (LOGIT, ITEM_EFFECT)
        )
        return cls(variants, item_effect, tuple(edges), settings.top_k, settings.calibration_bins, headline)

    @cached_property
    def scores(self) -> tuple[tuple[str, str], ...]:
        """[M] kind and variant of every score that ranks users' rows."""
        scores = [(kind, name) for kind in (RAW, MINUS_OOV) for name in self.variants]
        return (*scores, *((ITEM_MEAN, name) for name in self.item_effect))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """[S + W] names of the slices, then of the warm-up bins."""
        return (*SLICES, *map(warm_up_group, self.edges))

    def members(self, rows: ScoredRows) -> NDArray[np.bool_]:
        """[S + W, n] membership of the rows in `groups`."""
        bins = np.searchsorted(self.edges, rows.train_clicks, side="right") - 1
        return np.stack(
            [*slices(rows.train_events, rows.age_s).values(), *(bins == place for place in range(len(self.edges)))]
        )

    def values(self, rows: ScoredRows) -> Iterator[NDArray[np.floating]]:
        """[n] values of each of `scores`."""
        for kind, name in self.scores:
            if kind == RAW:
                yield rows.logits[name]
            elif kind == ITEM_MEAN:
                yield np.round(rows.item_effect[name], DIGITS)
            elif name in GROUND_TRUTH:
                yield np.round(rows.logits[name], DIGITS)
            else:
                yield np.round(rows.logits[name] - rows.logits[oov_scores(name, rows.logits)], DIGITS)

    def is_measured(self, score: int, group: int) -> bool:
        """Whether a score is measured on a group. Item effects are known on cold rows only."""
        return self.scores[score][0] != ITEM_MEAN or self.groups[group] == "cold"


def warm_up_group(edge: int) -> str:
    """Name of a bin of the warm-up curve."""
    return f"clicks from {edge}"
