"""The split, the shadow and the abort, with arms that answer, fail, refuse or wait on command; no Ray."""

import asyncio

import numpy as np
import pytest

from coldstart.config.recipe import Challenger, Serving
from coldstart.serving.board import Board, Line
from coldstart.serving.call import RankCall
from coldstart.serving.errors import ApiError
from coldstart.serving.schemas import Feedback, RankAnswer, ReleaseAnswer
from coldstart.serving.traffic import Traffic
from coldstart.serving.trial import Draw, Trial
from coldstart.serving.watch import Watch

pytestmark = pytest.mark.anyio
USERS = [f"user-{number}" for number in range(400)]
OLD, NEW = "demo-adaptor/1", "demo-adaptor/2"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Arm:
    def __init__(self, name: str, score: float) -> None:
        self.release = ReleaseAnswer(release=name, project="demo", alias=None, versions={}, fingerprints={})
        self.score, self.mood, self.asked = score, "fine", 0

    def take_in(self) -> None:
        pass

    async def rank(self, call: RankCall) -> RankAnswer:
        self.asked += 1
        if self.mood == "broken":
            raise RuntimeError("broken")
        if self.mood == "refuses":
            raise ApiError(422, "invalid", "features: unknown")
        if self.mood == "slow":
            await asyncio.sleep(60)
        rows = len(call.candidate_ids)
        return RankAnswer(scores=[self.score] * rows, vectors=["id"] * rows, release=self.release.release, ms=1.0)


class Remote:
    """Stands for the board's actor handle."""

    def __init__(self, board: Board) -> None:
        self.board, self.away, self.exchange = board, False, self

    async def remote(self, told):
        if self.away:
            raise TimeoutError
        return self.board.exchange(told)


def traffic(board: Remote | None = None, **settings: object) -> Traffic:
    limits = Challenger.model_validate({"share": 0.3, "min_requests": 20, "timeout_s": 0.05, **settings})
    serving = Serving(challenger=limits)
    trial = Trial("t1", OLD, NEW)
    return Traffic(Arm(OLD, 0.2), Arm(NEW, 0.6), trial, serving, Watch(serving, trial.number), Line(board))


def call(user: str | None, item: str = "a") -> RankCall:
    none = np.zeros(0, np.int64)
    return RankCall(candidate_ids=[item, "b"], history_ids=[], history_labels=none, history_times=none, user_id=user)


async def answers(gateway: Traffic, users=USERS) -> dict[str, str]:
    found = {}
    for user in users:
        answer = await gateway.rank(call(user))
        assert set(answer.scores) == {0.2 if answer.release == OLD else 0.6}
        found[user] = answer.release
    return found


async def test_a_user_meets_the_same_release_on_every_gateway_and_none_without_id():
    one, two = traffic(), traffic()
    first = await answers(one)
    assert first == await answers(two) == await answers(one)
    draw = Draw(NEW, Challenger(share=0.3))
    assert {user for user, release in first.items() if release == NEW} == {u for u in USERS if draw.takes(u)}
    assert (await one.rank(call(None))).release == OLD


@pytest.mark.parametrize("mood", ["broken", "slow", "refuses"])
async def test_where_the_challenger_has_no_answer_the_champion_answers_whole(mood):
    gateway = traffic()
    gateway.challenger.mood = mood
    taken = [user for user, release in (await answers(traffic())).items() if release == NEW][:4]
    assert set((await answers(gateway, taken)).values()) == {OLD}
    await gateway.look()
    assert gateway.summary().challenger.failed_per_s > 0


async def test_what_both_refuse_is_the_clients_fault():
    gateway = traffic()
    gateway.champion.mood = gateway.challenger.mood = "refuses"
    for user in USERS:
        with pytest.raises(ApiError, match="unknown"):
            await gateway.rank(call(user))
    await gateway.look()
    assert gateway.abort is None
    assert gateway.summary().challenger.failed_per_s == 0


async def test_a_failing_challenger_is_aborted_on_all_gateways_and_stays_so():
    board = Remote(Board())
    one, two = traffic(board), traffic(board)
    one.challenger.mood = "broken"
    await answers(one)
    for gateway in (one, two):
        await gateway.look()
        assert "failed" in gateway.abort.reason
    for gateway in (one, two):
        await gateway.look()
    assert two.abort == one.abort
    one.challenger.mood = "fine"
    for gateway in (one, two):
        asked = gateway.challenger.asked
        assert set((await answers(gateway)).values()) == {OLD}
        assert gateway.challenger.asked == asked
        await gateway.look()
    told = one.release.challenger
    assert (told.state, told.reason, told.release) == ("aborted", one.abort.reason, NEW)
    # A gateway that comes up later knows before it answers anybody.
    late = traffic(board)
    async with late.running():
        assert late.abort == one.abort


