import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import copy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coldstart.config import MetricsLog, Recipe, read_artifact, write_artifact
from coldstart.config.recipe import Gate, Paths
from coldstart.config.recipe import Registry as Settings
from coldstart.data.item_table import write_item_table
from coldstart.methods.base import ITEM_TABLE, SCORER
from coldstart.registry import EvaluationOutputs, ModelVersion, Registry, promote, register_model

QUALITY = Settings(gates=(Gate(name="cold quality", slice="cold"),))
WIDTH, GROUPS, DEEP = 4, 2, 3


class Run:
    """A run directory with small artifacts of every kind and a correct lineage; weights are placeholders."""

    def __init__(self, recipe: Recipe, registry: Registry) -> None:
        self.recipe, self.registry = recipe, registry
        self.lineage: dict[str, str] = {"dataset": "d" * 64}
        self.make("ranker", "one")
        self.make("encoder", "one")
        self.make(ITEM_TABLE, "one")
        self.make(SCORER, "one")

    def make(self, kind: str, weights: str, width: int = WIDTH, groups: int = GROUPS, **lineage: str) -> Path:
        """Writes or rewrites one artifact; later artifacts are made from it."""
        path = self.recipe.run_dir / kind
        above = {"ranker": 1, "encoder": 2, ITEM_TABLE: 3, SCORER: 4}[kind]
        inherited = dict(list(self.lineage.items())[:above]) | lineage
        metadata: dict[str, object] = {"width": width}
        if kind == SCORER:
            metadata |= {"method": "idproxy", "mode": "frozen", "groups": groups, "state_width": DEEP}
        with write_artifact(path, kind, inherited, metadata) as draft:
            (draft / "settings.json").write_text(json.dumps({"weights": weights}))
            if kind == "ranker":
                ids = [f"film-{i}" for i in range(1, 6)]
                table = pa.table({"item_id": ids, "item_idx": range(1, 6), "trained": [True] * 4 + [False]})
                pq.write_table(table, draft / "vocabulary.parquet")
            if kind == ITEM_TABLE:
                columns = {"coarse": (width,), "states": (groups, DEEP)}
                write_item_table(draft, {name: np.ones((6, *shape), np.float32) for name, shape in columns.items()})
        manifest = json.loads((path / "manifest.json").read_text())
        self.lineage[kind] = manifest["fingerprint"]
        return path

    def register(
        self, kind: str, upstream: dict[str, int] | None = None, *, scores: pa.Table | None = None, **metrics: float
    ) -> ModelVersion:
        metrics_log = MetricsLog(self.recipe.run_dir / "metrics" / f"{kind}.jsonl")
        return register_model(
            self.registry,
            read_artifact(self.recipe.run_dir / kind, kind, verify=False),
            method="idproxy",
            recipe=self.recipe,
            upstream=upstream or {},
            metrics_log=metrics_log,
            evaluation=EvaluationOutputs(metrics, scores),
        )

    def register_all(self, cold_gauc: float) -> ModelVersion:
        ranker = self.register("ranker").version
        encoder = self.register("encoder", {"ranker": ranker}).version
        return self.register(SCORER, {"ranker": ranker, "encoder": encoder}, cold_gauc=cold_gauc)

    def register_scorer(self, cold_gauc: float, weights: str = "two") -> int:
        """Registers another scorer for the first ranker and encoder."""
        self.make(SCORER, weights)
        return self.register(SCORER, {"ranker": 1, "encoder": 1}, cold_gauc=cold_gauc).version


class Snapshot:
    """A run and its registry as they were at one moment, for tests that begin with the same registered models.

    `restore` overwrites in place: MLflow stores absolute paths, and keeps connections to its database.

    Args:
        run: Its registry is SQLite in `recipe.paths.runs`.
        kept: Directory to create for the copy.
    """

    def __init__(self, run: Run, kept: Path) -> None:
        self.run, self.lineage = run, dict(run.lineage)
        self.current, self.kept = run.recipe.paths.runs, kept
        shutil.copytree(self.current, kept)

    def restore(self) -> Run:
        """Undoes all that happened since, and returns the run with a new connection to its registry."""
        kept, current = (sqlite3.connect(path / "mlflow.db") for path in (self.kept, self.current))
        with closing(kept), closing(current):
            kept.backup(current)
        for path in self._directories(self.current):
            shutil.rmtree(path)
        for path in self._directories(self.kept):
            shutil.copytree(path, self.current / path.name)
        run = copy(self.run)
        run.lineage, run.registry = dict(self.lineage), Registry(run.recipe.tracking_uri, run.recipe.project)
        return run

    @staticmethod
    def _directories(path: Path) -> Iterator[Path]:
        return (entry for entry in list(path.iterdir()) if entry.is_dir())


def alias_versions(run: Run, alias: str = "champion") -> dict[str, int | None]:
    """kind -> version that MLflow's alias points to."""
    return {kind: run.registry.aliases(kind).get(alias) for kind in ("ranker", "encoder", SCORER)}


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests, because creating one takes seconds; every test has its own project in it."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def new_run(tracking_uri: str, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Run]:
    project = request.node.name.replace("[", "-").replace("]", "").replace("_", "-").lower()[:60]

    def make() -> Run:
        recipe = Recipe(name=project, paths=Paths(runs=tmp_path))
        return Run(recipe, Registry(tracking_uri, project))

    return make


@pytest.fixture
def run(new_run: Callable[[], Run]) -> Run:
    return new_run()


@pytest.fixture(scope="session")
def first_release(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Version 1 of every model, registered once because that takes seconds; its scorer has cold GAUC 0.6."""
    recipe = Recipe(name="first-release", paths=Paths(runs=tmp_path_factory.mktemp("release") / "live"))
    run = Run(recipe, Registry(recipe.tracking_uri, recipe.name))
    run.register_all(0.6)
    return Snapshot(run, tmp_path_factory.mktemp("release") / "registered")


@pytest.fixture(scope="session")
def first_champion(first_release: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """The first release after its promotion."""
    run = first_release.restore()
    assert promote(run.registry, 1, QUALITY).event.action == "promoted"
    return Snapshot(run, tmp_path_factory.mktemp("release") / "promoted")


@pytest.fixture
def registered(first_release: Snapshot) -> Run:
    """Version 1 of every model is registered, with cold GAUC 0.6, and none is promoted."""
    return first_release.restore()


@pytest.fixture
def champion(first_champion: Snapshot) -> Run:
    """Scorer version 1 with cold GAUC 0.6 is champion."""
    return first_champion.restore()
