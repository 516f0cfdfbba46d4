"""The console: its HTTP paths, and the page in a real Chromium with tiny real models."""

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from coldstart.config import read_artifact, write_artifact
from coldstart.config.recipe import Data, Serving
from coldstart.data.schema import ITEMS as ITEM_COLUMNS
from coldstart.data.schema import ITEMS_PER_ROW_GROUP, SEQUENCES, TRAIN
from coldstart.rankers.storage import load_id_embeddings
from coldstart.serving.api.app import make_app
from coldstart.serving.api.routes.console import PAGES
from coldstart.serving.api.schemas import ReleaseResponse
from coldstart.serving.console import DatasetSamples
from coldstart.serving.deployment.gateway import Gateway, ReleaseSpec
from coldstart.serving.store.item_store import ItemStore
from tests.serving.console_page import Visit, in_chromium, open_browser
from tests.serving.local import LocalModels, listening
from tests.serving.tiny import (
    IDS,
    ITEMS,
    PROXY_COLUMNS,
    TRAINED,
    content,
    fill_store,
    png_image,
    read_run,
    tiny_recipe,
    write_run,
)

USERS, EVENTS = 9, 10


def write_dataset(path) -> str:
    """Writes the items of the tiny run (one without an image) and users with events; returns the fingerprint."""
    rng = np.random.default_rng(0)
    contents = [content(index) for index in range(1, ITEMS + 1)]
    contents[0] = replace(contents[0], image=None)
    train_counts = [0 if index > TRAINED else 5 for index in range(1, ITEMS + 1)]
    columns = {
        "item_idx": range(1, ITEMS + 1),
        "item_id": IDS,
        "title": [one.title for one in contents],
        "text": [one.text for one in contents],
        "image": [one.image for one in contents],
        "created_at": [None] * ITEMS,
        "first_event_at": [None] * ITEMS,
        "num_train_events": train_counts,
        "num_train_clicks": train_counts,
    }
    events = {
        "user_idx": range(USERS),
        "user_id": [f"user {number}" for number in range(USERS)],
        "item_idx": rng.integers(1, TRAINED + 1, (USERS, EVENTS)).tolist(),
        "label": rng.integers(0, 2, (USERS, EVENTS)).tolist(),
        "timestamp": [list(range(1000, 1000 + EVENTS))] * USERS,
        "split": [[TRAIN] * EVENTS] * USERS,
    }
    with write_artifact(path, "dataset", {}, {"items": ITEMS}) as draft:
        for name, table in (("items", pa.table(columns, ITEM_COLUMNS)), ("sequences", pa.table(events, SEQUENCES))):
            (draft / name).mkdir()
            pq.write_table(table, draft / name / "part-00000.parquet", row_group_size=ITEMS_PER_ROW_GROUP)
    return read_artifact(path, "dataset").fingerprint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = tiny_recipe(tmp_path_factory.mktemp("runs"), "console")
    write_run(recipe)
    return recipe.run_dir, write_dataset(recipe.run_dir / "dataset"), LocalModels(read_run(recipe))


def make_gateway(run, store, *, fingerprint=None, **settings) -> Gateway:
    run_dir, dataset, models = run
    fill_store(store, "a" * 64, np.zeros((ITEMS + 1, 8), np.float32))
    space, known = ItemStore(store, "a" * 64, PROXY_COLUMNS), load_id_embeddings(run_dir / "ranker")
    space.neighbors.write(IDS[:TRAINED], known.rows[1 : TRAINED + 1].numpy())
    space.close()
    release = ReleaseResponse(
        release="console-scorer/1",
        project="console",
        alias="champion",
        versions={},
        fingerprints={"scorer": "a" * 64, "dataset": fingerprint or dataset},
    )
    serving, data = Serving.model_validate(settings), Data(max_image_bytes=50_000)
    served = ReleaseSpec(
        release, "idproxy", {kind: run_dir / kind for kind in ("ranker", "encoder", "scorer")}, None, None, None
    )
    gateway = Gateway([served], None, serving, data, store, dataset=run_dir / "dataset")
    gateway.champion.models = models
    return gateway


@pytest.fixture
def gateway(run, tmp_path) -> Gateway:
    return make_gateway(run, tmp_path)


