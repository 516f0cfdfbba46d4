"""Bearer tokens: a file holds their hashes, and running gateways read it again when it changes.

A line is `<name> sha256:<hex>`; `#` starts a comment. A token is 256 random bits, so a plain hash cannot be reversed,
and a slow hash would only cost time on every request.
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
_CHECK_INTERVAL_S = 1.0
Stamp = tuple[int, int, int]


def new_token(path: Path, name: str) -> str:
    """Adds a token for a new name and returns it; it cannot be read again later.

    Raises:
        UserError: the name is in use or not valid, or the file cannot be read or written.
    """
    token = f"cst_{secrets.token_urlsafe(32)}"
    line = f"{name} sha256:{_hash(token.encode()).hex()}"
    if not _LINE.fullmatch(line):
        raise UserError(f"token name '{name}': use 1 to 64 letters, digits, '.', '_' and '-', a letter or digit first")
    text = _read_text(path) if path.exists() else ""
    if name in _parse(path, text):
        raise UserError(f"{path} has a token '{name}'; revoke it first, or choose another name and revoke it later")
    _write(path, f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{line}\n")
    return token


def revoke_token(path: Path, name: str) -> None:
    """Revokes a token; running gateways refuse it within two seconds.

    Raises:
        UserError: the file has no such token, or cannot be read or written.
    """
    text = _read_text(path)
    if name not in (known := _parse(path, text)):
        raise UserError(f"{path} has no token '{name}'; it has: {', '.join(known) or 'none'}")
    _write(path, "".join(line for line in text.splitlines(keepends=True) if not line.startswith(f"{name} ")))


def read_tokens(path: Path) -> dict[str, bytes]:
    """Name -> hash of every token.

    Raises:
        UserError: the file cannot be read, or a line is malformed.
    """
    return _parse(path, _read_text(path))


def check_tokens(settings: Serving) -> None:
    """Checks before the server listens that at least one client could authenticate.

    Raises:
        UserError: tokens are required and there is none.
    """
    path = settings.security.tokens_file
    if path is None and not is_loopback(settings.host):
        raise UserError(f"serving.host {settings.host} is not loopback, so serving.security.tokens_file is needed")
    if path is not None and not read_tokens(path):
        raise UserError(
            f"serving.security.tokens_file {path} has no token; create one: coldstart token new NAME -f {path}"
        )


class TokenFile:
    """The current tokens of a file.

    If the file is missing, nobody is admitted, so deleting it revokes all tokens. If a line is malformed, the previous
    tokens stay valid, so a typing error locks nobody out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hashes: dict[str, bytes] = {}
        self._stamp: Stamp | None = None
        self._next_check = 0.0

    def name_of(self, token: bytes) -> str | None:
        """Name of a token; None if it is unknown. Compares with all tokens in constant time."""
        if (now := time.monotonic()) >= self._next_check:
            self._next_check = now + _CHECK_INTERVAL_S
            self._reload()
        found, hashed = None, _hash(token)
        for name, known in self._hashes.items():
            if hmac.compare_digest(known, hashed):
                found = name
        return found

    def _reload(self) -> None:
        try:
            stat = os.stat(self.path)
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp != self._stamp:
                self._hashes = read_tokens(self.path)
                self._stamp = stamp
        except FileNotFoundError:
            if self._hashes:
                LOG.error("%s does not exist: all requests are refused", self.path)
            self._hashes, self._stamp = {}, None
        except (OSError, UserError) as error:
            LOG.error("the previous tokens stay valid: %s", error)


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; create a token: coldstart token new NAME -f {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _parse(path: Path, text: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or match["name"] in found:
            what = "is not '<name> sha256:<64 hex digits>'" if match is None else f"names '{match['name']}' again"
            raise UserError(f"{path}, line {number} {what}; correct or remove it")
        found[match["name"]] = bytes.fromhex(match["hash"])
    return found


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {error}") from error
