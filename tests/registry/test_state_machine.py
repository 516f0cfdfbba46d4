"""For any sequence of user actions, no alias points to a deleted or incomplete release."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from coldstart.config import Recipe, UserError
from coldstart.config.recipe import Paths
from coldstart.registry import Registry, promote, reconcile_alias, resolve, rollback
from coldstart.registry.alias_state import ALIASES
from coldstart.registry.gc import delete_old_versions
from coldstart.registry.version_tags import upstream_versions
from tests.registry.conftest import QUALITY, Run, Snapshot, alias_versions

SCORERS = st.integers(1, 6)
"""Requested versions: some do not exist yet, some no longer."""


class Project:
    """A project with four scorers, the third of them damaged; restored before every sequence.

    Args:
        path: Directory for the project and its snapshot.
    """

    def __init__(self, path: Path) -> None:
        self.recipe = Recipe(name="people", paths=Paths(runs=path / "live"))
        run = self.open()
        run.register_all(0.6)
        run.register_scorer(0.7)
        self.damage(run, run.register_scorer(0.8, "damaged"))
        for kind in ("ranker", "encoder", "item_table", "scorer"):
            run.make(kind, "another lineage")
        run.register_all(0.5)
        self.start = Snapshot(run, path / "kept")

    def open(self) -> Run:
        return Run(self.recipe, Registry(self.recipe.tracking_uri, self.recipe.name))

    @staticmethod
    def damage(run: Run, version: int) -> None:
        (run.registry.download_artifact("scorer", version).path / "settings.json").write_text("{}")


class UserActions(RuleBasedStateMachine):
    """Owners register, promote, roll back and delete; somebody moves aliases in MLflow's UI."""

    project: Project

    def __init__(self) -> None:
        super().__init__()
        self.project.start.restore()
        self.run = self.project.open()
        self.registry = self.run.registry
        self.num_registered = 0
        self.damaged = {3}
        self.changed_manually: set[str] = set()
        """Aliases that were changed manually and not reconciled since."""

    @rule(gauc=st.sampled_from([0.5, 0.6, 0.7]), whole_lineage=st.booleans(), damage=st.booleans())
    def register(self, gauc: float, whole_lineage: bool, damage: bool) -> None:
        self.num_registered += 1
        for kind in ("ranker", "encoder", "item_table", "scorer") if whole_lineage else ("scorer",):
            self.run.make(kind, str(self.num_registered))
        version = self.run.register_all(gauc).version
        if damage:
            self.project.damage(self.run, version)
            self.damaged.add(version)

    @rule(version=SCORERS, alias=st.sampled_from(ALIASES), override=st.booleans())
    def promote(self, version: int, alias: str, override: bool) -> None:
        with suppress(UserError):
            promote(self.registry, version, QUALITY, alias=alias, override=override, reason="because")
        self.changed_manually.discard(alias)

    @rule(to=st.none() | SCORERS)
    def rollback(self, to: int | None) -> None:
        with suppress(UserError):
            rollback(self.registry, to=to)
        self.changed_manually.discard("champion")

    @rule(keep=st.integers(1, 2), rollback_window=st.integers(1, 2))
    def collect_garbage(self, keep: int, rollback_window: int) -> None:
        delete_old_versions(self.registry, keep=keep, rollback_window=rollback_window)
        self.changed_manually.clear()

    @rule(alias=st.sampled_from(ALIASES))
    def read(self, alias: str) -> None:
        reconcile_alias(self.registry, alias)
        self.changed_manually.discard(alias)

    @rule(
        kind=st.sampled_from(["scorer", "scorer", "encoder", "ranker"]),
        alias=st.sampled_from(ALIASES),
        choice=st.none() | st.integers(0, 9),
    )
    def change_alias_manually(self, kind: str, alias: str, choice: int | None) -> None:
        name = self.registry.model_name(kind)
        existing = [entry.version for entry in self.registry.mlflow_versions(kind)]
        if choice is None:
            self.registry.client.delete_registered_model_alias(name, alias)
        else:
            self.registry.client.set_registered_model_alias(name, alias, str(existing[choice % len(existing)]))
        self.changed_manually.add(alias)

    @invariant()
    def aliases_point_to_complete_releases(self) -> None:
        for alias in set(ALIASES) - self.changed_manually:
            versions = {kind: number for kind, number in alias_versions(self.run, alias).items() if number is not None}
            if versions:
                assert versions["scorer"] not in self.damaged
                pinned = upstream_versions(self.registry.version("scorer", versions["scorer"]))
                assert versions == {"scorer": versions["scorer"], **pinned}

    def teardown(self) -> None:
        for alias in ALIASES:
            if reconcile_alias(self.registry, alias).version is not None:
                assert resolve(self.registry, alias).versions == alias_versions(self.run, alias)
        self.changed_manually.clear()
        self.aliases_point_to_complete_releases()
        assert self.registry.promotion_log.read().problem is None


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("people"))


def run_sequences(project: Project, *, sequences: int, steps: int) -> None:
    UserActions.project = project
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        UserActions,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=checks,
        ),
    )


def test_a_few_sequences(project):
    run_sequences(project, sequences=5, steps=10)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_sequences(project):
    run_sequences(project, sequences=200, steps=12)
