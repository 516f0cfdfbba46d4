"""The request guard around a small ASGI application."""

import asyncio
import json

import pytest

from coldstart.config.recipe import Security
from coldstart.serving.api.request_guard import RequestGuard
from coldstart.serving.api.tokens import new_token


async def echo(scope, receive, send):
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


def ask(guard, *parts, path="/v1/rank", method="POST", headers=(), pause=0.0):
    """Status, headers and body of the response to a request whose body arrives in parts."""
    left, said = list(parts or (b"",)), []

    async def receive():
        if not left:
            return {"type": "http.disconnect"}
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        said.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [(k, v) for k, v in headers]}
    asyncio.run(guard(scope, receive, send))
    return said[0]["status"], dict(said[0]["headers"]), said[1]["body"]


def code(answer) -> tuple[int, str]:
    return answer[0], json.loads(answer[2])["error"]["code"]


def bearer(token: str):
    return [(b"authorization", b"Bearer " + token.encode())]


@pytest.fixture
def tokens(tmp_path):
    return {name: new_token(tmp_path / "tokens", name) for name in ("anna", "ben")}


def make(tmp_path, **settings):
    return RequestGuard(echo, Security(tokens_file=tmp_path / "tokens", **settings), 100)


def test_known_tokens_are_admitted(tmp_path, tokens):
    guard = make(tmp_path)
    for token in tokens.values():
        assert ask(guard, b"one", b"two", headers=bearer(token)) == (200, {}, b"onetwo")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer \xff\xfe")],
        [(b"authorization", b"Basic YTpi")],
        bearer("cst_" + "a" * 43),
    ],
)
def test_other_requests_are_refused(tmp_path, tokens, headers):
    answer = ask(make(tmp_path), headers=headers)
    assert code(answer) == (401, "unauthorized")
    assert b"www-authenticate" in answer[1]


def test_two_tokens_at_once_are_ambiguous(tmp_path, tokens):
    assert code(ask(make(tmp_path), headers=[*bearer(tokens["anna"]), *bearer("x")])) == (401, "unauthorized")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/docs/swagger-ui.css", "/openapi.json"])
def test_probes_and_pages_need_no_token_for_get(tmp_path, tokens, path):
    assert ask(make(tmp_path), path=path, method="GET")[0] == 200
    assert code(ask(make(tmp_path), path=path)) == (401, "unauthorized")


def test_the_rate_limit_is_per_token(tmp_path, tokens):
    guard = make(tmp_path, requests_per_s=0.4, burst=3)
    answers = [ask(guard, headers=bearer(tokens["anna"])) for _ in range(5)]
    assert [answer[0] for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[-1][1][b"retry-after"] == b"3"
    assert ask(guard, headers=bearer(tokens["ben"]))[0] == 200


def test_large_bodies_are_refused_with_and_without_content_length(tmp_path, tokens):
    guard, who = make(tmp_path), bearer(tokens["anna"])
    assert code(ask(guard, b"x", headers=[*who, (b"content-length", b"101")])) == (413, "too_large")
    assert code(ask(guard, b"x" * 60, b"x" * 60, b"x" * 60, headers=who)) == (413, "too_large")
    assert code(ask(guard, b"x", headers=[*who, (b"content-length", b"-1")])) == (413, "too_large")


def test_compressed_bodies_are_refused(tmp_path, tokens):
    headers = [*bearer(tokens["anna"]), (b"content-encoding", b"gzip")]
    assert code(ask(make(tmp_path), b"x", headers=headers)) == (415, "unsupported_media_type")


def test_slow_bodies_time_out(tmp_path, tokens):
    guard = make(tmp_path, body_timeout_s=0.05)
    assert code(ask(guard, *[b"x"] * 50, pause=0.01, headers=bearer(tokens["anna"]))) == (408, "too_slow")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"host", b"testserver")], 200),
        ([(b"host", b"127.0.0.1:8000"), (b"origin", b"http://localhost:8000")], 200),
        ([(b"host", b"[::1]:8000"), (b"origin", b"http://[::1]:8000"), (b"sec-fetch-site", b"same-origin")], 200),
        ([(b"host", b"127.0.0.1:8000"), (b"origin", b"https://evil.example")], 403),
        ([(b"host", b"127.0.0.1:8000"), (b"origin", b"null")], 403),
        ([(b"host", b"evil.example:8000"), (b"sec-fetch-site", b"same-origin")], 403),
    ],
)
def test_without_tokens_pages_of_other_sites_are_refused(headers, status):
    assert ask(RequestGuard(echo, Security(), 100), headers=headers)[0] == status