async def test_gateways_judge_by_the_figures_of_all_of_them():
    board = Remote(Board())
    several = [traffic(board, min_requests=100) for _ in range(3)]
    for place, gateway in enumerate(several):
        gateway.challenger.mood = "broken"
        await answers(gateway, USERS[place::3])
        await gateway.look()
    assert several[-1].abort is not None
    alone = traffic(min_requests=100)
    alone.challenger.mood = "broken"
    await answers(alone, USERS[::3])
    await alone.look()
    assert alone.abort is None


async def test_a_board_that_was_away_is_told_again():
    board = Remote(Board())
    one, two = traffic(board), traffic(board)
    board.away = True
    one.challenger.mood = "broken"
    await answers(one)
    await one.look()
    await two.look()
    assert one.abort is not None
    assert two.abort is None
    board.away, board.board = False, Board()
    await one.look()
    await two.look()
    assert two.abort == one.abort


def test_the_same_challenger_stays_in_its_trial_and_another_opens_a_new_one():
    board = Board()
    first = board.open_trial(OLD, NEW)
    board.learn({f"abort|{first.number}": "why", f"reference|{NEW}": [1]})
    assert board.open_trial("demo-adaptor/9", NEW).number == first.number
    other = board.open_trial(OLD, "demo-adaptor/3")
    assert other.number != first.number
    assert board.open_trial(OLD, None) is None
    assert board.open_trial(OLD, NEW).number != first.number


@pytest.mark.parametrize("mood", ["fine", "broken", "slow", "refuses"])
async def test_in_shadow_nobody_sees_the_challenger(mood):
    gateway = traffic(shadow=True)
    gateway.challenger.mood = mood
    assert set((await answers(gateway)).values()) == {OLD}
    await asyncio.sleep(0.2)
    assert gateway.challenger.asked
    await gateway.look()
    assert gateway.release.challenger.state == ("shadow" if mood == "fine" else "aborted")
    if mood == "fine":
        shadow = gateway.summary().shadow
        assert shadow.mean_difference == pytest.approx(0.4)
        assert shadow.mean_absolute_difference == pytest.approx(0.4)


async def test_feedback_finds_its_answer_on_whichever_gateway_gave_it():
    board = Remote(Board())
    one, two = traffic(board), traffic(board)
    for user in USERS:
        await one.rank(call(user))
    await one.look()
    two.watch.feedback("p1", [Feedback(item_id="a", label=1, user_id=user) for user in USERS])
    two.watch.feedback("p2", [Feedback(item_id="a", label=1, request_id="never asked")])
    for gateway in (two, one, one, two):
        await gateway.look()
    found = two.summary()
    assert (found.feedback_received, found.feedback_joined) == (len(USERS) + 1, len(USERS))
    for arm, score in ((found.champion, 0.2), (found.challenger, 0.6)):
        calibration = arm.calibration["all"]
        assert calibration.predicted == pytest.approx(score)
        assert calibration.observed == 1
        assert calibration.error == pytest.approx(1 - score)
    # The first word counts.
    two.watch.feedback("p3", [Feedback(item_id="a", label=0, user_id=user) for user in USERS])
    for gateway in (two, one, one, two):
        await gateway.look()
    assert two.summary().champion.calibration["all"].observed == 1


async def test_feedback_that_is_sent_again_counts_once_on_whichever_gateway_it_comes_again():
    board = Remote(Board())
    one, two = traffic(board), traffic(board)
    user = USERS[0]
    await one.rank(call(user))
    await one.look()
    clicked = [Feedback(item_id="a", label=1, user_id=user)]
    one.watch.feedback("p1", clicked)
    await one.look()
    # Another answer for the same item: the click must not be taken for one on this.
    await one.rank(call(user))
    one.watch.feedback("p1", clicked)
    two.watch.feedback("p1", clicked)
    for gateway in (one, two, one):
        await gateway.look()
    assert one.summary().feedback_joined == 1
    one.watch.feedback("p2", clicked)
    for gateway in (one, two):
        await gateway.look()
    assert two.summary().feedback_joined == 2


async def test_what_is_remembered_is_bounded():
    gateway = traffic()
    gateway.watch.answers._most = 100
    await answers(gateway)
    await gateway.look()
    assert gateway.summary().remembered_candidates <= 100
    assert len(gateway.watch.answers._by_request) == len(gateway.watch.answers._by_user) == 50
