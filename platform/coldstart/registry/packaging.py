"""Writes an artifact as an MLflow model directory: signature, input example, pinned requirements, code, no pickle."""

import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
from mlflow.artifacts import download_artifacts
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Schema

from coldstart.config import Artifact
from coldstart.methods.base import ArtifactKind, FieldSpec
from coldstart.methods.kinds import find_kind

_CODE = Path(__file__).with_name("pyfunc.py")
_PACKAGES = ("coldstart", "mlflow", "numpy", "pandas", "pillow", "pyarrow", "safetensors", "torch", "transformers")


def package(
    artifact: Artifact, destination: Path, *, method: str, model: Model, item_table: Artifact | None = None
) -> None:
    """Writes `artifact` as a pyfunc model directory that `mlflow.pyfunc.load_model` reads.

    Args:
        artifact: Verified stage artifact; copied unchanged to `artifacts/<kind>`.
        destination: Directory to create.
        method: Method that it is of.
        model: MLflow's description of the model, already linked to its run.
        item_table: Of the catalog, only for a scorer, for the input example.
    """
    kind = find_kind(method, artifact.kind)
    # MLflow warns about our untyped `predict` and about its own requirement checks; users can act on neither.
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    try:
        mlflow.pyfunc.save_model(
            path=str(destination),
            python_model=str(_CODE),
            artifacts={artifact.kind: str(artifact.path)},
            model_config={"method": method, "kind": artifact.kind},
            signature=_signature(kind),
            input_example=pd.DataFrame([kind.example(artifact, item_table)]),
            pip_requirements=[f"{name}=={version(name)}" for name in _PACKAGES],
            mlflow_model=model,
        )
    finally:
        logging.getLogger("mlflow").setLevel(logging.WARNING)


def has_current_signature(kind: ArtifactKind, source: str, tracking_uri: str) -> bool:
    """Whether a registered model has the inputs and outputs of this coldstart version."""
    path = download_artifacts(artifact_uri=f"{source}/MLmodel", tracking_uri=tracking_uri)
    signature: ModelSignature | None = Model.load(path).signature
    return bool(signature == _signature(kind))


def _signature(kind: ArtifactKind) -> ModelSignature:
    return ModelSignature(_schema(kind.inputs), _schema(kind.outputs))


def _schema(fields: Sequence[FieldSpec]) -> Schema:
    return Schema([ColSpec(_type(field), field.name, required=field.required) for field in fields])


def _type(field: FieldSpec) -> DataType | Array:
    found: DataType | Array = DataType[field.type]
    for _ in range(field.dimensions):
        found = Array(found)
    return found
