"""Both clients against real sockets, and against the gateway's own application in a real HTTP server."""

import asyncio
import subprocess
import sys
import threading
import time
from email.utils import formatdate

import pyarrow as pa
import pytest

from coldstart.client import (
    AsyncClient,
    BusyError,
    CallError,
    Candidate,
    Client,
    DeadlineError,
    Feedback,
    HistoryEvent,
    PublishRequest,
    RankRequest,
    RankRequests,
    RefusedError,
    Retries,
    UnreachableError,
    UnusableAnswerError,
)
from coldstart.serving.app import make_app
from tests.client.trouble import DRIBBLE, RESET, SILENCE, Answer, problem, trouble
from tests.serving.conftest import gateway  # noqa: F401
from tests.serving.local import listening
from tests.serving.tiny import IDS, picture

READY = Answer(200, {"status": "ready", "release": "demo-adaptor/1"})
SCORED = Answer(200, {"scores": [0.5], "vectors": ["id"], "release": "demo-adaptor/1", "ms": 1.0, "news": [1]})
ONE = RankRequest(candidates=[Candidate(item_id="a")])
QUICK = Retries(base_s=0.001, attempt_s=5)


class Both:
    """Calls one operation of either client and keeps its counts."""

    def __init__(self, kind: str) -> None:
        self.kind, self.counts = kind, None

    def __call__(self, url, operation, *arguments, deadline_s=None, retries=QUICK, **settings):
        if self.kind == "sync":
            with Client(url, retries=retries, **settings) as client:
                try:
                    return getattr(client, operation)(*arguments, deadline_s=deadline_s)
                finally:
                    self.counts = client.counts
        return asyncio.run(self._asynchronous(url, operation, arguments, deadline_s, retries, settings))

    async def _asynchronous(self, url, operation, arguments, deadline_s, retries, settings):
        async with AsyncClient(url, retries=retries, **settings) as client:
            try:
                return await getattr(client, operation)(*arguments, deadline_s=deadline_s)
            finally:
                self.counts = client.counts


@pytest.fixture(params=["sync", "async"])
def call(request) -> Both:
    return Both(request.param)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (RESET, None),
        (problem(503, "not_ready"), "503"),
        (problem(429, "busy", retry_after="0"), "429"),
        (problem(500, "internal"), "500"),
        (Answer(502, b"<html>bad gateway</html>"), "502"),
    ],
)
@pytest.mark.parametrize("operation", ["rank", "publish"])
def test_what_passes_is_tried_again_and_counted(call, step, reason, operation):
    item = PublishRequest(item_id="a", title="t")
    published = Answer(200, {"item_id": "a", "proxy_norm": 1.0, "release": "r/1", "ms": 1.0})
    answer, request = (SCORED, ONE) if operation == "rank" else (published, item)
    with trouble(step, step, answer) as server:
        assert call(server.url, operation, request).release
    assert len({body for _, body in server.seen}) == 1
    assert (call.counts.calls, call.counts.failed, call.counts.retried) == (1, 0, 2)
    if reason:
        assert call.counts.retries == {reason: 2}


def test_nobody_listens(call):
    with trouble() as server:
        url = server.url
    with pytest.raises(UnreachableError, match=r"POST /v1/rank: unreachable after 3 attempts") as caught:
        call(url, "rank", ONE, retries=Retries(most=2, base_s=0.001))
    assert caught.value.status is None
    assert (call.counts.failed, call.counts.retried) == (1, 2)


def test_a_server_that_stays_busy_is_told_with_its_own_words(call):
    said = "429 busy after 3 attempts: as scripted"
    with (
        trouble(*[problem(429, "busy", retry_after="0")] * 3) as server,
        pytest.raises(BusyError, match=said) as caught,
    ):
        call(server.url, "rank", ONE, retries=Retries(most=2, base_s=0.001))
    assert (caught.value.status, caught.value.code, caught.value.attempts) == (429, "busy", 3)


@pytest.mark.parametrize("given", ["1", "date"])
def test_retry_after_is_waited_for(call, given):
    given = formatdate(time.time() + 2, usegmt=True) if given == "date" else given
    with trouble(problem(429, "busy", retry_after=given), SCORED) as server:
        began = time.monotonic()
        call(server.url, "rank", ONE)
        assert time.monotonic() - began > 0.9


def test_a_pause_beyond_the_deadline_is_not_slept(call):
    with trouble(problem(429, "busy", retry_after="3600")) as server, pytest.raises(BusyError):
        call(server.url, "rank", ONE, deadline_s=5)
    assert call.counts.retried == 0


@pytest.mark.parametrize("step", [SILENCE, DRIBBLE])
def test_the_deadline_ends_a_call_whatever_the_server_does(call, step):
    with trouble(*[step] * 9) as server:
        began = time.monotonic()
        with pytest.raises(DeadlineError, match=r"0\.4 s are over"):
            call(server.url, "rank", ONE, deadline_s=0.4)
        assert time.monotonic() - began < 10


def test_a_lost_attempt_is_given_up_before_the_deadline(call):
    with trouble(SILENCE, SCORED) as server:
        answer = call(server.url, "rank", ONE, deadline_s=60, retries=Retries(base_s=0.001, attempt_s=0.2))
    assert answer.scores == [0.5]
    assert call.counts.retried == 1


