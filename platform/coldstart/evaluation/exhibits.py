"""What the report shows beside its tables: charts with words, and cold items with their neighbours.

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

from coldstart.data.content import Content
from coldstart.data.dataset import Dataset
from coldstart.evaluation import plots
from coldstart.evaluation.metrics import Reliability
from coldstart.evaluation.neighbours import Card, Neighbourhood, cosines, nearest, thumbnail
from coldstart.evaluation.report import SLICES, Chart
from coldstart.evaluation.summary import Summary

SAMPLE, SHELF = 6, 6


@dataclass(frozen=True)
class Geometry:
    """Slot tables and the items that are compared.

    Attributes:
        tables: Variant -> [V, d]; `id`, `fine` and `coarse` are read.
        mature: [m] items with a well-trained ID row.
        cold: [c] items never seen in training.
    """

    tables: Mapping[str, Tensor]
    mature: NDArray[np.integer]
    cold: NDArray[np.integer]

    def rows(self, variant: str, items: NDArray[np.integer]) -> Tensor:
        """Vectors of items, [n, d]."""
        return self.tables[variant][torch.as_tensor(items, dtype=torch.int64)]


def draw_charts(
    summary: Summary, geometry: Geometry, journals: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[Chart]:
    """All charts of the report, in order."""
    drawn = [_gain(summary), _warm_up(summary), _reliability(summary), _scores(summary), _geometry(geometry)]
    table = (summary.get("diagnosis") or {}).get("id_space")
    if table:
        drawn.append(_id_space(table))
    training = plots.training_curves(journals)
    if training is not None:
        drawn.append(
            Chart(
                "training",
                "Training",
                "Figures the stages wrote while they ran, over epochs or steps.",
                f"Line charts of the training figures of {', '.join(journals)}",
                training,
            )
        )
    return drawn


def _gain(summary: Summary) -> Chart:
    parts = [
        f"{name} {delta['cold']['gauc']:+.3f}"
        for name, delta in summary["delta_item_vs_oov"].items()
        if delta["cold"]["gauc"] is not None
    ]
    return Chart(
        "gain",
        "Gain over the OOV row",
        "Bars are the difference in GAUC to the OOV row, lines its interval. Each panel has its own scale. "
        "Where id overtakes fine, an item has been seen often enough for its own ID row.",
        f"Bar chart of the GAUC gain over the OOV row. On cold items: {', '.join(parts) or 'not defined'}.",
        plots.gain_bars(summary, SLICES),
    )


def _warm_up(summary: Summary) -> Chart:
    takes_over = summary["warm_up"]["takes_over"].get("fine")
    found = (
        "No number of clicks was found from which the ID row is the better one"
        if takes_over is None
        else f"From {takes_over} clicks on, an item's own ID row is better than its fine proxy"
    )
    return Chart(
        "warm-up",
        "Warm-up",
        "How well items are ranked by how many clicks they had in training, with intervals over users and items. A bin "
        f"in which no user clicked one item and skipped another is not defined and left out. {found}, by more than its "
        "interval.",
        f"Line chart of item GAUC over train clicks. {found}.",
        plots.warm_up_curves(summary["warm_up"]),
    )


def _scores(summary: Summary) -> Chart:
    shown = [name for name in ("oov", "mlp_map", "coarse", "fine") if name in summary["metrics"]]
    return Chart(
        "scores",
        "Scores on cold items",
        "Share of clicked and of skipped rows by predicted click probability. The further apart the two, the better; "
        "the OOV row can only tell users and moments apart.",
        f"Histograms of click probabilities on cold rows, clicked and skipped, of {', '.join(shown)}.",
        plots.score_histograms(summary["histogram"], shown, "cold"),
    )


def _reliability(summary: Summary) -> Chart:
    curves = {
        name: Reliability(**{key: np.array(values) for key, values in summary["calibration"][name]["cold"].items()})
        for name in ("oov", "id", "fine")
    }
    bins = max(len(curve.rows) for curve in curves.values())
    errors = ", ".join(f"{name} {curve.error:.3f}" for name, curve in curves.items())
    return Chart(
        "reliability",
        "Calibration on cold items",
        f"Observed against predicted click rate in {bins} bins of equal mass; the dotted diagonal is perfect. "
        "Cold items have no ID row of their own, so id and oov are one line.",
        f"Reliability diagram on cold rows. Expected calibration error: {errors}.",
        plots.reliability_curves(curves),
    )


def _geometry(geometry: Geometry) -> Chart:
    mature, cold = geometry.mature, geometry.cold
    ids, fine, coarse = (geometry.rows(name, mature) for name in ("id", "fine", "coarse"))
    likeness = {
        "fine, own ID row": cosines(fine, ids),
        "coarse, own ID row": cosines(coarse, ids),
        "fine to the ID row of another item": cosines(fine, ids.roll(1, 0)),
    }
    lengths = {
        "id, mature items": ids.norm(dim=-1).numpy(),
        "fine, mature items": fine.norm(dim=-1).numpy(),
        "release, cold items": geometry.rows("fine", cold).norm(dim=-1).numpy(),
    }
    medians = {name: float(np.median(values)) if len(values) else float("nan") for name, values in likeness.items()}
    return Chart(
        "geometry",
        "Proxies in the ID space",
        f"Over {len(mature):,} mature and {len(cold):,} cold items. A coarse proxy is scaled to the mean length of "
        "mature ID rows. The adaptor is trained by clicks, not to imitate ID rows: a fine proxy may leave them.",
        "Histograms of vector lengths and cosines. Median cosine: "
        + ", ".join(f"{name} {value:.2f}" for name, value in medians.items()),
        plots.geometry(lengths, likeness),
    )


def _id_space(found: Mapping[str, Any]) -> Chart:
    told = ", ".join(f"{direction['r2']:.2f} of {direction['share']:.2f}" for direction in found["directions"])
    return Chart(
        "id-space",
        "What content can say of an ID row",
        f"Bars are the strongest directions of the {found['items']:,} mature ID rows by their share of the variance; "
        "the filled part, and the number above it, is what a ridge regression from the layer states explains of items "
        "that it was not fitted on.",
        f"Bar chart of the ID table's principal directions. Explained share of each, and its share of all: {told}.",
        plots.id_directions(found["directions"]),
    )


def neighbourhoods(
    geometry: Geometry,
    contents: Callable[[NDArray[np.int64]], list[Content]],
    decode: Callable[[bytes], Image.Image],
    *,
    seed: int,
) -> list[Neighbourhood]:
    """A seeded sample of cold items, each with the mature items nearest to its fine proxy.

    Args:
        geometry: Tables and items.
        contents: Item indices [n] -> their contents.
        decode: Encoded bytes -> picture.
        seed: Of the sample.
    """
    if not len(geometry.cold) or not len(geometry.mature):
        return []
    rng = np.random.default_rng(seed)
    cold = rng.choice(geometry.cold, min(SAMPLE, len(geometry.cold)), replace=False).astype(np.int64)
    found, likeness = nearest(geometry.tables["fine"], geometry.tables["id"], cold, geometry.mature, most=SHELF)
    shown = contents(np.concatenate([cold, found.ravel()]))

    def card(content: Content, cosine: float | None = None) -> Card:
        return _card(content, decode, cosine)

    shelves = [shown[len(cold) + n * found.shape[1] :][: found.shape[1]] for n in range(len(cold))]
    return [
        Neighbourhood(card(mine), [card(other, float(value)) for other, value in zip(shelf, values, strict=True)])
        for mine, shelf, values in zip(shown, shelves, likeness, strict=False)
    ]


def item_cards(dataset: Dataset, items: NDArray[np.int64], decode: Callable[[bytes], Image.Image]) -> dict[str, Card]:
    """Item id -> picture and title of some items by index."""
    ids = dataset.items(["item_id"])["item_id"].take(items - 1).to_pylist()
    return {item_id: _card(content, decode) for item_id, content in zip(ids, dataset.contents(items), strict=True)}


def _card(content: Content, decode: Callable[[bytes], Image.Image], cosine: float | None = None) -> Card:
    return Card(content.title or "", thumbnail(content.picture, decode), cosine)
