import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from coldstart.config import Artifact, MetricsLog, Recipe, UserError, read_artifact, write_artifact
from coldstart.config.recipe import Paths, Split
from coldstart.data.batches import UserWindows
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import write_item_table
from coldstart.data.schema import ITEMS, ORACLE, SEQUENCES, TEST
from coldstart.encoders.item_embeddings import single_modality_dir
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.jobs.analysis import evaluate
from coldstart.jobs.analysis.evaluate import open_artifacts
from coldstart.methods.available import find_method
from coldstart.methods.idproxy.adaptor import Adaptor, save_adaptor
from coldstart.methods.idproxy.item_vectors import ProxyVectors
from coldstart.methods.idproxy.joint_ranker import JointRanker, save_joint
from coldstart.metrics.clicks import auc
from coldstart.rankers import DinDcn, load_ranker, save_ranker
from coldstart.training.ctr_trainer import score_targets
from tests.cli.conftest import Command, coldstart

__all__ = ["coldstart"]

KINDS = ("dataset", "ranker", "encoder", "item_table", "scorer")


def _make(run: Path, kind: str, sources: tuple[str, ...], metadata: dict[str, int] | None = None) -> None:
    lineage = {source: read_artifact(run / source, source).fingerprint for source in sources}
    with write_artifact(run / kind, kind, lineage, dict(metadata or {})) as draft:
        (draft / "file").write_text(kind)


@pytest.fixture
def empty(tmp_path: Path) -> Recipe:
    """A run with matching lineage and no content."""
    recipe = Recipe.model_validate({"name": "empty", "paths": {"runs": tmp_path}})
    for place, kind in enumerate(KINDS):
        _make(recipe.run_dir, kind, KINDS[:place])
    return recipe


def test_artifacts_with_matching_lineage_are_opened(empty: Recipe) -> None:
    assert tuple(open_artifacts(empty)) == KINDS


def test_an_item_table_of_another_encoder_than_the_scorers_is_refused(empty: Recipe) -> None:
    _make(empty.run_dir, "encoder", ("dataset", "ranker"), {"trained": 2})
    _make(empty.run_dir, "item_table", ("dataset", "ranker", "encoder"))
    with pytest.raises(UserError, match=r"the scorer in .* was made from encoder .*; run align_fine again"):
        open_artifacts(empty)


def test_the_first_stage_with_wrong_lineage_is_named(empty: Recipe) -> None:
    _make(empty.run_dir, "dataset", (), {"seed": 2})
    with pytest.raises(UserError, match=r"the ranker in .* was made from dataset .*; run train_ranker again"):
        open_artifacts(empty)


def test_a_missing_stage_is_named(empty: Recipe) -> None:
    (empty.run_dir / "scorer" / "manifest.json").unlink()
    with pytest.raises(UserError, match="no scorer at"):
        open_artifacts(empty)


ITEMS_IN_ALL, COLD, USERS, EVENTS, WIDTH = 60, 20, 80, 60, 8


def _lineage(run: Path, *sources: str) -> dict[str, str]:
    return {source: read_artifact(run / source, source).fingerprint for source in sources}


