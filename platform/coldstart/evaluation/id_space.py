"""What the ID table asks for, and how much of it content can answer.

Rows of mature items are predicted from their layer states by ridge regression, every item by a fit that it had no part
in. Training counts alone decide who is mature. The layer states of most of these items come from an encoder that was
aligned with their very rows, so what counts for new items is measured on those that coarse alignment kept out.

Legend: `m` mature items, `p` content numbers, `d` ID width, `k` directions.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coldstart.alignment.content_map import RIDGE_PENALTIES
from coldstart.alignment.quality import retrieval
from coldstart.config.recipe import Evaluation
from coldstart.evaluation.intervals import draw_counts, interval
from coldstart.evaluation.shrinkage import shrunk

Floats = NDArray[np.floating]

FOLDS = 5
SHOWN = 12
"""Principal directions that are told apart, the strongest first."""
FEWEST = 30
"""Items below which nothing is regressed, and kept-out items below which all mature ones are judged."""


def id_space(
    content: Floats,
    rows: Floats,
    clicks: NDArray[np.integer],
    events: NDArray[np.integer],
    kept_out: NDArray[np.bool_],
    settings: Evaluation,
    *,
    seed: int,
) -> dict[str, Any] | None:
    """How predictable the rows of mature items are, and what they consist of.

    Args:
        content: [m, p] layer states, flat.
        rows: [m, d] ID rows.
        clicks: [m] train clicks.
        events: [m] train events.
        kept_out: [m] items that the encoder was not aligned with.
        settings: Resamples and confidence.
        seed: Of folds and resampling.

    Returns:
        None where there are too few items. `items`, `judged` and whether these are `kept_out` ones; `effective`
        directions (participation ratio) of `width`; `appeal`, the share of the variance along one axis that the
        log-odds of a click explain, and `first_is_appeal`, the cosine of that axis with the first direction;
        `directions`, each with its share of the variance and its `r2`; `r2` of all, of the appeal axis (`r2_appeal`)
        and of what is left (`r2_rest`), each with value, low and high; and `found` / `chance`, the share of items
        whose own row is nearest, or among ten.
    """
    if len(rows) < FEWEST or not np.ptp(rows) > 0:
        return None
    table = (rows - rows.mean(0)).astype(np.float64)
    axis, appeal = _appeal_axis(table, log_odds(clicks, events))
    _, strengths, directions = np.linalg.svd(table, full_matrices=False)
    shares = strengths**2 / np.sum(strengths**2)
    predicted = held_out_rows(content, rows, seed=seed) - rows.mean(0)
    apart = int(kept_out.sum()) >= FEWEST
    judged = np.flatnonzero(kept_out) if apart else np.arange(len(rows))
    target, missed = table[judged], (table - predicted)[judged]
    per_direction = 1 - np.sum((missed @ directions.T) ** 2, 0) / np.maximum(
        np.sum((target @ directions.T) ** 2, 0), 1e-12
    )
    on_axis = [np.square(values @ axis) for values in (missed, target)]
    whole = [np.square(values).sum(1) for values in (missed, target)]
    rest = [all_of - along for all_of, along in zip(whole, on_axis, strict=True)]
    found = _found(predicted[judged], judged, table)
    return {
        "items": len(rows),
        "judged": len(judged),
        "kept_out": apart,
        "width": rows.shape[1],
        "effective": float(1 / np.sum(shares**2)),
        "appeal": appeal,
        "first_is_appeal": float(abs(directions[0] @ axis)),
        "directions": [
            {"share": float(share), "r2": float(r2)} for share, r2 in zip(shares[:SHOWN], per_direction, strict=False)
        ],
        **{
            name: _explained(missed_there[0], missed_there[1], settings, seed)
            for name, missed_there in (("r2", whole), ("r2_appeal", on_axis), ("r2_rest", rest))
        },
        "found": {"at_1": found["recall_at_1"], "at_10": found["recall_at_10"]},
        "chance": {"at_1": 1 / len(rows), "at_10": found["chance_recall_at_10"]},
    }


def held_out_rows(content: Floats, rows: Floats, *, seed: int) -> NDArray[np.float64]:
    """[m, d] rows as ridge regressions predict them that were fitted, and their penalty chosen, on other items."""
    # Takes seconds to import, and actors that import their way here have no use for it.
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV(RIDGE_PENALTIES))
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    return np.asarray(cross_val_predict(model, content, rows, cv=folds), np.float64)


def log_odds(clicks: NDArray[np.integer], events: NDArray[np.integer]) -> NDArray[np.float64]:
    """[m] log-odds of a click on each item, its rate shrunk by how few events it has; none may have no event."""
    base = clicks.sum() / events.sum()
    rate = shrunk(clicks.astype(np.float64), events, float(base * (1 - base)))
    rate = np.clip(rate, 1e-3, 1 - 1e-3)
    return np.asarray(np.log(rate) - np.log1p(-rate))


def _appeal_axis(table: NDArray[np.float64], appeal: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """The unit vector along which centred rows [m, d] move with appeal [m], and the share of variance explained."""
    centred = appeal - appeal.mean()
    spread = float(np.sqrt(np.mean(centred**2)))
    if not spread > 0:
        return np.eye(table.shape[1])[0], 0.0
    slope = table.T @ (centred / spread) / len(table)
    length = float(np.linalg.norm(slope))
    return slope / max(length, 1e-12), length**2 / float(np.mean(np.sum(table**2, 1)))


def _explained(missed: Floats, there: Floats, settings: Evaluation, seed: int) -> dict[str, float]:
    """R^2 from squares [n] of each item, with its interval over items."""
    draws = np.concatenate(
        [
            counts @ np.column_stack([missed, there])
            for counts in draw_counts(len(missed), resamples=settings.bootstrap, seed=seed)
        ]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(1 - missed.sum() / there.sum()) if there.sum() > 0 else float("nan")
        found = interval(value, 1 - draws[:, 0] / draws[:, 1], confidence=settings.confidence)
    return {"value": found.value, "low": found.low, "high": found.high}


def _found(predicted: NDArray[np.float64], own: NDArray[np.integer], table: NDArray[np.float64]) -> dict[str, float]:
    """Retrieval of own rows among all mature ones, by the cosine of deviations from the mean row."""
    unit = torch.nn.functional.normalize
    query, rows = (unit(torch.from_numpy(values).float(), dim=-1) for values in (predicted, table))
    return retrieval(query, torch.from_numpy(own.astype(np.int64)), rows)
