"""Connecting to MLflow: a client with explicit URIs, which fails within seconds with a readable error."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from coldstart.config import UserError
from coldstart.config.reachability import PROBE_SECONDS, find_connection_problem

_probe_lock = threading.Lock()


def connect(tracking_uri: str) -> MlflowClient:
    """A client for a tracking server or database, after a probe of a few seconds.

    Raises:
        UserError: nothing answers there, or what answers is not MLflow.
    """
    _reduce_logging()
    if tracking_uri.startswith("sqlite:///"):
        _make_parent(tracking_uri)
    else:
        _check_server(tracking_uri)
    with _short_timeouts(), explain_mlflow_errors(tracking_uri, "repair it or set registry.tracking_uri"):
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        client.search_registered_models(max_results=1)
    return client


@contextmanager
def explain_mlflow_errors(tracking_uri: str, advice: str) -> Iterator[None]:
    """Turns MLflow's exceptions inside the block into one readable error.

    Args:
        tracking_uri: Shown without its password.
        advice: What the user can rely on and do.

    Raises:
        UserError: MLflow, or the database behind it, failed.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"MLflow at {_without_password(tracking_uri)} does not work: {reason}; {advice}") from error


def database_path(sqlite_uri: str) -> Path:
    """The file of a SQLite URI."""
    return Path(sqlite_uri.removeprefix("sqlite:///"))


def artifact_root(tracking_uri: str) -> str | None:
    """Where a SQLite registry keeps artifacts: next to the database; `None` leaves the choice to the server."""
    if not tracking_uri.startswith("sqlite:///"):
        return None
    path = database_path(tracking_uri)
    return (path.parent / f"{path.stem}-artifacts").absolute().as_uri()


def fetch_all_pages(fetch_page: Callable[[str | None], Any]) -> list[Any]:
    """All entries of a paged search."""
    entries: list[Any] = []
    token = None
    while True:
        page = fetch_page(token)
        entries += page
        token = page.token
        if not token:
            return entries


def _reduce_logging() -> None:
    """Hides migration logs, MLflow's INFO lines and its retries; failures are still raised."""
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def _without_password(tracking_uri: str) -> str:
    if "@" not in tracking_uri:
        return tracking_uri
    return make_url(tracking_uri).render_as_string(hide_password=True)


def _make_parent(sqlite_uri: str) -> None:
    parent = database_path(sqlite_uri).parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the registry's directory {parent}: {error.strerror}; set paths.runs") from error
    unwritable = [
        path for path in (parent, database_path(sqlite_uri)) if path.exists() and not os.access(path, os.W_OK)
    ]
    if unwritable:
        raise UserError(f"the registry cannot write to {unwritable[0]}; set paths.runs to a directory that is writable")


def _check_server(tracking_uri: str) -> None:
    # MLflow's own client goes through a proxy where there is one; then nothing is probed here.
    if problem := find_connection_problem(tracking_uri):
        raise UserError(
            f"no MLflow at {_without_password(tracking_uri)}: {problem}; start the server, or remove "
            "registry.tracking_uri to use SQLite next to the runs"
        )


@contextmanager
def _short_timeouts() -> Iterator[None]:
    """Shortens the timeouts for the first probe; normal requests outlast a restart of the server.

    MLflow reads these settings from the environment only. `coldstart.registry` always sets them, so only their values
    change here: threads that copy the environment meanwhile, as Ray does, are not affected.
    """
    short = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(int(PROBE_SECONDS)), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    with _probe_lock:
        before = {name: os.environ[name] for name in short}
        os.environ.update(short)
        try:
            yield
        finally:
            os.environ.update(before)
