"""The registry: every trained model in MLflow with its lineage, releases that fit together, gated promotion.

The only room that imports `mlflow`.
"""

import os

# Read by MLflow and GitPython when they are imported: no usage reports, no progress bars, no links, no git.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
# A request waits out the restart of a server (five retries, about a minute), not an outage.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
# Everything registered here is models from code over safetensors and JSON, so nothing needs pickle to load.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

from coldstart.registry.promotion import decide, enact, promote, rollback, sentence, withdraw
from coldstart.registry.registry import ModelVersion, Registry
from coldstart.registry.release import Release
from coldstart.registry.standing import look, resolve, settle

__all__ = [
    "ModelVersion",
    "Registry",
    "Release",
    "decide",
    "enact",
    "look",
    "promote",
    "resolve",
    "rollback",
    "sentence",
    "settle",
    "withdraw",
]
