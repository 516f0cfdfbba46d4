"""Embeds all items of the dataset: the columns that the method's encoder writes, on Ray Data actors."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from coldstart.config import (
    Artifact,
    MetricsLog,
    Recipe,
    UserError,
    check_same_artifact,
    digest,
    read_artifact,
    write_artifact,
)
from coldstart.data.content import Content
from coldstart.data.dataset import Dataset, read_contents
from coldstart.data.streaming import quiet_ray_data
from coldstart.encoders.item_embeddings import MODALITIES, join_parts, part_file, single_modality_dir, write_part
from coldstart.methods.base import ITEM_TABLE, Method
from coldstart.methods.encoder_actor import EncoderActor, actor_pool_options, check_actor_capacity

STAGE = "embed_items"
ITEMS_PER_PART = 512
SINGLE_MODALITY_ITEMS = 400
"""Cold items that are also encoded from image and text alone, for the report, which has no encoder."""


def embed_items(recipe: Recipe, method: Method) -> Artifact:
    """Embeds all items of the run and writes `<run_dir>/item_table`.

    Reuses the parts that an interrupted run finished with the same encoder and dataset.

    Args:
        recipe: Of the run.
        method: Loads the encoder.

    Raises:
        UserError: the dataset or the encoder is missing, or the cluster is too small for the actors.
    """
    quiet_ray_data()
    run_dir = recipe.run_dir.absolute()
    dataset = Dataset.open(run_dir / "dataset")
    encoder = {kind: read_artifact(run_dir / kind, kind) for kind in method.encoder_kinds}
    check_actor_capacity(recipe.cluster)
    lineage = {source: used for artifact in encoder.values() for source, used in artifact.lineage.items()}
    lineage |= {"dataset": dataset.artifact.fingerprint, **{kind: one.fingerprint for kind, one in encoder.items()}}
    parts = parts_dir(run_dir, lineage)

    metrics_log = MetricsLog(run_dir / "metrics" / f"{STAGE}.jsonl")
    metrics_log.clear()
    starts = np.arange(1, dataset.num_items + 1, ITEMS_PER_PART)
    tasks = [
        {"part": part, "first": int(first), "last": min(int(first) + ITEMS_PER_PART - 1, dataset.num_items)}
        for part, first in enumerate(starts)
    ]
    sample = single_modality_sample(recipe, dataset)
    missing = [task for task in tasks if not part_file(parts, task["part"]).is_file()]
    metrics_log.write(0, dataset.num_items)
    done = dataset.num_items - sum(task["last"] - task["first"] + 1 for task in missing)
    source = _Source(encoder, dataset.artifact, parts, sample)
    for rows in _embed(recipe, method, missing, source):
        done += rows
        metrics_log.write(done, dataset.num_items)

    table = run_dir / ITEM_TABLE
    with write_artifact(table, ITEM_TABLE, lineage, {"items": dataset.num_items}) as draft:
        join_parts(parts, draft, num_items=dataset.num_items)
    shutil.rmtree(parts.parent, ignore_errors=True)
    return read_artifact(table, ITEM_TABLE)


def single_modality_sample(recipe: Recipe, dataset: Dataset) -> NDArray[np.int64]:
    """Ascending indices of cold items to encode from each modality alone; empty if the recipe uses one modality."""
    if not (recipe.content.use_image and recipe.content.use_text):
        return np.zeros(0, np.int64)
    cold = dataset.cold_items
    drawn = np.random.default_rng((recipe.seed, 3)).choice(cold, min(SINGLE_MODALITY_ITEMS, len(cold)), replace=False)
    return np.sort(drawn).astype(np.int64)


def parts_dir(run_dir: Path, lineage: Mapping[str, str]) -> Path:
    """Directory of finished parts, for an item table of this lineage."""
    return run_dir / "checkpoints" / STAGE / digest(lineage)[:16]


@dataclass(frozen=True)
class _Source:
    """Artifacts of the encoder, dataset, finished parts, and the items to encode from each modality."""

    encoder: Mapping[str, Artifact]
    dataset: Artifact
    parts: Path
    sample: NDArray[np.int64]


class _Embedder:
    """An actor that loads the encoder once and writes parts."""

    def __init__(self, method: Method, threads: int, source: _Source) -> None:
        self.method, self.threads, self.source = method, threads, source

    @cached_property
    def encoder(self) -> EncoderActor:
        """Loaded on first use: what the constructor of an actor raises reaches the driver as text only."""
        parts = {kind: artifact.path for kind, artifact in self.source.encoder.items()}
        return EncoderActor(self.method, parts, self.threads)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for artifact in (self.source.dataset, *self.source.encoder.values()):
            check_same_artifact(artifact.path, artifact.kind, artifact.fingerprint)
        rows = []
        for part, first, last in zip(*(batch[name].tolist() for name in ("part", "first", "last")), strict=True):
            # The batches are the same in every run, so the results are the same too.
            index = np.arange(first, last + 1)
            contents = read_contents(self.source.dataset.path, index)
            columns = self.encoder.encode(contents)
            sample = self.source.sample
            self._encode_single_modality(sample[(sample >= first) & (sample <= last)], part)
            # Written last, because a part that exists counts as done.
            write_part(self.source.parts, part, index, columns, [content.digest for content in contents])
            rows.append(len(index))
        return {"rows": np.array(rows)}

    def _encode_single_modality(self, index: NDArray[np.int64], part: int) -> None:
        """Encodes those items that have image and text from each of them alone."""
        contents = read_contents(self.source.dataset.path, index)
        has_both = np.array([bool(item.image and (item.title or item.text)) for item in contents], bool)
        if not has_both.any():
            return
        items = [item for item, both in zip(contents, has_both, strict=True) if both]
        reduced = ([Content(image=item.image) for item in items], [Content(item.title, item.text) for item in items])
        for modality, single in zip(MODALITIES, reduced, strict=True):
            directory = single_modality_dir(self.source.parts, modality)
            write_part(directory, part, index[has_both], self.encoder.encode(single))


def _embed(recipe: Recipe, method: Method, missing: list[dict[str, int]], source: _Source) -> Iterator[int]:
    """Runs the actors on the missing parts; yields the number of items of each part when it is written."""
    if not missing:
        return
    done = ray.data.from_items(missing, override_num_blocks=len(missing)).map_batches(
        _Embedder,
        fn_constructor_kwargs={
            "method": method,
            "threads": recipe.cluster.threads_per_worker,
            "source": source,
        },
        batch_size=1,
        **actor_pool_options(recipe.cluster, len(missing)),
    )
    try:
        for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
            yield int(batch["rows"].sum())
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from error
        raise
