"""Reaching MLflow: a client with explicit URIs, that fails within seconds and says what to mend."""

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from coldstart.config import UserError

PROBE_SECONDS = 5.0
_one_probe = threading.Lock()
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def connect(tracking_uri: str) -> MlflowClient:
    """A client for a tracking server or database, after a probe of a few seconds.

    Raises:
        UserError: nothing answers there, or what answers is not MLflow.
    """
    _quiet()
    if tracking_uri.startswith("sqlite:///"):
        _make_parent(tracking_uri)
    else:
        _probe_socket(tracking_uri)
    with _impatient(), answering(tracking_uri, "mend it or set registry.tracking_uri"):
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        client.search_registered_models(max_results=1)
    return client


@contextmanager
def answering(tracking_uri: str, then: str) -> Iterator[None]:
    """Turns a failure of MLflow inside the block into a sentence.

    Args:
        tracking_uri: Shown, without its password.
        then: What the user can rely on and do.

    Raises:
        UserError: MLflow, or the database behind it, failed.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"MLflow at {_shown(tracking_uri)} does not work: {reason}; {then}") from error


def database_path(sqlite_uri: str) -> Path:
    """The file of a SQLite URI."""
    return Path(sqlite_uri.removeprefix("sqlite:///"))


def artifact_root(tracking_uri: str) -> str | None:
    """Where experiments of a SQLite registry keep artifacts: beside the database; `None` leaves it to the server."""
    if not tracking_uri.startswith("sqlite:///"):
        return None
    path = database_path(tracking_uri)
    return (path.parent / f"{path.stem}-artifacts").absolute().as_uri()


def pages(ask: Callable[[str | None], Any]) -> list[Any]:
    """All entries behind a paged question."""
    found: list[Any] = []
    token = None
    while True:
        page = ask(token)
        found += page
        token = page.token
        if not token:
            return found


def _quiet() -> None:
    """Keeps migration chatter, MLflow's own INFO lines and each retry off the terminal; what fails is raised."""
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def _shown(tracking_uri: str) -> str:
    """The address without a password."""
    if "@" not in tracking_uri:
        return tracking_uri
    return make_url(tracking_uri).render_as_string(hide_password=True)


def _make_parent(sqlite_uri: str) -> None:
    parent = database_path(sqlite_uri).parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the registry's directory {parent} cannot be made: {error.strerror}; set paths.runs"
        ) from error


def _probe_socket(tracking_uri: str) -> None:
    scheme = urlsplit(tracking_uri).scheme.partition("+")[0]
    if scheme not in _PORTS:
        return
    url = make_url(tracking_uri)
    host, port = url.host or "localhost", url.port or _PORTS[scheme]
    try:
        socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"no MLflow at {_shown(tracking_uri)}: {host}:{port} does not answer ({error}); start the server, "
            "or leave registry.tracking_uri out for SQLite beside the runs"
        ) from error


@contextmanager
def _impatient() -> Iterator[None]:
    """Requests wait out a server's restart (see `coldstart.registry`), which is wrong for a first probe.

    MLflow reads these settings from the environment alone. They are always there, so only values change: threads that
    copy the environment meanwhile, as Ray does, come to no harm.
    """
    hasty = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(int(PROBE_SECONDS)), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    with _one_probe:
        before = {name: os.environ[name] for name in hasty}
        os.environ.update(hasty)
        try:
            yield
        finally:
            os.environ.update(before)
