"""Both clients against real sockets, and against the gateway's application in a real HTTP server."""

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
    DeadlineExceededError,
    Feedback,
    HistoryEvent,
    InvalidResponseError,
    PublishRequest,
    RankBatchRequest,
    RankRequest,
    RequestRejectedError,
    RetryPolicy,
    UnreachableError,
)
from coldstart.serving.api.app import make_app
from tests.client.scripted_server import RESET, SILENCE, TRICKLE, ScriptedResponse, error_response, scripted_server
from tests.serving.conftest import gateway  # noqa: F401
from tests.serving.local import listening
from tests.serving.tiny import IDS, png_image

READY = ScriptedResponse(200, {"status": "ready", "release": "demo-scorer/1"})
SCORED = ScriptedResponse(
    200, {"scores": [0.5], "slot_sources": ["id"], "release": "demo-scorer/1", "ms": 1.0, "news": [1]}
)
ONE = RankRequest(candidates=[Candidate(item_id="a")])
QUICK = RetryPolicy(backoff_base_s=0.001, attempt_timeout_s=5)


class EitherClient:
    """Calls one operation of the sync or the async client and keeps its counts."""

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
def call(request) -> EitherClient:
    return EitherClient(request.param)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (RESET, None),
        (error_response(503, "not_ready"), "503"),
        (error_response(429, "busy", retry_after="0"), "429"),
        (error_response(500, "internal"), "500"),
        (ScriptedResponse(502, b"<html>bad gateway</html>"), "502"),
    ],
)
@pytest.mark.parametrize("operation", ["rank", "publish"])
def test_temporary_failures_are_retried_and_counted(call, step, reason, operation):
    item = PublishRequest(item_id="a", title="t")
    published = ScriptedResponse(200, {"item_id": "a", "proxy_norm": 1.0, "release": "r/1", "ms": 1.0})
    answer, request = (SCORED, ONE) if operation == "rank" else (published, item)
    with scripted_server(step, step, answer) as server:
        assert call(server.url, operation, request).release
    assert len({body for _, body in server.requests}) == 1
    assert (call.counts.calls, call.counts.failed, call.counts.retried) == (1, 0, 2)
    if reason:
        assert call.counts.retries == {reason: 2}


def test_unreachable_server(call):
    with scripted_server() as server:
        url = server.url
    with pytest.raises(UnreachableError, match=r"POST /v1/rank: unreachable after 3 attempts") as error:
        call(url, "rank", ONE, retries=RetryPolicy(max_retries=2, backoff_base_s=0.001))
    assert error.value.status is None
    assert (call.counts.failed, call.counts.retried) == (1, 2)


def test_busy_error_contains_the_servers_message(call):
    expected = "429 busy after 3 attempts: as scripted"
    with (
        scripted_server(*[error_response(429, "busy", retry_after="0")] * 3) as server,
        pytest.raises(BusyError, match=expected) as error,
    ):
        call(server.url, "rank", ONE, retries=RetryPolicy(max_retries=2, backoff_base_s=0.001))
    assert (error.value.status, error.value.code, error.value.attempts) == (429, "busy", 3)


@pytest.mark.parametrize("header", ["1", "date"])
def test_retry_after_is_respected(call, header):
    header = formatdate(time.time() + 2, usegmt=True) if header == "date" else header
    with scripted_server(error_response(429, "busy", retry_after=header), SCORED) as server:
        started = time.monotonic()
        call(server.url, "rank", ONE)
        assert time.monotonic() - started > 0.9


def test_call_fails_at_once_if_the_pause_exceeds_the_deadline(call):
    with scripted_server(error_response(429, "busy", retry_after="3600")) as server, pytest.raises(BusyError):
        call(server.url, "rank", ONE, deadline_s=5)
    assert call.counts.retried == 0


@pytest.mark.parametrize("step", [SILENCE, TRICKLE])
def test_deadline_ends_a_call_in_any_case(call, step):
    with scripted_server(*[step] * 9) as server:
        started = time.monotonic()
        with pytest.raises(DeadlineExceededError, match=r"deadline of 0\.4 s exceeded"):
            call(server.url, "rank", ONE, deadline_s=0.4)
        assert time.monotonic() - started < 10


def test_lost_attempt_is_retried_before_the_deadline(call):
    with scripted_server(SILENCE, SCORED) as server:
        answer = call(
            server.url, "rank", ONE, deadline_s=60, retries=RetryPolicy(backoff_base_s=0.001, attempt_timeout_s=0.2)
        )
    assert answer.scores == [0.5]
    assert call.counts.retried == 1


@pytest.mark.parametrize(
    ("status", "code"), [(401, "unauthorized"), (404, "not_found"), (413, "too_large"), (422, "invalid")]
)
def test_rejected_request_is_not_retried(call, status, code):
    with scripted_server(error_response(status, code)) as server, pytest.raises(RequestRejectedError) as error:
        call(server.url, "rank", ONE)
    assert (error.value.status, error.value.code) == (status, code)
    assert call.counts.retried == 0


