"""Image files that an items table names: by a path, by an address in object storage, or by a web address."""

import errno
import io
import os
import random
import re
import stat
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self
from urllib.parse import unquote

import httpx
import pyarrow as pa
from pyarrow import fs

from coldstart.config.errors import UserError
from coldstart.config.recipe import Files, Images
from coldstart.data.value_forms import examples

MISSING = "image file is missing under data.files.images.root"
OUTSIDE = "image path leads out of data.files.images.root"
NOT_A_FILE = "image path is not that of a file"
DENIED = "image file cannot be opened: permission denied"
WEB_ADDRESS = "image is at a web address; set data.files.images.http: true to read those"
OTHER_SCHEME = "image is named neither by a path nor by an address of file, s3, gs, http or https"
BAD_ADDRESS = "image has an address that is not complete or not valid"
NO_OBJECT = "image object is missing in its bucket, or the bucket does not exist"
STORAGE = "image storage refuses the request or does not answer; check its credentials and address"
BAD_REDIRECT = "image server redirects too often, or to an address that is neither http nor https"
COMPRESSED = "image server sends a compressed body, though none was requested"
EMPTY = "image file is empty"

_SCHEME = re.compile(r"(data|file)(?=:)|([a-z][a-z0-9+.-]*)(?=://)", re.IGNORECASE)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SECRETS = re.compile(r"(?<=://)[^/@]*@|\?.*", re.DOTALL)
_NO_SUCH_NAME = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)
_NO_PERMISSION = (errno.EACCES, errno.EPERM)
_MAX_REDIRECTS = 3
_FIRST_DELAY_S, _MAX_DELAY_S = 0.5, 8.0
_HEADERS = {
    "accept": "image/jpeg, image/png, image/webp, image/gif, */*;q=0.1",
    "accept-encoding": "identity",  # A compressed body could fill the memory before its size is known.
    "user-agent": "coldstart",
}


@dataclass(frozen=True)
class ImageFiles:
    """Reads image files by name. Threads and connections exist only while it reads, so it can travel to tasks.

    Attributes:
        root: Absolute directory; relative paths are relative to it, and no file outside it is read.
        settings: Limits, and whether web addresses are read.
    """

    root: Path
    settings: Images

    @classmethod
    def of(cls, files: Files) -> Self:
        """The image files of a user's items table."""
        return cls((files.images.root or files.root).absolute(), files.images)

    def read(self, references: Sequence[str], max_bytes: int) -> list[bytes | str]:
        """Reads each distinct reference once, several at a time.

        Args:
            references: Paths, or addresses with the scheme file, s3, gs, http or https.
            max_bytes: Maximum size of an image; no more of it is read.

        Returns:
            For each reference its bytes, at least one, or the reason why there are none.
        """
        distinct = list(dict.fromkeys(references))
        if not distinct:
            return []
        with _Reading(self, max_bytes) as reading:
            found = dict(zip(distinct, reading.read(distinct), strict=True))
        return [found[reference] for reference in references]

    def problem(self, reference: str) -> str | None:
        """Why an image cannot be read; None if it can, or if only a request to a server could tell."""
        scheme, _ = _split(reference)
        if scheme in ("s3", "gs") or (scheme in ("http", "https") and self.settings.http):
            return None
        try:
            self.open_local(reference).close()
        except UnreadableImageError as error:
            return str(error)
        except OSError as error:
            return f"image file cannot be opened: {error.strerror}"
        return None

    def check(self, references: Iterable[str], column: str) -> None:
        """Checks that at least one image exists, as far as that is known without requests to servers.

        Args:
            references: Those of the first rows of the table.
            column: The column that has them.

        Raises:
            UserError: none of them can be read.
        """
        first: tuple[str, str] | None = None
        for reference in references:
            problem = self.problem(reference)
            if problem is None:
                return
            first = first or (problem, reference)
        if first is not None:
            problem, reference = first
            raise UserError(
                f"data.files.columns.image: none of the images that the first rows of column '{column}' name can be "
                f"read: {problem}; {self.explain(problem, [reference])}. If it names no images, set "
                "data.files.columns.image: null"
            )

    def explain(self, reason: str, references: list[str]) -> str:
        """Examples of references that cannot be read for a reason, where they were looked for, and the fix."""
        if not references:
            return ""
        shown = f"for example {examples(_SECRETS.sub('', one) if '://' in one else one for one in references)}"
        if reason.startswith((MISSING, OUTSIDE)):
            return f"{shown}, looked for under {self.root}; set data.files.images.root to the directory of the images"
        return shown

    def open_local(self, reference: str) -> BinaryIO:
        """Opens a regular file under the root.

        Raises:
            UnreadableImageError: there is none, or the reference is no path.
            OSError: the file system has a problem that may pass.
        """
        root = os.path.realpath(self.root)
        path = os.path.realpath(os.path.join(root, _local_path(reference)))
        if not Path(path).is_relative_to(root):
            raise UnreadableImageError(OUTSIDE)
        try:
            # The path has no link any more, unless somebody puts one there now; and a pipe must not block.
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in _NO_SUCH_NAME:
                raise UnreadableImageError(MISSING) from error
            if error.errno in _NO_PERMISSION:
                raise UnreadableImageError(DENIED) from error
            raise
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise UnreadableImageError(NOT_A_FILE)
        return os.fdopen(file, "rb")


