"""Prepare: reads items and events once, with Ray Data, into the immutable dataset that every later stage uses."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
from numpy.typing import NDArray
from ray.data.context import ShuffleStrategy

from coldstart.config import Artifact, Journal, Recipe, UserError, digest, read_artifact, write_artifact
from coldstart.config.recipe import Columns, Data, Files
from coldstart.data.cleaning import (
    REPEATED_EVENT,
    REPEATED_ITEM,
    REPEATED_USER,
    clean_events,
    clean_items,
    clean_users,
)
from coldstart.data.content import Content
from coldstart.data.contract import (
    DIGESTS,
    FEATURES,
    ITEMS,
    ITEMS_PER_PART,
    ITEMS_PER_ROW_GROUP,
    ORACLE,
    QUARANTINE,
    SPLITS,
    TRAIN,
    UNUSED,
    USERS_PER_PART,
    WITHHELD,
)
from coldstart.data.dataset import part_path
from coldstart.data.features import FeatureColumn, FeatureSchema
from coldstart.data.generator import REVISION, generate
from coldstart.data.leaks import judge_features
from coldstart.data.quarantine import Quarantine
from coldstart.data.readers import Chunk, Piece, SourceTable, Tables, check_files, pieces, read_piece, wanted_columns
from coldstart.data.sequences import order_events, sequence_rows
from coldstart.data.splits import TimeCuts, hold_out_items, time_cuts, user_codes
from coldstart.data.streaming import quiet_ray_data
from workloads.job import main

_STEPS = 5
_TASK_BYTES = 8_000_000


def run(recipe: Recipe) -> Artifact:
    """Prepares the dataset of a run: `<run_dir>/dataset`.

    The same input and settings give the same bytes, so running it again changes nothing.

    Raises:
        UserError: an input file or column is missing, or too many rows have to be rejected.
    """
    quiet_ray_data()
    run_dir = recipe.run_dir.absolute()
    journal = Journal(run_dir / "journals" / "prepare.jsonl")
    journal.write(0, _STEPS)
    generated = recipe.data.source == "generated"
    files = generated_files(recipe, run_dir / "source") if generated else recipe.data.files
    tables = check_files(files, extra=ORACLE if generated else ())
    journal.write(1, _STEPS)
    about: dict[str, Any] = {}
    shutil.rmtree(run_dir / "quarantine", ignore_errors=True)
    with write_artifact(run_dir / "dataset", "dataset", {}, about) as draft:
        for name in ("items", "sequences", "quarantine"):
            (draft / name).mkdir()
        quarantine = Quarantine(recipe.data.max_bad_share, run_dir / "quarantine")
        try:
            about |= _prepare(recipe, files, tables, draft, quarantine, journal)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from error
            raise
        quarantine.write(draft / "quarantine")
    journal.write(_STEPS, _STEPS, items=about["items"], users=about["users"], events=about["events"])
    return read_artifact(run_dir / "dataset", "dataset", verify=False)


def generated_files(recipe: Recipe, source: Path) -> Files:
    """The generated catalogue as if it were a user's; drawn again only if its settings, seed or revision differ."""
    marker = source / "settings.sha256"
    wanted = digest([recipe.data.generated.model_dump(), recipe.seed, REVISION])
    if not (marker.is_file() and marker.read_text() == wanted):
        shutil.rmtree(source, ignore_errors=True)
        generate(recipe.data.generated, recipe.seed, source)
        marker.write_text(wanted)
    return Files(root=source, columns=Columns(text="text", created_at="created_at"))