@pytest.mark.parametrize("body", [b"<html>hello</html>", {"scores": "many"}])
def test_response_of_another_shape_is_an_error(call, body):
    with scripted_server(ScriptedResponse(200, body)) as server, pytest.raises(InvalidResponseError):
        call(server.url, "rank", ONE)
    assert call.counts.failed == 1


@pytest.mark.parametrize(("url", "token"), [("localhost:1", None), (None, "a\nb")])
def test_caller_errors_are_not_retried(call, url, token):
    with scripted_server() as server, pytest.raises(CallError):
        call(url or server.url, "ready", token=token)
    assert call.counts.retried == 0


def test_token_is_fetched_for_every_attempt_and_not_shown(call):
    tokens = iter(["first", "second"])
    with scripted_server(error_response(503, "not_ready"), READY) as server:
        call(server.url, "ready", token=lambda: next(tokens))
    assert ["Bearer first" in head for head, _ in server.requests] == [True, False]
    assert "Bearer second" in server.requests[1][0]
    with scripted_server(error_response(401, "unauthorized")) as server, pytest.raises(RequestRejectedError) as error:
        call(server.url, "ready", token="secret")
    assert "secret" not in str(error.value)


@pytest.fixture
def served(gateway):  # noqa: F811
    with listening(make_app(gateway)) as url:
        yield url


def test_every_operation_on_the_real_gateway(call, served):
    url = served
    assert call(url, "release").release == call(url, "ready").release == "demo-scorer/1"
    item = PublishRequest(item_id="new", title="a film", image=png_image(40))
    assert call(url, "publish", item).item_id == "new"
    history = [HistoryEvent(item_id=IDS[0], label=1, timestamp=5)]
    candidates = [Candidate(item_id="new"), Candidate(item_id=IDS[0]), Candidate(title="t", image=png_image(3))]
    answer = call(url, "rank", RankRequest(history=history, candidates=candidates, now=10))
    assert answer.slot_sources == ["proxy", "id", "proxy"]
    both = call(url, "rank_many", RankBatchRequest(requests=[RankRequest(candidates=candidates, now=10)] * 2))
    assert [one.slot_sources for one in both.responses] == [["proxy", "id", "proxy"]] * 2
    several = call(url, "publish_many", [item, PublishRequest(item_id="a/b ?", title="odd"), item])
    assert (several.published, several.failed) == (3, 0)
    assert call(url, "item", "a/b ?").slot_source == "proxy"
    assert call(url, "withdraw", "a/b ?").item_id == "a/b ?"
    with pytest.raises(RequestRejectedError, match="404 not_found"):
        call(url, "neighbors", "a/b ?")
    with pytest.raises(RequestRejectedError, match="at most 40"):
        call(url, "rank", RankRequest(candidates=[Candidate(item_id="x")] * 41))


def test_arrow_scores_equal_json_scores(call, served):
    users = pa.RecordBatch.from_pydict({"candidates": [[IDS[0], "nobody"], [IDS[1]]], "now": [10, 10]})
    answers = call(served, "rank_arrow", users)
    assert answers["slot_sources"].to_pylist() == [["id", "oov"], ["id"]]
    request = RankRequest(candidates=[Candidate(item_id=IDS[0]), Candidate(item_id="nobody")], now=10)
    assert answers["scores"][0].as_py() == pytest.approx(call(served, "rank", request).scores)
    with pytest.raises(RequestRejectedError, match="candidates: Field required"):
        call(served, "rank_arrow", users.select(["now"]))
    with scripted_server(SCORED) as server, pytest.raises(InvalidResponseError):
        call(server.url, "rank_arrow", users)


def test_feedback_is_joined_and_in_the_stats(served, gateway):  # noqa: F811
    with Client(served, retries=QUICK) as client:
        client.rank(RankRequest(candidates=[Candidate(item_id=IDS[0])], user_id="anna"))
        assert client.feedback([Feedback(item_id=IDS[0], label=1, user_id="anna")]).accepted == 1
        asyncio.run(gateway.router.sync())
        stats = client.stats()
    assert (stats.feedback_received, stats.feedback_joined) == (1, 1)
    assert stats.champion.calibration["all"].rows == 1


def test_retried_feedback_has_the_same_request_id(call):
    with scripted_server(RESET, error_response(500, "internal"), ScriptedResponse(202, {"accepted": 1})) as server:
        assert call(server.url, "feedback", [Feedback(item_id="a", label=1, user_id="u")]).accepted == 1
    ids = {head.lower().partition("x-request-id: ")[2].split()[0] for head, _ in server.requests}
    assert len(server.requests) == 3
    assert len(ids) == 1


def test_threads_share_a_client():
    with scripted_server(*[SCORED] * 80) as server, Client(server.url, connections=4) as client:
        threads = [threading.Thread(target=lambda: [client.rank(ONE) for _ in range(5)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (client.counts.calls, client.counts.failed) == (40, 0)


def test_importing_the_client_loads_no_heavy_library():
    program = "import sys, coldstart.client; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "coldstart" in loaded
    assert not {"ray", "torch", "numpy", "pyarrow", "pandas", "fastapi", "mlflow", "transformers"} & set(loaded)
