from pathlib import Path

import pytest

from coldstart.config import UserError
from coldstart.registry import apply_promotion, plan_promotion, promote, resolve, rollback
from coldstart.registry.gc import delete_old_versions
from tests.registry.conftest import QUALITY, Snapshot


def remaining(run, kind: str = "scorer") -> list[int]:
    return [int(entry.version) for entry in run.registry.mlflow_versions(kind)]


@pytest.fixture(scope="module")
def six_versions(first_champion, tmp_path_factory):
    champion = first_champion.restore()
    for number, gauc in ((2, 0.61), (3, 0.65), (4, 0.5), (5, 0.5), (6, 0.5)):
        champion.register_scorer(gauc, str(number))
    promote(champion.registry, 3, QUALITY)
    promote(champion.registry, 2, QUALITY, alias="challenger")
    return Snapshot(champion, tmp_path_factory.mktemp("versions") / "kept")


@pytest.fixture
def many_versions(six_versions):
    """Champions 1 and 3, challenger 2, and versions 4 to 6 without an alias."""
    return six_versions.restore()


def test_needed_versions_stay_and_others_are_deleted_with_files(many_versions):
    four = (
        many_versions.registry.download_artifact("scorer", 4).path,
        many_versions.registry.download_item_table(4).path,
    )
    planned = delete_old_versions(many_versions.registry, keep=1, rollback_window=1, dry_run=True)
    assert {kind: versions for kind, versions in planned.items() if versions} == {"scorer": [4, 5]}
    assert remaining(many_versions) == [6, 5, 4, 3, 2, 1]
    assert delete_old_versions(many_versions.registry, keep=1, rollback_window=1)["scorer"] == [4, 5]
    assert remaining(many_versions) == [6, 3, 2, 1]
    assert not any(Path(path).exists() for path in four)
    assert rollback(many_versions.registry).event.version == 1
    assert delete_old_versions(many_versions.registry, keep=1, rollback_window=1)["scorer"] == [3]


def test_release_outside_the_rollback_window_is_deleted(many_versions):
    many_versions.register_scorer(0.9, "seven")
    promote(many_versions.registry, 7, QUALITY)
    delete_old_versions(many_versions.registry, keep=1, rollback_window=1)
    assert remaining(many_versions) == [7, 3, 2]
    with pytest.raises(UserError, match="deleted by `coldstart gc`"):
        rollback(many_versions.registry, to=1)


def test_upstream_of_kept_versions_is_kept(champion):
    champion.make("ranker", "two")
    champion.register("ranker")
    champion.make("ranker", "three")
    champion.register("ranker")
    assert delete_old_versions(champion.registry, keep=1, rollback_window=1)["ranker"] == [2]
    assert resolve(champion.registry).versions == {"ranker": 1, "encoder": 1, "scorer": 1}


def test_promotion_planned_before_deletion_cannot_use_deleted_version(many_versions):
    plan = plan_promotion(many_versions.registry, 5, QUALITY, alias="challenger")
    delete_old_versions(many_versions.registry, keep=1, rollback_window=1)
    with pytest.raises(UserError, match="changed by somebody else"):
        apply_promotion(many_versions.registry, plan)
    with pytest.raises(UserError, match="deleted by `coldstart gc`"):
        promote(many_versions.registry, 5, QUALITY)


def test_next_run_finishes_an_interrupted_deletion(many_versions, monkeypatch):
    client = many_versions.registry.client
    monkeypatch.setattr(client, "delete_model_version", lambda name, version: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        delete_old_versions(many_versions.registry, keep=1, rollback_window=1)
    monkeypatch.undo()
    assert remaining(many_versions) == [6, 5, 4, 3, 2, 1]
    assert delete_old_versions(many_versions.registry, keep=1, rollback_window=1)["scorer"] == [4, 5]
    assert remaining(many_versions) == [6, 3, 2, 1]
    assert [logged.event.action for logged in many_versions.registry.promotion_log.read_verified().events].count(
        "deleted"
    ) == 1
