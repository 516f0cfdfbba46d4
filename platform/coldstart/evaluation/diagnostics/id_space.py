"""How much of the ID table content can predict.

Ridge regressions predict the ID rows of mature items from layer states, each item from a fit on other items. Most of
these layer states come from an encoder that was aligned with the same ID rows. What holds for new items is therefore
measured on the mature items that coarse alignment held out.

Legend: `m` mature items, `p` content numbers, `d` ID width, `k` directions.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.inference.intervals import interval, resample_counts
from coldstart.evaluation.inference.shrinkage import shrink_means
from coldstart.methods.baselines.content_to_id_regression import RIDGE_PENALTIES
from coldstart.metrics.retrieval import retrieval_metrics

Floats = NDArray[np.floating]

FOLDS = 5
MAX_DIRECTIONS = 12
"""Principal directions that are reported, the strongest first."""
MIN_ITEMS = 30
"""With fewer items nothing is fitted; with fewer held-out items all mature items are tested."""


def id_space(
    content: Floats,
    rows: Floats,
    clicks: NDArray[np.integer],
    events: NDArray[np.integer],
    held_out: NDArray[np.bool_],
    settings: Evaluation,
    *,
    seed: int,
) -> dict[str, Any] | None:
    """How well content predicts the ID rows of mature items, and what those rows consist of.

    Args:
        content: [m, p] flattened layer states.
        rows: [m, d] ID rows.
        clicks: [m] train clicks.
        events: [m] train events.
        held_out: [m] items that the encoder was not aligned with.
        settings: Resamples and confidence.
        seed: Of folds and resampling.

    Returns:
        None with too few items. Otherwise `items`, `test_items` and whether those are `held_out`; the
        `participation_ratio` of the variances (the effective number of directions) out of `dim`; `item_effect`, the
        share of the variance along the axis that the log-odds of a click explain, and `item_effect_cosine`, the cosine
        of that axis with the first direction; `directions`, each with its share of the variance and its `r2`; `r2`
        of the whole row, along the item effect axis (`r2_item_effect`) and orthogonal to it (`r2_rest`), each with
        value, low and high; and `recall` and `chance_recall`, the share of items whose own row is the nearest or among
        the ten nearest.
    """
    if len(rows) < MIN_ITEMS or not np.ptp(rows) > 0:
        return None
    table = (rows - rows.mean(0)).astype(np.float64)
    axis, item_effect = _item_effect_axis(table, log_odds(clicks, events))
    _, strengths, directions = np.linalg.svd(table, full_matrices=False)
    shares = strengths**2 / np.sum(strengths**2)
    predicted = held_out_rows(content, rows, seed=seed) - rows.mean(0)
    enough_held_out = int(held_out.sum()) >= MIN_ITEMS
    tested = np.flatnonzero(held_out) if enough_held_out else np.arange(len(rows))
    target, residual = table[tested], (table - predicted)[tested]
    recall = _own_row_recall(predicted[tested], tested, table)
    return {
        "items": len(rows),
        "test_items": len(tested),
        "held_out": enough_held_out,
        "dim": rows.shape[1],
        "participation_ratio": float(1 / np.sum(shares**2)),
        "item_effect": item_effect,
        "item_effect_cosine": float(abs(directions[0] @ axis)),
        "directions": [
            {"share": float(share), "r2": float(r2)}
            for share, r2 in zip(shares[:MAX_DIRECTIONS], _r2_by_direction(target, residual, directions), strict=False)
        ],
        **_r2_by_axis(target, residual, axis, settings, seed=seed),
        "recall": {"at_1": recall["recall_at_1"], "at_10": recall["recall_at_10"]},
        "chance_recall": {"at_1": 1 / len(rows), "at_10": recall["chance_recall_at_10"]},
    }


def held_out_rows(content: Floats, rows: Floats, *, seed: int) -> NDArray[np.float64]:
    """[m, d] cross-validated predictions of ridge regressions; fit and penalty come from other items."""
    # Imported here because it takes seconds, and actors that import this module do not need it.
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV(RIDGE_PENALTIES))
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    return np.asarray(cross_val_predict(model, content, rows, cv=folds), np.float64)


def log_odds(clicks: NDArray[np.integer], events: NDArray[np.integer]) -> NDArray[np.float64]:
    """[m] log-odds of a click, with rates of few events shrunk to the mean. Every item needs an event."""
    base = clicks.sum() / events.sum()
    rate = shrink_means(clicks.astype(np.float64), events, float(base * (1 - base)))
    rate = np.clip(rate, 1e-3, 1 - 1e-3)
    return np.asarray(np.log(rate) - np.log1p(-rate))


def _item_effect_axis(
    table: NDArray[np.float64], item_effect: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """The unit vector along which centered rows [m, d] vary with the item effect [m], and its share of the variance."""
    centered = item_effect - item_effect.mean()
    spread = float(np.sqrt(np.mean(centered**2)))
    if not spread > 0:
        return np.eye(table.shape[1])[0], 0.0
    slope = table.T @ (centered / spread) / len(table)
    length = float(np.linalg.norm(slope))
    return slope / max(length, 1e-12), length**2 / float(np.mean(np.sum(table**2, 1)))


def _r2_by_direction(target: Floats, residual: Floats, directions: Floats) -> NDArray[np.float64]:
    """[k] R^2 of rows [n, d] along each principal direction [k, d]."""
    unexplained, total = (np.sum((values @ directions.T) ** 2, 0) for values in (residual, target))
    return np.asarray(1 - unexplained / np.maximum(total, 1e-12))


def _r2_by_axis(
    target: Floats, residual: Floats, axis: Floats, settings: Evaluation, *, seed: int
) -> dict[str, dict[str, float]]:
    """R^2 of rows [n, d] as a whole, along an axis [d], and orthogonal to it."""
    along = [np.square(values @ axis) for values in (residual, target)]
    whole = [np.square(values).sum(1) for values in (residual, target)]
    rest = [total - part for total, part in zip(whole, along, strict=True)]
    return {
        name: _r2(unexplained, total, settings, seed)
        for name, (unexplained, total) in (("r2", whole), ("r2_item_effect", along), ("r2_rest", rest))
    }


def _r2(unexplained: Floats, total: Floats, settings: Evaluation, seed: int) -> dict[str, float]:
    """R^2 from the squares [n] of each item, with its interval over items."""
    draws = np.concatenate(
        [
            counts @ np.column_stack([unexplained, total])
            for counts in resample_counts(len(unexplained), resamples=settings.num_resamples, seed=seed)
        ]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(1 - unexplained.sum() / total.sum()) if total.sum() > 0 else float("nan")
        found = interval(value, 1 - draws[:, 0] / draws[:, 1], confidence=settings.confidence)
    return {"value": found.value, "low": found.low, "high": found.high}


def _own_row_recall(
    predicted: NDArray[np.float64], own: NDArray[np.integer], table: NDArray[np.float64]
) -> dict[str, float]:
    """Retrieval of own rows among all mature ones, by the cosine of deviations from the mean row."""
    unit = torch.nn.functional.normalize
    query, rows = (unit(torch.from_numpy(values).float(), dim=-1) for values in (predicted, table))
    return retrieval_metrics(query, torch.from_numpy(own.astype(np.int64)), rows)
