import os
import stat

import pytest

from coldstart.config import UserError
from coldstart.config.recipe import Security, Serving
from coldstart.serving import tokens as module
from coldstart.serving.tokens import Tokens, check_tokens, new_token, read_tokens, revoke_token


@pytest.fixture
def file(tmp_path):
    return tmp_path / "secrets" / "tokens"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(module, "_LOOK_S", 0.0)


def test_only_the_hash_is_kept_and_only_the_owner_reads_it(file):
    token = new_token(file, "anna")
    assert token not in file.read_text()
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert Tokens(file).name_of(token.encode()) == "anna"


@pytest.mark.parametrize("given", [b"", b"x", b"\xff" * 9, b"cst_" + b"a" * 43, b"a" * 100_000])
def test_unknown_tokens_are_nobodys(file, given):
    new_token(file, "anna")
    assert Tokens(file).name_of(given) is None


def test_tokens_are_rotated_while_somebody_watches(file, impatient):
    old = new_token(file, "anna-1")
    watched = Tokens(file)
    assert watched.name_of(old.encode()) == "anna-1"
    new = new_token(file, "anna-2")
    assert (watched.name_of(old.encode()), watched.name_of(new.encode())) == ("anna-1", "anna-2")
    revoke_token(file, "anna-1")
    assert (watched.name_of(old.encode()), watched.name_of(new.encode())) == (None, "anna-2")


def test_a_slip_of_the_pen_locks_nobody_out_and_a_lost_file_everybody(file, impatient):
    token = new_token(file, "anna").encode()
    watched = Tokens(file)
    assert watched.name_of(token)
    good = file.read_text()
    file.write_text(good + "ben sha256:12\n")
    assert watched.name_of(token) == "anna"
    file.unlink()
    assert watched.name_of(token) is None
    file.write_text("# back again\n\n" + good)
    assert watched.name_of(token) == "anna"


def test_mistakes_are_told(file):
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


def test_nothing_listens_beyond_loopback_without_tokens(file):
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
