"""The store on real files, and real processes that are killed. Redis is tested by the same tests where it is there."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from coldstart.config.recipe import Store
from coldstart.data.content import Content
from coldstart.serving.proxy_store import ProxyStore
from coldstart.serving.publications import Item, Proxy, digest_of
from tests.serving.servers import redis_store

A, B = "a" * 64, "b" * 64


def vector(value: float) -> np.ndarray:
    return np.full(4, value, np.float32)


def entry(name, value, *, title="a film", origin="api", at=100.0, features=None, coded=None):
    content = Content(title, None, b"picture")
    item = Item(name, content, features, at, origin, digest_of(content, features))
    return item, Proxy(vector(value), coded)


def seen(store: ProxyStore, name: str, index: int = 0) -> float | None:
    store.catch_up()
    found = store.proxy(name, index)
    return None if found is None else float(found[0])


def soon(store: ProxyStore, name: str, value: float | None, *, index: int = 0) -> None:
    """What a log of another process wrote is there within 2 s."""
    deadline = time.monotonic() + 2
    while seen(store, name, index) != value:
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
    with_items = ProxyStore(tmp_path, A, settings)
    with_items.write_catalogue(["old-1", "old-2"], [np.arange(12, dtype=np.float32).reshape(3, 4)])
    yield with_items
    with_items.close()


def test_published_proxy_is_rankable_on_every_replica(store, tmp_path, settings):
    other = ProxyStore(tmp_path, A, settings)
    assert seen(other, "film") is None
    assert store.publications.publish([entry("film", 1)]) == [1]
    soon(other, "film", 1)
    other.publications.publish([entry("film", 2), entry("\u00e9t\u00e9 \U0001f3ac", 3)])
    for one in (store, other):
        soon(one, "film", 2)
        soon(one, "\u00e9t\u00e9 \U0001f3ac", 3)
    late = ProxyStore(tmp_path, A, settings)
    assert late.proxy("film")[0] == 2
    other.close()
    late.close()


def test_acknowledged_publish_survives_a_process_that_is_killed(tmp_path, settings):
    """A writer acknowledges on its standard output and is killed with SIGKILL in the middle of its work."""
    program = (
        "import sys; from pathlib import Path; from coldstart.config.recipe import Store; "
        "from coldstart.serving.proxy_store import ProxyStore; from tests.serving.test_proxy_store import A, entry\n"
        "log = ProxyStore(Path(sys.argv[1]), A, Store.model_validate_json(sys.argv[2])).publications\n"
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
    after = ProxyStore(tmp_path, A, settings)
    assert [seen(after, f"film-{number}") for number in acknowledged] == acknowledged
    after.close()


def test_spaces_never_mix_and_a_new_one_is_filled_from_the_contents(store, tmp_path, settings):
    store.publications.publish([entry("one", 1, features={"brand": "a"}), entry("two", 2)])
    other = ProxyStore(tmp_path, B, settings)
    assert seen(other, "one") is None
    first, second = other.publications.unread(0, 10)
    assert (first.item_id, first.content, first.features) == (
        "one",
        Content("a film", None, b"picture"),
        {"brand": "a"},
    )
    assert [item.item_id for item in other.publications.unread(first.revision, 10)] == ["two"]
    # Published anew in between: what was read before no longer counts.
    store.publications.publish([entry("two", 3, title="another")])
    other.publications.renew([(first, Proxy(vector(10))), (second, Proxy(vector(20)))])
    soon(other, "one", 10)
    assert seen(other, "two") is None
    assert [item.content.title for item in other.publications.unread(0, 10)] == ["another"]
    soon(store, "one", 1)
    other.close()


def test_features_are_kept_until_others_are_given(store):
    store.publications.publish([entry("film", 1, features={"price": 3.5}, coded=np.array([2.0, 0.5]))])
    store.publications.publish([entry("film", 2)])
    soon(store, "film", 2)
    assert store.features("film").tolist() == [2.0, 0.5]
    assert store.publications.find("film").features == {"price": 3.5}


def test_a_withdrawn_item_is_unknown_until_it_is_published_again(store, tmp_path, settings):
    store.publications.publish([entry("film", 1)])
    assert seen(store, "old-2", 2) == 8
    for name in ("film", "old-2"):
        store.publications.withdraw(name)
        assert store.publications.find(name) is None
    soon(store, "old-2", None, index=2)
    assert store.withdrawn("film")
    assert store.withdrawn("old-2")
    assert store.publications.publish([entry("film", 3, origin="catalogue", at=1e12)]) == [0]
    assert store.publications.publish([entry("film", 4)])[0] > 0
    soon(store, "film", 4)
    assert not store.withdrawn("film")


def test_a_row_of_the_catalogue_gives_way_to_what_was_published_later(store):
    log = store.publications
    assert log.publish([entry("film", 1, at=50)]) != [0]
    assert log.publish([entry("film", 2, origin="catalogue", at=40)]) == [0]
    assert log.publish([entry("film", 3, origin="catalogue", at=60)]) != [0]
    assert log.publish([entry("film", 4, origin="catalogue", at=30)]) != [0]
    standing = log.standing()
    assert standing.keys() == {"film"}
    assert (standing["film"].origin, standing["film"].current, standing["film"].withdrawn) == ("catalogue", True, False)


def test_find_says_when_an_item_became_rankable(store, tmp_path, settings):
    before = time.time()
    store.publications.publish([entry("film", 1)])
    found = store.publications.find("film")
    assert before - 1 <= found.ready_at <= time.time() + 1
    assert found.published_at == 100
    other = ProxyStore(tmp_path, B, settings)
    assert other.publications.find("film").ready_at is None
    assert store.publications.find("nobody") is None
    other.close()


def test_a_fold_changes_nothing_that_is_seen(store, tmp_path, settings):
    coded = np.array([1.0, 0.25])
    store.publications.publish([entry("film", 1, coded=coded), entry("old-1", 7), entry("gone", 5)])
    store.publications.withdraw("gone")
    store.publications.withdraw("old-2")
    soon(store, "old-2", None, index=2)
    store.fold()
    fresh = ProxyStore(tmp_path, A, settings)
    store.publications.publish([entry("film", 2), entry("newer", 3)])
    for one in (store, fresh):
        soon(one, "newer", 3)
        assert [seen(one, "film"), seen(one, "old-1", 1), seen(one, "gone"), seen(one, "old-2", 2)] == [
            2,
            7,
            None,
            None,
        ]
        assert one.withdrawn("old-2")
    fresh.fold()
    last = ProxyStore(tmp_path, A, settings)
    assert [seen(last, "film"), seen(last, "newer"), seen(last, "old-1", 1), seen(last, "gone")] == [2, 3, 7, None]
    assert last.features("film").tolist() == coded.tolist()
    assert len(list((tmp_path / A[:32]).glob("table-*.arrow"))) == 1
    fresh.close()
    last.close()


def test_a_long_tail_is_folded_beside_the_requests(tmp_path, settings):
    store = ProxyStore(tmp_path, A, settings.model_copy(update={"fold_after": 5}))
    store.write_catalogue(["old"], [np.zeros((2, 4), np.float32)])
    store.publications.publish([entry(f"film-{number}", number) for number in range(12)])
    soon(store, "film-11", 11)
    deadline = time.monotonic() + 60
    while len(ProxyStore(tmp_path, A, settings)._table.extra) < 12:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    store.catch_up()
    assert [seen(store, f"film-{number}") for number in range(12)] == list(range(12))
    store.close()


def test_catalogue_is_written_once_and_mapped(store, tmp_path, settings):
    store.write_catalogue(["other"], [])
    other = ProxyStore(tmp_path, A, settings)
    assert seen(other, "old-2", 2) == 8
    with pytest.raises(ValueError, match="read-only"):
        other.proxy("old-2", 2)[0] = 1
    other.close()


def test_marks_are_kept_per_space(store, tmp_path, settings):
    store.publications.set_mark("file", "1")
    store.publications.set_mark("file", "2")
    other = ProxyStore(tmp_path, B, settings)
    assert (store.publications.mark("file"), other.publications.mark("file")) == ("2", None)
    other.close()
