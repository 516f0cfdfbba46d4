import json

import pytest
from mlflow.exceptions import MlflowException

from coldstart.config import UserError
from coldstart.config.recipe import Gate
from coldstart.config.recipe import Registry as Settings
from coldstart.registry import decide, enact, promote, resolve, rollback, sentence, settle, withdraw
from tests.registry.conftest import QUALITY, standing


def test_first_promotion_moves_the_whole_release(champion):
    assert standing(champion) == {"ranker": 1, "encoder": 1, "adaptor": 1}
    assert resolve(champion.registry, "champion").alias == "champion"


@pytest.mark.parametrize(("cold_gauc", "tolerance", "passed"), [(0.6, 0, True), (0.599, 0, False), (0.599, 0.01, True)])
def test_gate_compares_cold_gauc_with_the_champion(champion, cold_gauc, tolerance, passed):
    settings = Settings(gates=(Gate(label="cold quality", slice="cold", tolerance=tolerance),))
    record = promote(champion.registry, "adaptor", champion.challenge(cold_gauc), settings)
    gate = record.entry.gates[-1]
    assert (gate["passed"], gate["figure"], gate["champion"]) == (passed, cold_gauc, 0.6)
    assert standing(champion)["adaptor"] == (2 if passed else 1)
    assert ("refused" in sentence(record)) is not passed
    tags = champion.registry.version("adaptor", 2).tags
    assert f"{cold_gauc:.4f}" in tags["coldstart.gates.cold-quality"]


def test_a_version_that_was_never_measured_is_refused(champion):
    champion.make("adaptor", "two")
    version = champion.register("adaptor", {"ranker": 1, "encoder": 1}).version
    record = promote(champion.registry, "adaptor", version, QUALITY)
    assert record.entry.action == "refused"
    assert "run evaluate" in sentence(record)


def test_few_rows_are_no_evidence(champion):
    settings = Settings(gates=(Gate(label="cold quality", slice="cold", min_rows=100),))
    champion.make("adaptor", "two")
    version = champion.register("adaptor", {"ranker": 1, "encoder": 1}, cold_gauc=0.9, cold_rows=99).version
    record = promote(champion.registry, "adaptor", version, settings)
    assert record.entry.action == "refused"
    assert "99 rows, 100 are asked for" in sentence(record)


def test_a_first_champion_needs_an_evaluation_but_no_rows_of_every_kind(run):
    settings = Settings(gates=(Gate(label="warm quality", metric="gauc_item", slice="warm", min_rows=100),))
    never = run.register_all(0.6).version
    assert "run evaluate" in sentence(promote(run.registry, "adaptor", never, settings))
    run.make("adaptor", "two")
    version = run.register("adaptor", {"ranker": 1, "encoder": 1}, warm_rows=0).version
    record = promote(run.registry, "adaptor", version, settings)
    assert record.entry.action == "promoted"
    assert "not defined on 0 rows" in record.entry.gates[-1]["note"]


def test_absolute_gates_read_figures_of_either_direction(champion):
    champion.make("adaptor", "two")
    version = champion.register("adaptor", {"ranker": 1, "encoder": 1}, cold_gauc=0.6, all_ece=0.03).version
    gates = (
        Gate(label="calibration", metric="ece", slice="all", against="absolute", bound=0.02),
        Gate(label="floor", metric="gauc", slice="cold", against="absolute", bound=0.55),
        Gate(label="cost", metric="golden_ms", against="absolute", bound=5),
        Gate(label="parity", metric="golden_parity", against="absolute", bound=1e-4),
    )
    measured = {"golden_ms": 4.0, "golden_parity": float("nan")}
    decision = decide(champion.registry, "adaptor", version, Settings(gates=gates), measure=lambda release: measured)
    verdicts = {verdict.label: verdict.passed for verdict in decision.verdicts}
    assert verdicts == {
        "whole release": True,
        "schema": True,
        "calibration": False,
        "floor": True,
        "cost": True,
        "parity": False,
    }


def test_licence_must_be_allowed(champion):
    version = champion.challenge(0.7)
    settings = QUALITY.model_copy(update={"licences": ("mit",)})
    record = promote(champion.registry, "adaptor", version, settings)
    assert "encoder has apache-2.0; allowed by registry.licences: mit" in sentence(record)
    settings = QUALITY.model_copy(update={"licences": ("mit", "apache-2.0")})
    assert promote(champion.registry, "adaptor", version, settings).entry.action == "promoted"


def test_other_dataset_is_not_compared_and_says_so(champion):
    champion.lineage["dataset"] = "e" * 64
    for kind in ("ranker", "encoder", "proxies", "adaptor"):
        champion.make(kind, "two")
    record = promote(champion.registry, "adaptor", champion.register_all(0.1).version, QUALITY)
    assert record.entry.action == "promoted"
    assert record.entry.gates[-1]["passed"] is None
    assert "different datasets" in record.entry.gates[-1]["note"]
    assert standing(champion) == {"ranker": 2, "encoder": 2, "adaptor": 2}


def test_a_challenger_only_has_to_be_a_whole_release(champion):
    version = champion.challenge(0.1)
    assert promote(champion.registry, "adaptor", version, QUALITY, alias="challenger").entry.action == "promoted"
    assert champion.registry.aliases("adaptor") == {"champion": 1, "challenger": version}


