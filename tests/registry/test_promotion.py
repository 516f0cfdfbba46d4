import pytest

from coldstart.config import UserError
from coldstart.registry import history, promote


@pytest.fixture
def champion(run):
    """Version 1 with cold GAUC 0.6 is champion; further adaptors can be registered by `challenge`."""
    first = run.register_all(0.6)
    assert promote(run.registry, "adaptor", first.version).passed
    return run


def challenge(run, cold_gauc: float, weights: str = "two") -> int:
    run.make("adaptor", weights)
    return run.register("adaptor", {"ranker": 1, "encoder": 1}, cold_gauc=cold_gauc).version


def standing(run) -> dict[str, int | None]:
    return {kind: run.registry.aliases(kind).get("champion") for kind in ("ranker", "encoder", "adaptor")}


def test_first_promotion_moves_the_whole_release(champion):
    assert standing(champion) == {"ranker": 1, "encoder": 1, "adaptor": 1}
    assert champion.registry.release("champion").alias == "champion"


@pytest.mark.parametrize(("cold_gauc", "tolerance", "passed"), [(0.6, 0, True), (0.599, 0, False), (0.599, 0.01, True)])
def test_gate_compares_cold_gauc_with_the_champion(champion, cold_gauc, tolerance, passed):
    verdict = promote(champion.registry, "adaptor", challenge(champion, cold_gauc), tolerance=tolerance)
    assert verdict.passed is passed
    assert (verdict.gate.candidate, verdict.gate.champion) == (cold_gauc, 0.6)
    assert standing(champion)["adaptor"] == (2 if passed else 1)
    assert ("refused" in verdict.sentence()) is not passed


def test_a_version_that_was_never_measured_is_refused(champion):
    champion.make("adaptor", "two")
    version = champion.register("adaptor", {"ranker": 1, "encoder": 1}).version
    verdict = promote(champion.registry, "adaptor", version)
    assert not verdict.passed
    assert "run evaluate" in verdict.gate.note


def test_other_dataset_is_not_compared_and_says_so(champion):
    champion.lineage["dataset"] = "e" * 64
    for kind in ("ranker", "encoder", "proxies", "adaptor"):
        champion.make(kind, "two")
    verdict = promote(champion.registry, "adaptor", champion.register_all(0.1).version)
    assert verdict.passed
    assert "datasets differ" in verdict.gate.note
    assert standing(champion) == {"ranker": 2, "encoder": 2, "adaptor": 2}


def test_other_aliases_are_not_gated(champion):
    version = challenge(champion, 0.1)
    assert promote(champion.registry, "adaptor", version, alias="challenger").passed
    assert champion.registry.aliases("adaptor") == {"champion": 1, "challenger": version}


def test_every_decision_is_kept(champion):
    worse = challenge(champion, 0.5)
    promote(champion.registry, "adaptor", worse, who="ann", why="try")
    better = challenge(champion, 0.7, "three")
    promote(champion.registry, "adaptor", better, who="bob", why="new posters")
    records = history(champion.registry)
    assert [(r["version"], r["previous"], r["passed"]) for r in records] == [
        (1, None, True),
        (2, 1, False),
        (3, 1, True),
    ]
    assert (records[1]["who"], records[1]["why"], records[1]["gate"]["candidate"]) == ("ann", "try", 0.5)


def test_failure_half_way_leaves_the_aliases_as_they_were(champion, monkeypatch):
    champion.make("encoder", "two")
    champion.make("proxies", "two")
    champion.make("adaptor", "two")
    version = champion.register_all(0.7).version
    client = champion.registry.client
    move = client.set_registered_model_alias

    def fail_on_adaptor(name: str, alias: str, number: str) -> None:
        if name.endswith("-adaptor") and number == str(version):
            raise ConnectionError("server went away")
        move(name, alias, number)

    monkeypatch.setattr(client, "set_registered_model_alias", fail_on_adaptor)
    with pytest.raises(ConnectionError):
        promote(champion.registry, "adaptor", version)
    assert standing(champion) == {"ranker": 1, "encoder": 1, "adaptor": 1}


def test_inconsistent_release_is_not_promoted(champion):
    version = challenge(champion, 0.9)
    path = champion.registry.locate("adaptor", version).path
    (path / "settings.json").write_text("{}")
    with pytest.raises(UserError, match="differs from its manifest"):
        promote(champion.registry, "adaptor", version)
    assert standing(champion)["adaptor"] == 1


def test_ranker_and_encoder_move_only_with_a_release(champion):
    with pytest.raises(UserError, match="promoted with the release"):
        promote(champion.registry, "ranker", 1)
