"""Whatever people do in whatever order, no alias is left on a release that is deleted or not whole."""

import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from coldstart.config import Recipe, UserError
from coldstart.config.recipe import Paths
from coldstart.registry import Registry, promote, resolve, rollback, settle
from coldstart.registry.housekeeping import collect
from coldstart.registry.registry import upstream_versions
from coldstart.registry.standing import ALIASES
from tests.registry.conftest import QUALITY, Run, standing

ADAPTORS = st.integers(1, 6)
"""Versions that are asked for: some are not there yet, some no longer."""


class Stage:
    """A project with four adaptors, the third of them damaged, that is set back to how it was before every sequence.

    Args:
        path: Directory for everything.
    """

    def __init__(self, path: Path) -> None:
        self.live, self.kept = path / "live", path / "kept"
        self.live.mkdir()
        self.run = self.open()
        self.run.register_all(0.6)
        self.run.challenge(0.7)
        self.damage(self.run, self.run.challenge(0.8, "damaged"))
        for kind in ("ranker", "encoder", "proxies", "adaptor"):
            self.run.make(kind, "another line")
        self.run.register_all(0.5)
        shutil.copytree(self.live, self.kept)

    def open(self) -> Run:
        recipe = Recipe(name="people", paths=Paths(runs=self.live))
        return Run(recipe, Registry(recipe.tracking_uri, recipe.name))

    @staticmethod
    def damage(run: Run, version: int) -> None:
        (run.registry.locate("adaptor", version).path / "settings.json").write_text("{}")

    def set_back(self) -> None:
        """MLflow keeps connections to its database, so that is written over in place."""
        kept, live = (sqlite3.connect(path / "mlflow.db") for path in (self.kept, self.live))
        with closing(kept), closing(live):
            kept.backup(live)
        for name in ("people", "mlflow-artifacts"):
            shutil.rmtree(self.live / name)
            shutil.copytree(self.kept / name, self.live / name)


class People(RuleBasedStateMachine):
    """Owners who register, promote, roll back and sweep, and somebody who moves aliases in MLflow's UI."""

    stage: Stage

    def __init__(self) -> None:
        super().__init__()
        self.stage.set_back()
        self.run = self.stage.open()
        self.registry = self.run.registry
        self.made = 0
        self.damaged = {3}
        self.touched: set[str] = set()
        """Aliases that a hand moved and nobody has looked at since."""

    @rule(gauc=st.sampled_from([0.5, 0.6, 0.7]), whole_line=st.booleans(), damage=st.booleans())
    def register(self, gauc: float, whole_line: bool, damage: bool) -> None:
        self.made += 1
        for kind in ("ranker", "encoder", "proxies", "adaptor") if whole_line else ("adaptor",):
            self.run.make(kind, str(self.made))
        version = self.run.register_all(gauc).version
        if damage:
            self.stage.damage(self.run, version)
            self.damaged.add(version)

    @rule(version=ADAPTORS, alias=st.sampled_from(ALIASES), override=st.booleans())
    def promote(self, version: int, alias: str, override: bool) -> None:
        with suppress(UserError):
            promote(self.registry, "adaptor", version, QUALITY, alias=alias, override=override, why="because")
        self.touched.discard(alias)

    @rule(to=st.none() | ADAPTORS)
    def rollback(self, to: int | None) -> None:
        with suppress(UserError):
            rollback(self.registry, "adaptor", to=to)
        self.touched.discard("champion")

    @rule(keep=st.integers(1, 2), window=st.integers(1, 2))
    def sweep(self, keep: int, window: int) -> None:
        collect(self.registry, keep=keep, window=window)
        self.touched.clear()

    @rule(alias=st.sampled_from(ALIASES))
    def read(self, alias: str) -> None:
        settle(self.registry, alias)
        self.touched.discard(alias)

    @rule(
        kind=st.sampled_from(["adaptor", "adaptor", "encoder", "ranker"]),
        alias=st.sampled_from(ALIASES),
        choice=st.none() | st.integers(0, 9),
    )
    def by_hand(self, kind: str, alias: str, choice: int | None) -> None:
        name = self.registry.model_name(kind)
        there = [entry.version for entry in self.registry.entries(kind)]
        if choice is None:
            self.registry.client.delete_registered_model_alias(name, alias)
        else:
            self.registry.client.set_registered_model_alias(name, alias, str(there[choice % len(there)]))
        self.touched.add(alias)

    @invariant()
    def aliases_stand_at_whole_releases(self) -> None:
        for alias in set(ALIASES) - self.touched:
            at = {kind: number for kind, number in standing(self.run, alias).items() if number is not None}
            if at:
                assert at["adaptor"] not in self.damaged
                pinned = upstream_versions(self.registry.version("adaptor", at["adaptor"]))
                assert at == {"adaptor": at["adaptor"], **pinned}

    def teardown(self) -> None:
        for alias in ALIASES:
            if settle(self.registry, alias).version is not None:
                assert resolve(self.registry, alias).versions == standing(self.run, alias)
        self.touched.clear()
        self.aliases_stand_at_whole_releases()
        assert self.registry.ledger.read().problem is None


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("people"))


def play(stage: Stage, *, sequences: int, steps: int) -> None:
    People.stage = stage
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        People,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=checks,
        ),
    )


def test_a_few_sequences(stage):
    play(stage, sequences=5, steps=10)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_sequences(stage):
    play(stage, sequences=200, steps=12)
