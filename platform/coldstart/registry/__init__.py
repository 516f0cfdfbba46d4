"""The registry: every trained model in MLflow with its lineage, releases that fit together, gated promotion.

The only room that imports `mlflow`.
"""

import os

# Read by MLflow and GitPython when they are imported: no usage reports, no progress bars, no links, no git.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
# Everything registered here is models from code over safetensors and JSON, so nothing needs pickle to load.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

from coldstart.registry.promotion import Gate, Promotion, history, promote
from coldstart.registry.registry import ModelVersion, Registry
from coldstart.registry.release import Release

__all__ = ["Gate", "ModelVersion", "Promotion", "Registry", "Release", "history", "promote"]
