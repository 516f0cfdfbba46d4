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
from coldstart.data.content import Content
from coldstart.data.dataset import Dataset, read_contents
from coldstart.data.streaming import quiet_ray_data
from coldstart.encoders.proxies import SHOWN, part_file, partial_dir, proxy_table, write_proxies
from workloads.encoding import ITEMS_PER_BATCH, Reader, actors, check_capacity
from workloads.job import main

STAGE = "embed_items"
ITEMS_PER_PART = 512
PARTLY_READ = 400
"""Cold items that are also read by picture alone and by words alone, for the report: it has no encoder at hand."""


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
    partly = partly_read(recipe, dataset)
    missing = [task for task in tasks if not part_file(parts, task["part"]).is_file()]
    journal.write(0, dataset.num_items)
    done = dataset.num_items - sum(task["last"] - task["first"] + 1 for task in missing)
    for rows in _embed(
        recipe.cluster, missing, encoder=encoder.path, dataset=dataset.artifact.path, parts=parts, partly=partly
    ):
        done += rows
        journal.write(done, dataset.num_items)

    about = {name: encoder.about[name] for name in ("width", "groups", "hidden")}
    with write_artifact(run_dir / "proxies", "proxies", lineage, {**about, "items": dataset.num_items}) as draft:
        shutil.copytree(parts, draft, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
    shutil.rmtree(parts.parent, ignore_errors=True)
    return read_artifact(run_dir / "proxies", "proxies")


def partly_read(recipe: Recipe, dataset: Dataset) -> NDArray[np.int64]:
    """Ascending indices of the sample of cold items that is read by each modality alone; none if only one is read."""
    if not (recipe.content.picture and recipe.content.text):
        return np.zeros(0, np.int64)
    cold = np.flatnonzero(dataset.train_counts[1:] == 0) + 1
    drawn = np.random.default_rng((recipe.seed, 3)).choice(cold, min(PARTLY_READ, len(cold)), replace=False)
    return np.sort(drawn).astype(np.int64)


def parts_dir(run_dir: Path, encoder: Artifact, dataset: Artifact) -> Path:
    """Where finished parts wait for the rest; another encoder or dataset has another place."""
    return run_dir / "checkpoints" / STAGE / f"{encoder.fingerprint[:16]}-{dataset.fingerprint[:16]}"


class _Embedder:
    """An actor that loaded the encoder once and writes the parts it is given."""

    def __init__(self, encoder: Path, dataset: Path, parts: Path, partly: NDArray[np.int64], threads: int) -> None:
        self.reader = Reader(encoder, threads)
        self.dataset, self.parts, self.partly = dataset, parts, partly

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        rows = []
        for part, first, last in zip(*(batch[name].tolist() for name in ("part", "first", "last")), strict=True):
            # The same items meet in the same batches on every run, so the numbers are the same too.
            index = np.arange(first, last + 1)
            tables = [self._read(index[at : at + ITEMS_PER_BATCH]) for at in range(0, len(index), ITEMS_PER_BATCH)]
            self._read_partly(self.partly[(self.partly >= first) & (self.partly <= last)], part)
            # Last, for a part that is there is done.
            write_proxies(self.parts, pa.concat_tables(tables), part=part)
            rows.append(len(index))
        return {"rows": np.array(rows)}

    def _read(self, index: NDArray[np.int64]) -> pa.Table:
        contents = read_contents(self.dataset, index)
        return proxy_table(index, *self.reader.read(contents), [content.digest for content in contents])

    def _read_partly(self, index: NDArray[np.int64], part: int) -> None:
        """Those of the items that show picture and words, read by each alone."""
        contents = read_contents(self.dataset, index)
        shows = np.array([bool(item.picture and (item.title or item.text)) for item in contents], bool)
        if not shows.any():
            return
        whole = [item for item, both in zip(contents, shows, strict=True) if both]
        alone = ([Content(picture=item.picture) for item in whole], [Content(item.title, item.text) for item in whole])
        for shown, left in zip(SHOWN, alone, strict=True):
            write_proxies(partial_dir(self.parts, shown), proxy_table(index[shows], *self.reader.read(left)), part=part)


def _embed(
    cluster: Cluster,
    missing: list[dict[str, int]],
    *,
    encoder: Path,
    dataset: Path,
    parts: Path,
    partly: NDArray[np.int64],
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
            "partly": partly,
            "threads": cluster.threads_per_worker,
        },
        batch_size=1,
        **actors(cluster, len(missing)),
    )
    for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
        yield int(batch["rows"].sum())


if __name__ == "__main__":
    main(STAGE, run, __doc__)