def _prepare(
    recipe: Recipe, files: Files, tables: Tables, draft: Path, quarantine: Quarantine, journal: Journal
) -> dict[str, Any]:
    """Writes items and sequences into `draft` and returns what the manifest says about them."""
    oracle = recipe.data.source == "generated"
    declared = tables.features(files.columns)
    item_rows = _read_items(tables.items, files.columns, recipe.data, _of(declared, "item")).materialize()
    catalogue = _index_items(item_rows, quarantine)
    journal.write(2, _STEPS, items=len(catalogue))

    known = catalogue["item_id"].combine_chunks()
    event_rows = _read_events(tables.events, files, known, _of(declared, "context"), oracle=oracle).materialize()
    total = event_rows.count()
    quarantine.add("events", _collect(event_rows, ["row", "key", "reason"]), total)
    journal.write(3, _STEPS, items=len(catalogue), events=total)

    plan = _plan_split(event_rows, recipe.data, len(catalogue), recipe.seed)
    users = _align_users(tables.users, files.columns, _of(declared, "user"), plan.users, quarantine)
    schema = _learn_features(declared, item_rows, catalogue, users, event_rows, plan)
    parts = _write_sequences(event_rows, plan, schema, users, draft / "sequences")
    quarantine.add("events", pa.Table.from_struct_array(pc.list_flatten(parts["repeated"].combine_chunks())), total)
    if recipe.data.split.kind == "item_holdout":
        (draft / WITHHELD).mkdir()
        _write_sequences(event_rows, replace(plan, withheld=True), schema, users, draft / WITHHELD)
    journal.write(4, _STEPS, items=len(catalogue), events=total)

    trained = _train_facts(parts, len(catalogue))
    texts = _write_items(item_rows, catalogue, trained, schema, draft / "items")
    if schema:
        (draft / FEATURES).write_text(schema.model_dump_json(indent=2))
    splits = {name: np.asarray(pc.list_flatten(parts[name])).reshape(-1, 2).sum(0).tolist() for name in SPLITS}
    written = sum(number for number, _ in splits.values())
    return {
        "items": len(catalogue),
        "users": len(plan.users),
        "events": written,
        "unused_events": total - sum(quarantine.reasons("events").values()) - written,
        "splits": {name: {"events": number, "clicks": clicks} for name, (number, clicks) in splits.items()},
        "cold_items": int((trained["num_train_events"].to_numpy() == 0).sum()),
        "label_rate": round(sum(clicks for _, clicks in splits.values()) / max(written, 1), 6),
        "last_event_at": pc.max(parts["last_event_at"]).as_py(),
        "time_cuts": None if plan.cuts is None else asdict(plan.cuts),
        "oracle": oracle,
        "text": texts,
        "features": judge_features(draft, schema, files.columns.trusted_features),
        "split": recipe.data.split.model_dump(mode="json"),
        "seed": recipe.seed,
        "quarantined": {table.name: quarantine.reasons(table.name) for table in tables.all},
    }


def _of(declared: Sequence[FeatureColumn], owner: str) -> list[FeatureColumn]:
    return [feature for feature in declared if feature.owner == owner]


