from collections.abc import Iterator

import pytest
import ray
from hypothesis import settings

from coldstart.config import runtime_env
from coldstart.jobs.progress import CONSOLE
from coldstart.jobs.runner import start_ray

# A property must not fail because the machine is busy.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def console_on_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--json` a program prints its console on stderr until it ends; the next test must not inherit that."""
    monkeypatch.setattr(CONSOLE, "stderr", False)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One local Ray for all tests that need it, with more logical CPUs than a small machine has cores."""
    runtime_env.set_ray_defaults()
    start_ray(8, object_store_bytes=500_000_000)
    yield
    ray.shutdown()
