"""Champion against challenger: real models in a real SQLite registry, with known ground truth."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from coldstart.config import MetricsLog, Recipe, UserError, read_artifact, write_artifact
from coldstart.config.recipe import Gate
from coldstart.config.recipe import Registry as Settings
from coldstart.data.batches import UserWindows, rank_request
from coldstart.data.dataset import Dataset
from coldstart.data.features import Categorical, FeatureSchema, Numeric, TargetFeatures
from coldstart.data.item_table import ItemTable, write_item_table
from coldstart.data.schema import ITEMS, SEQUENCES, TEST
from coldstart.data.sequences import Sequences
from coldstart.evaluation.protocol.scoring import score_rows
from coldstart.jobs.analysis.compare_releases import ReleaseScorer, run
from coldstart.jobs.serving.replay import _append_events, build_replay
from coldstart.methods.base import ITEM_TABLE, SCORER
from coldstart.methods.idproxy.adaptor import Adaptor, save_adaptor
from coldstart.methods.idproxy.item_vectors import ProxyVectors
from coldstart.methods.idproxy.joint_ranker import JointRanker, load_joint, save_joint
from coldstart.rankers import DinDcn, save_ranker
from coldstart.registry import EvaluationOutputs, Registry, promote, read_release, register_model
from coldstart.training.ctr_trainer import slot_score
from tests.cli.conftest import Command, coldstart

__all__ = ["coldstart"]
COUNT, COLD, USERS, EVENTS, WIDTH = 60, 30, 60, 40, 8
TEST_FROM, END = 2000, 3900
GATES = Settings(gates=(Gate(name="cold quality", slice="cold", metric="gauc_item", tolerance=0.01),))
NO_GATES = Settings(gates=())


class Project:
    """A run with a dataset and one ranker. Clicks follow the ranker's scores with the good proxies."""

    def __init__(self, runs: Path, name: str) -> None:
        self.recipe = Recipe.model_validate(
            {
                "name": name,
                "paths": {"runs": runs},
                "ranker": {"embedding_dim": WIDTH, "max_history": 10, "mlp_units": [8], "cross_layers": 1},
                "evaluation": {"num_resamples": 200},
                "data": {"source": "files", "files": {"root": runs}},
            }
        )
        self.registry = Registry(f"sqlite:///{runs.parent / 'releases.db'}", name)
        self.recipe = self.recipe.model_copy(
            update={"registry": self.recipe.registry.model_copy(update={"tracking_uri": self.registry.tracking_uri})}
        )
        self.ids = [f"i{number:02d}" for number in range(1, COUNT + 1)]
        self.rng = np.random.default_rng(0)
        torch.manual_seed(0)
        self.ranker = DinDcn(COUNT + 1, self.recipe.ranker).eval()
        with torch.no_grad():
            for weight in self.ranker.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
        self.ranker.trained[1 : COUNT - COLD + 1] = True
        self.good = self.rng.normal(size=(COUNT, WIDTH)).astype(np.float32)
        self.lineage: dict[str, str] = {}

    def run_dir(self, kind: str) -> Path:
        return self.recipe.run_dir / kind

    def events(self, start: int, seed: int) -> list[dict[str, list[int]]]:
        """Lists per user. Labels are sampled from the ranker's scores with the good proxies."""
        rng = np.random.default_rng(seed)
        score = _item_logit(self.ranker, self.good)
        rows = []
        for _ in range(USERS):
            item = rng.integers(1, COUNT + 1, EVENTS)
            if start == 0:
                item[: EVENTS // 2] = rng.integers(1, COUNT - COLD + 1, EVENTS // 2)
            label = rng.uniform(size=EVENTS) < 1 / (1 + np.exp(-2 * score[item - 1]))
            time = start + np.arange(EVENTS) * 100
            rows.append({"item_idx": item.tolist(), "label": (label * 1).tolist(), "timestamp": time.tolist()})
        return rows

    def write_dataset(self) -> None:
        split = np.repeat([0, 2], EVENTS // 2).tolist()
        rows = self.events(0, 1)
        named = [{"user_idx": n, "user_id": f"u{n:02d}", **row, "split": split} for n, row in enumerate(rows)]
        counts = np.bincount(np.concatenate([row["item_idx"][: EVENTS // 2] for row in rows]), minlength=COUNT + 1)[1:]
        items = {"item_idx": np.arange(1, COUNT + 1), "item_id": self.ids, "title": self.ids, "text": [None] * COUNT}
        items |= {"image": [None] * COUNT, "created_at": [None] * COUNT, "first_event_at": [0] * COUNT}
        items |= {"num_train_events": counts, "num_train_clicks": counts // 2}
        metadata = {
            "items": COUNT,
            "last_event_at": END,
            "time_cuts": {"valid_from": TEST_FROM, "test_from": TEST_FROM},
        }
        self.write("dataset", metadata, lambda draft: _write_tables(draft, pa.table(items, schema=ITEMS), named))

    def write_models(self, ids: list[str], proxies: np.ndarray) -> None:
        """Ranker, encoder, item table and scorer, with the catalog in the order of `ids`."""
        for kind in ("ranker", "encoder", ITEM_TABLE, SCORER):
            self.lineage.pop(kind, None)
        order = np.array([self.ids.index(item) for item in ids])
        self.write("ranker", {"width": WIDTH}, lambda draft: save_ranker(_permuted(self.ranker, order), draft, ids))
        self.write("encoder", {"width": WIDTH}, lambda draft: (draft / "encoder.json").write_text("{}"))
        coarse = np.concatenate([np.zeros((1, WIDTH), np.float32), proxies[order]])
        columns = {"coarse": coarse, "states": np.zeros((COUNT + 1, 2, 4), np.float32)}
        sizes = {"items": COUNT, "width": WIDTH, "groups": 2, "hidden": 4}
        self.write(ITEM_TABLE, sizes, lambda draft: write_item_table(draft, columns))
        torch.manual_seed(1)
        adaptor = Adaptor(WIDTH, 2, 4, mlp_units=8, dropout=0.0)
        frozen = {"method": "idproxy", "mode": "frozen", **adaptor.config}
        self.write(SCORER, frozen, lambda draft: save_adaptor(adaptor, draft))

    def write_joint_scorer(self) -> None:
        """A joint scorer of the run's ranker, in place of the frozen one."""
        torch.manual_seed(2)
        vectors = ProxyVectors(Adaptor(WIDTH, 2, 4, mlp_units=8, dropout=0.0))
        ranker = _permuted(self.ranker, np.arange(COUNT))
        joint = JointRanker(ranker, vectors, torch.zeros(COUNT + 1), structure_reuse=True)
        torch.nn.init.normal_(joint.mlp[0].weight, std=0.1)
        joint.vectors.init_near_mean(self.ranker.id_table.weight[1:])
        self.lineage.pop(SCORER)
        metadata = {"method": "idproxy", "mode": "joint", **vectors.config}
        self.write(SCORER, metadata, lambda draft: save_joint(joint, draft, self.ids))

    def register(self) -> int:
        versions: dict[str, int] = {}
        for kind in ("ranker", "encoder", SCORER):
            versions[kind] = register_model(
                self.registry,
                read_artifact(self.run_dir(kind), kind),
                method="idproxy",
                recipe=self.recipe,
                upstream=dict(versions),
                metrics_log=MetricsLog(self.run_dir("metrics") / f"{kind}.jsonl"),
                evaluation=EvaluationOutputs({"cold_gauc_item": 0.5, "cold_rows": 500} if kind == SCORER else {}),
            ).version
        return versions[SCORER]

    def write_source(self, name: str, rows: list[dict[str, list[int]]]) -> None:
        """Writes fresh events and the items table as source files."""
        root = self.recipe.data.files.root
        pq.write_table(
            pa.table({"item_id": self.ids, "title": self.ids, "image": [b""] * COUNT}), root / "items.parquet"
        )
        columns = {"user_id": np.repeat([f"u{n + 30:02d}" for n in range(len(rows))], EVENTS)}
        columns["item_id"] = np.array(self.ids)[np.concatenate([row["item_idx"] for row in rows]) - 1]
        columns |= {name: np.concatenate([row[name] for row in rows]) for name in ("label", "timestamp")}
        pq.write_table(pa.table(columns), root / name)

    def write(self, kind: str, metadata: dict[str, object], fill: Callable[[Path], object]) -> None:
        with write_artifact(self.run_dir(kind), kind, dict(self.lineage), metadata) as draft:
            fill(draft)
        self.lineage[kind] = read_artifact(self.run_dir(kind), kind).fingerprint


def _write_tables(draft: Path, items: pa.Table, rows: list[dict[str, object]]) -> None:
    for name, table in (("items", items), ("sequences", pa.Table.from_pylist(rows, schema=SEQUENCES))):
        (draft / name).mkdir()
        pq.write_table(table, draft / name / "part-00000.parquet", row_group_size=16)


def _permuted(ranker: DinDcn, order: np.ndarray) -> DinDcn:
    """The same ranker with its items in another order."""
    rows = torch.from_numpy(np.concatenate([[0], order + 1]))
    other = DinDcn(COUNT + 1, ranker.settings).eval()
    state = {key: value.clone() for key, value in ranker.state_dict().items()}
    state["id_table.weight"], state["trained"] = state["id_table.weight"][rows], state["trained"][rows]
    other.load_state_dict(state)
    return other


@torch.inference_mode()
def _item_logit(ranker: DinDcn, proxies: np.ndarray) -> np.ndarray:
    """[COUNT] standardized logits of the items for a user without history."""
    batch = rank_request([], [], [], np.arange(1, COUNT + 1), 100, history=ranker.max_history)
    slots = torch.where(ranker.trained[1:, None], ranker.id_table.weight[1:], torch.from_numpy(proxies))
    logit = ranker(batch, slots[None])[0].numpy()
    return np.asarray((logit - logit.mean()) / logit.std())


@pytest.fixture
def project(tmp_path: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Version 1, with the good proxies, is champion. Tests share the database, because creating one takes seconds."""
    shared = tmp_path_factory.getbasetemp() / "challenges"
    name = request.node.name.split("[")[0].replace("_", "-")[:60]
    (shared / name).mkdir(parents=True)
    made = Project(shared / name, name)
    made.write_dataset()
    made.write_models(made.ids, made.good)
    assert promote(made.registry, made.register(), NO_GATES).event.version == 1
    return made


def _entry(metadata: dict, name: str, metric: str = "gauc_item") -> dict:
    return next(entry for entry in metadata["differences"] if (entry["slice"], entry["metric"]) == (name, metric))


def _set_challenger_with_shuffled_proxies(project: Project) -> None:
    project.write_models(project.ids, np.random.default_rng(5).permutation(project.good))
    promote(project.registry, project.register(), NO_GATES, alias="challenger")


def test_shuffled_proxies_lose_on_cold_rows_and_fail_the_gates(project: Project) -> None:
    _set_challenger_with_shuffled_proxies(project)
    artifact = run(project.recipe.model_copy(update={"data": Recipe(name="x").data}))
    metadata = artifact.metadata
    cold = _entry(metadata, "cold")
    assert metadata["rows"]["kind"] == "test"
    assert metadata["rows"]["rows"] == USERS * EVENTS / 2
    assert cold["high_both"] < 0
    assert cold["delta"] == pytest.approx(cold["challenger"] - cold["champion"])
    assert _entry(metadata, "cold", "logloss")["low_both"] > 0
    assert _entry(metadata, "warm")["delta"] is None
    assert metadata["winner"] == "champion"
    assert metadata["verdict"].startswith("champion stays: challenger's item GAUC on cold rows -0.")
    logged = promote(project.registry, 2, GATES)
    gate = logged.event.gates[-1]
    assert logged.event.action == "refused"
    assert gate["ci_high"] < 0
    assert gate["rows"] == metadata["metrics"]["challenger"]["cold"]["rows"]
    runs = project.registry.client.search_runs(
        [project.registry.client.get_experiment_by_name(project.registry.project).experiment_id],
        "tags.`coldstart.kind` = 'release_comparison'",
    )
    assert runs[0].data.metrics["cold/gauc_item/challenger"] == pytest.approx(cold["challenger"])


def test_the_better_release_wins_on_fresh_events_and_is_promoted(coldstart: Command, project: Project) -> None:
    _set_challenger_with_shuffled_proxies(project)
    promote(project.registry, 2, NO_GATES)
    promote(project.registry, 1, NO_GATES, alias="challenger")
    rows = project.events(END - 500, 2)
    project.write_source("fresh.parquet", rows)
    recipe = project.recipe.run_dir.parent / "recipe.yaml"
    recipe.write_text(project.recipe.model_dump_json())
    arguments = ("--recipe", str(recipe), "--set", "data.files.events=fresh.parquet")
    done = coldstart("compare-releases", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    metadata = json.loads(done.stdout)
    assert metadata["rows"]["kind"] == "fresh"
    assert metadata["rows"]["after"] == END
    assert metadata["rows"]["rows"] == sum(time > END for row in rows for time in row["timestamp"])
    assert _entry(metadata, "cold")["low_both"] > 0
    assert metadata["winner"] == "challenger"
    shown = coldstart("compare-releases", *arguments).stdout
    assert "fresh events of" in shown
    assert metadata["verdict"] in shown
    gate = promote(project.registry, 1, GATES).event.gates[-1]
    assert gate["passed"]
    assert gate["rows"] == metadata["metrics"]["challenger"]["cold"]["rows"]
    assert "is both champion and challenger" in coldstart("compare-releases", *arguments).stderr


def test_releases_with_another_item_order_score_equally(project: Project) -> None:
    project.write_models(project.ids[::-1], project.good)
    promote(project.registry, project.register(), NO_GATES, alias="challenger")
    metadata = run(project.recipe.model_copy(update={"data": Recipe(name="x").data})).metadata
    assert metadata["releases"]["challenger"].endswith("/2")
    for metric in ("gauc", "gauc_item", "logloss"):
        assert _entry(metadata, "all", metric)["delta"] == pytest.approx(0, abs=1e-6)
    assert metadata["winner"] is None


def test_the_same_weights_under_two_versions_show_no_difference(project: Project) -> None:
    scorer = project.run_dir(SCORER)
    weights = {file.name: file.read_bytes() for file in scorer.iterdir() if file.name != "manifest.json"}
    before = read_artifact(scorer, SCORER)
    with write_artifact(scorer, SCORER, before.lineage, {**before.metadata, "epochs": 2}) as draft:
        for name, content in weights.items():
            (draft / name).write_bytes(content)
    promote(project.registry, project.register(), NO_GATES, alias="challenger")
    metadata = run(project.recipe.model_copy(update={"data": Recipe(name="x").data})).metadata
    cold = _entry(metadata, "cold")
    assert (cold["delta"], cold["low_both"], cold["high_both"], cold["p"]) == (0, 0, 0, None)
    assert metadata["verdict"] == "no difference: champion and challenger rank every row equally"


def test_a_joint_challenger_is_scored_as_offline(project: Project) -> None:
    recipe = project.recipe.model_copy(update={"data": Recipe(name="x").data})
    project.write_joint_scorer()
    promote(project.registry, project.register(), NO_GATES, alias="challenger")
    metadata = run(recipe).metadata
    assert metadata["releases"]["challenger"].endswith("-scorer/2")
    assert _entry(metadata, "cold")["challenger"] is not None

    dataset, release = Dataset.open(project.run_dir("dataset")), read_release(project.registry, 2)
    events = build_replay(recipe, dataset, [release], project.registry)
    scorer = ReleaseScorer(release, events.item_ids, dataset.features)
    assert scorer.trained.tolist() == project.ranker.trained.tolist()
    joint = load_joint(project.run_dir(SCORER))
    slots = joint.table(ItemTable.open(project.run_dir(ITEM_TABLE)))
    windows = UserWindows(events.sequences, history=joint.history, splits=[TEST])
    scores = {"release": slot_score(joint, slots), "oov": slot_score(joint, slots[:1].expand_as(slots))}
    rows, expected = score_rows(windows.iter_eval(windows_per_step=5), scores)
    for name, logits in scorer.score(events).items():
        np.testing.assert_allclose(logits, expected[name][np.argsort(rows)], atol=1e-5)


def test_histories_include_the_dataset_but_no_later_events(project: Project) -> None:
    project.write_source("events.parquet", project.events(END - 500, 2))
    release = read_release(project.registry, 1)
    dataset = Dataset.open(project.run_dir("dataset"))
    events = build_replay(project.recipe, dataset, [release], project.registry)
    sequences = events.sequences
    assert sequences.user_id[-1] == f"u{29 + USERS:02d}"
    for user in (0, 30, 59, 60):
        times = sequences.timestamp[sequences.offsets[user] : sequences.offsets[user + 1]]
        assert (np.diff(times) >= 0).all()
        assert ((times <= END).sum() > 0) == (user < USERS)
    scorer = ReleaseScorer(release, events.item_ids, dataset.features)
    served = scorer.score(events)["release"]
    last = sequences.timestamp == sequences.timestamp.max()
    flipped = replace(events, sequences=replace(sequences, label=np.where(last, 1 - sequences.label, sequences.label)))
    np.testing.assert_array_equal(scorer.score(flipped)["release"], served)
    early = sequences.timestamp == END
    flipped = replace(events, sequences=replace(sequences, label=np.where(early, 1 - sequences.label, sequences.label)))
    assert (scorer.score(flipped)["release"] != served).any()


def test_mistakes_name_the_fix(project: Project) -> None:
    with pytest.raises(UserError, match="--to challenger` sets it"):
        run(project.recipe)
    promote(project.registry, 1, NO_GATES, alias="challenger")
    with pytest.raises(UserError, match="is both champion and challenger"):
        run(project.recipe)
    _set_challenger_with_shuffled_proxies(project)
    dataset = project.run_dir("dataset")
    with write_artifact(dataset, "dataset", {}, {"items": COUNT}) as draft:
        table = pq.read_table(project.recipe.run_dir / "dataset" / "sequences")
        rows = [{**row, "split": [0] * EVENTS} for row in table.to_pylist()]
        _write_tables(draft, Dataset.open(dataset).items(), rows)
    with pytest.raises(UserError, match="every event was used to train a release"):
        run(project.recipe.model_copy(update={"data": Recipe(name="x").data}))


def test_a_ranker_whose_features_the_dataset_lacks_is_refused(project: Project) -> None:
    country = Categorical(owner="user", name="country", values=("a", "b"))
    schema = FeatureSchema(categorical=(country,))
    torch.manual_seed(0)
    project.ranker = DinDcn(COUNT + 1, project.recipe.ranker, schema).eval()
    path = project.recipe.run_dir / "reader"
    with write_artifact(path, "ranker", {}, {}) as draft:
        save_ranker(project.ranker, draft, project.ids)
    release = read_release(project.registry, 1)
    release = replace(release, parts={**release.parts, "ranker": read_artifact(path, "ranker")})
    with pytest.raises(UserError, match=r"reads user\.country, which the run's dataset lacks"):
        ReleaseScorer(release, project.ids, FeatureSchema())
    other = country.model_copy(update={"values": ("a",)})
    with pytest.raises(UserError, match="other values"):
        ReleaseScorer(release, project.ids, FeatureSchema(categorical=(other,)))


def test_a_release_whose_dataset_nobody_recorded_is_named(project: Project) -> None:
    path = project.run_dir("dataset")
    metadata = read_artifact(path, "dataset").metadata
    unrecorded = {key: value for key, value in metadata.items() if key != "last_event_at"}
    rows = pq.read_table(path / "sequences").to_pylist()
    items = Dataset.open(path).items()
    project.lineage.clear()
    project.write("dataset", unrecorded, lambda draft: _write_tables(draft, items, rows))
    project.write_models(project.ids, project.good)
    promote(project.registry, project.register(), NO_GATES, alias="challenger")
    project.lineage.clear()
    project.write("dataset", metadata, lambda draft: _write_tables(draft, items, rows))
    with pytest.raises(UserError, match=r"does not contain the time of the last event in dataset"):
        run(project.recipe)


def test_features_of_later_events_are_merged_with_their_events() -> None:
    schema = FeatureSchema(
        categorical=(Categorical(owner="context", name="device", values=("phone", "tv")),),
        numeric=(Numeric(owner="user", name="age", mean=0, scale=1),),
    )
    user, context = schema.of("user"), schema.of("context")
    past = Sequences(
        offsets=np.array([0, 2, 3]),
        item_idx=np.array([1, 2, 3], np.int32),
        label=np.zeros(3, np.int8),
        timestamp=np.array([1, 2, 1]),
        split=np.zeros(3, np.int8),
        user_id=["a", "c"],
        features=TargetFeatures(
            schema,
            schema.of("item").unknown(5),
            user.stack({"user.age": np.array([1, 2], np.float32)}, 2),
            context.stack({"context.device": np.array([1, 2, 1], np.int32)}, 3),
        ),
    )
    later = {"row": [0, 1, 2], "user_id": ["c", "b", "a"], "item_idx": [4, 1, 2], "timestamp": [9, 8, 7]}
    later |= {"label": [1, 0, 1], "context.device": ["tv", "radio", "phone"]}
    found = _append_events(past, pa.table(later), schema)
    assert found.user_id == ["a", "c", "b"]
    assert found.offsets.tolist() == [0, 3, 5, 6]
    assert found.item_idx.tolist() == [1, 2, 2, 3, 4, 1]
    assert found.features.context.categorical[:, 0].tolist() == [1, 2, 1, 1, 2, 0]
    assert found.features.user.numeric[:, 0].tolist() == [1, 2, 0]
