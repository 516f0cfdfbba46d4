"""Releases of several methods and modes: joint as well as frozen, a method of the test's own, and no mixtures."""

import json
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from coldstart.config import Artifact, MetricsLog, Recipe, UserError, read_artifact, write_artifact
from coldstart.config.recipe import Paths
from coldstart.config.recipe import Registry as Settings
from coldstart.data.batches import rank_request
from coldstart.data.item_table import ItemTable, write_item_table
from coldstart.methods.available import METHODS, find_method
from coldstart.methods.base import ITEM_TABLE, SCORER, ArtifactKind, FieldSpec
from coldstart.methods.idproxy.adaptor import Adaptor
from coldstart.methods.idproxy.item_vectors import ProxyVectors
from coldstart.methods.idproxy.joint_ranker import JointRanker, save_joint
from coldstart.rankers import load_ranker, read_item_index
from coldstart.registry import (
    EvaluationOutputs,
    ModelVersion,
    Registry,
    promote,
    read_release,
    register_model,
    resolve,
    rollback,
)
from coldstart.registry.gc import delete_old_versions
from coldstart.registry.lineage import lineage
from tests.registry.conftest import QUALITY, Run, alias_versions
from tests.serving.tiny import HISTORY, ITEMS, TRAINED, register_run, tiny_recipe, write_run

UNGATED = Settings(gates=())


def write_joint_scorer(recipe: Recipe) -> Artifact:
    """Replaces the run's scorer by one of joint mode, made from the same ranker, encoder and item table."""
    path = recipe.run_dir / SCORER
    lineage = read_artifact(path, SCORER).lineage
    ranker = load_ranker(recipe.run_dir / "ranker")
    sizes = read_artifact(recipe.run_dir / ITEM_TABLE, ITEM_TABLE).metadata
    torch.manual_seed(3)
    vectors = ProxyVectors(Adaptor(sizes["width"], sizes["groups"], sizes["hidden"], mlp_units=4, dropout=0.0))
    events = torch.tensor([0] + [200] * TRAINED + [0] * (ITEMS - TRAINED))
    joint = JointRanker(ranker, vectors, events, structure_reuse=True)
    torch.nn.init.normal_(joint.mlp[0].weight, std=0.1)
    with write_artifact(path, SCORER, lineage, {"method": "idproxy", "mode": "joint", **vectors.config}) as draft:
        save_joint(joint, draft, list(read_item_index(recipe.run_dir / "ranker")))
    return read_artifact(path, SCORER)


def register_scorer(registry: Registry, recipe: Recipe, cold_gauc: float) -> ModelVersion:
    return register_model(
        registry,
        read_artifact(recipe.run_dir / SCORER, SCORER),
        method="idproxy",
        recipe=recipe,
        upstream={"ranker": 1, "encoder": 1},
        metrics_log=MetricsLog(recipe.run_dir / "metrics" / "align_fine.jsonl"),
        evaluation=EvaluationOutputs({"cold_gauc": cold_gauc, "cold_rows": 500}),
    )


def offline_logits(registry: Registry, version: int) -> torch.Tensor:
    """Logits of a registered release, loaded as serving loads it."""
    release = read_release(registry, version)
    method = find_method(release.method)
    adaptor, scorer = method.load_adaptor(release.paths), method.load_scorer(release.paths)
    columns = ItemTable.open(release.items.path).select(adaptor.inputs).columns
    batch = rank_request([1, 2, 3], [1, 0, 1], [10, 20, 30], [4, 11, 12], 50, history=HISTORY)
    with torch.inference_mode():
        return scorer(batch, ItemTable(adaptor(columns)))


@pytest.fixture(scope="module")
def both_modes(tracking_uri, tmp_path_factory) -> tuple[Registry, Recipe]:
    """Version 1 is frozen, version 2 joint, of one ranker, encoder and item table."""
    recipe = tiny_recipe(tmp_path_factory.mktemp("runs"), "both-modes")
    registry = Registry(tracking_uri, recipe.project)
    write_run(recipe)
    register_run(recipe, registry)
    write_joint_scorer(recipe)
    assert register_scorer(registry, recipe, 0.7).version == 2
    return registry, recipe


