"""What the table of methods imports."""

import subprocess
import sys

import pytest

HEAVY = ("transformers", "deepspeed", "sklearn", "mlflow", "ray.data", "ray.train")


@pytest.mark.parametrize(
    "module", ["methods.available", "serving.deployment.scorer_replica", "serving.deployment.adaptor_replica"]
)
def test_a_replica_that_encodes_nothing_does_not_load_the_training_stack(module: str) -> None:
    program = f"import sys, coldstart.{module}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