def map_pieces(
    table: SourceTable, columns: list[str], clean: Callable[[Chunk], pa.Table], only: list[Piece] | None = None
) -> ray.data.Dataset:
    """Reads a table, or some pieces of it, piece by piece in Ray Data tasks and cleans every chunk."""
    wanted, name = list(dict.fromkeys(columns)), table.name

    def read(block: dict[str, NDArray[Any]]) -> Iterator[pa.Table]:
        for row in pa.table(block).to_pylist():
            yield from map(clean, read_piece(Piece(**row), wanted, field=name))

    found = pieces(table) if only is None else only
    # Starting a worker costs seconds, so a small table gets few tasks.
    tasks = min(1 + sum(piece.size for piece in found) // _TASK_BYTES, len(found))
    listing = ray.data.from_items([piece.as_row() for piece in found], override_num_blocks=tasks)
    return listing.map_batches(read, batch_size=1, batch_format="numpy")


def _write_parts(
    rows: ray.data.Dataset, place: Callable[[pa.Table], pa.Table], write: Callable[[pa.Table], pa.Table]
) -> pa.Table:
    """Gathers the rows to which `place` gives the same `part`, has `write` write them, and returns its facts."""
    placed = rows.map_batches(place, batch_size=None, batch_format="pyarrow")
    # Half the time of the hash shuffle on tables that fit one machine: it starts no actors.
    placed.context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    return whole(placed.groupby("part").map_groups(write, batch_format="pyarrow"))


def _collect(rows: ray.data.Dataset, columns: list[str]) -> pa.Table:
    """The named columns of all rows, on this machine."""
    return whole(rows.select_columns(columns))


def whole(rows: ray.data.Dataset) -> pa.Table:
    """All rows, on this machine."""
    tables = ray.get(rows.to_arrow_refs())
    return pa.concat_tables([table for table in tables if table.num_rows] or tables[:1])


def _read_items(
    table: SourceTable, columns: Columns, data: Data, features: Sequence[FeatureColumn]
) -> ray.data.Dataset:
    limits = {"max_bytes": data.max_picture_bytes, "max_pixels": data.max_picture_pixels}
    names = [column for _, column in wanted_columns(columns, "items")]
    return map_pieces(table, names, lambda chunk: clean_items(chunk, columns, features=features, **limits))


def _read_events(
    table: SourceTable, files: Files, item_ids: pa.Array, features: Sequence[FeatureColumn], *, oracle: bool
) -> ray.data.Dataset:
    columns, threshold = files.columns, files.label_at_least
    known = ray.put(item_ids)
    names = [column for _, column in wanted_columns(columns, "events")] + list(ORACLE if oracle else ())

    def clean(chunk: Chunk) -> pa.Table:
        return clean_events(chunk, columns, ray.get(known), label_at_least=threshold, oracle=oracle, features=features)

    return map_pieces(table, names, clean)


def _index_items(rows: ray.data.Dataset, quarantine: Quarantine) -> pa.Table:
    """The catalogue: row and item_id of every valid item in the order of item_id; item `i` has index `i + 1`."""
    keys = _collect(rows, ["row", "key", "reason", "item_id"])
    return quarantine.first_of_each(keys, "item_id", REPEATED_ITEM, "items").select(["row", "item_id"])


def _align_users(
    table: SourceTable | None,
    columns: Columns,
    features: Sequence[FeatureColumn],
    users: pa.Array,
    quarantine: Quarantine,
) -> dict[str, pa.Array]:
    """Key -> typed values [U] of the user features, in the order of `users`; missing where the table lacks a user."""
    if table is None:
        return {}
    names = [column for _, column in wanted_columns(columns, "users")]
    rows = whole(map_pieces(table, names, lambda chunk: clean_users(chunk, columns, features)))
    kept = quarantine.first_of_each(rows, "user_id", REPEATED_USER, "users")
    found = pc.index_in(users, value_set=kept["user_id"].combine_chunks())
    return {feature.key: kept[feature.key].combine_chunks().take(found) for feature in features}


@dataclass(frozen=True)
class _Plan:
    """Which event goes where.

    Attributes:
        users: user_id in order of index.
        cuts: Of a temporal split.
        codes: [users] split code of each user, of an item holdout.
        held: [items + 1] items kept out of training.
        withheld: Whether events that training must not see are placed too.
    """

    users: pa.Array
    cuts: TimeCuts | None
    codes: NDArray[np.int8]
    held: NDArray[np.bool_]
    withheld: bool = False

    def place(self, events: pa.Table) -> pa.Table:
        """Valid events that stand in a sequence, with user_idx and split."""
        kept = events.filter(pc.field("reason").is_null()).drop_columns(["key", "reason"])
        kept = kept.append_column("user_idx", pc.index_in(kept["user_id"], value_set=self.users))
        kept = kept.filter(pc.field("user_idx").is_valid())
        kept = kept.append_column("split", pa.array(self.split(kept)))
        return kept if self.withheld else kept.filter(pc.field("split") != UNUSED)

    def split(self, events: pa.Table) -> NDArray[np.int8]:
        """Split codes of events that have user_idx, item_idx and timestamp."""
        if self.cuts is not None:
            return self.cuts.codes(np.asarray(events["timestamp"]))
        codes = self.codes[np.asarray(events["user_idx"])]
        return np.where((codes == TRAIN) & self.held[np.asarray(events["item_idx"])], UNUSED, codes).astype(np.int8)


def _plan_split(rows: ray.data.Dataset, data: Data, items: int, seed: int) -> _Plan:
    split = data.split
    held = np.zeros(items + 1, bool)
    if split.kind == "item_holdout":
        held[1:] = hold_out_items(items, split.holdout_items, seed)

    def users_of(block: pa.Table) -> pa.Table:
        kept = block.filter(pc.field("reason").is_null())
        seen = pa.table({"user_id": kept["user_id"], "held": pa.array(held[np.asarray(kept["item_idx"])])})
        return seen.group_by("user_id").aggregate([("held", "min")]).rename_columns(["user_id", "held"])

    reduced = rows.map_batches(users_of, batch_size=None, batch_format="pyarrow")
    seen = _collect(reduced, ["user_id", "held"]).group_by("user_id").aggregate([("held", "min")]).sort_by("user_id")
    users = seen["user_id"].combine_chunks()
    if split.kind == "temporal":
        times = _collect(rows, ["timestamp", "reason"]).filter(pc.field("reason").is_null())["timestamp"]
        cuts = time_cuts(np.asarray(times), split.valid, split.test)
        return _Plan(users, cuts, np.full(len(users), TRAIN, np.int8), held)
    codes = user_codes(len(users), split.valid, split.test, seed)
    # A train user who saw nothing but held-out items has no events left.
    kept = ~((codes == TRAIN) & np.asarray(seen["held_min"]))
    return _Plan(users.filter(pa.array(kept)), None, codes[kept], held)


_REPEATED = pa.schema([QUARANTINE.field(name) for name in ("row", "key", "reason")])
_TRAINED = pa.schema(
    [ITEMS.field(name) for name in ("item_idx", "first_event_at", "num_train_events", "num_train_clicks")]
)
_PART_FACTS = pa.schema(
    [
        pa.field("part", pa.int32()),
        pa.field("last_event_at", pa.int64()),
        *(pa.field(name, pa.list_(pa.int64())) for name in SPLITS),
        pa.field("trained", pa.list_(pa.struct(_TRAINED))),
        pa.field("repeated", pa.list_(pa.struct(_REPEATED))),
    ]
)
"""What writing a part of the sequences returns: its last time, events and clicks per split, train facts per item,
repeated rows."""


def _learn_features(
    declared: Sequence[FeatureColumn],
    item_rows: ray.data.Dataset,
    catalogue: pa.Table,
    users: dict[str, pa.Array],
    event_rows: ray.data.Dataset,
    plan: _Plan,
) -> FeatureSchema:
    """The schema, from train events and from the items and users that have any."""
    if not declared:
        return FeatureSchema()
    shared = ray.put(plan)
    contexts = {feature.key: feature.kind for feature in _of(declared, "context")}

    def seen(block: pa.Table) -> pa.Table:
        train = ray.get(shared).place(block).filter(pc.field("split") == TRAIN)
        whole = {key: train[key].combine_chunks() for key in ("item_idx", "user_idx", *contexts)}
        once = {key: values if contexts.get(key) == "numeric" else values.unique() for key, values in whole.items()}
        return pa.table({key: pa.ListArray.from_arrays([0, len(values)], values) for key, values in once.items()})

    facts = whole(event_rows.map_batches(seen, batch_size=None, batch_format="pyarrow"))
    train = {key: pc.list_flatten(facts[key].combine_chunks()) for key in facts.column_names}
    keys = [feature.key for feature in _of(declared, "item")]
    items = _collect(item_rows, ["row", *keys])
    items = items.take(pc.index_in(catalogue["row"], value_set=items["row"].combine_chunks()))
    values = {key: items[key].take(pc.subtract(train["item_idx"].unique(), 1)).combine_chunks() for key in keys}
    values |= {key: column.take(train["user_idx"].unique()) for key, column in users.items()} | train
    return FeatureSchema.learn({feature: values[feature.key] for feature in declared})


def _write_sequences(
    rows: ray.data.Dataset, plan: _Plan, schema: FeatureSchema, users: dict[str, pa.Array], directory: Path
) -> pa.Table:
    """Gathers each user's events, writes one row per user, and returns facts about each part."""
    shared = ray.put((plan, schema.of("context"), schema.of("user").encode(users)))

    def place(block: pa.Table) -> pa.Table:
        plan, contexts, _ = ray.get(shared)
        kept = plan.place(block)
        for key, codes in contexts.encode(kept).items():
            kept = kept.set_column(kept.column_names.index(key), key, pa.array(codes))
        return kept.append_column("part", pa.array(np.asarray(kept["user_idx"]) // USERS_PER_PART))

    def write(group: pa.Table) -> pa.Table:
        part = group["part"][0].as_py()
        ordered, repeated = order_events(group)
        table = sequence_rows(ordered)
        for key, codes in ray.get(shared)[2].items():
            table = table.append_column(key, pa.array(codes[np.asarray(table["user_idx"])]))
        pq.write_table(table, part_path(directory, part), compression="zstd")
        return pa.Table.from_pylist([{"part": part, **_part_facts(ordered, repeated)}], schema=_PART_FACTS)

    return _write_parts(rows, place, write)


def _part_facts(events: pa.Table, repeated: pa.Table) -> dict[str, Any]:
    split, label = np.asarray(events["split"]), np.asarray(events["label"])
    facts: dict[str, Any] = {
        name: [int((split == code).sum()), int(label[split == code].sum())] for name, code in SPLITS.items()
    }
    facts["last_event_at"] = pc.max(events["timestamp"]).as_py()
    train = events.filter(pc.field("split") == TRAIN).group_by("item_idx")
    sums = train.aggregate([("timestamp", "min"), ("label", "count"), ("label", "sum")])
    facts["trained"] = sums.rename_columns(_TRAINED.names).to_pylist()
    keys = pc.binary_join_element_wise(repeated["user_id"], repeated["item_idx"].cast(pa.string()), " item_idx ")
    facts["repeated"] = [
        {"row": row, "key": key, "reason": REPEATED_EVENT}
        for row, key in zip(repeated["row"].to_pylist(), keys.to_pylist(), strict=True)
    ]
    return facts


def _train_facts(parts: pa.Table, items: int) -> pa.Table:
    """What train events say about each item, in the order of index."""
    table = pa.Table.from_struct_array(pc.list_flatten(parts["trained"].combine_chunks())).group_by("item_idx")
    table = table.aggregate([("first_event_at", "min"), ("num_train_events", "sum"), ("num_train_clicks", "sum")])
    item, *known = (np.asarray(column) for column in table.columns)
    facts = np.zeros((3, items + 1), np.int64)
    facts[:, item] = known
    first, events, clicks = facts[:, 1:]
    columns = [np.arange(1, items + 1), pa.array(first, mask=events == 0), events, clicks]
    return pa.table(columns, names=_TRAINED.names).cast(_TRAINED)


def _write_items(
    rows: ray.data.Dataset, catalogue: pa.Table, trained: pa.Table, schema: FeatureSchema, directory: Path
) -> dict[str, Any]:
    """Writes the items in the order of index and returns statistics of their content."""
    source_row = np.asarray(catalogue["row"])
    by_row = np.argsort(source_row)
    shared = ray.put((source_row[by_row], by_row.astype(np.int32) + 1, trained, schema.of("item")))

    def place(block: pa.Table) -> pa.Table:
        known, index, *_ = ray.get(shared)
        row = np.asarray(block["row"])
        at = np.minimum(np.searchsorted(known, row), len(known) - 1)
        kept = block.append_column("item_idx", pa.array(index[at])).filter(pa.array(known[at] == row))
        return kept.append_column("part", pa.array((np.asarray(kept["item_idx"]) - 1) // ITEMS_PER_PART))

    def write(group: pa.Table) -> pa.Table:
        part, group = group["part"][0].as_py(), group.sort_by("item_idx")
        _, _, trained, schema = ray.get(shared)
        facts = trained.take(pc.subtract(group["item_idx"], 1))
        table = pa.table([facts[name] if name in _TRAINED.names else group[name] for name in ITEMS.names], schema=ITEMS)
        contents = [Content(**row) for row in group.select(["title", "text", "picture"]).to_pylist()]
        for name in DIGESTS:
            table = table.append_column(name, pa.array([getattr(content, name) for content in contents], pa.int64()))
        for key, codes in schema.encode(group).items():
            table = table.append_column(key, pa.array(codes))
        compression = {name: "none" if name == "picture" else "zstd" for name in table.column_names}
        pq.write_table(
            table,
            part_path(directory, part),
            row_group_size=ITEMS_PER_ROW_GROUP,
            compression=compression,
            use_dictionary=False,
        )
        return _text_facts(group)

    grouped = _write_parts(rows, place, write)
    shown = {f"with_{name}": pc.sum(grouped[name]).as_py() for name in ("title", "text", "picture")}
    mean = pc.sum(grouped["words"]).as_py() / len(catalogue)
    distinct = pc.count_distinct(pc.list_flatten(grouped["distinct"])).as_py()
    return {**shown, "words_per_item": round(mean, 2), "distinct_words": distinct}


def _text_facts(items: pa.Table) -> pa.Table:
    """One row: items that have each part of content, their words, and the distinct ones."""
    shown = {name: [len(items) - items[name].null_count] for name in ("title", "text", "picture")}
    lists = [pc.utf8_split_whitespace(pc.utf8_lower(items[name].drop_null())) for name in ("title", "text")]
    words = pa.concat_arrays([values.combine_chunks().flatten() for values in lists])
    distinct = pa.array([words.unique().to_pylist()], pa.list_(pa.string()))
    return pa.table({**shown, "words": [len(words)], "distinct": distinct})


if __name__ == "__main__":
    main("prepare", run, __doc__)
