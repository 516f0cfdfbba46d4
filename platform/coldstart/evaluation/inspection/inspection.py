"""The inspection of a dataset: opens it, collects all numbers, and turns them into JSON values."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.config.artifact import MANIFEST
from coldstart.config.errors import UserError
from coldstart.data.dataset import Dataset
from coldstart.data.schema import SPLITS, TEST
from coldstart.evaluation.inspection.count_distribution import CountDistribution
from coldstart.evaluation.inspection.event_stats import BURST_S, EventStats, collect_events
from coldstart.evaluation.inspection.hourly_counts import Period
from coldstart.evaluation.inspection.item_stats import ContentSample, ItemStats, collect_items, sample_contents
from coldstart.evaluation.inspection.rejected_rows import RejectedRows, collect_rejected
from coldstart.metrics.undefined import nan_to_none

BANDS: dict[str, tuple[int, int | None]] = {
    "0": (0, 1),
    "1": (1, 2),
    "2-9": (2, 10),
    "10-99": (10, 100),
    "100+": (100, None),
}
"""Train events of an item by which its shares are given: the slices, with a single event apart."""
QUANTILES = {"p05": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
_TEST_NAME = next(name for name, code in SPLITS.items() if code == TEST)
_REQUIRED = ("events", "quarantined", "split", "seed")


@dataclass(frozen=True)
class Inspection:
    """All numbers of a dataset.

    Attributes:
        dataset: The open dataset.
        items: Of its items.
        events: Of its events.
        sample: Of the contents of some items.
        rejected: Rows that are not in it, by reason.
    """

    dataset: Dataset
    items: ItemStats
    events: EventStats
    sample: ContentSample
    rejected: Sequence[RejectedRows]

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.dataset.artifact.path.absolute().parent.name

    @property
    def bands(self) -> dict[str, float]:
        """Train events -> share of the items."""
        return {
            name: self.items.train_events.between(*bounds) / max(self.items.items, 1) for name, bounds in BANDS.items()
        }

    @property
    def cold_periods(self) -> tuple[str, list[Period]]:
        """Unit of time, and the periods of the test split."""
        return self.events.hourly.periods((_TEST_NAME,))


def inspect_dataset(dataset: Dataset) -> Inspection:
    """Collects all numbers of a dataset; memory grows with the number of items, not with that of events.

    Raises:
        UserError: an earlier version of coldstart prepared it.
    """
    items = collect_items(dataset)
    events = collect_events(dataset.sequence_parts(), dataset.cold)
    sample = sample_contents(dataset, seed=int(dataset.artifact.metadata["seed"]))
    return Inspection(dataset, items, events, sample, collect_rejected(dataset))


def open_dataset(path: Path) -> Dataset:
    """Opens a dataset and compares its files with their sha256.

    Args:
        path: A run directory, or the directory of the dataset.

    Raises:
        UserError: there is no dataset, it is damaged, or an earlier version of coldstart prepared it.
    """
    inside = path / "dataset"
    if not (path / MANIFEST).is_file() and not (inside / MANIFEST).is_file():
        raise UserError(
            f"no dataset at {path}: neither {path / MANIFEST} nor {inside / MANIFEST} exists; pass a run directory, "
            "for example runs/demo, or its directory `dataset`; `coldstart run prepare` makes one"
        )
    dataset = Dataset.open(path if (path / MANIFEST).is_file() else inside)
    missing = [name for name in _REQUIRED if name not in dataset.artifact.metadata]
    if missing:
        raise UserError(
            f"{dataset.artifact.path} has no entry '{missing[0]}' in its manifest: an earlier version of coldstart "
            "prepared it; run prepare again"
        )
    return dataset


def as_json(inspection: Inspection) -> dict[str, Any]:
    """The numbers as JSON values; `None` is undefined."""
    items, events, metadata = inspection.items, inspection.events, inspection.dataset.artifact.metadata
    cold_unit, cold_periods = inspection.cold_periods
    unit, periods = events.hourly.periods()
    found = {
        "name": inspection.name,
        "path": str(inspection.dataset.artifact.path),
        "fingerprint": inspection.dataset.artifact.fingerprint,
        "items": items.items,
        "cold_items": items.cold,
        "users": events.users,
        "events": events.events,
        "excluded_events": metadata.get("excluded_events", 0),
        "drawn_negatives": metadata.get("drawn_negatives", 0),
        "splits": {name: asdict(split) | {"click_rate": split.click_rate} for name, split in events.splits.items()},
        "train_events_per_item": _distribution(items.train_events)
        | {"median_of_seen": items.train_events.median(at_least=1), "shares": inspection.bands},
        "events_per_user": _distribution(events.per_user),
        "single_event_users": events.single_event_users,
        "one_burst": {"seconds": BURST_S, "users": events.burst_users, "events": events.burst_events},
        "test": asdict(events.test) | {"without_history": events.without_history},
        "cold_test": asdict(events.cold)
        | {"smallest_gain": events.smallest_gain, "click_rate_gauc": events.click_rate_gauc},
        "cold_over_time": {"unit": cold_unit, "periods": [asdict(period) for period in cold_periods]},
        "over_time": {"unit": unit, "periods": [asdict(period) for period in periods]},
        "missing": {name: asdict(one) for name, one in items.missing.items()},
        "equal_content": items.equal_content,
        "cold_copies": items.cold_copies,
        "sample": _sample(inspection.sample),
        "rejected": [asdict(one) for one in inspection.rejected],
    }
    defined: dict[str, Any] = nan_to_none(found)
    return defined


def _distribution(counts: CountDistribution) -> dict[str, Any]:
    return {"median": counts.median(), "histogram": [list(one) for one in counts.histogram()]}


def _sample(sample: ContentSample) -> dict[str, Any]:
    return {
        "items": sample.items,
        "images": len(sample.image_bytes),
        "formats": sample.formats,
        "unreadable": len(sample.image_bytes) - len(sample.image_sides),
        "image_bytes": quantiles(sample.image_bytes),
        "image_width": quantiles(sample.image_sides[:, 0]),
        "image_height": quantiles(sample.image_sides[:, 1]),
        "words": quantiles(sample.words),
    }


def quantiles(values: NDArray[np.integer]) -> dict[str, float | None]:
    """Quantiles of values [n]; None without values."""
    return {name: float(np.quantile(values, at)) if len(values) else None for name, at in QUANTILES.items()}
