"""Who may ask: bearer tokens, kept as hashes in a file that running gateways read again when it changes.

A line is `<name> sha256:<hex>`; `#` starts a comment. A token is 256 random bits, so a plain hash cannot be turned back
and a slow one would only cost time on every request.
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from pathlib import Path

from coldstart.config import UserError
from coldstart.config.recipe import Serving
from coldstart.config.recipe.serving import is_loopback

LOG = logging.getLogger("ray.serve")
_LINE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,63}) sha256:(?P<hash>[0-9a-f]{64})")
_LOOK_S = 1.0
Stamp = tuple[int, int, int]


def new_token(path: Path, name: str) -> str:
    """Adds a token of a name that has none yet, and answers it: the only time that it can be seen.

    Raises:
        UserError: the name is taken or is none, or the file cannot be read or written.
    """
    token = f"cst_{secrets.token_urlsafe(32)}"
    line = f"{name} sha256:{_hash(token.encode()).hex()}"
    if not _LINE.fullmatch(line):
        raise UserError(f"token name '{name}': use 1 to 64 letters, digits, '.', '_' and '-', a letter or digit first")
    text = _text(path) if path.exists() else ""
    if name in _parsed(path, text):
        raise UserError(f"{path} has a token '{name}'; revoke it first, or choose another name and revoke it later")
    _write(path, f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{line}\n")
    return token


def revoke_token(path: Path, name: str) -> None:
    """Takes a token away; gateways that run refuse it within a second or two.

    Raises:
        UserError: there is no such token.
    """
    text = _text(path)
    if name not in (known := _parsed(path, text)):
        raise UserError(f"{path} has no token '{name}'; it has: {', '.join(known) or 'none'}")
    _write(path, "".join(line for line in text.splitlines(keepends=True) if not line.startswith(f"{name} ")))


def read_tokens(path: Path) -> dict[str, bytes]:
    """Hash of every token by name.

    Raises:
        UserError: the file cannot be read, or a line of it is not as it should be.
    """
    return _parsed(path, _text(path))


def check_tokens(settings: Serving) -> None:
    """Finds out before anything listens that nobody would be let in.

    Raises:
        UserError: tokens are asked for and there is none.
    """
    path = settings.security.tokens_file
    if path is None and not is_loopback(settings.host):
        raise UserError(f"serving.host {settings.host} is not loopback, so serving.security.tokens_file is needed")
    if path is not None and not read_tokens(path):
        raise UserError(
            f"serving.security.tokens_file {path} has no token; make one: coldstart token new NAME -f {path}"
        )


class Tokens:
    """The tokens of a file, as they stand there now.

    A file that is gone lets nobody in, so deleting it revokes everything. One with a line that cannot be read leaves
    what was known before, so a slip of the pen locks nobody out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hashes: dict[str, bytes] = {}
        self._stamp: Stamp | None = None
        self._look_at = 0.0

    def name_of(self, token: bytes) -> str | None:
        """Whose token this is. Compares with all of them in constant time, so time tells nothing of any."""
        if (now := time.monotonic()) >= self._look_at:
            self._look_at = now + _LOOK_S
            self._refresh()
        found, given = None, _hash(token)
        for name, known in self._hashes.items():
            if hmac.compare_digest(known, given):
                found = name
        return found

    def _refresh(self) -> None:
        try:
            about = os.stat(self.path)
            stamp = (about.st_mtime_ns, about.st_size, about.st_ino)
            if stamp != self._stamp:
                self._hashes = read_tokens(self.path)
                self._stamp = stamp
        except FileNotFoundError:
            if self._hashes:
                LOG.error("%s is gone: nobody is let in", self.path)
            self._hashes, self._stamp = {}, None
        except (OSError, UserError) as error:
            LOG.error("the tokens known before stay in force: %s", error)


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; make a token: coldstart token new NAME -f {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _parsed(path: Path, text: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or match["name"] in found:
            what = "is not '<name> sha256:<64 hex digits>'" if match is None else f"names '{match['name']}' again"
            raise UserError(f"{path}, line {number} {what}; mend or remove it")
        found[match["name"]] = bytes.fromhex(match["hash"])
    return found


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {error}") from error