def test_a_joint_scorer_replaces_a_frozen_champion_and_rolls_back(both_modes):
    registry, _ = both_modes
    assert promote(registry, 1, QUALITY).event.action == "promoted"
    frozen = resolve(registry)
    gated = promote(registry, 2, QUALITY)
    assert gated.event.action == "promoted"
    assert (gated.event.gates[-1]["value"], gated.event.gates[-1]["champion_value"]) == (0.7, 0.6)
    joint = resolve(registry)
    assert joint.name == "both-modes-scorer/2"
    assert (joint.method, joint.scorer.metadata["mode"]) == ("idproxy", "joint")
    assert list(joint.parts) == ["ranker", "encoder", SCORER]
    assert joint.items.fingerprint == frozen.items.fingerprint
    assert rollback(registry).event.version == 1
    assert resolve(registry) == frozen
    assert promote(registry, 2, QUALITY).event.version == 2
    assert resolve(registry) == joint
    assert promote(registry, 1, QUALITY).event.action == "refused"


def test_both_modes_load_and_score_as_registered(both_modes):
    registry, _ = both_modes
    frozen, joint = offline_logits(registry, 1), offline_logits(registry, 2)
    assert frozen.shape == joint.shape == (1, 3)
    assert torch.isfinite(joint).all()
    assert not torch.allclose(frozen, joint)


def test_a_joint_scorer_answers_mlflow_as_a_frozen_one(both_modes):
    registry, recipe = both_modes
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registry.tracking_uri)
    try:
        model = mlflow.pyfunc.load_model("models:/both-modes-scorer/2")
    finally:
        mlflow.set_tracking_uri(before)
    columns = ItemTable.open(recipe.run_dir / ITEM_TABLE).columns
    rows = pd.DataFrame([{name: values[3].tolist() for name, values in columns.items()}])
    adaptor = find_method("idproxy").load_adaptor({SCORER: recipe.run_dir / SCORER})
    with torch.inference_mode():
        expected = adaptor({name: values[3:4] for name, values in columns.items()})["proxy"][0]
    np.testing.assert_allclose(model.predict(rows)["proxy"][0], expected, atol=1e-6)
    assert len(model.predict(model.input_example)) == 1


class Constant:
    """A model of the test's own method: the same number for each row."""

    def __init__(self, path: Path) -> None:
        self.value = json.loads((path / "model.json").read_text())

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"number": [self.value] * len(rows)})


def constant_kind(name: str) -> ArtifactKind:
    return ArtifactKind(
        name,
        inputs=(FieldSpec("code", "long", 1),),
        outputs=(FieldSpec("number", "double"),),
        load=Constant,
        example=lambda artifact, items: {"code": [1, 2]},
        evaluated_as="release",
    )


@pytest.fixture
def dummy(monkeypatch):
    """A method with a kind of its own, and with IDProxy's kind of encoder."""
    idproxy = METHODS["idproxy"]
    encoder = next(kind for kind in idproxy.kinds if kind.name == "encoder")
    made = type("Dummy", (type(idproxy),), {"name": "dummy"})()
    made.kinds = (encoder, constant_kind("quantizer"), constant_kind(SCORER))
    monkeypatch.setitem(METHODS, "dummy", made)
    return made


