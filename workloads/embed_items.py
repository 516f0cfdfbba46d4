"""Embed items: reads every item of the dataset with the encoder, on Ray Data actors, into coarse proxies and states."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray

from coldstart.config import Artifact, Journal, Recipe, read_artifact, write_artifact
from coldstart.config.recipe import Cluster
from coldstart.data.dataset import Dataset, read_contents
from coldstart.data.streaming import quiet_ray_data
from coldstart.encoders.proxies import part_file, proxy_table, write_proxies
from workloads.encoding import ITEMS_PER_BATCH, Reader, actors, check_capacity
from workloads.job import main

STAGE = "embed_items"
ITEMS_PER_PART = 512


def run(recipe: Recipe) -> Artifact:
    """Embeds all items of the run and writes `<run_dir>/proxies`.

    Parts that an interrupted run has finished with the same encoder and dataset are kept.

    Raises:
        UserError: there is no dataset or encoder, or the cluster is too small for the actors.
    """
    quiet_ray_data()
    run_dir = recipe.run_dir.absolute()
    dataset = Dataset.open(run_dir / "dataset")
    encoder = read_artifact(run_dir / "encoder", "encoder")
    check_capacity(recipe.cluster)
    lineage = {**encoder.lineage, "dataset": dataset.artifact.fingerprint, "encoder": encoder.fingerprint}
    parts = parts_dir(run_dir, encoder, dataset.artifact)

    journal = Journal(run_dir / "journals" / f"{STAGE}.jsonl")
    journal.clear()
    starts = np.arange(1, dataset.num_items + 1, ITEMS_PER_PART)
    tasks = [
        {"part": part, "first": int(first), "last": min(int(first) + ITEMS_PER_PART - 1, dataset.num_items)}
        for part, first in enumerate(starts)
    ]
    missing = [task for task in tasks if not part_file(parts, task["part"]).is_file()]
    journal.write(0, dataset.num_items)
    done = dataset.num_items - sum(task["last"] - task["first"] + 1 for task in missing)
    for rows in _embed(recipe.cluster, missing, encoder=encoder.path, dataset=dataset.artifact.path, parts=parts):
        done += rows
        journal.write(done, dataset.num_items)

    about = {name: encoder.about[name] for name in ("width", "groups", "hidden")}
    with write_artifact(run_dir / "proxies", "proxies", lineage, {**about, "items": dataset.num_items}) as draft:
        shutil.copytree(parts / "proxies", draft / "proxies", ignore=shutil.ignore_patterns(".*"))
    shutil.rmtree(parts.parent, ignore_errors=True)
    return read_artifact(run_dir / "proxies", "proxies")


def parts_dir(run_dir: Path, encoder: Artifact, dataset: Artifact) -> Path:
    """Where finished parts wait for the rest; another encoder or dataset has another place."""
    return run_dir / "checkpoints" / STAGE / f"{encoder.fingerprint[:16]}-{dataset.fingerprint[:16]}"


class _Embedder:
    """An actor that loaded the encoder once and writes the parts it is given."""

    def __init__(self, encoder: Path, dataset: Path, parts: Path, threads: int) -> None:
        self.reader = Reader(encoder, threads)
        self.dataset, self.parts = dataset, parts

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        rows = []
        for part, first, last in zip(*(batch[name].tolist() for name in ("part", "first", "last")), strict=True):
            # The same items meet in the same batches on every run, so the numbers are the same too.
            index = np.arange(first, last + 1)
            tables = [self._read(index[at : at + ITEMS_PER_BATCH]) for at in range(0, len(index), ITEMS_PER_BATCH)]
            write_proxies(self.parts, pa.concat_tables(tables), part=part)
            rows.append(len(index))
        return {"rows": np.array(rows)}

    def _read(self, index: NDArray[np.int64]) -> pa.Table:
        contents = read_contents(self.dataset, index)
        return proxy_table(index, *self.reader.read(contents), [content.digest for content in contents])


def _embed(
    cluster: Cluster, missing: list[dict[str, int]], *, encoder: Path, dataset: Path, parts: Path
) -> Iterator[int]:
    """Runs the actors over the parts; yields the number of items of each part when it is written."""
    if not missing:
        return
    done = ray.data.from_items(missing, override_num_blocks=len(missing)).map_batches(
        _Embedder,
        fn_constructor_kwargs={
            "encoder": encoder,
            "dataset": dataset,
            "parts": parts,
            "threads": cluster.threads_per_worker,
        },
        batch_size=1,
        **actors(cluster, len(missing)),
    )
    for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
        yield int(batch["rows"].sum())


if __name__ == "__main__":
    main(STAGE, run, __doc__)
