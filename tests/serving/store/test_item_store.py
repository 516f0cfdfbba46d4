"""The item store with real files and killed processes; the same tests run on Redis where it is installed."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from coldstart.config import UserError
from coldstart.config.recipe import Store
from coldstart.data.content import Content
from coldstart.data.item_table import ColumnSpec, Rows
from coldstart.serving.store.item_store import ItemStore
from coldstart.serving.store.publication_log import ItemRow, PublishedItem, item_digest
from coldstart.serving.store.row_layout import Row, pack_rows
from tests.serving.servers import redis_store

A, B = "a" * 64, "b" * 64
COLUMNS = {"content": ColumnSpec("float32", (4,)), "codes": ColumnSpec("int16", (2,))}


def rows(*values: float) -> Rows:
    """Rows with every number of `content` the value, and every code its tenfold."""
    numbers = np.array(values, np.float32)[:, None]
    return pack_rows({"content": np.repeat(numbers, 4, axis=1), "codes": np.repeat(10 * numbers, 2, axis=1)}, COLUMNS)


def row(value: float) -> Row:
    return rows(value)[0]


def entry(name, value, *, title="a film", origin="api", at=100.0, features=None, coded=None):
    content = Content(title, None, b"image")
    item = PublishedItem(name, content, features, at, origin, item_digest(content, features))
    return item, ItemRow(row(value), coded)


def lookup(store: ItemStore, name: str, index: int = 0) -> float | None:
    store.catch_up()
    found = store.row(name, index)
    if found is None:
        return None
    assert found["codes"].tolist() == [10 * found["content"][0]] * 2
    return float(found["content"][0])


def wait_for(store: ItemStore, name: str, value: float | None, *, index: int = 0) -> None:
    """Waits up to 2 s until the store has what another process wrote."""
    deadline = time.monotonic() + 2
    while lookup(store, name, index) != value:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(params=["lance", "redis"])
def settings(request):
    if request.param == "lance":
        yield Store()
    else:
        with redis_store() as settings:
            yield settings


@pytest.fixture
def store(tmp_path, settings):
    with_items = ItemStore(tmp_path, A, COLUMNS, settings)
    with_items.write_catalog(["old-1", "old-2"], [rows(0, 4), rows(8)])
    yield with_items
    with_items.close()


def test_published_row_is_rankable_on_every_replica(store, tmp_path, settings):
    other = ItemStore(tmp_path, A, COLUMNS, settings)
    assert lookup(other, "film") is None
    assert store.publication_log.publish([entry("film", 1)]) == [1]
    wait_for(other, "film", 1)
    other.publication_log.publish([entry("film", 2), entry("\u00e9t\u00e9 \U0001f3ac", 3)])
    for one in (store, other):
        wait_for(one, "film", 2)
        wait_for(one, "\u00e9t\u00e9 \U0001f3ac", 3)
    late = ItemStore(tmp_path, A, COLUMNS, settings)
    assert late.row("film")["content"][0] == 2
    other.close()
    late.close()


def test_acknowledged_items_survive_a_killed_process(tmp_path, settings):
    """A writer acknowledges on standard output and is killed with SIGKILL while it writes."""
    program = (
        "import sys; from pathlib import Path; from coldstart.config.recipe import Store; "
        "from coldstart.serving.store.item_store import ItemStore; "
        "from tests.serving.store.test_item_store import A, COLUMNS, entry\n"
        "log = ItemStore(Path(sys.argv[1]), A, COLUMNS, Store.model_validate_json(sys.argv[2])).publication_log\n"
        "for number in range(100_000):\n"
        "    log.publish([entry(f'film-{number}', number)])\n"
        "    print(number, flush=True)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), settings.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        acknowledged = [int(writer.stdout.readline()) for _ in range(40)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
    assert writer.returncode == -signal.SIGKILL
    after = ItemStore(tmp_path, A, COLUMNS, settings)
    assert [lookup(after, f"film-{number}") for number in acknowledged] == acknowledged
    after.close()


def test_spaces_do_not_mix_and_a_new_one_is_filled_from_the_contents(store, tmp_path, settings):
    store.publication_log.publish([entry("one", 1, features={"brand": "a"}), entry("two", 2)])
    other = ItemStore(tmp_path, B, COLUMNS, settings)
    assert lookup(other, "one") is None
    first, second = other.publication_log.items_without_row(0, 10)
    assert (first.item_id, first.content, first.features) == (
        "one",
        Content("a film", None, b"image"),
        {"brand": "a"},
    )
    assert [item.item_id for item in other.publication_log.items_without_row(first.revision, 10)] == ["two"]
    # "two" is published again in between, so the row of its old content is skipped.
    store.publication_log.publish([entry("two", 3, title="another")])
    other.publication_log.update_rows([(first, ItemRow(row(10))), (second, ItemRow(row(20)))])
    wait_for(other, "one", 10)
    assert lookup(other, "two") is None
    assert [item.content.title for item in other.publication_log.items_without_row(0, 10)] == ["another"]
    wait_for(store, "one", 1)
    other.close()


def test_features_are_kept_until_new_ones_are_published(store):
    store.publication_log.publish([entry("film", 1, features={"price": 3.5}, coded=np.array([2.0, 0.5]))])
    store.publication_log.publish([entry("film", 2)])
    wait_for(store, "film", 2)
    assert store.features("film").tolist() == [2.0, 0.5]
    assert store.publication_log.find("film").features == {"price": 3.5}


def test_a_withdrawn_item_is_unknown_until_it_is_published_again(store, tmp_path, settings):
    store.publication_log.publish([entry("film", 1)])
    assert lookup(store, "old-2", 2) == 8
    for name in ("film", "old-2"):
        store.publication_log.withdraw(name)
        assert store.publication_log.find(name) is None
    wait_for(store, "old-2", None, index=2)
    assert store.is_withdrawn("film")
    assert store.is_withdrawn("old-2")
    assert store.publication_log.publish([entry("film", 3, origin="catalog", at=1e12)]) == [0]
    assert store.publication_log.publish([entry("film", 4)])[0] > 0
    wait_for(store, "film", 4)
    assert not store.is_withdrawn("film")


def test_a_catalog_row_does_not_replace_a_later_publication(store):
    log = store.publication_log
    assert log.publish([entry("film", 1, at=50)]) != [0]
    assert log.publish([entry("film", 2, origin="catalog", at=40)]) == [0]
    assert log.publish([entry("film", 3, origin="catalog", at=60)]) != [0]
    assert log.publish([entry("film", 4, origin="catalog", at=30)]) != [0]
    states = log.states()
    assert states.keys() == {"film"}
    assert (states["film"].origin, states["film"].current, states["film"].withdrawn) == ("catalog", True, False)


def test_find_returns_when_the_row_was_stored(store, tmp_path, settings):
    before = time.time()
    store.publication_log.publish([entry("film", 1)])
    found = store.publication_log.find("film")
    assert before - 1 <= found.ready_at <= time.time() + 1
    assert found.published_at == 100
    other = ItemStore(tmp_path, B, COLUMNS, settings)
    assert other.publication_log.find("film").ready_at is None
    assert store.publication_log.find("nobody") is None
    other.close()


def test_compaction_does_not_change_lookups(store, tmp_path, settings):
    coded = np.array([1.0, 0.25])
    store.publication_log.publish([entry("film", 1, coded=coded), entry("old-1", 7), entry("gone", 5)])
    store.publication_log.withdraw("gone")
    store.publication_log.withdraw("old-2")
    wait_for(store, "old-2", None, index=2)
    store.compact()
    fresh = ItemStore(tmp_path, A, COLUMNS, settings)
    store.publication_log.publish([entry("film", 2), entry("newer", 3)])
    for one in (store, fresh):
        wait_for(one, "newer", 3)
        assert [lookup(one, "film"), lookup(one, "old-1", 1), lookup(one, "gone"), lookup(one, "old-2", 2)] == [
            2,
            7,
            None,
            None,
        ]
        assert one.is_withdrawn("old-2")
    fresh.compact()
    last = ItemStore(tmp_path, A, COLUMNS, settings)
    assert [lookup(last, "film"), lookup(last, "newer"), lookup(last, "old-1", 1), lookup(last, "gone")] == [
        2,
        3,
        7,
        None,
    ]
    assert last.features("film").tolist() == coded.tolist()
    assert len(list((tmp_path / A[:32]).glob("table-*.arrow"))) == 1
    fresh.close()
    last.close()


def test_many_changes_are_compacted_in_the_background(tmp_path, settings):
    store = ItemStore(tmp_path, A, COLUMNS, settings.model_copy(update={"compact_after": 5}))
    store.write_catalog(["old"], [rows(0, 0)])
    store.publication_log.publish([entry(f"film-{number}", number) for number in range(12)])
    wait_for(store, "film-11", 11)
    deadline = time.monotonic() + 60
    while len(ItemStore(tmp_path, A, COLUMNS, settings)._table.extra_rows) < 12:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    store.catch_up()
    assert [lookup(store, f"film-{number}") for number in range(12)] == list(range(12))
    store.close()


def test_catalog_is_written_once_and_mapped(store, tmp_path, settings):
    store.write_catalog(["other"], [])
    other = ItemStore(tmp_path, A, COLUMNS, settings)
    assert lookup(other, "old-2", 2) == 8
    with pytest.raises(ValueError, match="read-only"):
        other._table.rows[2] = 0
    other.close()


def test_values_are_stored_per_space(store, tmp_path, settings):
    store.publication_log.set_value("file", "1")
    store.publication_log.set_value("file", "2")
    other = ItemStore(tmp_path, B, COLUMNS, settings)
    assert (store.publication_log.get_value("file"), other.publication_log.get_value("file")) == ("2", None)
    other.close()


def test_many_rows_are_found_at_once(store):
    store.publication_log.publish([entry("film", 1), entry("old-1", 7)])
    store.compact()
    store.publication_log.publish([entry("newer", 3)])
    store.publication_log.withdraw("old-2")
    wait_for(store, "old-2", None, index=2)
    names = ["old-2", None, "newer", "nobody", "film", "old-1", "newer"]
    found = store.find_rows(names, np.array([2, 0, 0, 0, 0, 1, 0]))
    assert found.rows["content"][:, 0].tolist() == [0, 0, 0, 3, 0, 1, 7, 3]
    assert found.has_row.tolist() == [False, False, True, False, True, True, True]
    assert found.withdrawn == [0]


OTHERS = {
    "smaller": {"content": ColumnSpec("float32", (3,)), "codes": ColumnSpec("int16", (2,))},
    "same bytes": {"content": ColumnSpec("int32", (4,)), "codes": ColumnSpec("int16", (2,))},
    "another column": {"content": ColumnSpec("float32", (4,)), "kinds": ColumnSpec("int16", (2,))},
}


@pytest.mark.parametrize("others", OTHERS.values(), ids=OTHERS)
def test_a_catalog_of_other_columns_is_refused_by_name(store, tmp_path, settings, others):
    with pytest.raises(UserError, match=r"reads.*(content|kinds).*the store .*" + A[:32]):
        ItemStore(tmp_path, A, others, settings)


@pytest.mark.parametrize("others", OTHERS.values(), ids=OTHERS)
def test_a_published_row_of_other_columns_is_refused_by_name(tmp_path, settings, others):
    first = ItemStore(tmp_path, A, COLUMNS, settings)
    first.publication_log.publish([entry("film", 1)])
    first.close()
    with pytest.raises(UserError, match=r"reads.*(content|kinds).*the stored row of item 'film'"):
        ItemStore(tmp_path, A, others, settings)


def test_more_columns_than_the_release_has_are_refused(store, tmp_path, settings):
    fewer = {"content": COLUMNS["content"]}
    with pytest.raises(UserError, match="has the columns content, codes, but the release has content, in this order"):
        ItemStore(tmp_path, A, fewer, settings)


def test_a_row_of_other_columns_is_not_stored(store):
    item, _ = entry("film", 1)
    wrong = ItemRow(pack_rows({"content": np.ones((1, 4))}, {"content": COLUMNS["content"]})[0])
    with pytest.raises(ValueError, match="codes"):
        store.publication_log.publish([(item, wrong)])
    assert store.publication_log.find("film") is None


def test_a_poller_reports_rows_of_other_columns(tmp_path):
    with redis_store() as settings:
        first = ItemStore(tmp_path, A, COLUMNS, settings)
        first.catch_up()
        second = ItemStore(tmp_path / "another", A, OTHERS["same bytes"], settings)
        values = pack_rows({"content": np.ones((1, 4)), "codes": np.ones((1, 2))}, OTHERS["same bytes"])[0]
        second.publication_log.publish([(entry("film", 1)[0], ItemRow(values))])
        with pytest.raises(UserError, match="the stored row of item 'film'"):
            wait_for(first, "film", 1)
        first.close()
        second.close()
