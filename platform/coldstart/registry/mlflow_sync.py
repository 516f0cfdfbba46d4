"""Uploads the metrics of a running stage to MLflow, which may be down, slow or restarted meanwhile.

The stage's metrics log on the run's storage is the only state. A thread of the program that started the stage uploads
it while the stage trains, so no training process ever waits for MLflow. After a failure, everything is sent again from
the first line, and MLflow keeps each metric once (see `runs`). `register` uploads what a stage could not.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from coldstart.config import MetricsLog, Recipe, UserError, read_artifact
from coldstart.registry.connection import connect
from coldstart.registry.runs import get_or_create_experiment, get_or_create_run, log_history, training_id

_SECONDS_BETWEEN_PUSHES = 5.0
_LAST_PUSH_SECONDS = 15.0


class MetricsSync:
    """Uploads one metrics log to the MLflow run of its training, as soon as the stage writes to it.

    Args:
        kind: Kind of the model that is trained.
        metrics_log: Written by rank 0.
        recipe: Contains MLflow's address; is logged.
    """

    def __init__(self, kind: str, metrics_log: MetricsLog, recipe: Recipe) -> None:
        self.kind, self.path, self.recipe = kind, metrics_log.path, recipe
        self.problem: str | None = None
        self._initial_mtime = self._mtime()
        self._client: MlflowClient | None = None
        self._training: str | None = None
        self._run_id: str | None = None
        self._metrics_log = MetricsLog(self.path)

    def push(self, status: str | None = None) -> bool:
        """Uploads new lines of the metrics log, and the final `status` of the run if given.

        Returns:
            Whether MLflow has everything now; if not, `problem` says why and the next push sends it again.
        """
        try:
            self._send(status)
        except (UserError, MlflowException, SQLAlchemyError, OSError) as error:
            self.problem = str(error).splitlines()[0]
            self._client = None
            self._restart()
            return False
        self.problem = None
        return True

    def _send(self, status: str | None) -> None:
        if self._mtime() == self._initial_mtime:
            return  # The file is from an earlier training.
        if self._client is None:
            self._client = connect(self.recipe.tracking_uri)
        training = training_id(MetricsLog(self.path))
        if training != self._training:
            self._restart()  # The stage started over, which is a training of its own.
        if training is None:
            return
        if self._run_id is None:
            self._training, self._run_id = training, self._open_run(self._client, training)
        log_history(self._client, self._run_id, self._metrics_log.follow())
        if status is not None:
            self._client.set_terminated(self._run_id, status)

    def _mtime(self) -> int | None:
        return self.path.stat().st_mtime_ns if self.path.exists() else None

    def _open_run(self, client: MlflowClient, training: str) -> str:
        dataset = read_artifact(self.recipe.run_dir / "dataset", "dataset", verify=False)
        return get_or_create_run(
            client,
            get_or_create_experiment(client, self.recipe.tracking_uri, self.recipe.project),
            f"{self.recipe.project}-{self.kind}",
            kind=self.kind,
            training=training,
            recipe=self.recipe,
            dataset=dataset.fingerprint,
        )

    def _restart(self) -> None:
        self._training = self._run_id = None
        self._metrics_log = MetricsLog(self.path)


@contextmanager
def live_metrics(
    sync: MetricsSync, warn: Callable[[str], None], *, seconds_between: float = _SECONDS_BETWEEN_PUSHES
) -> Iterator[None]:
    """Uploads metrics while the block trains; the block neither waits nor fails if MLflow is down.

    Args:
        sync: Of the stage.
        warn: Called once if an upload fails.
        seconds_between: Pause between two uploads, s.
    """
    stop = threading.Event()
    status = "FAILED"

    def upload_repeatedly() -> None:
        warned = stopped = False
        while not stopped:
            stopped = stop.wait(seconds_between)
            if not sync.push(status if stopped else None) and not warned:
                warned = True
                warn(f"{sync.problem}; training continues, and the metrics are uploaded when MLflow answers again")

    thread = threading.Thread(target=upload_repeatedly, daemon=True)
    thread.start()
    try:
        yield
        status = "FINISHED"
    finally:
        stop.set()
        thread.join(_LAST_PUSH_SECONDS)
