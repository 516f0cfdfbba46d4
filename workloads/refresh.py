"""Refresh: picks up new and changed items from the catalogue, encodes them, and makes them rankable where it is served.

An item is news if what its row shows (content or features) is neither what the release was trained with nor what was
published since; so a pass that is killed goes on where it was, and none does anything twice. Items that were published
before and have no proxy in this release, as after a promotion, are read anew first.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch

from coldstart.alignment import load_adaptor
from coldstart.config import Journal, Recipe, UserError, load_recipe
from coldstart.data.content import Content
from coldstart.data.dataset import read_features
from coldstart.data.features import FeatureSchema
from coldstart.data.readers import Chunk
from coldstart.data.streaming import quiet_ray_data
from coldstart.registry import Registry, Release, resolve
from coldstart.serving.filling import fill_store
from coldstart.serving.proxy_store import ProxyStore
from coldstart.serving.publications import Item, Proxy, Vectors, digest_of
from workloads.catalogue_news import Known, News, Rows, Source, find_news
from workloads.console import CONSOLE, live_line
from workloads.encoding import Reader, actors, check_capacity
from workloads.job import find_recipe, ray_cluster, readable_errors, recipe_arguments

STAGE = "refresh"
_PAGE = 4096
"""Published items that are in memory at a time while they are read anew."""
_FOLD_FROM = 1000
"""Changes of one pass from which replicas had better start from a new version than from the log."""
_FILES, _NEWEST, _BEGAN = "refresh.files", "refresh.newest", "refresh.began"


@dataclass
class Pass:
    """What one pass did.

    Attributes:
        release: Whose store was refreshed.
        renewed: Published items that were read anew for this release.
        files: Files that changed since the last pass.
        rows: Rows that were looked at.
        rejected: Rows that are no items.
        news: Items that are new or changed.
        published: Of those, how many are rankable now; the others were published by hand meanwhile.
        backfilled: Of those, how many are older than the last pass, or than the first.
        delays_s: From publication to rankable, of the others.
        seconds: The pass took.
    """

    release: str
    renewed: int = 0
    files: int = 0
    rows: int = 0
    rejected: int = 0
    news: int = 0
    published: int = 0
    backfilled: int = 0
    delays_s: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def figures(self) -> dict[str, Any]:
        """For machines; delays as quantiles."""
        told = asdict(self)
        delays = told.pop("delays_s")
        p50, p99 = np.percentile(delays, [50, 99]).round(3).tolist() if delays else (None, None)
        return told | {"freshness_s": {"items": len(delays), "p50": p50, "p99": p99}}

    def __str__(self) -> str:
        fresh = self.figures()["freshness_s"]
        quick = f", rankable after p50 {fresh['p50']:g} s, p99 {fresh['p99']:g} s" if fresh["items"] else ""
        return (
            f"{self.release}: {self.published} of {self.news} new or changed items published, {self.renewed} read "
            f"anew, in {self.seconds:.1f} s{quick}"
        )


def refresh(recipe: Recipe, release: Release) -> Pass:
    """One pass over the catalogue, on the Ray that is running.

    Args:
        recipe: Says where the catalogue lies and where the store is.
        release: In whose space items are placed.

    Raises:
        UserError: the catalogue cannot be read, the store not be reached, or the cluster is too small.
    """
    quiet_ray_data()
    began = time.time()
    check_capacity(recipe.cluster)
    fill_store(release, recipe.run_dir / "store", recipe.serving.store)
    done = Pass(release.name, renewed=renew(recipe, release))
    journal = Journal(recipe.run_dir / "journals" / f"{STAGE}.jsonl")
    journal.clear()
    source = Source.of(recipe)
    _check_features(source, read_features(release.ranker.path))
    store = _store(recipe, release)
    try:
        log = store.publications
        stamps: dict[str, list[int]] = json.loads(log.mark(_FILES) or "{}")
        last, newest = float(log.mark(_BEGAN) or began), float(log.mark(_NEWEST) or "-inf")
        rows = Rows(recipe, source, since=newest - recipe.refresh.slack_s)
        changed = [piece for piece in source.pieces if stamps.get(piece.path) != source.stamps[piece.path]]
        news = find_news(rows, changed, Known.of(release, log.standing()))
        done.files = len({piece.path for piece in changed})
        done.rows, done.rejected, done.news = news.rows, news.rejected, len(news.row)
        journal.write(0, done.news)
        for entries in _encoded(recipe, release, rows, news):
            kept = [item for (item, _), revision in zip(entries, log.publish(entries), strict=True) if revision]
            now = time.time()
            done.published += len(kept)
            done.delays_s += [now - item.published_at for item in kept if item.published_at > last]
            done.backfilled += sum(item.published_at <= last for item in kept)
            journal.write(done.published, done.news)
        if done.published + done.renewed >= _FOLD_FROM:
            store.fold()
        # Only now: a pass that was killed looks at the same files again.
        log.set_mark(_FILES, json.dumps(source.stamps))
        log.set_mark(_BEGAN, repr(began))
        if recipe.refresh.updated_at is not None:
            log.set_mark(_NEWEST, repr(max(newest, news.newest)))
    finally:
        store.close()
    done.seconds = round(time.time() - began, 3)
    return done


def renew(recipe: Recipe, release: Release) -> int:
    """Reads items anew that were published and have no proxy in the space of a release; returns how many.

    Where there are none, it starts nothing.
    """
    quiet_ray_data()
    schema = read_features(release.ranker.path)
    store = _store(recipe, release)
    after = count = 0
    try:
        while unread := store.publications.unread(after, _PAGE):
            check_capacity(recipe.cluster)
            after = unread[-1].revision
            shown = [(item.content.title, item.content.text, item.content.picture) for item in unread]
            names = [pa.string(), pa.string(), pa.large_binary()]
            columns = [pa.array(column, kind) for column, kind in zip(zip(*shown, strict=True), names, strict=True)]
            table = pa.table([np.arange(len(unread)), *columns], names=["place", "title", "text", "picture"])
            for batch in _through_actors(recipe, release, ray.data.from_arrow(table), len(unread)):
                items = [unread[place] for place in batch["place"].to_pylist()]
                proxies = _proxies(schema, items, batch)
                store.publications.renew(list(zip(items, proxies, strict=True)))
                count += len(items)
    finally:
        store.close()
    return count


def _store(recipe: Recipe, release: Release) -> ProxyStore:
    return ProxyStore(recipe.run_dir / "store", release.adaptor.fingerprint, recipe.serving.store)


def _check_features(source: Source, schema: FeatureSchema) -> None:
    declared = {feature.name for feature in source.features}
    for feature in schema.of("item").features:
        if feature.name not in declared:
            raise UserError(
                f"data.files.columns.item_features lacks '{feature.name}', which the ranker of the release reads; name "
                "its column"
            )


def _encoded(recipe: Recipe, release: Release, rows: Rows, news: News) -> Iterator[list[tuple[Item, Proxy]]]:
    """Reads the rows that are news a second time, and encodes them; yields a batch as soon as it is there."""
    if not len(news.row):
        return
    wanted = news.row
    ends = [piece.first_row for piece in rows.source.pieces[1:]] + [np.inf]
    held = [
        piece
        for piece, end in zip(rows.source.pieces, ends, strict=True)
        if ((wanted >= piece.first_row) & (wanted < end)).any()
    ]

    def pick(chunk: Chunk) -> pa.Table:
        table = rows.typed(chunk, wanted)
        return table.filter(table["item_id"].is_valid())

    schema = read_features(release.ranker.path)
    for batch in _through_actors(recipe, release, rows.map(held, pick), len(wanted)):
        items = [_item(row, rows) for row in batch.drop_columns(["proxy"]).to_pylist()]
        yield list(zip(items, _proxies(schema, items, batch), strict=True))


def _item(row: dict[str, Any], rows: Rows) -> Item:
    content, features = Content(row["title"], row["text"], row["picture"]), rows.raw_features(row)
    told = row["changed_at"]
    at = rows.source.changed_at(row["row"]) if np.isnan(told) else told
    return Item(row["item_id"], content, features, at, "catalogue", digest_of(content, features))


def _proxies(schema: FeatureSchema, items: list[Item], batch: pa.Table) -> list[Proxy]:
    """What stands for items whose vectors `[n, d]` are in a batch; features that the ranker cannot read are missing."""
    names = {feature.name for feature in schema.of("item").features}
    column = batch["proxy"].combine_chunks()
    vectors: Vectors = column.flatten().to_numpy().reshape(len(items), -1)
    proxies = []
    for item, vector in zip(items, vectors, strict=True):
        known = None if item.features is None else {name: item.features[name] for name in names & item.features.keys()}
        try:
            coded = None if known is None else schema.read("item", known)
        except UserError:
            coded = schema.of("item").unknown(1)
        proxies.append(Proxy.of(vector, coded))
    return proxies


class _Encode:
    """An actor that loaded encoder and adaptor once: contents -> fine proxies."""

    def __init__(self, encoder: Path, adaptor: Path, threads: int) -> None:
        self.reader = Reader(encoder, threads)
        self.adaptor = load_adaptor(adaptor)

    def __call__(self, rows: pa.Table) -> pa.Table:
        shown = zip(*(rows[name].to_pylist() for name in ("title", "text", "picture")), strict=True)
        parts = self.reader.read([Content(*one) for one in shown])
        with torch.inference_mode():
            fine = self.adaptor(*map(torch.from_numpy, parts)).numpy()
        return rows.append_column("proxy", pa.FixedSizeListArray.from_arrays(pa.array(fine.ravel()), fine.shape[1]))


def _through_actors(recipe: Recipe, release: Release, rows: ray.data.Dataset, count: int) -> Iterator[pa.Table]:
    """Adds the column `proxy` to rows that have title, text and picture."""
    size = recipe.refresh.batch
    # Blocks of that size, too, so that what is done is stored soon.
    encoded = rows.repartition(target_num_rows_per_block=size).map_batches(
        _Encode,
        fn_constructor_kwargs={
            "encoder": release.encoder.path,
            "adaptor": release.adaptor.path,
            "threads": recipe.cluster.threads_per_worker,
        },
        batch_size=size,
        batch_format="pyarrow",
        **actors(recipe.cluster, -(-count // size)),
    )
    yield from encoded.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _passes(recipe: Recipe, alias: str, every: float | None) -> Iterator[Pass]:
    registry = Registry(recipe.tracking_uri, recipe.project)
    recipe.run_dir.mkdir(parents=True, exist_ok=True)
    while True:
        began = time.monotonic()
        journal = Journal(recipe.run_dir / "journals" / f"{STAGE}.jsonl")
        with live_line(STAGE, journal):
            done = refresh(recipe, resolve(registry, alias))
        yield done
        if every is None:
            return
        time.sleep(max(began + every - time.monotonic(), 0))


def main() -> None:
    """Runs the job as a program: one pass, or one after the other."""
    parser = recipe_arguments(STAGE, __doc__)
    parser.add_argument("--alias", default="champion", help="release whose store is refreshed (default: champion)")
    parser.add_argument("--every", type=_seconds, metavar="SECONDS", help="go on, with a pass every so often")
    arguments = parser.parse_args()
    if arguments.json:
        CONSOLE.stderr = True
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
        with ray_cluster(recipe, arguments.address):
            for done in _passes(recipe, arguments.alias, arguments.every):
                if arguments.json:
                    print(json.dumps(done.figures()), flush=True)
                else:
                    CONSOLE.print(str(done), soft_wrap=True)


def _seconds(given: str) -> float:
    seconds = float(given)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{given} is not above 0")
    return seconds


if __name__ == "__main__":
    main()
