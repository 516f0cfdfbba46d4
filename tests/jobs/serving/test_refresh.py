"""The refresh job on real files, models and Ray, and once under kill -9."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coldstart.config import UserError, dump_recipe, read_artifact
from coldstart.config.recipe import Cluster, Columns, Data, Files, Refresh
from coldstart.data.content import Content
from coldstart.jobs.serving.refresh import reencode_published, refresh
from coldstart.methods.base import ITEM_TABLE, SCORER
from coldstart.registry import Release
from coldstart.serving.store.item_store import ItemStore
from coldstart.serving.store.publication_log import ItemRow, PublishedItem, item_digest
from coldstart.serving.store.row_layout import Row
from coldstart.serving.store.store_bootstrap import open_store
from tests.serving.local import LocalModels
from tests.serving.tiny import IDS, ITEMS, content, proxy_rows, read_run, tiny_recipe, write_run, write_scorer

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with models."""
    recipe = tiny_recipe(tmp_path_factory.mktemp("runs"), "fresh")
    write_run(recipe)
    return recipe


@pytest.fixture
def recipe(run, tmp_path):
    """The same models with a catalog and a store for one test."""
    runs = tmp_path / "runs"
    (runs / "fresh").mkdir(parents=True)
    for kind in ("ranker", "encoder", SCORER, ITEM_TABLE):
        (runs / "fresh" / kind).symlink_to(run.run_dir / kind)
    recipe = run.model_copy(
        update={
            "paths": run.paths.model_copy(update={"runs": runs}),
            "data": Data(source="files", files=Files(root=tmp_path, columns=Columns(text="text"))),
            "cluster": Cluster(embed_actors=1),
            "refresh": Refresh(batch=2),
        }
    )
    events = {"user_id": ["u"], "item_id": [IDS[0]], "timestamp": [100], "label": [1]}
    pq.write_table(pa.table(events), tmp_path / "events.parquet")
    write_items(recipe, {name: content(index) for index, name in enumerate(IDS, start=1)})
    return recipe


def write_items(recipe, contents: dict[str, Content], **more: list[object]) -> None:
    columns = {
        "item_id": list(contents),
        "title": [one.title for one in contents.values()],
        "text": pa.array([one.text for one in contents.values()], pa.string()),
        "image": pa.array([one.image for one in contents.values()], pa.binary()),
    }
    pq.write_table(pa.table(columns | more), recipe.data.files.root / "items.parquet", row_group_size=5)


def release_of(recipe, name=SCORER) -> Release:
    first = read_run(recipe)
    return replace(first, parts={**first.parts, SCORER: read_artifact(recipe.run_dir / name, SCORER)})


def store_of(recipe, release) -> ItemStore:
    return open_store(release, recipe.run_dir / "store", recipe.serving.store)


def row_of(release, item_content: Content) -> Row:
    return asyncio.run(LocalModels(release).row(item_content))


def check_row(store, name, release, item_content, index=0) -> None:
    """Compares all columns of a stored row with those of the release's own models."""
    found, expected = store.row(name, index), row_of(release, item_content)
    assert found.dtype == expected.dtype
    for column in expected.dtype.names:
        np.testing.assert_allclose(found[column], expected[column], atol=1e-5)


def known(**changed: Content) -> dict[str, Content]:
    return {name: content(index) for index, name in enumerate(IDS, start=1)} | changed


def test_an_image_that_cannot_be_read_replaces_no_known_item(recipe):
    release, root = release_of(recipe), recipe.data.files.root
    for index, name in enumerate(IDS, start=1):
        (root / f"{name}.png").write_bytes(content(index).image)

    def refresh_with(image_of_new: str):
        write_items(recipe, known() | {"new-1": Content("only words")})
        table = pq.read_table(root / "items.parquet")
        images = pa.array([*(f"{name}.png" for name in IDS), image_of_new])
        pq.write_table(table.set_column(3, "image", images), root / "items.parquet", row_group_size=5)
        return refresh(recipe, release)

    first = refresh_with("new-1.png")
    assert (first.rejected, first.changed, first.published) == (0, 1, 1)
    (root / "new-1.png").write_bytes(content(3).image)
    (root / f"{IDS[0]}.png").unlink()
    second = refresh_with("./new-1.png")
    assert (second.rejected, second.changed, second.published) == (1, 1, 1)
    store = store_of(recipe, release)
    assert store.publication_log.find("new-1").content == Content("only words", None, content(3).image)
    assert store.publication_log.find(IDS[0]) is None
    store.close()


