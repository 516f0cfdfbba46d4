from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from coldstart.config import UserError
from coldstart.config.recipe import Columns, Files
from coldstart.data.readers import check_files, file_splits, read_file_split

ITEMS = {"item_id": [1, 2], "title": ["a", "b"], "image": pa.array([b"x", None], pa.binary())}
EVENTS = {"user_id": [1], "item_id": [1], "timestamp": [5], "label": [1]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    pq.write_table(pa.table(ITEMS), tmp_path / "items.parquet")
    pq.write_table(pa.table(EVENTS), tmp_path / "events.parquet")
    return tmp_path


def test_good_files_pass(root: Path) -> None:
    tables = check_files(Files(root=root))
    assert tables.items.files == (root / "items.parquet",)
    assert set(tables.events.types) == set(EVENTS)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"items": "itms.parquet"}, r"itms\.parquet does not exist"),
        ({"items": "items.txt"}, "must be a .parquet file, a .csv file or a directory"),
        ({"events": "."}, "cannot|has no column|both"),
        ({"columns": {"title": "titel"}}, "no column 'titel': did you mean 'title'"),
        ({"columns": {"label": "clicked"}}, "no column 'clicked': its columns are item_id, label, timestamp, user_id"),
        ({"columns": {"text": "body"}}, "set it to null"),
        ({"columns": {"tags": ["genre"]}}, "columns.tags"),
        ({"columns": {"image": "title"}}, r"'a', looked for under .*data\.files\.images\.root .*image: null"),
    ],
)
def test_wrong_settings_are_named_with_a_fix(root: Path, files: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_files(Files(root=root, **files))


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_table_without_rows_is_refused(root: Path, suffix: str) -> None:
    name = f"none.{suffix}"
    if suffix == "csv":
        (root / name).write_text("user_id,item_id,timestamp,label\n")
    else:
        pq.write_table(pa.table(EVENTS).slice(0, 0), root / name)
    with pytest.raises(UserError, match="has no rows"):
        check_files(Files(root=root, events=name))


def test_a_corrupt_file_is_named(root: Path) -> None:
    (root / "events.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"events\.parquet cannot be read"):
        check_files(Files(root=root))


def test_a_directory_must_have_one_format_and_the_same_columns(root: Path) -> None:
    logs = root / "logs"
    logs.mkdir()
    with pytest.raises(UserError, match=r"no \.parquet or \.csv"):
        check_files(Files(root=root, events="logs"))
    pq.write_table(pa.table(EVENTS), logs / "a.parquet")
    pq.write_table(pa.table(EVENTS).drop_columns(["label"]), logs / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet has no column 'label'"):
        check_files(Files(root=root, events="logs"))
    (logs / "b.parquet").rename(logs / "b.csv")
    with pytest.raises(UserError, match="both Parquet and CSV"):
        check_files(Files(root=root, events="logs"))


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_row_numbers_continue_across_file_splits(root: Path, suffix: str) -> None:
    logs = root / "logs"
    logs.mkdir()
    lengths = {"a": 7, "b": 3, "c": 5}
    for number, (name, length) in enumerate(lengths.items()):
        users = [f"{number}-{row}" for row in range(length)]
        table = {"user_id": users, "item_id": ["1"] * length, "timestamp": ["5"] * length, "label": ["1"] * length}
        if suffix == "csv":
            lines = [",".join(row) for row in zip(*table.values(), strict=True)]
            (logs / f"{name}.csv").write_text("\n".join([",".join(table), *lines]) + "\n")
        else:
            pq.write_table(pa.table(table), logs / f"{name}.parquet", row_group_size=2)
    events = check_files(Files(root=root, events="logs")).events
    seen = {}
    for file_split in file_splits(events):
        for batch in read_file_split(file_split, ["user_id"], field="events"):
            for offset, user in enumerate(batch.table["user_id"].to_pylist()):
                seen[batch.first_row + offset] = user
    assert list(seen) == list(range(15))
    assert list(seen.values()) == [f"{n}-{row}" for n, length in enumerate(lengths.values()) for row in range(length)]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_batches_are_large_because_each_looks_up_ids_in_the_whole_catalog(root: Path, suffix: str) -> None:
    table = pa.table({name: pa.array(np.resize(values, 300_000)) for name, values in EVENTS.items()})
    if suffix == "csv":
        csv.write_csv(table, root / "events.csv")
    else:
        pq.write_table(table, root / "events.parquet")
    events = check_files(Files(root=root, events=f"events.{suffix}")).events
    (split,) = file_splits(events)
    sizes = [batch.table.num_rows for batch in read_file_split(split, ["user_id"], field="events")]
    assert sum(sizes) == 300_000
    assert min(sizes[:-1]) > 100_000


def test_csv_cells_are_read_unchanged(root: Path) -> None:
    (root / "items.csv").write_text('item_id,title\n007,"two\nlines, one cell"\n8,\n')
    items = check_files(Files(root=root, items="items.csv", columns=Columns(image=None))).items
    [batch] = read_file_split(file_splits(items)[0], ["item_id", "title"], field="items")
    assert batch.table.to_pylist() == [
        {"item_id": "007", "title": "two\nlines, one cell"},
        {"item_id": "8", "title": None},
    ]


def test_malformed_csv_lines_are_separate(root: Path) -> None:
    (root / "events.csv").write_text("user_id,item_id,timestamp,label\n1,1,5,1\n1,1,5\n2,1,6,0\n1,2,3,4,5\n")
    events = check_files(Files(root=root, events="events.csv")).events
    batches = list(read_file_split(file_splits(events)[0], ["user_id"], field="events"))
    assert [row for batch in batches for row in batch.table["user_id"].to_pylist()] == ["1", "2"]
    assert batches[-1].malformed == ("1,1,5", "1,2,3,4,5")
    assert batches[-1].first_row == 2


FEATURES = {
    "items": ITEMS | {"brand": ["a", None], "price": [1.5, 2.0], "genres": [["x"], ["y"]], "stock": [3, 4]},
    "events": EVENTS | {"device": pa.array(["phone"]).dictionary_encode(), "mobile": [True]},
    "users": {"user_id": [1], "age": ["33"]},
}


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    for name, columns in FEATURES.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    return tmp_path


def test_the_kind_of_a_feature_follows_its_type_unless_the_recipe_sets_it(rich: Path) -> None:
    columns = Columns(
        item_features=("brand", "price", "stock"),
        user_features=("age",),
        context_features=("device", "mobile"),
        feature_kinds={"stock": "numeric", "age": "numeric"},
    )
    declared = check_files(Files(root=rich, users="users.parquet", columns=columns)).features(columns)
    assert [(one.key, one.kind) for one in declared] == [
        ("item.brand", "categorical"),
        ("item.price", "numeric"),
        ("item.stock", "numeric"),
        ("user.age", "numeric"),
        ("context.device", "categorical"),
        ("context.mobile", "categorical"),
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"item_features": ["brnd"]},
            "columns.item_features: .*items.parquet has no column 'brnd': did you mean 'brand'",
        ),
        ({"context_features": ["brand"]}, "columns.context_features: .*events.parquet has no column 'brand'"),
        (
            {"item_features": ["genres"]},
            "column 'genres' of .* has type list<.*>; a feature must be text, a boolean or a number",
        ),
        ({"user_features": ["country"]}, "columns.user_features: .*users.parquet has no column 'country'"),
    ],
)
def test_wrong_features_are_named_with_a_fix(rich: Path, columns: dict[str, object], message: str) -> None:
    users = "users.parquet" if "user_features" in columns else None
    with pytest.raises(UserError, match=message):
        check_files(Files(root=rich, users=users, columns=Columns.model_validate(columns)))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"columns": {"context_features": ["label"]}}, "names 'label', which is the label column; remove it"),
        ({"columns": {"item_features": ["a", "a"]}}, "names 'a' twice"),
        ({"columns": {"feature_kinds": {"price": "numeric"}}}, "'price', which is not a feature; features: none"),
        ({"columns": {"user_features": ["age"]}}, "needs a users table; set data.files.users"),
        ({"users": "users.parquet"}, "'users.parquet' is not used; list its columns"),
    ],
)
def test_contradictory_features_are_refused_by_the_recipe(files: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Files.model_validate(files)
