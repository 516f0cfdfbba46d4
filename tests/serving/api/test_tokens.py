import os
import stat

import pytest

from coldstart.config import UserError
from coldstart.config.recipe import Security, Serving
from coldstart.serving.api import tokens as module
from coldstart.serving.api.tokens import TokenFile, check_tokens, new_token, read_tokens, revoke_token


@pytest.fixture
def file(tmp_path):
    return tmp_path / "secrets" / "tokens"


@pytest.fixture
def no_check_interval(monkeypatch):
    monkeypatch.setattr(module, "_CHECK_INTERVAL_S", 0.0)


def test_the_file_holds_hashes_and_only_its_owner_can_read_it(file):
    token = new_token(file, "anna")
    assert token not in file.read_text()
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert TokenFile(file).name_of(token.encode()) == "anna"


@pytest.mark.parametrize("given", [b"", b"x", b"\xff" * 9, b"cst_" + b"a" * 43, b"a" * 100_000])
def test_unknown_tokens_have_no_name(file, given):
    new_token(file, "anna")
    assert TokenFile(file).name_of(given) is None


def test_tokens_can_be_rotated_while_a_gateway_runs(file, no_check_interval):
    old = new_token(file, "anna-1")
    watched = TokenFile(file)
    assert watched.name_of(old.encode()) == "anna-1"
    new = new_token(file, "anna-2")
    assert (watched.name_of(old.encode()), watched.name_of(new.encode())) == ("anna-1", "anna-2")
    revoke_token(file, "anna-1")
    assert (watched.name_of(old.encode()), watched.name_of(new.encode())) == (None, "anna-2")


def test_a_malformed_line_locks_nobody_out_and_a_missing_file_everybody(file, no_check_interval):
    token = new_token(file, "anna").encode()
    watched = TokenFile(file)
    assert watched.name_of(token)
    good = file.read_text()
    file.write_text(good + "ben sha256:12\n")
    assert watched.name_of(token) == "anna"
    file.unlink()
    assert watched.name_of(token) is None
    file.write_text("# back again\n\n" + good)
    assert watched.name_of(token) == "anna"


def test_errors_name_the_mistake(file):
    with pytest.raises(UserError, match="does not exist"):
        read_tokens(file)
    new_token(file, "anna")
    with pytest.raises(UserError, match="has a token 'anna'"):
        new_token(file, "anna")
    with pytest.raises(UserError, match="token name"):
        new_token(file, "two words")
    with pytest.raises(UserError, match="no token 'ben'; it has: anna"):
        revoke_token(file, "ben")
    file.write_text("anna\n")
    with pytest.raises(UserError, match="line 1"):
        read_tokens(file)


def test_tokens_are_required_beyond_loopback(file):
    check_tokens(Serving(host="::1"))
    with pytest.raises(ValueError, match="coldstart token new"):
        Serving(host="0.0.0.0")
    with pytest.raises(UserError, match="tokens_file"):
        check_tokens(Serving().model_copy(update={"host": "10.0.0.1"}))
    open_to_all = Serving(host="0.0.0.0", security=Security(tokens_file=file))
    with pytest.raises(UserError, match="does not exist"):
        check_tokens(open_to_all)
    new_token(file, "anna")
    check_tokens(open_to_all)
    revoke_token(file, "anna")
    with pytest.raises(UserError, match="has no token"):
        check_tokens(open_to_all)
