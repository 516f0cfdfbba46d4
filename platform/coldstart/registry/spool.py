"""The spool: a stage's journal on its way to MLflow, which may be down, slow or restarted meanwhile.

The journal on the run's storage is all there is to keep. Curves are sent from it while the stage trains, by a thread of
the program that started the stage, so no training process ever waits for MLflow. After any failure everything is sent
again from the first line, which adds only what is missing (see `runs`); what a stage could not bring to MLflow,
`register` brings.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from coldstart.config import Journal, Recipe, UserError, read_artifact
from coldstart.registry.connection import connect
from coldstart.registry.runs import experiment_of, log_history, open_run, training_name

_SECONDS_BETWEEN_PUSHES = 5.0
_LAST_PUSH_SECONDS = 15.0


class Spool:
    """Brings one journal to the MLflow run of its training, once the stage has begun to write it.

    Args:
        kind: Noun of the model that is trained.
        journal: Written by rank 0.
        recipe: Says where MLflow is, and is logged.
    """

    def __init__(self, kind: str, journal: Journal, recipe: Recipe) -> None:
        self.kind, self.path, self.recipe = kind, journal.path, recipe
        self.problem: str | None = None
        self._found = self._written_at()
        self._client: MlflowClient | None = None
        self._training: str | None = None
        self._run_id: str | None = None
        self._journal = Journal(self.path)

    def push(self, status: str | None = None) -> bool:
        """Sends what the journal has gained, and that the run ended as `status`, if given.

        Returns:
            Whether MLflow has everything now; if not, `problem` says why and the next push makes it good.
        """
        try:
            self._send(status)
        except (UserError, MlflowException, SQLAlchemyError, OSError) as error:
            self.problem = str(error).splitlines()[0]
            self._client = None
            self._forget()
            return False
        self.problem = None
        return True

    def _send(self, status: str | None) -> None:
        if self._written_at() == self._found:
            return  # What lies there is of an earlier training.
        if self._client is None:
            self._client = connect(self.recipe.tracking_uri)
        training = training_name(Journal(self.path))
        if training != self._training:
            self._forget()  # The stage started over: a training of its own.
        if training is None:
            return
        if self._run_id is None:
            self._training, self._run_id = training, self._open(self._client, training)
        log_history(self._client, self._run_id, self._journal.follow())
        if status is not None:
            self._client.set_terminated(self._run_id, status)

    def _written_at(self) -> int | None:
        return self.path.stat().st_mtime_ns if self.path.exists() else None

    def _open(self, client: MlflowClient, training: str) -> str:
        dataset = read_artifact(self.recipe.run_dir / "dataset", "dataset", verify=False)
        return open_run(
            client,
            experiment_of(client, self.recipe.tracking_uri, self.recipe.project),
            f"{self.recipe.project}-{self.kind}",
            kind=self.kind,
            training=training,
            recipe=self.recipe,
            dataset=dataset.fingerprint,
        )

    def _forget(self) -> None:
        self._training = self._run_id = None
        self._journal = Journal(self.path)


@contextmanager
def live_metrics(
    spool: Spool, warn: Callable[[str], None], *, seconds_between: float = _SECONDS_BETWEEN_PUSHES
) -> Iterator[None]:
    """Keeps MLflow up to date while the block trains; the block neither waits nor fails if MLflow does not answer.

    Args:
        spool: Of the stage.
        warn: Told once if MLflow does not take the figures.
        seconds_between: Pause between two pushes, s.
    """
    stop = threading.Event()
    status = "FAILED"

    def follow() -> None:
        warned = stopped = False
        while not stopped:
            stopped = stop.wait(seconds_between)
            if not spool.push(status if stopped else None) and not warned:
                warned = True
                warn(f"{spool.problem}; training goes on, and its journal keeps the figures until MLflow takes them")

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
        status = "FINISHED"
    finally:
        stop.set()
        thread.join(_LAST_PUSH_SECONDS)