class DummyRun:
    """A run of the dummy method with placeholder weights."""

    def __init__(self, registry: Registry, runs: Path, encoder: Path) -> None:
        self.registry, self.recipe = registry, Recipe(name="dummies", paths=Paths(runs=runs))
        self.lineage = {"dataset": "d" * 64, "encoder": read_artifact(encoder, "encoder").fingerprint}
        self.make("quantizer", {})
        with write_artifact(self.recipe.run_dir / ITEM_TABLE, ITEM_TABLE, dict(self.lineage), {"items": 2}) as draft:
            write_item_table(draft, {"codes": np.zeros((3, 2), np.int16)})
        self.lineage[ITEM_TABLE] = read_artifact(self.recipe.run_dir / ITEM_TABLE, ITEM_TABLE).fingerprint
        self.make(SCORER, {"method": "dummy"})

    def make(self, kind: str, metadata: dict[str, object]) -> None:
        with write_artifact(self.recipe.run_dir / kind, kind, dict(self.lineage), metadata) as draft:
            (draft / "model.json").write_text("0.5")
        self.lineage[kind] = read_artifact(self.recipe.run_dir / kind, kind).fingerprint

    def register(self, kind: str, upstream: dict[str, int], **metrics: float) -> int:
        return register_model(
            self.registry,
            read_artifact(self.recipe.run_dir / kind, kind),
            method="dummy",
            recipe=self.recipe,
            upstream=upstream,
            metrics_log=MetricsLog(self.recipe.run_dir / "metrics" / f"{kind}.jsonl"),
            evaluation=EvaluationOutputs(metrics),
        ).version


@pytest.fixture
def dummy_run(champion, dummy, tmp_path) -> DummyRun:
    """In the registry where a release of IDProxy is champion, whose encoder it shares."""
    return DummyRun(champion.registry, tmp_path / "dummies", champion.recipe.run_dir / "encoder")


def test_a_method_with_other_kinds_registers_is_promoted_and_resolves(champion, dummy_run, tracking_uri):
    registry = champion.registry
    assert dummy_run.register("quantizer", {"encoder": 1}) == 1
    version = dummy_run.register(SCORER, {"encoder": 1, "quantizer": 1}, cold_gauc=0.7)
    release = read_release(registry, version)
    assert release.method == "dummy"
    assert release.versions == {SCORER: 2, "encoder": 1, "quantizer": 1}
    assert set(release.fingerprints) == {"encoder", "quantizer", SCORER, ITEM_TABLE}
    assert promote(registry, version, QUALITY).event.action == "promoted"
    assert resolve(registry) == replace(release, alias="champion")
    assert alias_versions(champion) == {"ranker": None, "encoder": 1, SCORER: 2}
    assert registry.aliases("quantizer") == {"champion": 1}
    nodes = [(node.kind, node.version) for node in lineage(registry, "scorer@champion")]
    assert nodes == [(SCORER, 2), (ITEM_TABLE, None), ("quantizer", 1), ("encoder", 1), ("dataset", None)]
    with pytest.raises(UserError, match="the release at champion has no ranker; it consists of scorer, encoder, quan"):
        lineage(registry, "ranker@champion")
    kept = delete_old_versions(registry, keep=1, rollback_window=1)
    assert kept == {"ranker": [], "encoder": [], "quantizer": [], SCORER: []}
    model = mlflow.pyfunc.load_model(registry.version("quantizer", 1).source)
    assert model.predict(model.input_example)["number"][0] == 0.5
    assert rollback(registry).event.version == 1
    assert registry.aliases("quantizer") == {}
    assert alias_versions(champion) == {"ranker": 1, "encoder": 1, SCORER: 1}


def test_models_of_another_method_are_refused_when_they_are_registered(champion, dummy_run):
    with pytest.raises(UserError, match="method 'dummy' registers no ranker; allowed: encoder, quantizer, scorer"):
        dummy_run.register(SCORER, {"ranker": 1, "encoder": 1})
    dummy_run.make(SCORER, {"method": "idproxy"})
    with pytest.raises(UserError, match="is of method 'idproxy', not 'dummy'"):
        dummy_run.register(SCORER, {"encoder": 1})
    with pytest.raises(UserError, match=r"no method 'idprxy'; did you mean 'idproxy'\? allowed: idproxy, .*dummy"):
        register_model(
            champion.registry,
            read_artifact(champion.recipe.run_dir / "ranker", "ranker"),
            method="idprxy",
            recipe=champion.recipe,
            upstream={},
            metrics_log=MetricsLog(champion.recipe.run_dir / "metrics" / "ranker.jsonl"),
        )


