"""The A/B router: traffic split, shadow mode, abort and feedback, with fake release servers and without Ray."""

import asyncio

import numpy as np
import pytest

from coldstart.config.recipe import Challenger, Serving
from coldstart.serving.ab_test.ab_router import ABRouter
from coldstart.serving.ab_test.experiment import ABTest, TrafficSplit
from coldstart.serving.api.errors import ApiError
from coldstart.serving.api.rank_call import RankCall
from coldstart.serving.api.schemas import Feedback, RankResponse, ReleaseResponse
from coldstart.serving.monitoring.stats_aggregator import AggregatorClient, StatsAggregator
from coldstart.serving.monitoring.stats_collector import StatsCollector

pytestmark = pytest.mark.anyio
USERS = [f"user-{number}" for number in range(400)]
OLD, NEW = "demo-scorer/1", "demo-scorer/2"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class FakeServer:
    def __init__(self, name: str, score: float) -> None:
        self.release = ReleaseResponse(release=name, project="demo", alias=None, versions={}, fingerprints={})
        self.score, self.behavior, self.calls = score, "fine", 0

    def refresh_store(self) -> None:
        pass

    async def rank(self, call: RankCall) -> RankResponse:
        self.calls += 1
        if self.behavior == "broken":
            raise RuntimeError("broken")
        if self.behavior == "refuses":
            raise ApiError(422, "invalid", "features: unknown")
        if self.behavior == "slow":
            await asyncio.sleep(60)
        rows = len(call.candidate_ids)
        return RankResponse(
            scores=[self.score] * rows, slot_sources=["id"] * rows, release=self.release.release, ms=1.0
        )


class FakeHandle:
    """Fake handle of the aggregator actor."""

    def __init__(self, aggregator: StatsAggregator) -> None:
        self.actor, self.down, self.exchange = aggregator, False, self

    async def remote(self, report):
        if self.down:
            raise TimeoutError
        return self.actor.exchange(report)


def router(aggregator: FakeHandle | None = None, **settings: object) -> ABRouter:
    limits = Challenger.model_validate({"traffic_fraction": 0.3, "min_requests": 20, "timeout_s": 0.05, **settings})
    serving = Serving(challenger=limits)
    ab_test = ABTest("t1", OLD, NEW)
    return ABRouter(
        FakeServer(OLD, 0.2),
        FakeServer(NEW, 0.6),
        ab_test,
        serving,
        StatsCollector(serving, ab_test.id),
        AggregatorClient(aggregator),
    )


def call(user: str | None, item: str = "a") -> RankCall:
    none = np.zeros(0, np.int64)
    return RankCall(candidate_ids=[item, "b"], history_ids=[], history_labels=none, history_times=none, user_id=user)


async def answers(gateway: ABRouter, users=USERS) -> dict[str, str]:
    found = {}
    for user in users:
        answer = await gateway.rank(call(user))
        assert set(answer.scores) == {0.2 if answer.release == OLD else 0.6}
        found[user] = answer.release
    return found


async def test_a_user_gets_the_same_release_on_every_gateway():
    one, two = router(), router()
    first = await answers(one)
    assert first == await answers(two) == await answers(one)
    split = TrafficSplit(NEW, Challenger(traffic_fraction=0.3))
    assert {user for user, release in first.items() if release == NEW} == {u for u in USERS if split.to_challenger(u)}
    assert (await one.rank(call(None))).release == OLD


@pytest.mark.parametrize("behavior", ["broken", "slow", "refuses"])
async def test_the_champion_answers_if_the_challenger_fails(behavior):
    gateway = router()
    gateway.challenger.behavior = behavior
    taken = [user for user, release in (await answers(router())).items() if release == NEW][:4]
    assert set((await answers(gateway, taken)).values()) == {OLD}
    await gateway.sync()
    assert gateway.stats_summary().challenger.failed_per_s > 0


async def test_a_request_that_both_refuse_is_a_client_error():
    gateway = router()
    gateway.champion.behavior = gateway.challenger.behavior = "refuses"
    for user in USERS:
        with pytest.raises(ApiError, match="unknown"):
            await gateway.rank(call(user))
    await gateway.sync()
    assert gateway.abort is None
    assert gateway.stats_summary().challenger.failed_per_s == 0


async def test_a_failing_challenger_is_aborted_on_all_gateways_for_good():
    aggregator = FakeHandle(StatsAggregator())
    one, two = router(aggregator), router(aggregator)
    one.challenger.behavior = "broken"
    await answers(one)
    for gateway in (one, two):
        await gateway.sync()
        assert "failed" in gateway.abort.reason
    for gateway in (one, two):
        await gateway.sync()
    assert two.abort == one.abort
    one.challenger.behavior = "fine"
    for gateway in (one, two):
        calls = gateway.challenger.calls
        assert set((await answers(gateway)).values()) == {OLD}
        assert gateway.challenger.calls == calls
        await gateway.sync()
    status = one.release.challenger
    assert (status.state, status.reason, status.release) == ("aborted", one.abort.reason, NEW)
    # A gateway that starts later knows it before it answers any request.
    late = router(aggregator)
    async with late.running():
        assert late.abort == one.abort