def _dataset(run: Path, traits: np.ndarray) -> None:
    """Users click items that match their preferences. The last items occur only in the test split."""
    rng = np.random.default_rng(0)
    rows = []
    split = np.repeat([0, 1, 2], [EVENTS - 24, 4, 20])
    for user in range(USERS):
        known = rng.integers(1, ITEMS_IN_ALL - COLD + 1, EVENTS)
        item = np.where(split == 2, rng.integers(1, ITEMS_IN_ALL + 1, EVENTS), known)
        truth = 1 / (1 + np.exp(-traits[item] @ rng.normal(size=traits.shape[1])))
        lists = {"item_idx": item, "label": rng.uniform(size=EVENTS) < truth, "timestamp": np.arange(EVENTS) * 100}
        lists |= {"split": split, "p_click": truth, "p_click_content": truth}
        rows.append({"user_idx": user, "user_id": f"u{user}", **{key: (v * 1).tolist() for key, v in lists.items()}})
    schema = SEQUENCES
    for name in ORACLE:
        schema = schema.append(pa.field(name, pa.list_(pa.float32())))
    sequences = pa.Table.from_pylist(rows, schema=schema)
    seen = np.concatenate([np.array(row["item_idx"])[split == 0] for row in rows])
    counts = np.bincount(seen, minlength=ITEMS_IN_ALL + 1)[1:]
    items = {"item_idx": np.arange(1, ITEMS_IN_ALL + 1), "item_id": [f"i{n}" for n in range(ITEMS_IN_ALL)]}
    items |= {"title": [f"item {n}" for n in range(ITEMS_IN_ALL)], "text": [None] * ITEMS_IN_ALL}
    items |= {"image": [None] * ITEMS_IN_ALL, "first_event_at": [0] * ITEMS_IN_ALL}
    items |= {"created_at": [None, *range(-1, -ITEMS_IN_ALL, -1)]}
    items |= {"num_train_events": counts, "num_train_clicks": counts // 2}
    metadata = {"items": ITEMS_IN_ALL, "users": USERS, "events": USERS * EVENTS, "oracle": True}
    with write_artifact(run / "dataset", "dataset", {}, metadata) as draft:
        for name, table in (("items", pa.table(items, schema=ITEMS)), ("sequences", sequences)):
            (draft / name).mkdir()
            pq.write_table(table, draft / name / "part-00000.parquet", row_group_size=16)


def _models(run: Path, recipe: Recipe, traits: np.ndarray) -> None:
    torch.manual_seed(0)
    ranker = DinDcn(ITEMS_IN_ALL + 1, recipe.ranker)
    torch.nn.init.normal_(ranker.id_table.weight)
    ranker.trained[1 : ITEMS_IN_ALL - COLD + 1] = True
    with write_artifact(run / "ranker", "ranker", _lineage(run, "dataset"), {}) as draft:
        save_ranker(ranker, draft, [f"i{n}" for n in range(ITEMS_IN_ALL)])
    with write_artifact(run / "encoder", "encoder", _lineage(run, "dataset", "ranker"), {}) as draft:
        (draft / "encoder.json").write_text("{}")
    sources = ("dataset", "ranker", "encoder")
    rng = np.random.default_rng(1)
    coarse = rng.normal(size=(ITEMS_IN_ALL + 1, WIDTH)).astype(np.float32)
    coarse /= np.linalg.norm(coarse, axis=1, keepdims=True)
    states = np.stack([traits, -traits], axis=1).astype(np.float32)
    columns = {"coarse": coarse, "states": states}
    for values in columns.values():
        values[0] = 0
    with write_artifact(run / "item_table", "item_table", _lineage(run, *sources), {}) as draft:
        write_item_table(draft, columns)
        cold = np.arange(ITEMS_IN_ALL - COLD + 1, ITEMS_IN_ALL + 1)
        for modality, factor in (("image", 1), ("text", 0)):
            single = {name: factor * values[cold] for name, values in columns.items()}
            write_item_table(single_modality_dir(draft, modality), {"item_idx": cold, **single})
    with write_artifact(run / "scorer", "scorer", _lineage(run, *sources, "item_table"), {}) as draft:
        save_adaptor(Adaptor(WIDTH, 2, traits.shape[1], mlp_units=8, dropout=0.0), draft)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    values = {
        "name": "small",
        "paths": {"runs": tmp_path_factory.mktemp("runs")},
        "ranker": {"embedding_dim": WIDTH, "max_history": 20, "mlp_units": [8]},
        "evaluation": {"num_resamples": 50},
    }
    return Recipe.model_validate(values)


@pytest.fixture(scope="module")
def evaluated(local_ray: None, recipe: Recipe) -> Artifact:
    traits = np.random.default_rng(2).normal(size=(ITEMS_IN_ALL + 1, 4))
    _dataset(recipe.run_dir, traits)
    _models(recipe.run_dir, recipe, traits)
    MetricsLog(recipe.run_dir / "metrics" / "align_fine.jsonl").write(1, 1, loss=0.5)
    return evaluate.run(recipe)


@pytest.mark.ray
def test_all_variants_are_scored_on_the_same_rows(evaluated: Artifact) -> None:
    metrics = evaluated.metadata["metrics"]
    assert list(metrics) == [
        "oov",
        "id",
        "text_similarity",
        "content_similarity",
        "content_map",
        "coarse",
        "fine",
        "release",
        "content_oracle",
        "oracle",
    ]
    assert {by_slice["all"]["rows"] for by_slice in metrics.values()} == {USERS * 20}
    assert metrics["id"]["cold"] == metrics["oov"]["cold"]
    assert metrics["release"]["cold"] == metrics["fine"]["cold"]
    assert metrics["release"]["mid"] == metrics["id"]["mid"]
    assert metrics["oracle"]["cold"]["gauc"] > 0.7


@pytest.mark.ray
def test_other_variants_are_calibrated_like_fine_proxies(evaluated: Artifact, recipe: Recipe) -> None:
    """No item of the valid rows is cold here, so all rows count as if they were cold."""
    dataset, run = Dataset.open(recipe.run_dir / "dataset"), recipe.run_dir
    sequences, ranker = dataset.sequences, load_ranker(run / "ranker")
    parts = {kind: run / kind for kind in KINDS}
    variants = {one.name: one for one in find_method("idproxy").variants(recipe, dataset, parts)}
    valid = UserWindows(sequences, history=ranker.max_history, splits=[1])
    for name in ("content_map", "coarse"):
        scorer = variants[name].load(parts)
        logits = score_targets(partial(scorer, items=variants[name].items), valid)
        assert (1 / (1 + np.exp(-logits))).mean() == pytest.approx(
            sequences.label[valid.event_indices].mean(), abs=2e-3
        )
    assert torch.equal(variants["coarse"].items.columns["slot"][0], ranker.id_rows()[0])


@pytest.mark.ray
def test_scores_of_the_actors_belong_to_their_rows(evaluated: Artifact, recipe: Recipe) -> None:
    path = recipe.run_dir / "dataset" / "sequences"
    table = pq.read_table(path)
    label, truth, split = (
        np.concatenate([np.array(row) for row in table[name].to_pylist()]) for name in ("label", "p_click", "split")
    )
    expected = auc(label[split == 2], truth[split == 2])
    assert evaluated.metadata["metrics"]["oracle"]["all"]["auc"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.ray
def test_scored_rows_are_the_test_rows_each_once(evaluated: Artifact, recipe: Recipe) -> None:
    sequences = Dataset.open(recipe.run_dir / "dataset").sequences
    rows = ScoredRows.read(evaluated.path / "scores")
    assert rows.event.tolist() == np.flatnonzero(sequences.split == TEST).tolist()
    assert rows.item_idx.tolist() == sequences.item_idx[rows.event].tolist()
    assert rows.label.tolist() == sequences.label[rows.event].tolist()
    published = np.append(sequences.timestamp[sequences.item_idx == 1].min(), -np.arange(1, ITEMS_IN_ALL))
    assert rows.age_s.tolist() == (rows.timestamp - published[rows.item_idx - 1]).tolist()
    assert np.isnan(rows.item_effect["fine"]).tolist() == (rows.train_events > 0).tolist()


@pytest.mark.ray
def test_the_artifact_has_report_metrics_plots_and_lineage(evaluated: Artifact, recipe: Recipe) -> None:
    assert set(evaluated.lineage) == set(KINDS)
    page = (evaluated.path / "report.html").read_text()
    assert "Cold-start evaluation of small" in page
    assert re.search(r"item \d+", page)
    assert json.loads((evaluated.path / "evaluation.json").read_text()) == evaluated.metadata
    assert evaluated.metadata["weak_slices"]["tried"] > 0
    assert "Where the model is worst" in page
    assert {file.name for file in (evaluated.path / "plots").iterdir()} >= {
        "gain.png",
        "warm-up.png",
        "reliability.png",
        "scores.png",
    }
    assert MetricsLog(recipe.run_dir / "metrics" / "evaluate.jsonl").read()[-1]["done"] > 0


@pytest.mark.ray
def test_the_summary_has_diagnostics(evaluated: Artifact) -> None:
    found = evaluated.metadata["diagnostics"]
    assert found["id_space"]["items"] == ITEMS_IN_ALL - COLD
    assert found["adaptor"]["items"] == COLD
    assert {*found["attention"]} == {"cold", "mature"}
    assert found["attention"]["cold"]["id"] == found["attention"]["cold"]["oov"]
    assert found["gains"]["items"] + found["gains"]["left_out"] == COLD
    listed = found["gains"]["best"] + found["gains"]["worst"]
    assert len(listed) > 5
    gains = [item["gain"] for item in listed]
    assert gains[: len(found["gains"]["best"])] == sorted(gains, reverse=True)[: len(found["gains"]["best"])]
    page = (evaluated.path / "report.html").read_text()
    assert "Items with the highest and the lowest gains" in page
    assert "Inside the models" in page
    assert (evaluated.path / "plots" / "id-space.png").is_file()


@pytest.mark.ray
def test_single_modality_proxies_are_scored_on_the_same_rows(evaluated: Artifact) -> None:
    """Image-only proxies equal the proxies of both inputs here; text-only proxies are the same for all items."""
    found = evaluated.metadata["diagnostics"]["modalities"]
    both, image, text = (found["inputs"][name] for name in ("both", "image", "text"))
    assert image["gain"] == pytest.approx(both["gain"], abs=1e-6)
    assert image["drop"]["value"] == pytest.approx(0, abs=1e-6)
    assert both["gain"]["value"] == pytest.approx(
        evaluated.metadata["delta_item_vs_oov"]["fine"]["cold"]["gauc"], abs=1e-6
    )
    assert found["rows"] == evaluated.metadata["metrics"]["fine"]["cold"]["rows"]
    assert text["gain"]["value"] != pytest.approx(both["gain"]["value"], abs=1e-3)


@pytest.mark.ray
@pytest.mark.slow
def test_a_second_run_gives_the_same_metrics(evaluated: Artifact, recipe: Recipe) -> None:
    again = evaluate.run(recipe)
    metrics = again.metadata["metrics"]["fine"]["cold"]
    assert metrics == pytest.approx(evaluated.metadata["metrics"]["fine"]["cold"], rel=1e-6)


@pytest.mark.ray
@pytest.mark.slow
def test_the_evaluate_verb_evaluates_a_run(
    coldstart: Command, evaluated: Artifact, recipe: Recipe, tmp_path: Path
) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(recipe.model_dump_json())
    done = coldstart("evaluate", "--recipe", str(file), "--set", "evaluation.top_k=5", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kind"] == "evaluation"
    assert found["metadata"]["top_k"] == 5
    metrics = found["metadata"]["metrics"]["fine"]["cold"]
    expected = evaluated.metadata["metrics"]["fine"]["cold"]
    assert metrics["gauc"] == pytest.approx(expected["gauc"], rel=1e-6)


@pytest.mark.ray
@pytest.mark.slow
def test_an_oracle_is_scored_by_itself(evaluated: Artifact, recipe: Recipe) -> None:
    """The oracle is the ranker itself here, so its metrics equal those of `id`."""
    data = recipe.data.model_copy(update={"split": Split(kind="item_holdout")})
    held = recipe.model_copy(update={"data": data})
    with pytest.raises(UserError, match="no oracle at"):
        evaluate.run(held)
    with write_artifact(recipe.run_dir / "oracle", "oracle", _lineage(recipe.run_dir, "dataset"), {}) as draft:
        save_ranker(load_ranker(recipe.run_dir / "ranker"), draft, [f"i{n}" for n in range(ITEMS_IN_ALL)])
    found = evaluate.run(held)
    assert set(found.lineage) == {*KINDS, "oracle"}
    assert found.metadata["protocol"] == "item_holdout"
    assert found.metadata["metrics"]["trained_oracle"] == found.metadata["metrics"]["id"]
    assert "trained_oracle_oov" not in found.metadata["metrics"]
    assert found.metadata["item_effect_share"]["trained_oracle"]["item_effect"] == pytest.approx(0, abs=1e-6)


@pytest.mark.ray
def test_a_joint_ranker_is_scored_by_itself(evaluated: Artifact, recipe: Recipe, tmp_path: Path) -> None:
    """The joint ranker is untrained, so it scores items with an ID row like the ranker."""
    method = recipe.method.model_copy(update={"mode": "joint"})
    joint_recipe = recipe.model_copy(update={"method": method, "paths": Paths(runs=tmp_path)})
    run = joint_recipe.run_dir
    shutil.copytree(recipe.run_dir, run)
    with pytest.raises(UserError, match="no adaptor at"):
        evaluate.run(joint_recipe)
    sources = ("dataset", "ranker", "encoder", "item_table")
    with write_artifact(run / "adaptor", "adaptor", _lineage(run, *sources), {}) as draft:
        save_adaptor(Adaptor(WIDTH, 2, 4, mlp_units=8, dropout=0.0), draft)
    vectors = ProxyVectors(Adaptor(WIDTH, 2, 4, mlp_units=8, dropout=0.0))
    events = torch.from_numpy(Dataset.open(run / "dataset").train_counts)
    joint = JointRanker(load_ranker(run / "ranker"), vectors, events, structure_reuse=True)
    with write_artifact(run / "scorer", "scorer", _lineage(run, *sources), {}) as draft:
        save_joint(joint, draft, [f"i{n}" for n in range(ITEMS_IN_ALL)])
    found = evaluate.run(joint_recipe)
    assert set(found.lineage) == {*KINDS, "adaptor"}
    metrics = found.metadata["metrics"]
    assert metrics["joint"]["mid"]["gauc"] == pytest.approx(metrics["id"]["mid"]["gauc"], abs=0.02)
    assert metrics["joint"]["cold"]["gauc"] != metrics["oov"]["cold"]["gauc"]
    assert metrics["release"] == metrics["joint"]
    assert "joint_oov" not in metrics
    assert "joint" in found.metadata["warm_up"]["gauc_item"]


@pytest.mark.ray
def test_nan_weights_name_the_variant(evaluated: Artifact, recipe: Recipe) -> None:
    run = recipe.run_dir
    adaptor = Adaptor(WIDTH, 2, 4, mlp_units=8, dropout=0.0)
    torch.nn.init.constant_(adaptor.offset, float("nan"))
    sources = ("dataset", "ranker", "encoder", "item_table")
    with write_artifact(run / "scorer", "scorer", _lineage(run, *sources), {}) as draft:
        save_adaptor(adaptor, draft)
    with pytest.raises(UserError, match="variant 'fine'"):
        evaluate.run(recipe)