@pytest.fixture
def client(gateway) -> TestClient:
    return TestClient(make_app(gateway), base_url="http://127.0.0.1")


def test_the_page_may_load_only_its_own_files(client):
    for path, (_, media) in PAGES.items():
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == media
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert set(re.findall(r"\w+://[^\s\"')]+", answer.text)) <= {"http://www.w3.org/2000/svg"}
        assert " style=" not in answer.text


def test_preview_returns_neighbors_and_rates_and_stores_nothing(client, gateway):
    answer = client.post("/v1/console/preview", json={"title": "film number 3"}).raise_for_status().json()
    near = answer["neighbors"]
    assert len(near) == 6
    assert [one["cosine"] for one in near] == sorted((one["cosine"] for one in near), reverse=True)
    assert {one["item_id"] for one in near} <= set(IDS[:TRAINED])
    for one in near:
        assert one["title"].startswith("film number")
        assert (one["image"] is None) == (one["item_id"] == IDS[0])
    assert answer["histories"] == "dataset"
    assert answer["no_images_reason"] is None
    assert len(answer["users"]) == USERS
    assert all(0 < user["proxy"] < 1 and user["proxy"] != user["oov"] for user in answer["users"])
    assert client.post("/v1/rank", json={"candidates": [{"title": "film number 3"}]}).json()["slot_sources"] == [
        "proxy"
    ]
    assert client.get(f"/v1/items/{IDS[-1]}x").status_code in (404, 405)


def test_rates_equal_the_scores_of_the_rank_api(client, gateway, run):
    preview = client.post("/v1/console/preview", json={"title": "film number 3"}).json()
    samples = DatasetSamples(gateway.dataset, run[1], gateway.champion.catalog, gateway.data)
    for user, rates in zip(samples.users(), preview["users"], strict=True):
        history = [
            {"item_id": item, "label": int(label), "timestamp": int(at)}
            for item, label, at in zip(user.history_ids, user.label, user.timestamp, strict=True)
        ]
        candidates = [{"title": "film number 3"}, {"item_id": "nobody"}]
        body = {"history": history, "candidates": candidates, "now": int(user.timestamp[-1]) + 1}
        scores = client.post("/v1/rank", json=body).json()["scores"]
        assert [rates["proxy"], rates["oov"]] == pytest.approx(scores, abs=1e-5)


def test_example_is_an_item_without_train_events(client):
    example = client.get("/v1/console/example").json()
    assert example["item_id"] in IDS[TRAINED:]
    assert example["image"].startswith("data:image/")


@pytest.mark.parametrize("dataset", ["nowhere", "another"])
def test_a_missing_dataset_is_reported(run, tmp_path, dataset):
    gateway = make_gateway(run, tmp_path, fingerprint="e" * 64 if dataset == "another" else None)
    if dataset == "nowhere":
        gateway.dataset = tmp_path / "nowhere"
    client = TestClient(make_app(gateway), base_url="http://127.0.0.1")
    answer = client.post("/v1/console/preview", json={"title": "film"}).raise_for_status().json()
    assert answer["no_images_reason"].startswith("No images: ")
    assert str(tmp_path) not in answer["no_images_reason"]
    assert answer["histories"] == "synthetic"
    assert answer["users"]
    assert {one["image"] for one in answer["neighbors"]} == {None}
    assert client.get("/v1/console").json()["example"] is False
    assert client.get("/v1/console/example").status_code == 404


@pytest.mark.parametrize("body", [{}, {"title": ""}, {"image": "%"}, {"title": "t", "url": "http://x"}])
def test_preview_refuses_invalid_content(client, body):
    assert client.post("/v1/console/preview", json=body).status_code == 422


@pytest.fixture(scope="module")
def browser():
    with open_browser() as found:
        yield found


DROP = """(bytes) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "new.png", { type: "image/png" }));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.getElementById("drop").dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true }));
}"""


