import json

import pytest
from mlflow.exceptions import MlflowException

from coldstart.config import UserError
from coldstart.config.recipe import Gate
from coldstart.config.recipe import Registry as Settings
from coldstart.registry import (
    apply_promotion,
    describe_event,
    plan_promotion,
    promote,
    reconcile_alias,
    resolve,
    rollback,
    stop_challenger,
)
from coldstart.registry.promotion import check_promotable
from tests.registry.conftest import QUALITY, alias_versions


def test_first_promotion_moves_all_parts_of_the_release(champion):
    assert alias_versions(champion) == {"ranker": 1, "encoder": 1, "scorer": 1}
    assert resolve(champion.registry, "champion").alias == "champion"


@pytest.mark.parametrize(("cold_gauc", "tolerance", "passed"), [(0.6, 0, True), (0.599, 0, False), (0.599, 0.01, True)])
def test_gate_compares_cold_gauc_with_the_champion(champion, cold_gauc, tolerance, passed):
    settings = Settings(gates=(Gate(name="cold quality", slice="cold", tolerance=tolerance),))
    logged = promote(champion.registry, champion.register_scorer(cold_gauc), settings)
    gate = logged.event.gates[-1]
    assert (gate["passed"], gate["value"], gate["champion_value"]) == (passed, cold_gauc, 0.6)
    assert alias_versions(champion)["scorer"] == (2 if passed else 1)
    assert ("refused" in describe_event(logged)) is not passed
    tags = champion.registry.version("scorer", 2).tags
    assert f"{cold_gauc:.4f}" in tags["coldstart.gates.cold-quality"]


def test_version_without_evaluation_is_refused(champion):
    champion.make("scorer", "two")
    version = champion.register("scorer", {"ranker": 1, "encoder": 1}).version
    logged = promote(champion.registry, version, QUALITY)
    assert logged.event.action == "refused"
    assert "run evaluate" in describe_event(logged)


def test_gate_fails_on_too_few_rows(champion):
    settings = Settings(gates=(Gate(name="cold quality", slice="cold", min_rows=100),))
    champion.make("scorer", "two")
    version = champion.register("scorer", {"ranker": 1, "encoder": 1}, cold_gauc=0.9, cold_rows=99).version
    logged = promote(champion.registry, version, settings)
    assert logged.event.action == "refused"
    assert "has 99 rows, required: 100" in describe_event(logged)


def test_first_champion_needs_an_evaluation_but_not_every_slice(registered):
    settings = Settings(gates=(Gate(name="warm quality", metric="gauc_item", slice="warm", min_rows=100),))
    assert "run evaluate" in describe_event(promote(registered.registry, 1, settings))
    registered.make("scorer", "two")
    version = registered.register("scorer", {"ranker": 1, "encoder": 1}, warm_rows=0).version
    logged = promote(registered.registry, version, settings)
    assert logged.event.action == "promoted"
    assert "not defined on 0 rows" in logged.event.gates[-1]["note"]


def test_absolute_gates_work_in_both_directions(champion):
    champion.make("scorer", "two")
    version = champion.register("scorer", {"ranker": 1, "encoder": 1}, cold_gauc=0.6, all_ece=0.03).version
    gates = (
        Gate(name="calibration", metric="ece", slice="all", baseline="absolute", threshold=0.02),
        Gate(name="floor", metric="gauc", slice="cold", baseline="absolute", threshold=0.55),
        Gate(name="cost", metric="rank_cost_ms", baseline="absolute", threshold=5),
        Gate(name="parity", metric="online_offline_gap", baseline="absolute", threshold=1e-4),
    )
    measured = {"rank_cost_ms": 4.0, "online_offline_gap": float("nan")}
    plan = plan_promotion(champion.registry, version, Settings(gates=gates), measure=lambda release: measured)
    gate_results = {result.name: result.passed for result in plan.gate_results}
    assert gate_results == {
        "complete release": True,
        "schema": True,
        "calibration": False,
        "floor": True,
        "cost": True,
        "parity": False,
    }


def test_license_must_be_allowed(champion):
    version = champion.register_scorer(0.7)
    settings = QUALITY.model_copy(update={"allowed_licenses": ("mit",)})
    logged = promote(champion.registry, version, settings)
    assert "encoder has apache-2.0; allowed by registry.allowed_licenses: mit" in describe_event(logged)
    settings = QUALITY.model_copy(update={"allowed_licenses": ("mit", "apache-2.0")})
    assert promote(champion.registry, version, settings).event.action == "promoted"


def test_metrics_of_different_datasets_are_not_compared(champion):
    champion.lineage["dataset"] = "e" * 64
    for kind in ("ranker", "encoder", "item_table", "scorer"):
        champion.make(kind, "two")
    logged = promote(champion.registry, champion.register_all(0.1).version, QUALITY)
    assert logged.event.action == "promoted"
    assert logged.event.gates[-1]["passed"] is None
    assert "different datasets" in logged.event.gates[-1]["note"]
    assert alias_versions(champion) == {"ranker": 2, "encoder": 2, "scorer": 2}


def test_challenger_only_has_to_be_a_complete_release(champion):
    version = champion.register_scorer(0.1)
    assert promote(champion.registry, version, QUALITY, alias="challenger").event.action == "promoted"
    assert champion.registry.aliases("scorer") == {"champion": 1, "challenger": version}