def set_tags(run: Run, kind: str, version: int, **tags: str) -> None:
    """Sets tags manually; `_` stands for a dot."""
    for name, value in tags.items():
        tag = f"coldstart.{name.replace('_', '.')}"
        run.registry.client.set_model_version_tag(run.registry.model_name(kind), str(version), tag, value)


def test_a_release_with_a_kind_of_another_method_is_refused(champion, dummy_run):
    version = champion.register_scorer(0.7)
    dummy_run.register("quantizer", {"encoder": 1})
    set_tags(champion, SCORER, version, quantizer_version="1")
    expected = r"was registered with a quantizer, but a release of method 'idproxy' consists of ranker, encoder, scorer"
    with pytest.raises(UserError, match=expected):
        promote(champion.registry, version, UNGATED)


def test_a_release_without_a_kind_of_its_method_is_refused(champion):
    champion.make(SCORER, "two")
    version = champion.register(SCORER, {"ranker": 1}).version
    with pytest.raises(UserError, match="has no encoder version; register it with upstream versions of ranker"):
        promote(champion.registry, version, UNGATED)


def test_a_scorer_under_another_method_than_its_own_is_refused(champion, dummy):
    version = champion.register_scorer(0.7)
    set_tags(champion, SCORER, version, method="dummy")
    with pytest.raises(UserError, match="was registered with a ranker, but a release of method 'dummy' consists of"):
        read_release(champion.registry, version)
    dummy.kinds = METHODS["idproxy"].kinds
    with pytest.raises(UserError, match="registered as of method 'dummy', but its scorer is of method 'idproxy'"):
        read_release(champion.registry, version)
    set_tags(champion, SCORER, version, method="saviorec")
    with pytest.raises(UserError, match=r"is of method 'saviorec', which this coldstart version does not have"):
        read_release(champion.registry, version)


def test_a_part_that_means_another_model_in_its_method_is_refused(champion, dummy):
    dummy.kinds = (constant_kind("ranker"), *dummy.kinds)
    set_tags(champion, "ranker", 1, method="dummy")
    with pytest.raises(UserError, match=r"its ranker, .* version 1, is of method 'dummy', whose ranker is a different"):
        read_release(champion.registry, 1)
    set_tags(champion, "ranker", 1, method="idproxy")
    set_tags(champion, "encoder", 1, method="dummy")
    assert read_release(champion.registry, 1).versions["encoder"] == 1


def test_an_encoder_that_another_method_aligned_the_same_way_is_kept(champion):
    """A run whose method changes from IDProxy to a baseline, or back, keeps its encoder."""
    set_tags(champion, "encoder", 1, method="baselines")
    assert read_release(champion.registry, 1).versions["encoder"] == 1
    set_tags(champion, "encoder", 1, method="saviorrec")
    with pytest.raises(UserError, match=r"its encoder, .* version 1, is of method 'saviorrec', whose encoder is a"):
        read_release(champion.registry, 1)


def test_a_release_of_mixed_lineage_is_refused(run):
    run.make(ITEM_TABLE, "of another ranker", ranker="0" * 64)
    run.make(SCORER, "two")
    version = run.register_all(0.6).version
    with pytest.raises(UserError, match="the item_table was made with ranker 000000000000, but the release has"):
        read_release(run.registry, version)


def test_a_scorer_of_another_encoder_is_refused(run):
    run.make(SCORER, "two", encoder="0" * 64)
    ranker = run.register("ranker").version
    encoder = run.register("encoder", {"ranker": ranker}).version
    with pytest.raises(UserError, match=r"was made with encoder 000000000000, but .*-encoder version 1 is"):
        run.register(SCORER, {"ranker": ranker, "encoder": encoder})


def test_parts_of_another_dataset_are_refused(run):
    run.make("encoder", "elsewhere", dataset="e" * 64)
    run.make(ITEM_TABLE, "two")
    run.make(SCORER, "two")
    version = run.register_all(0.6).version
    with pytest.raises(UserError, match="encoder was made with dataset eeeeeeeeeeee, but the release has dddddddddddd"):
        read_release(run.registry, version)