@in_chromium
def test_a_dropped_image_and_a_title_show_neighbors_and_rates(browser, gateway):
    with listening(make_app(gateway)) as url:
        visit = Visit(browser, url)
        page = visit.page
        page.evaluate(DROP, list(png_image(70)))
        page.wait_for_selector("#chosen-image[src^='data:image/png']")
        page.get_by_label("Title").fill("film number 9")
        page.get_by_role("button", name="Preview", exact=True).click()
        visit.wait_for_preview()
        assert page.locator("#shelf li").count() == 6
        assert page.locator("#shelf img").count() >= 5
        assert re.search(r"\d % with the proxy, [\d.]+ % as an unknown item", page.inner_text("#summary"))
        assert page.locator("#users tr").count() == 6
        assert page.locator("#histogram .bin-proxy").count() == page.locator("#histogram .bin-oov").count() > 10
        assert "console-scorer/1" in page.inner_text("#release")
        assert page.get_by_role("alert").count() == 0
        assert "nothing" not in page.inner_text("#shelf")
        assert (visit.problems, visit.hosts - {""}) == ([], {url.split("/")[2]})


@in_chromium
def test_the_page_can_be_used_with_the_keyboard_alone(browser, gateway):
    with listening(make_app(gateway)) as url:
        visit = Visit(browser, url)
        page, reached = visit.page, []
        page.wait_for_selector("#example:not([hidden])")
        for _ in range(10):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
            if reached[-1] == "title":
                page.keyboard.type("film number 9")
            elif reached[-1] == "example":
                break
        assert reached == ["skip", "image", "title", "text", "preview", "example"]
        page.keyboard.press("Enter")
        visit.wait_for_status("Filled in")
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        visit.wait_for_preview()
        assert page.evaluate("document.activeElement.id") == "preview"
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.type("by-keyboard")
        page.keyboard.press("Enter")
        visit.wait_for_status("by-keyboard is published")
        assert visit.problems == []


@in_chromium
@pytest.mark.parametrize(
    "context",
    [
        {"color_scheme": "light"},
        {"color_scheme": "dark", "reduced_motion": "reduce"},
        {"viewport": {"width": 360, "height": 700}, "color_scheme": "light"},
    ],
    ids=["light", "dark", "phone"],
)
def test_axe_finds_no_violation(browser, gateway, context):
    with listening(make_app(gateway)) as url:
        visit = Visit(browser, url, **context)
        assert visit.violations() == []
        visit.page.get_by_label("Title").fill("film number 9")
        visit.page.get_by_role("button", name="Preview", exact=True).click()
        visit.wait_for_preview()
        assert visit.violations() == []
        assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        visit.page.get_by_label("Title").fill("")
        visit.page.get_by_role("button", name="Preview", exact=True).click()
        visit.page.get_by_role("alert").wait_for()
        assert visit.violations() == []


@in_chromium
def test_a_token_is_requested_and_kept_in_memory_only(browser, run, tmp_path):
    from coldstart.serving.api.tokens import new_token

    file = tmp_path / "tokens"
    token = new_token(file, "me")
    gateway = make_gateway(run, tmp_path, security={"tokens_file": file})
    with listening(make_app(gateway)) as url:
        visit = Visit(browser, url)
        page = visit.page
        page.get_by_role("dialog").wait_for()
        assert page.evaluate("document.activeElement.id") == "token"
        assert visit.violations() == []
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.get_by_text("That token is not accepted").wait_for()
        page.keyboard.type(token)
        page.keyboard.press("Enter")
        page.wait_for_selector("#release:not([hidden])")
        page.get_by_label("Title").fill("film number 9")
        page.get_by_role("button", name="Preview", exact=True).click()
        visit.wait_for_preview()
        kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        assert kept == '[{},{},""]'
        assert token not in page.content()
        page.reload()
        page.get_by_role("dialog").wait_for()


@in_chromium
def test_a_failure_is_shown_and_can_be_retried(browser, gateway):
    with listening(make_app(gateway)) as url:
        page = Visit(browser, url).page
        page.get_by_label("Title").fill("film number 9")
        page.route("**/v1/console/preview", lambda route: route.abort())
        page.get_by_role("button", name="Preview", exact=True).click()
        page.get_by_role("alert").get_by_text("does not answer").wait_for()
        page.unroute("**/v1/console/preview")
        page.get_by_role("button", name="Preview", exact=True).click()
        page.wait_for_selector("#shelf li")
        assert page.get_by_role("alert").count() == 0
