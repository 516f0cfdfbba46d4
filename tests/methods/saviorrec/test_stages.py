"""All stages of SaviorRec in this process, and what they make: registered models, a release, a server."""

import base64
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fastapi.testclient import TestClient

from coldstart.config import Recipe, UserError, read_artifact, write_artifact
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable, write_item_table
from coldstart.data.schema import ITEMS as ITEM_SCHEMA
from coldstart.data.schema import SEQUENCES
from coldstart.methods.available import METHODS
from coldstart.methods.base import ITEM_TABLE, SCORER, Method, adapt
from coldstart.methods.saviorrec import stages
from coldstart.methods.saviorrec.config import Settings
from coldstart.methods.saviorrec.model import CODES, CONTENT
from coldstart.methods.saviorrec.stages import quantizer_settings
from coldstart.rankers import DinDcn, save_ranker
from coldstart.registry import Release
from coldstart.registry.release import check_consistent
from coldstart.serving.core.golden_requests import golden_metrics
from tests.serving.console_page import Visit, in_chromium, open_browser
from tests.serving.deployment.test_application import largest_gap
from tests.serving.local import listening, local_client
from tests.serving.test_content_history import clicked
from tests.serving.tiny import HISTORY, IDS, ITEMS, TRAINED, content

METHOD = METHODS["saviorrec"]
SIZES = (4, 2)


def make_recipe(runs, mode="joint", **rank) -> Recipe:
    options = {"epochs": 2, "attention_width": 8, "fusion_units": 8, "mlp_units": [8], "windows_per_step": 8}
    return Recipe.model_validate(
        {
            "name": "savior",
            "paths": {"runs": runs},
            "ranker": {"embedding_dim": 8, "mlp_units": [16], "max_history": HISTORY, "cross_layers": 1},
            "encoder": {"image_size": 32, "max_text_tokens": 12},
            "method": {
                "name": "saviorrec",
                "mode": mode,
                "encoder": {"train": "none"},
                "quantizer": {"sizes": SIZES, "epochs": 2, "batch": 8, "min_steps": 20, "code_width": 4},
                "rank": {**options, **rank},
            },
        }
    )


def write_dataset(run, *, seed: int = 0, users: int = 24, images: bool = True) -> None:
    """Users who like even or odd items; the last items occur after training only."""
    rng, rows = np.random.default_rng(seed), []
    split = np.repeat([0, 1, 2], [14, 4, 6])
    for user in range(users):
        last = np.where(split == 0, TRAINED, ITEMS)
        item = rng.integers(1, last + 1)
        lists = {"item_idx": item, "label": (item + user) % 2, "timestamp": np.arange(24) * 100, "split": split}
        rows.append({"user_idx": user, "user_id": f"u{user}", **{name: v.tolist() for name, v in lists.items()}})
    seen = np.concatenate([np.array(row["item_idx"])[split == 0] for row in rows])
    counts = np.bincount(seen, minlength=ITEMS + 1)[1:]
    contents = [content(index) if images else replace(content(index), image=None) for index in range(1, ITEMS + 1)]
    items = {
        "item_idx": np.arange(1, ITEMS + 1),
        "item_id": IDS,
        **{name: [getattr(one, name) for one in contents] for name in ("title", "text", "image")},
        **{name: [0] * ITEMS for name in ("created_at", "first_event_at")},
        "num_train_events": counts,
        "num_train_clicks": counts // 2,
    }
    with write_artifact(run / "dataset", "dataset", {}, {"items": ITEMS, "users": users}) as draft:
        tables = {"items": pa.table(items, schema=ITEM_SCHEMA), "sequences": pa.Table.from_pylist(rows, SEQUENCES)}
        for name, table in tables.items():
            (draft / name).mkdir()
            pq.write_table(table, draft / name / "part-00000.parquet", row_group_size=16)


def write_ranker(recipe: Recipe) -> None:
    torch.manual_seed(0)
    ranker = DinDcn(ITEMS + 1, recipe.ranker)
    torch.nn.init.normal_(ranker.id_table.weight, std=0.3)
    ranker.trained[1 : TRAINED + 1] = True
    dataset = read_artifact(recipe.run_dir / "dataset", "dataset")
    with write_artifact(recipe.run_dir / "ranker", "ranker", {"dataset": dataset.fingerprint}, {}) as draft:
        save_ranker(ranker, draft, IDS)


def embed(recipe: Recipe, method: Method = METHOD) -> None:
    """What the embed job does, without its actors."""
    encoder = read_artifact(recipe.run_dir / "encoder", "encoder")
    dataset = Dataset.open(recipe.run_dir / "dataset")
    columns = method.load_encoder({"encoder": encoder.path}, "cpu").encode(dataset.contents(np.arange(1, ITEMS + 1)))
    lineage = {"dataset": dataset.artifact.fingerprint, "encoder": encoder.fingerprint}
    with write_artifact(recipe.run_dir / ITEM_TABLE, ITEM_TABLE, lineage, {}) as draft:
        write_item_table(draft, {name: np.concatenate([0 * v[:1], v]) for name, v in columns.items()})


