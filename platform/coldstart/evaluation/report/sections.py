"""Sections of the report other than tables: charts with captions, and cold items with their nearest mature items.

Legend: `V` vocabulary (items + 1, row 0 is OOV), `d` ID width, `m` mature items, `c` cold items.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from coldstart.config.recipe.method import RELEASE
from coldstart.data.content import Content
from coldstart.data.dataset import Dataset
from coldstart.evaluation.diagnostics.neighbors import (
    ItemCard,
    ItemNeighbors,
    NeighborSpace,
    cosines,
    nearest_items,
    thumbnail,
)
from coldstart.evaluation.protocol.summary import Summary
from coldstart.evaluation.protocol.variants import BASELINE, ORACLES, OWN_ID
from coldstart.evaluation.report import plots
from coldstart.evaluation.report.plots import Chart
from coldstart.evaluation.report.run_report import SLICES
from coldstart.metrics.clicks import Reliability

SAMPLE, NEIGHBORS = 6, 6
"""Cold items shown, and mature items shown for each."""


@dataclass(frozen=True)
class Geometry:
    """Slot tables, and the items whose vectors are compared.

    Attributes:
        tables: Variant -> [V, d]; `id` and `slots` are used.
        slots: Variants that are compared with ID rows, the most important first.
        mature: [m] items with a well-trained ID row.
        cold: [c] items never seen in training.
    """

    tables: Mapping[str, Tensor]
    slots: Sequence[str]
    mature: NDArray[np.integer]
    cold: NDArray[np.integer]

    def rows(self, variant: str, items: NDArray[np.integer]) -> Tensor:
        """Vectors [n, d] of the items."""
        return self.tables[variant][torch.as_tensor(items, dtype=torch.int64)]


def draw_charts(
    summary: Summary, geometry: Geometry | None, metrics_logs: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[Chart]:
    """All charts of the report, in order; without `geometry`, slot vectors are not compared."""
    charts = [_gain(summary), _warm_up(summary), _reliability(summary), _scores(summary)]
    charts += [_geometry(geometry)] if geometry else []
    table = (summary.get("diagnostics") or {}).get("id_space")
    if table:
        charts.append(_id_space(table))
    training = plots.training_curves(metrics_logs)
    if training is not None:
        charts.append(
            Chart(
                "training",
                "Training",
                "Metrics that the training stages logged, by epoch or step.",
                "Line charts of the training metrics, one for each stage and metric.",
                training,
            )
        )
    return charts


def _gain(summary: Summary) -> Chart:
    parts = [
        f"{name} {delta['cold']['gauc']:+.3f}"
        for name, delta in summary["delta_item_vs_oov"].items()
        if delta["cold"]["gauc"] is not None
    ]
    return Chart(
        "gain",
        "Gain over the OOV row",
        "Bars show the difference in GAUC to the OOV row, lines its interval. Each panel has its own scale. "
        f"Where id is above {summary['headline']}, the items have enough clicks for their own ID rows.",
        f"Bar chart of the GAUC gain over the OOV row. On cold items: {', '.join(parts) or 'not defined'}.",
        plots.gain_bars(summary, SLICES),
    )


def _warm_up(summary: Summary) -> Chart:
    headline = summary["headline"]
    crossover_clicks = summary["warm_up"]["crossover_clicks"].get(headline)
    crossover = (
        "At no number of clicks does the ID row become the better one"
        if crossover_clicks is None
        else f"From {crossover_clicks} clicks on, an item's own ID row is better than {headline}"
    )
    return Chart(
        "warm-up",
        "Warm-up",
        "Ranking quality by the number of training clicks of the item, with intervals over users and items. A bin is "
        f"left out if no user both clicked and skipped items in it. {crossover}, by more than the interval.",
        f"Line chart of item GAUC over train clicks. {crossover}.",
        plots.warm_up_curves(summary["warm_up"]),
    )


def _scores(summary: Summary) -> Chart:
    measured = [name for name in summary["item_effect_share"] if name not in (*ORACLES, RELEASE)]
    shown = [BASELINE, *(measured or [summary["headline"]])]
    return Chart(
        "scores",
        "Scores on cold items",
        "Share of clicked and of skipped rows by predicted click probability. The further apart the two, the better. "
        "The OOV row distinguishes only users and times, not items.",
        f"Histograms of click probabilities on cold rows, clicked and skipped, of {', '.join(shown)}.",
        plots.score_histograms(summary["histogram"], shown, "cold"),
    )


def _reliability(summary: Summary) -> Chart:
    curves = {
        name: Reliability(**{key: np.array(values) for key, values in summary["calibration"][name]["cold"].items()})
        for name in (BASELINE, OWN_ID, summary["headline"])
    }
    bins = max(len(curve.rows) for curve in curves.values())
    errors = ", ".join(f"{name} {curve.error:.3f}" for name, curve in curves.items())
    return Chart(
        "reliability",
        "Calibration on cold items",
        f"Observed against predicted click rate in {bins} bins of equal mass; the dotted diagonal is perfect "
        "calibration. Cold items have no ID row of their own, so the lines of id and oov coincide.",
        f"Reliability diagram on cold rows. Expected calibration error: {errors}.",
        plots.reliability_curves(curves),
    )


def _geometry(geometry: Geometry) -> Chart:
    mature, cold = geometry.mature, geometry.cold
    first, ids = geometry.slots[0], geometry.rows(OWN_ID, mature)
    vectors = {name: geometry.rows(name, mature) for name in geometry.slots}
    similarity = {f"{name}, own ID row": cosines(rows, ids) for name, rows in vectors.items()}
    similarity[f"{first} to the ID row of another item"] = cosines(vectors[first], ids.roll(1, 0))
    lengths = {
        f"{OWN_ID}, mature items": ids.norm(dim=-1).numpy(),
        f"{first}, mature items": vectors[first].norm(dim=-1).numpy(),
        f"cold items, {first}": geometry.rows(first, cold).norm(dim=-1).numpy(),
    }
    medians = {name: float(np.median(values)) if len(values) else float("nan") for name, values in similarity.items()}
    return Chart(
        "geometry",
        "Slot vectors in the ID space",
        f"Over {len(mature):,} mature and {len(cold):,} cold items. Vectors that are trained by clicks do not imitate "
        "ID rows, so they may differ from them.",
        "Histograms of vector lengths and cosines. Median cosine: "
        + ", ".join(f"{name} {value:.2f}" for name, value in medians.items()),
        plots.geometry(lengths, similarity),
    )


def _id_space(stats: Mapping[str, Any]) -> Chart:
    explained = ", ".join(f"{direction['r2']:.2f} of {direction['share']:.2f}" for direction in stats["directions"])
    return Chart(
        "id-space",
        "How well content predicts ID rows",
        f"Bars show the principal directions of the {stats['items']:,} mature ID rows by their share of the variance. "
        "The filled part, and the number above it, is the part that a ridge regression from the content explains on "
        "held-out items.",
        "Bar chart of the ID table's principal directions. Explained share of each, and its share of the variance: "
        f"{explained}.",
        plots.id_directions(stats["directions"]),
    )


def item_neighbors(
    space: NeighborSpace,
    contents: Callable[[NDArray[np.int64]], list[Content]],
    decode: Callable[[bytes], Image.Image],
    *,
    seed: int,
) -> list[ItemNeighbors]:
    """A seeded sample of cold items, each with the mature items nearest to it.

    Args:
        space: Vectors and items.
        contents: Loads the contents of item indices [n].
        decode: Decodes an encoded image.
        seed: Of the sample.
    """
    if not len(space.cold) or not len(space.mature):
        return []
    rng = np.random.default_rng(seed)
    cold = rng.choice(space.cold, min(SAMPLE, len(space.cold)), replace=False).astype(np.int64)
    neighbors, similarity = nearest_items(space.vectors, cold, space.mature, k=NEIGHBORS)
    shown = contents(np.concatenate([cold, neighbors.ravel()]))

    def card(content: Content, cosine: float | None = None) -> ItemCard:
        return _card(content, decode, cosine)

    width = neighbors.shape[1]
    others = [shown[len(cold) + n * width :][:width] for n in range(len(cold))]
    return [
        ItemNeighbors(card(item), [card(other, float(value)) for other, value in zip(row, values, strict=True)])
        for item, row, values in zip(shown, others, similarity, strict=False)
    ]


def item_cards(
    dataset: Dataset, items: NDArray[np.int64], decode: Callable[[bytes], Image.Image]
) -> dict[str, ItemCard]:
    """Item id -> its card, for item indices [n]."""
    ids = dataset.items(["item_id"])["item_id"].take(items - 1).to_pylist()
    return {item_id: _card(content, decode) for item_id, content in zip(ids, dataset.contents(items), strict=True)}


def _card(content: Content, decode: Callable[[bytes], Image.Image], cosine: float | None = None) -> ItemCard:
    return ItemCard(content.title or "", thumbnail(content.image, decode), cosine)