async def test_gateways_decide_on_the_statistics_of_all_of_them():
    aggregator = FakeHandle(StatsAggregator())
    several = [router(aggregator, min_requests=100) for _ in range(3)]
    for place, gateway in enumerate(several):
        gateway.challenger.behavior = "broken"
        await answers(gateway, USERS[place::3])
        await gateway.sync()
    assert several[-1].abort is not None
    alone = router(min_requests=100)
    alone.challenger.behavior = "broken"
    await answers(alone, USERS[::3])
    await alone.sync()
    assert alone.abort is None


async def test_a_restarted_aggregator_gets_the_shared_values_again():
    aggregator = FakeHandle(StatsAggregator())
    one, two = router(aggregator), router(aggregator)
    aggregator.down = True
    one.challenger.behavior = "broken"
    await answers(one)
    await one.sync()
    await two.sync()
    assert one.abort is not None
    assert two.abort is None
    aggregator.down, aggregator.actor = False, StatsAggregator()
    await one.sync()
    await two.sync()
    assert two.abort == one.abort


def test_the_same_challenger_keeps_its_test_and_another_starts_a_new_one():
    aggregator = StatsAggregator()
    first = aggregator.start_ab_test(OLD, NEW)
    aggregator.put_shared_values({f"abort|{first.id}": "why", f"reference|{NEW}": [1]})
    assert aggregator.start_ab_test("demo-scorer/9", NEW).id == first.id
    other = aggregator.start_ab_test(OLD, "demo-scorer/3")
    assert other.id != first.id
    assert aggregator.start_ab_test(OLD, None) is None
    assert aggregator.start_ab_test(OLD, NEW).id != first.id


@pytest.mark.parametrize("behavior", ["fine", "broken", "slow", "refuses"])
async def test_shadow_scores_are_not_returned(behavior):
    gateway = router(shadow=True)
    gateway.challenger.behavior = behavior
    assert set((await answers(gateway)).values()) == {OLD}
    await asyncio.sleep(0.2)
    assert gateway.challenger.calls
    await gateway.sync()
    assert gateway.release.challenger.state == ("shadow" if behavior == "fine" else "aborted")
    if behavior == "fine":
        shadow = gateway.stats_summary().shadow
        assert shadow.mean_difference == pytest.approx(0.4)
        assert shadow.mean_absolute_difference == pytest.approx(0.4)


async def test_feedback_is_joined_on_the_gateway_that_has_the_scores():
    aggregator = FakeHandle(StatsAggregator())
    one, two = router(aggregator), router(aggregator)
    for user in USERS:
        await one.rank(call(user))
    await one.sync()
    two.stats.add_feedback("p1", [Feedback(item_id="a", label=1, user_id=user) for user in USERS])
    two.stats.add_feedback("p2", [Feedback(item_id="a", label=1, request_id="never sent")])
    for gateway in (two, one, one, two):
        await gateway.sync()
    found = two.stats_summary()
    assert (found.feedback_received, found.feedback_joined) == (len(USERS) + 1, len(USERS))
    for server, score in ((found.champion, 0.2), (found.challenger, 0.6)):
        calibration = server.calibration["all"]
        assert calibration.predicted == pytest.approx(score)
        assert calibration.observed == 1
        assert calibration.error == pytest.approx(1 - score)
    # Only the first feedback on an item counts.
    two.stats.add_feedback("p3", [Feedback(item_id="a", label=0, user_id=user) for user in USERS])
    for gateway in (two, one, one, two):
        await gateway.sync()
    assert two.stats_summary().champion.calibration["all"].observed == 1


async def test_feedback_that_is_sent_twice_counts_once_on_all_gateways():
    aggregator = FakeHandle(StatsAggregator())
    one, two = router(aggregator), router(aggregator)
    user = USERS[0]
    await one.rank(call(user))
    await one.sync()
    clicked = [Feedback(item_id="a", label=1, user_id=user)]
    one.stats.add_feedback("p1", clicked)
    await one.sync()
    # A second ranking of the same item must not be joined with the repeated click.
    await one.rank(call(user))
    one.stats.add_feedback("p1", clicked)
    two.stats.add_feedback("p1", clicked)
    for gateway in (one, two, one):
        await gateway.sync()
    assert one.stats_summary().feedback_joined == 1
    one.stats.add_feedback("p2", clicked)
    for gateway in (one, two):
        await gateway.sync()
    assert two.stats_summary().feedback_joined == 2


async def test_the_feedback_buffer_is_bounded():
    gateway = router()
    gateway.stats.feedback_buffer._max_rows = 100
    await answers(gateway)
    await gateway.sync()
    assert gateway.stats_summary().feedback_buffer_size <= 100
    assert len(gateway.stats.feedback_buffer._by_request) == len(gateway.stats.feedback_buffer._by_user) == 50