@pytest.fixture(scope="module")
def in_process():
    """Ranks are this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coldstart.training.stage.launch", lambda worker, payload, **_: worker(payload))
        yield


@pytest.fixture(scope="module", params=["joint", "frozen"])
def recipe(request, in_process, tmp_path_factory) -> Recipe:
    made = make_recipe(tmp_path_factory.mktemp("runs"), request.param)
    write_dataset(made.run_dir)
    write_ranker(made)
    stages.run_encoder(made)
    embed(made)
    for run in (stages.run_pairs, stages.run_quantizer, stages.run_scorer):
        run(made)
    return made


@pytest.fixture
def release(recipe) -> Release:
    parts = {kind.name: read_artifact(recipe.run_dir / kind.name, kind.name) for kind in METHOD.kinds}
    items = read_artifact(recipe.run_dir / ITEM_TABLE, ITEM_TABLE)
    return Release("savior", None, METHOD.name, dict.fromkeys(parts, 1), items.lineage["dataset"], parts, items)


def test_the_release_is_consistent_and_its_manifests_describe_it(recipe, release):
    check_consistent(release)
    encoder, quantizer, scorer = (release.parts[kind].metadata for kind in ("encoder", "quantizer", SCORER))
    assert encoder["width"] == TRAINED  # As many components as there are train items.
    assert encoder["variance_kept"] == pytest.approx(1, abs=1e-3)
    assert quantizer["sizes"] == list(SIZES)
    assert {"perplexity", "utilization", "unique_ids", "largest_bucket", "relative_error", "purity"} == set(
        quantizer["train"]
    )
    assert quantizer["cold"]["largest_bucket"] <= ITEMS - TRAINED
    assert (scorer["mode"], scorer["levels"]) == (recipe.method.mode, len(SIZES))
    pairs = read_artifact(recipe.run_dir / "pairs", "pairs")
    assert pairs.metadata["share_without_pairs"]["cold"] == 1.0
    assert release.parts["quantizer"].lineage["pairs"] == pairs.fingerprint


def test_every_registered_model_predicts_from_its_example(release):
    for kind in METHOD.kinds:
        artifact = release.parts[kind.name]
        found = kind.load(artifact.path).predict(pd.DataFrame([kind.example(artifact, release.items)]))
        assert set(found) == {field.name for field in kind.outputs}, kind.name
        assert np.isfinite(np.concatenate([np.ravel(value) for value in found.iloc[0]])).all()


def test_content_vectors_have_unit_length_and_differ(release):
    content_vectors = ItemTable.open(release.items.path).columns[CONTENT]
    assert torch.allclose(content_vectors[1:].norm(dim=1), torch.ones(ITEMS), atol=1e-5)
    cosines = (content_vectors[1:] @ content_vectors[1:].T)[~torch.eye(ITEMS, dtype=torch.bool)]
    assert cosines.abs().mean() < 0.6


def test_variants_are_the_served_scorer_and_the_one_without_correction(recipe, release):
    parts = release.paths
    variants = {one.name: one for one in METHOD.variants(recipe, None, parts)}
    assert set(variants) == {"uncorrected", "release"}
    assert set(Settings.variants) <= set(variants)
    assert variants["release"].load(parts).mba is not None
    assert variants["uncorrected"].load(parts).mba is None


def test_golden_requests_have_no_gap(release):
    assert golden_metrics(release)["online_offline_gap"] < 1e-5


def test_a_quantizer_of_another_run_is_refused(release, tmp_path):
    other = release.parts["quantizer"]
    with write_artifact(tmp_path / "quantizer", "quantizer", other.lineage, {**other.metadata, "seed": 9}) as draft:
        for file in ("quantizer.json", "quantizer.safetensors"):
            (draft / file).write_bytes((other.path / file).read_bytes())
    parts = {**release.parts, "quantizer": read_artifact(tmp_path / "quantizer", "quantizer")}
    with pytest.raises(
        UserError, match=r"the scorer was made with quantizer .* run the stages from the scorer on again"
    ):
        check_consistent(replace(release, parts=parts))


def test_a_stale_stage_is_named_before_training(recipe):
    lineage = read_artifact(recipe.run_dir / "quantizer", "quantizer").lineage
    path = recipe.run_dir / "encoder"
    aside = path.rename(path.with_name("encoder-aside"))
    try:
        with write_artifact(path, "encoder", {"dataset": lineage["dataset"]}, {"other": 1}):
            pass
        with pytest.raises(UserError, match=r"the item_table in .* was made from another encoder than the one there"):
            stages.run_scorer(recipe)
    finally:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
        aside.rename(path)


@pytest.fixture
def client(release, tmp_path) -> TestClient:
    return local_client(release, tmp_path / "store")


def test_served_scores_equal_the_offline_scores_of_the_same_rows(client, release):
    worst, sources = largest_gap(client, release, rows=200)
    assert worst < 1e-5
    assert {index for index, source in sources if source == "oov"} == {0}


def test_an_item_published_a_second_ago_is_scored_and_read_in_the_history(client, release):
    """It has the content of item 3 and no ID, so it is scored like an item without an ID and with the row of item 3."""
    body = {"history": clicked(IDS[0], "new"), "candidates": [{"item_id": IDS[1]}, {"item_id": "new"}], "now": 100}
    before = client.post("/v1/rank", json=body).raise_for_status().json()["scores"]
    same = content(3)
    item = {"item_id": "new", "title": same.title, "text": same.text}
    if same.image:
        item["image"] = base64.b64encode(same.image).decode()
    client.post("/v1/items", json=item).raise_for_status()
    after = client.post("/v1/rank", json=body).raise_for_status().json()["scores"]
    assert abs(after[0] - before[0]) > 1e-7
    assert abs(after[1] - before[1]) > 1e-7
    codes = [client.get(f"/v1/items/{name}").raise_for_status().json()["semantic_id"] for name in ("new", IDS[2])]
    assert codes[0] == codes[1]
    assert len(codes[0]) == len(SIZES)
    assert all(1 <= code <= size for code, size in zip(codes[0], SIZES, strict=True))
    neighbors = client.get("/v1/items/new/neighbors?k=3").raise_for_status().json()["neighbors"]
    assert len(neighbors) == 3


def test_the_console_shows_what_shares_the_codes_of_a_new_item(client):
    same = content(3)
    preview = client.post("/v1/console/preview", json={"title": same.title, "text": same.text})
    levels = preview.raise_for_status().json()["code_path"]
    codes = {name: client.get(f"/v1/items/{name}").json()["semantic_id"] for name in IDS}
    own = levels[-1]["codes"]
    assert [level["codes"] for level in levels] == [own[: level + 1] for level in range(len(SIZES))]
    for level in levels:
        sharing = [name for name in IDS if codes[name][: len(level["codes"])] == level["codes"]]
        assert level["items"] == len(sharing)
        assert {one["item_id"] for one in level["nearest"]} <= set(sharing)
        assert len(level["nearest"]) == min(4, len(sharing))


@in_chromium
def test_the_console_draws_the_code_path(client):
    with listening(client.app) as url, open_browser() as browser:
        visit = Visit(browser, url)
        visit.page.get_by_label("Title").fill(content(3).title)
        visit.page.get_by_role("button", name="Preview", exact=True).click()
        visit.wait_for_preview()
        levels = visit.page.locator("#code-path > li")
        assert levels.count() == len(SIZES)
        first = levels.nth(0)
        assert re.fullmatch(r"\d+ shared by \d+ items?", first.locator(".codes").inner_text())
        assert 1 <= first.locator(".shelf li").count() <= 4
        assert visit.page.get_by_role("heading", name="Semantic ID").is_visible()
        assert visit.violations() == []
        assert visit.problems == []


def test_shuffled_codes_are_served_as_they_were_trained(recipe, in_process, tmp_path):
    """The same stages with the ablation, in a copy of the run."""
    shuffled = make_recipe(tmp_path, recipe.method.mode, ablate={"shuffled_codes": True})
    shuffled.run_dir.mkdir()
    for kind in ("dataset", "ranker", "encoder", ITEM_TABLE, "quantizer"):
        (shuffled.run_dir / kind).symlink_to(recipe.run_dir / kind)
    scorer = stages.run_scorer(shuffled)
    parts = {kind: recipe.run_dir / kind for kind in ("ranker", "encoder", "quantizer")} | {SCORER: scorer.path}
    items = ItemTable.open(recipe.run_dir / ITEM_TABLE)
    codes = adapt(METHOD.load_adaptor(parts), items).columns[CODES]
    own = adapt(METHOD.load_adaptor({**parts, SCORER: recipe.run_dir / SCORER}), items).columns[CODES]
    assert not torch.equal(codes, own)
    assert {tuple(row) for row in codes[1:].tolist()} <= {tuple(row) for row in own[1:].tolist()}


@pytest.mark.parametrize(("items", "size"), [(10, 16), (1_000, 32), (4_000, 64), (10_000_000, 256)])
def test_codebooks_grow_with_the_root_of_the_catalog(items, size):
    assert quantizer_settings(Settings(), items, seed=1).sizes == (size,) * 3