def test_a_challenger_is_withdrawn_on_record_and_may_come_again(champion):
    registry, version = champion.registry, champion.challenge(0.1)
    promote(registry, "adaptor", version, QUALITY, alias="challenger")
    record = withdraw(registry, why="too slow")
    assert sentence(record) == f"no challenger stands (before: version {version})"
    assert (record.entry.action, record.entry.why) == ("withdrawn", "too slow")
    assert set(standing(champion, "challenger").values()) == {None}
    assert standing(champion)["adaptor"] == 1
    found = settle(registry, "challenger")
    assert (found.version, found.state.value) == (None, "nothing stands")
    with pytest.raises(UserError, match="no challenger to withdraw"):
        withdraw(registry)
    assert promote(registry, "adaptor", version, QUALITY, alias="challenger").entry.versions


def test_a_decision_alone_changes_nothing(champion):
    before = champion.registry.ledger.read()
    decision = decide(champion.registry, "adaptor", champion.challenge(0.1), QUALITY)
    assert not decision.passed
    assert champion.registry.ledger.read() == before
    assert standing(champion)["adaptor"] == 1


def test_promoting_the_champion_again_adds_no_record(champion):
    again = promote(champion.registry, "adaptor", 1, QUALITY)
    assert again.number == 1
    assert len(champion.registry.ledger.read().records) == 1


def test_overriding_needs_a_reason_and_is_loud(champion):
    version = champion.challenge(0.1)
    with pytest.raises(UserError, match="--why TEXT"):
        promote(champion.registry, "adaptor", version, QUALITY, override=True)
    record = promote(champion.registry, "adaptor", version, QUALITY, override=True, why="the posters were wrong")
    assert record.entry.override
    assert "GATES OVERRIDDEN" in sentence(record)
    assert standing(champion)["adaptor"] == version


def test_every_decision_is_kept(champion):
    promote(champion.registry, "adaptor", champion.challenge(0.5), QUALITY, why="try")
    promote(champion.registry, "adaptor", champion.challenge(0.7, "three"), QUALITY, why="new posters")
    entries = [record.entry for record in champion.registry.ledger.trusted().records]
    assert [(e.version, e.previous, e.action) for e in entries] == [
        (1, None, "promoted"),
        (2, 1, "refused"),
        (3, 1, "promoted"),
    ]
    assert "@" in entries[1].who
    assert (entries[1].why, entries[1].gates[-1]["figure"]) == ("try", 0.5)


def test_a_decision_on_an_old_state_is_overtaken(champion):
    old = decide(champion.registry, "adaptor", champion.challenge(0.7), QUALITY)
    promote(champion.registry, "adaptor", champion.challenge(0.8, "three"), QUALITY)
    with pytest.raises(UserError, match="changed by somebody else"):
        enact(champion.registry, old)
    assert standing(champion)["adaptor"] == 3
    assert [record.overtaken for record in champion.registry.ledger.trusted().records] == [None, None, 2]


def test_an_answer_that_was_lost_is_not_asked_for_twice(champion, monkeypatch):
    client, version = champion.registry.client, champion.challenge(0.7)
    create = client.create_model_version

    def answer_is_lost(*given, **named):
        create(*given, **named)
        raise MlflowException("connection reset")

    monkeypatch.setattr(client, "create_model_version", answer_is_lost)
    assert promote(champion.registry, "adaptor", version, QUALITY).number == 2
    assert len(champion.registry.ledger.read().records) == 2


def test_inconsistent_release_is_not_promoted(champion):
    version = champion.challenge(0.9)
    path = champion.registry.locate("adaptor", version).path
    (path / "settings.json").write_text("{}")
    with pytest.raises(UserError, match="differs from its manifest"):
        promote(champion.registry, "adaptor", version, QUALITY, override=True, why="I want to")
    assert standing(champion)["adaptor"] == 1


def test_ranker_and_encoder_move_only_with_a_release(champion):
    with pytest.raises(UserError, match="moves with the release"):
        promote(champion.registry, "ranker", 1, QUALITY)


def test_rollback_restores_the_release_bit_for_bit(champion):
    before = resolve(champion.registry)
    champion.make("encoder", "two")
    champion.make("proxies", "two")
    champion.make("adaptor", "two")
    promote(champion.registry, "adaptor", champion.register_all(0.7).version, QUALITY)
    assert standing(champion) == {"ranker": 1, "encoder": 2, "adaptor": 2}
    record = rollback(champion.registry, "adaptor", why="complaints")
    assert (record.entry.action, record.entry.previous, record.entry.version) == ("rolled back", 2, 1)
    assert resolve(champion.registry) == before
    assert standing(champion) == {"ranker": 1, "encoder": 1, "adaptor": 1}


def test_rollbacks_go_further_back_and_to_any_former_champion(champion):
    for number, gauc in ((2, 0.7), (3, 0.8)):
        promote(champion.registry, "adaptor", champion.challenge(gauc, str(number)), QUALITY)
    assert rollback(champion.registry, "adaptor").entry.version == 2
    assert rollback(champion.registry, "adaptor").entry.version == 1
    with pytest.raises(UserError, match="no release before"):
        rollback(champion.registry, "adaptor")
    assert rollback(champion.registry, "adaptor", to=3).entry.version == 3
    champion.challenge(0.1, "four")
    with pytest.raises(UserError, match="was never champion"):
        rollback(champion.registry, "adaptor", to=4)


def test_rollback_to_a_release_that_changed_is_refused(champion):
    promote(champion.registry, "adaptor", champion.challenge(0.7), QUALITY)
    path = champion.registry.locate("adaptor", 1).path
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": "0" * 64}))
    with pytest.raises(UserError, match="was changed after it was written"):
        rollback(champion.registry, "adaptor")
    assert standing(champion)["adaptor"] == 2