def test_stopped_challenger_is_logged_and_can_return(champion):
    registry, version = champion.registry, champion.register_scorer(0.1)
    promote(registry, version, QUALITY, alias="challenger")
    logged = stop_challenger(registry, reason="too slow")
    assert describe_event(logged) == f"there is no challenger now (before: version {version})"
    assert (logged.event.action, logged.event.reason) == ("stopped", "too slow")
    assert set(alias_versions(champion, "challenger").values()) == {None}
    assert alias_versions(champion)["scorer"] == 1
    found = reconcile_alias(registry, "challenger")
    assert (found.version, found.status.value) == (None, "not set")
    with pytest.raises(UserError, match="no challenger to stop"):
        stop_challenger(registry)
    assert promote(registry, version, QUALITY, alias="challenger").event.versions


def test_plan_changes_nothing(champion):
    before = champion.registry.promotion_log.read()
    plan = plan_promotion(champion.registry, champion.register_scorer(0.1), QUALITY)
    assert not plan.passed
    assert champion.registry.promotion_log.read() == before
    assert alias_versions(champion)["scorer"] == 1


def test_promoting_the_champion_again_adds_no_event(champion):
    again = promote(champion.registry, 1, QUALITY)
    assert again.number == 1
    assert len(champion.registry.promotion_log.read().events) == 1


def test_override_needs_a_reason_and_is_visible(champion):
    version = champion.register_scorer(0.1)
    with pytest.raises(UserError, match="--reason TEXT"):
        promote(champion.registry, version, QUALITY, override=True)
    logged = promote(champion.registry, version, QUALITY, override=True, reason="the posters were wrong")
    assert logged.event.override
    assert "GATES OVERRIDDEN" in describe_event(logged)
    assert alias_versions(champion)["scorer"] == version


def test_every_decision_is_logged(champion):
    promote(champion.registry, champion.register_scorer(0.5), QUALITY, reason="try")
    promote(champion.registry, champion.register_scorer(0.7, "three"), QUALITY, reason="new posters")
    events = [logged.event for logged in champion.registry.promotion_log.read_verified().events]
    assert [(e.version, e.previous, e.action) for e in events] == [
        (1, None, "promoted"),
        (2, 1, "refused"),
        (3, 1, "promoted"),
    ]
    assert "@" in events[1].actor
    assert (events[1].reason, events[1].gates[-1]["value"]) == ("try", 0.5)


def test_plan_on_an_old_snapshot_is_superseded(champion):
    old = plan_promotion(champion.registry, champion.register_scorer(0.7), QUALITY)
    promote(champion.registry, champion.register_scorer(0.8, "three"), QUALITY)
    with pytest.raises(UserError, match="changed by somebody else"):
        apply_promotion(champion.registry, old)
    assert alias_versions(champion)["scorer"] == 3
    assert [logged.superseded_by for logged in champion.registry.promotion_log.read_verified().events] == [
        None,
        None,
        2,
    ]


def test_write_with_a_lost_response_is_not_repeated(champion, monkeypatch):
    client, version = champion.registry.client, champion.register_scorer(0.7)
    create = client.create_model_version

    def response_is_lost(*args, **kwargs):
        create(*args, **kwargs)
        raise MlflowException("connection reset")

    monkeypatch.setattr(client, "create_model_version", response_is_lost)
    assert promote(champion.registry, version, QUALITY).number == 2
    assert len(champion.registry.promotion_log.read().events) == 2


def test_inconsistent_release_is_not_promoted(champion):
    version = champion.register_scorer(0.9)
    path = champion.registry.download_artifact("scorer", version).path
    (path / "settings.json").write_text("{}")
    with pytest.raises(UserError, match="differs from its manifest"):
        promote(champion.registry, version, QUALITY, override=True, reason="I want to")
    assert alias_versions(champion)["scorer"] == 1


def test_ranker_and_encoder_move_only_with_a_release(champion):
    with pytest.raises(UserError, match="moves with the release"):
        check_promotable(champion.registry, "ranker")


def test_rollback_restores_the_release_byte_for_byte(champion):
    before = resolve(champion.registry)
    champion.make("encoder", "two")
    champion.make("item_table", "two")
    champion.make("scorer", "two")
    promote(champion.registry, champion.register_all(0.7).version, QUALITY)
    assert alias_versions(champion) == {"ranker": 1, "encoder": 2, "scorer": 2}
    logged = rollback(champion.registry, reason="complaints")
    assert (logged.event.action, logged.event.previous, logged.event.version) == ("rolled back", 2, 1)
    assert resolve(champion.registry) == before
    assert alias_versions(champion) == {"ranker": 1, "encoder": 1, "scorer": 1}


def test_rollback_to_older_and_to_named_champions(champion):
    for number, gauc in ((2, 0.7), (3, 0.8)):
        promote(champion.registry, champion.register_scorer(gauc, str(number)), QUALITY)
    assert rollback(champion.registry).event.version == 2
    assert rollback(champion.registry).event.version == 1
    with pytest.raises(UserError, match="no release before"):
        rollback(champion.registry)
    assert rollback(champion.registry, to=3).event.version == 3
    champion.register_scorer(0.1, "four")
    with pytest.raises(UserError, match="was never champion"):
        rollback(champion.registry, to=4)


def test_rollback_to_a_release_that_changed_is_refused(champion):
    promote(champion.registry, champion.register_scorer(0.7), QUALITY)
    path = champion.registry.download_artifact("scorer", 1).path
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": "0" * 64}))
    with pytest.raises(UserError, match="was changed after it was written"):
        rollback(champion.registry)
    assert alias_versions(champion)["scorer"] == 2
