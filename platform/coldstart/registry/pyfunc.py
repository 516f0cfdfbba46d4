"""The MLflow model inside every registered version: code for one artifact directory, without pickle.

MLflow copies this file into the model ("models from code") and runs it at load time, in any process that has the
`coldstart` package installed. The method's kind loads the artifact and predicts.
"""

from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.models import ModelConfig, set_model

from coldstart.config import read_artifact


class RegisteredModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model of any kind.

    Args:
        method: Method of the model.
        kind: One of its kinds.
    """

    def __init__(self, method: str, kind: str) -> None:
        self.method, self.kind = method, kind

    def load_context(self, context: Any) -> None:
        """Verifies and loads the artifact."""
        from coldstart.methods.kinds import find_kind

        artifact = read_artifact(Path(context.artifacts[self.kind]), self.kind)
        self.model = find_kind(self.method, self.kind).load(artifact.path)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Input and output columns are those of the model's signature."""
        return self.model.predict(model_input)


_config = ModelConfig()
set_model(RegisteredModel(_config.get("method"), _config.get("kind")))