def test_new_and_changed_items_are_published_once(recipe):
    release = release_of(recipe)
    first = refresh(recipe, release)
    assert (first.rows, first.changed, first.published, first.files) == (ITEMS, 0, 0, 1)
    later = {"new-1": content(3), "new-2": Content("only words"), "": content(1), "silent": Content()}
    write_items(recipe, known(**{IDS[-1]: Content("another title"), IDS[0]: Content("changed, but trained")}) | later)
    second = refresh(recipe, release)
    assert (second.rows, second.rejected, second.changed, second.published) == (ITEMS + 4, 2, 4, 4)
    assert (second.backfilled, len(second.delays_s)) == (0, 4)
    assert 0 < second.as_dict()["freshness_s"]["p50"] <= second.as_dict()["freshness_s"]["p99"]
    store = store_of(recipe, release)
    check_row(store, "new-1", release, content(3))
    check_row(store, IDS[-1], release, Content("another title"), ITEMS)
    item = store.publication_log.find("new-1")
    assert (item.origin, item.content) == ("catalog", content(3))
    store.close()
    assert refresh(recipe, release).files == 0
    os.utime(recipe.data.files.root / "items.parquet")
    again = refresh(recipe, release)
    assert (again.rows, again.changed) == (ITEMS + 4, 0)


def test_an_older_row_does_not_replace_an_item_published_over_the_api(recipe):
    release = release_of(recipe)
    refresh(recipe, release)
    store = store_of(recipe, release)
    by_hand = Content("by hand")
    now = time.time()
    row = ItemRow(proxy_rows(np.ones((1, 8)))[0])
    item = PublishedItem("new", by_hand, None, now, "api", item_digest(by_hand, None))
    store.publication_log.publish([(item, row), (PublishedItem("gone", by_hand, None, now, "api", ""), row)])
    store.publication_log.withdraw("gone")
    columns = recipe.data.files.columns.model_copy(update={"created_at": "at"})
    files = recipe.data.files.model_copy(update={"columns": columns})
    dated = recipe.model_copy(update={"data": recipe.data.model_copy(update={"files": files})})
    rows = known(new=content(5), gone=content(6))
    write_items(dated, rows, at=[int(now) - 50] * len(rows))
    assert refresh(dated, release).changed == 0
    write_items(dated, rows, at=[int(now) + 50] * len(rows))
    assert refresh(dated, release).published == 1
    store.catch_up()
    check_row(store, "new", release, content(5))
    assert store.is_withdrawn("gone")
    store.close()


def test_rows_older_than_the_watermark_are_skipped(recipe):
    release = release_of(recipe)
    marked = recipe.model_copy(update={"refresh": Refresh(batch=2, updated_at="at", allowed_lateness_s=10)})
    write_items(marked, known(), at=[1000] * ITEMS)
    assert refresh(marked, release).rows == ITEMS
    write_items(marked, known(new=content(4)), at=[980] * ITEMS + [995])
    second = refresh(marked, release)
    assert (second.rows, second.published) == (1, 1)
    with pytest.raises(UserError, match=r"refresh.updated_at: the items table has no column 'when'"):
        refresh(recipe.model_copy(update={"refresh": Refresh(updated_at="when")}), release)


def test_published_items_are_encoded_again_for_another_release(recipe):
    """First encoded for a frozen scorer, then for one of joint mode."""
    release = release_of(recipe)
    write_items(recipe, known(new=content(7)))
    refresh(recipe, release)
    write_scorer(recipe.run_dir, "joint", "other")
    other = release_of(recipe, "other")
    assert reencode_published(recipe, other) == 1
    assert reencode_published(recipe, other) == 0
    for one in (release, other):
        store = store_of(recipe, one)
        check_row(store, "new", one, content(7))
        store.close()
    # The catalog contains nothing that is missing in the new space.
    assert refresh(recipe, other).changed == 0


def test_a_killed_refresh_resumes(recipe, tmp_path):
    """SIGKILL to the real job after its first items are stored: nothing is lost, and nothing is done twice."""
    fresh = {f"new-{number}": Content(f"film {number}") for number in range(200)}
    write_items(recipe, known(**fresh))
    release = release_of(recipe)
    store = store_of(recipe, release)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    program = (
        "import sys; from pathlib import Path; from coldstart.config import load_recipe; "
        "from tests.jobs.serving.test_refresh import release_of; from coldstart.jobs.runner import ray_cluster; "
        "from coldstart.jobs.serving.refresh import refresh\n"
        "recipe = load_recipe(Path(sys.argv[1]))\n"
        "with ray_cluster(recipe): refresh(recipe, release_of(recipe))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "recipe.yaml")], env=environment) as job:
        while not store.publication_log.states():
            assert job.poll() is None
            time.sleep(0.01)
        job.send_signal(signal.SIGKILL)
    stored = len(store.publication_log.states())
    assert 0 < stored < len(fresh)
    done = refresh(recipe, release)
    assert done.published == len(fresh) - stored
    standing = store.publication_log.states()
    assert standing.keys() == fresh.keys()
    revisions = [change.revision for change in store.publication_log.changes(0, 1000)]
    assert revisions == list(range(1, len(fresh) + 1))
    store.close()