@pytest.mark.parametrize(
    ("status", "code"), [(401, "unauthorised"), (404, "not_found"), (413, "too_large"), (422, "invalid")]
)
def test_a_refusal_is_final(call, status, code):
    with trouble(problem(status, code)) as server, pytest.raises(RefusedError) as caught:
        call(server.url, "rank", ONE)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert call.counts.retried == 0


@pytest.mark.parametrize("body", [b"<html>hello</html>", {"scores": "many"}])
def test_an_answer_of_another_shape_is_told(call, body):
    with trouble(Answer(200, body)) as server, pytest.raises(UnusableAnswerError):
        call(server.url, "rank", ONE)
    assert call.counts.failed == 1


@pytest.mark.parametrize(("url", "token"), [("localhost:1", None), (None, "a\nb")])
def test_mistakes_of_the_caller_are_not_retried(call, url, token):
    with trouble() as server, pytest.raises(CallError):
        call(url or server.url, "ready", token=token)
    assert call.counts.retried == 0


def test_token_is_asked_for_on_every_attempt_and_hidden(call):
    tokens = iter(["first", "second"])
    with trouble(problem(503, "not_ready"), READY) as server:
        call(server.url, "ready", token=lambda: next(tokens))
    assert ["Bearer first" in head for head, _ in server.seen] == [True, False]
    assert "Bearer second" in server.seen[1][0]
    with trouble(problem(401, "unauthorised")) as server, pytest.raises(RefusedError) as caught:
        call(server.url, "ready", token="secret")
    assert "secret" not in str(caught.value)


@pytest.fixture
def served(gateway):  # noqa: F811
    with listening(make_app(gateway)) as url:
        yield url


def test_the_gateway_understands_the_client(call, served):
    url = served
    assert call(url, "release").release == call(url, "ready").release == "demo-adaptor/1"
    item = PublishRequest(item_id="new", title="a film", picture=picture(40))
    assert call(url, "publish", item).item_id == "new"
    seen = [HistoryEvent(item_id=IDS[0], label=1, timestamp=5)]
    candidates = [Candidate(item_id="new"), Candidate(item_id=IDS[0]), Candidate(title="t", picture=picture(3))]
    answer = call(url, "rank", RankRequest(history=seen, candidates=candidates, now=10))
    assert answer.vectors == ["fine", "id", "fine"]
    both = call(url, "rank_many", RankRequests(requests=[RankRequest(candidates=candidates, now=10)] * 2))
    assert [one.vectors for one in both.answers] == [["fine", "id", "fine"]] * 2
    several = call(url, "publish_many", [item, PublishRequest(item_id="a/b ?", title="odd"), item])
    assert (several.published, several.failed) == (3, 0)
    assert call(url, "item", "a/b ?").vector == "fine"
    assert call(url, "withdraw", "a/b ?").item_id == "a/b ?"
    with pytest.raises(RefusedError, match="404 not_found"):
        call(url, "neighbours", "a/b ?")
    with pytest.raises(RefusedError, match="at most 40"):
        call(url, "rank", RankRequest(candidates=[Candidate(item_id="x")] * 41))


def test_columns_are_scored_as_rows_are(call, served):
    users = pa.RecordBatch.from_pydict({"candidates": [[IDS[0], "nobody"], [IDS[1]]], "now": [10, 10]})
    answers = call(served, "rank_arrow", users)
    assert answers["vectors"].to_pylist() == [["id", "oov"], ["id"]]
    request = RankRequest(candidates=[Candidate(item_id=IDS[0]), Candidate(item_id="nobody")], now=10)
    assert answers["scores"][0].as_py() == pytest.approx(call(served, "rank", request).scores)
    with pytest.raises(RefusedError, match="candidates: Field required"):
        call(served, "rank_arrow", users.select(["now"]))
    with trouble(SCORED) as server, pytest.raises(UnusableAnswerError):
        call(server.url, "rank_arrow", users)


def test_feedback_is_joined_and_shown(served, gateway):  # noqa: F811
    with Client(served, retries=QUICK) as client:
        client.rank(RankRequest(candidates=[Candidate(item_id=IDS[0])], user_id="anna"))
        assert client.feedback([Feedback(item_id=IDS[0], label=1, user_id="anna")]).accepted == 1
        asyncio.run(gateway.traffic.look())
        told = client.watch()
    assert (told.feedback_received, told.feedback_joined) == (1, 1)
    assert told.champion.calibration["all"].rows == 1


def test_feedback_sent_again_has_the_same_id(call):
    with trouble(RESET, problem(500, "internal"), Answer(202, {"accepted": 1})) as server:
        assert call(server.url, "feedback", [Feedback(item_id="a", label=1, user_id="u")]).accepted == 1
    ids = {head.lower().partition("x-request-id: ")[2].split()[0] for head, _ in server.seen}
    assert len(server.seen) == 3
    assert len(ids) == 1


def test_threads_share_a_client():
    with trouble(*[SCORED] * 80) as server, Client(server.url, connections=4) as client:
        threads = [threading.Thread(target=lambda: [client.rank(ONE) for _ in range(5)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (client.counts.calls, client.counts.failed) == (40, 0)


def test_importing_the_client_loads_nothing_heavy():
    program = "import sys, coldstart.client; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "coldstart" in loaded
    assert not {"ray", "torch", "numpy", "pyarrow", "pandas", "fastapi", "mlflow", "transformers"} & set(loaded)