class UnreadableImageError(ValueError):
    """An image cannot be read; the message is the reason, and another try would not help."""


class _TemporaryError(Exception):
    """An image cannot be read now; the message is the end of the reason."""


def _split(reference: str) -> tuple[str, str]:
    """Scheme (empty for a path) and the rest after the colon."""
    found = _SCHEME.match(reference)
    return (found[0].lower(), reference[found.end() + 1 :]) if found else ("", reference)


def _local_path(reference: str) -> str:
    scheme, rest = _split(reference)
    if scheme in ("http", "https"):
        raise UnreadableImageError(WEB_ADDRESS)
    if scheme not in ("", "file"):
        raise UnreadableImageError(OTHER_SCHEME)
    path = rest
    if scheme == "file":
        host, slash, path = rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
        if host not in ("", "localhost"):
            raise UnreadableImageError(BAD_ADDRESS)
        path = unquote(slash + path)
    if "\0" in path:
        raise UnreadableImageError(MISSING)
    return path


class _Reading:
    """The threads, connections and limits of one `ImageFiles.read`."""

    def __init__(self, files: ImageFiles, max_bytes: int) -> None:
        self._files, self._settings, self._max_bytes = files, files.settings, max_bytes
        self._lock = threading.Lock()
        self._slots: defaultdict[str, threading.Semaphore] = defaultdict(
            lambda: threading.Semaphore(self._settings.per_host)
        )
        self._storages: dict[str, fs.FileSystem | None] = {}
        self._client: httpx.Client | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, references: list[str]) -> Iterator[bytes | str]:
        """The bytes of each image, or the reason why there are none."""
        threads = min(self._settings.concurrency, len(references))
        with ThreadPoolExecutor(threads, thread_name_prefix="image-files") as pool:
            yield from pool.map(self._read, references)

    def _read(self, reference: str) -> bytes | str:
        scheme, rest = _split(reference)
        try:
            if scheme in ("s3", "gs"):
                data = self._from_storage(scheme, rest)
            elif scheme in ("http", "https") and self._settings.http:
                data = self._with_retries(lambda: self._from_web(reference))
            else:
                data = self._with_retries(lambda: self._from_disk(reference))
        except UnreadableImageError as error:
            return str(error)
        return data or EMPTY

    def _with_retries(self, read: Callable[[], bytes]) -> bytes:
        tries = 1 + self._settings.retries
        problem = ""
        for attempt in range(tries):
            if attempt:
                delay = min(_FIRST_DELAY_S * 2 ** (attempt - 1), _MAX_DELAY_S)
                time.sleep(delay * random.uniform(0.5, 1))
            try:
                return read()
            except _TemporaryError as error:
                problem = str(error)
        raise UnreadableImageError(f"image could not be read after {tries} tries: {problem}")

    def _from_disk(self, reference: str) -> bytes:
        try:
            with self._files.open_local(reference) as file:
                return file.read(self._allowed(os.fstat(file.fileno()).st_size))
        except OSError as error:
            raise _TemporaryError(error.strerror or type(error).__name__) from error

    def _from_storage(self, scheme: str, rest: str) -> bytes:
        # The key is literal, as for the tools of AWS, and options in the address (another endpoint, keys) have no
        # meaning: a table must not choose which servers get requests with our credentials.
        bucket, _, key = rest.removeprefix("//").partition("/")
        if not _BUCKET.fullmatch(bucket) or not key:
            raise UnreadableImageError(BAD_ADDRESS)
        with self._slot(f"{scheme}://{bucket}"):
            try:
                with self._storage(scheme, bucket).open_input_file(f"{bucket}/{key}") as file:
                    data: bytes = file.read(self._allowed(file.size()))
                    return data
            except FileNotFoundError as error:
                raise UnreadableImageError(NO_OBJECT) from error
            except OSError as error:
                raise UnreadableImageError(STORAGE) from error
            except pa.ArrowInvalid as error:
                raise UnreadableImageError(BAD_ADDRESS) from error

    def _storage(self, scheme: str, bucket: str) -> fs.FileSystem:
        """The client of a bucket: making one asks the bucket for its region."""
        name = f"{scheme}://{bucket}"
        with self._lock:
            if name not in self._storages:
                self._storages[name] = None
                # By default, Arrow tries for 15 minutes to reach a bucket of Google.
                limit = f"?retry_limit_seconds={self._settings.timeout_s:f}" if scheme == "gs" else ""
                self._storages[name], _ = fs.FileSystem.from_uri(f"{name}{limit}")
        storage = self._storages[name]
        if storage is None:
            raise UnreadableImageError(STORAGE)
        return storage

    def _from_web(self, address: str) -> bytes:
        try:
            url = httpx.URL(address)
            for _ in range(1 + _MAX_REDIRECTS):
                if url.scheme not in ("http", "https"):
                    raise UnreadableImageError(BAD_REDIRECT)
                if not url.host:
                    raise UnreadableImageError(BAD_ADDRESS)
                with self._slot(url.netloc.decode()):
                    deadline = time.monotonic() + self._settings.timeout_s
                    with self._web().stream("GET", url) as response:
                        if response.next_request is None:
                            return self._body(response, deadline)
                        url = response.next_request.url
        except httpx.TimeoutException as error:
            raise _TemporaryError("timeout") from error
        except httpx.TransportError as error:
            raise _TemporaryError("connection failed") from error
        except (httpx.InvalidURL, UnicodeError) as error:
            raise UnreadableImageError(BAD_ADDRESS) from error
        raise UnreadableImageError(BAD_REDIRECT)

    def _web(self) -> httpx.Client:
        with self._lock:
            if self._client is None:  # It loads certificates, which takes longer than reading many local files.
                limits = httpx.Limits(max_connections=None, max_keepalive_connections=self._settings.concurrency)
                client = httpx.Client(headers=_HEADERS, timeout=self._settings.timeout_s, limits=limits)
                self._client = self._stack.enter_context(client)
            return self._client

    def _body(self, response: httpx.Response, deadline: float) -> bytes:
        status = response.status_code
        if status == 429 or status >= 500:
            raise _TemporaryError(f"server answered {status}")
        if status != 200:
            raise UnreadableImageError(f"image server answered {status}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise UnreadableImageError(COMPRESSED)
        body = io.BytesIO()
        for part in response.iter_raw():
            self._allowed(body.tell() + len(part))
            if time.monotonic() > deadline:
                raise _TemporaryError("timeout")
            body.write(part)
        return body.getvalue()

    def _allowed(self, size: int) -> int:
        if size > self._max_bytes:
            raise UnreadableImageError(f"image has more than {self._max_bytes} bytes (data.max_image_bytes)")
        return size

    @contextmanager
    def _slot(self, host: str) -> Iterator[None]:
        """Waits while `per_host` threads read from the same host or bucket."""
        with self._lock:
            slot = self._slots[host]
        with slot:
            yield
