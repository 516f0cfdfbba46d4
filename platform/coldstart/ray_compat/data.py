"""Private names of Ray Data: the loop that schedules its tasks."""

import time
from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback

PAUSE_S = 0.05
"""A task takes seconds, so it does not matter that it is started so much later."""


class PacedScheduling(ExecutionCallback):
    """Lets the scheduling loop rest after each of its steps.

    While the consumer is slower than the tasks, whose finished blocks then wait, the loop runs without a pause. It is a
    thread of the consumer's process, and took as much Python time there as training did.
    """

    def on_execution_step(self, executor: Any) -> None:
        """Called by Ray Data after a step."""
        time.sleep(PAUSE_S)
