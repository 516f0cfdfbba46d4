"""Measures what SaviorRec's update wins back after the tastes for content have changed, against a full retraining.

A generated catalog whose item effects change at one moment (regime `drift`). The champion is trained on the events
before it; then the later events arrive, `coldstart run update` trains the correction alone, and a second run trains
everything from the start. All are scored on the same later test rows.

    python -m workloads.benchmarks.drift --directory runs/drift
"""

import argparse
import json
import math
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from rich.console import Console
from rich.table import Table

from coldstart.config.recipe import Generated
from coldstart.data.batches import UserWindows, users_of
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.data.schema import TEST
from coldstart.data.synthetic import generate
from coldstart.evaluation.protocol.scoring import score_rows
from coldstart.methods.available import find_method
from coldstart.methods.base import adapt
from coldstart.methods.saviorrec.model import SaviorScorer
from coldstart.metrics.clicks import gauc

WINDOWS_PER_STEP = 64


@dataclass(frozen=True)
class Score:
    """GAUC of one scorer on the later test rows, and the seconds until it was trained, evaluated and registered."""

    all: float
    cold: float
    seconds: float | None = None


def make_catalog(root: Path, settings: Generated, seed: int) -> Path:
    """Generates the catalog with the events before the change in `events/`; returns the file with the later ones."""
    generate(settings, seed, root)
    events = pq.read_table(root / "events.parquet")
    change = math.ceil(json.loads((root / "truth.json").read_text())["drift_at"])
    (root / "events").mkdir()
    (root / "events.parquet").unlink()
    pq.write_table(events.filter(pc.field("timestamp") < change), root / "events" / "before.parquet")
    pq.write_table(events.filter(pc.field("timestamp") >= change), root / "later.parquet")
    return root / "later.parquet"


def write_recipe(directory: Path, name: str, seed: int) -> Path:
    """A recipe of SaviorRec on the catalog; its encoder stays frozen, so that only codes and clicks learn."""
    files = {"root": str(directory / "catalog"), "events": "events"}
    recipe = {
        "name": name,
        "seed": seed,
        "paths": {"runs": str(directory / "runs")},
        "data": {"source": "files", "files": files | {"columns": {"text": "text", "created_at": "created_at"}}},
        "method": {"name": "saviorrec", "encoder": {"train": "none"}},
        "evaluation": {"num_resamples": 200},
    }
    file = directory / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return file


def coldstart(*arguments: str) -> float:
    """Runs a command to its end and returns its seconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "coldstart", *arguments], check=True)
    return time.perf_counter() - began


def load(run: Path, scorer: Path) -> tuple[SaviorScorer, ItemTable]:
    """A scorer on the other parts of a run, and the item rows that it reads."""
    method = find_method("saviorrec")
    parts = {kind: run / kind for kind in ("ranker", "encoder", "quantizer", "item_table")} | {"scorer": scorer}
    loaded = method.load_scorer(parts)
    assert isinstance(loaded, SaviorScorer)
    return loaded, adapt(method.load_adaptor(parts), ItemTable.open(run / "item_table"))


def score(run: Path, seconds: dict[str, float]) -> dict[str, Score]:
    """Scores champion, update and retrained scorer on the test rows of the update's dataset."""
    (update,) = (run / "drift" / "updates").iterdir()
    found = {
        "champion": load(run / "drift", run / "drift" / "scorer"),
        "champion without correction": load(run / "drift", run / "drift" / "scorer"),
        "updated": load(update, update / "scorer"),
        "retrained": load(run / "retrained", run / "retrained" / "scorer"),
    }
    found["champion without correction"][0].mba = None
    dataset = Dataset.open(update / "dataset", verify=False)
    windows = UserWindows(dataset.sequences, history=found["champion"][0].max_history, splits=[TEST])
    scorers = {name: lambda batch, one=one: one[0](batch, one[1]) for name, one in found.items()}
    rows, logits = score_rows(windows.iter_eval(windows_per_step=WINDOWS_PER_STEP), scorers)
    user, label = users_of(dataset.sequences, rows), dataset.sequences.label[rows]
    cold = dataset.cold[dataset.sequences.item_idx[rows]]
    return {
        name: Score(
            gauc(user, label, logits[name]), gauc(user[cold], label[cold], logits[name][cold]), seconds.get(name)
        )
        for name in found
    }


def won_back(scores: dict[str, Score], rows: str) -> float:
    """Share of what retraining wins over the champion that the update wins."""
    start, update, full = (getattr(scores[name], rows) for name in ("champion", "updated", "retrained"))
    return float((update - start) / (full - start)) if full != start else float(np.nan)


def main() -> None:
    """Runs the benchmark as a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True, help="new directory for catalog and runs")
    parser.add_argument("--items", type=int, default=1500)
    parser.add_argument("--users", type=int, default=900)
    parser.add_argument("--events", type=int, default=120_000)
    parser.add_argument("--seed", type=int, default=17)
    arguments = parser.parse_args()
    directory = arguments.directory.absolute()
    directory.mkdir(parents=True)
    sizes = {"items": arguments.items, "users": arguments.users, "events": arguments.events}
    later = make_catalog(directory / "catalog", Generated(regime="drift", **sizes), arguments.seed)
    recipe, other = (write_recipe(directory, name, arguments.seed) for name in ("drift", "retrained"))
    seconds = {"champion": coldstart("run", "pipeline", "--recipe", str(recipe))}
    reason = ("--override", "--reason", "start of the benchmark")
    coldstart("promote", "scorer", "1", "--recipe", str(recipe), *reason)
    later.rename(directory / "catalog" / "events" / "later.parquet")
    seconds["updated"] = coldstart("run", "update", "--recipe", str(recipe))
    seconds["retrained"] = coldstart("run", "pipeline", "--recipe", str(other))
    scores = score(directory / "runs", seconds)
    table = Table("scorer", "GAUC", "cold GAUC", "seconds")
    for name, one in scores.items():
        table.add_row(name, f"{one.all:.4f}", f"{one.cold:.4f}", "" if one.seconds is None else f"{one.seconds:.0f}")
    console = Console()
    console.print(table)
    console.print(f"won back by the update: {won_back(scores, 'all'):.0%}, cold {won_back(scores, 'cold'):.0%}")
    (directory / "drift.json").write_text(json.dumps({name: asdict(one) for name, one in scores.items()}, indent=2))


if __name__ == "__main__":
    main()
