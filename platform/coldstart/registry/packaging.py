"""Writes an artifact as an MLflow model directory: signature, input example, pinned requirements, code, no pickle."""

import logging
from collections.abc import Callable
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from mlflow.artifacts import download_artifacts
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Schema
from PIL import Image

from coldstart.config import Artifact, UserError

_CODE = Path(__file__).with_name("pyfunc.py")
_PACKAGES = ("coldstart", "mlflow", "numpy", "pandas", "pillow", "pyarrow", "safetensors", "torch", "transformers")

_VECTOR = Array(DataType.double)
_MATRIX = Array(Array(DataType.double))
_SIGNATURES = {
    "ranker": ModelSignature(
        Schema(
            [
                ColSpec(Array(DataType.string), "history_item_ids"),
                ColSpec(Array(DataType.long), "history_labels"),
                ColSpec(Array(DataType.long), "history_times"),
                ColSpec(Array(DataType.string), "candidate_item_ids"),
                ColSpec(DataType.long, "now"),
            ]
        ),
        Schema([ColSpec(_VECTOR, "scores")]),
    ),
    "encoder": ModelSignature(
        Schema(
            [
                ColSpec(DataType.string, "title", required=False),
                ColSpec(DataType.string, "text", required=False),
                ColSpec(DataType.binary, "image", required=False),
            ]
        ),
        Schema([ColSpec(_VECTOR, "coarse"), ColSpec(_MATRIX, "states")]),
    ),
    "adaptor": ModelSignature(
        Schema([ColSpec(_VECTOR, "coarse"), ColSpec(_MATRIX, "states")]),
        Schema([ColSpec(_VECTOR, "proxy")]),
    ),
}
KINDS = tuple(_SIGNATURES)


def package(artifact: Artifact, destination: Path, *, model: Model, proxies: Artifact | None = None) -> None:
    """Writes `artifact` as a pyfunc model directory that `mlflow.pyfunc.load_model` reads.

    Args:
        artifact: Verified stage artifact; copied unchanged to `artifacts/<kind>`.
        destination: Directory to create.
        model: MLflow's description of the model, already linked to its run.
        proxies: Only for an adaptor: proxies of the catalog, whose first row is the input example.
    """
    # MLflow warns about our untyped `predict` and about its own requirement checks; users can act on neither.
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    try:
        mlflow.pyfunc.save_model(
            path=str(destination),
            python_model=str(_CODE),
            artifacts={artifact.kind: str(artifact.path)},
            model_config={"kind": artifact.kind},
            signature=_SIGNATURES[artifact.kind],
            input_example=_example(artifact, proxies),
            pip_requirements=[f"{name}=={version(name)}" for name in _PACKAGES],
            mlflow_model=model,
        )
    finally:
        logging.getLogger("mlflow").setLevel(logging.WARNING)


def has_current_signature(kind: str, source: str, tracking_uri: str) -> bool:
    """Whether a registered model has the inputs and outputs of this coldstart version."""
    path = download_artifacts(artifact_uri=f"{source}/MLmodel", tracking_uri=tracking_uri)
    signature: ModelSignature | None = Model.load(path).signature
    return bool(signature == _SIGNATURES[kind])


def _example(artifact: Artifact, proxies: Artifact | None) -> pd.DataFrame:
    examples: dict[str, Callable[[], dict[str, Any]]] = {
        "ranker": lambda: _ranker_row(artifact),
        "encoder": _encoder_row,
        "adaptor": lambda: _adaptor_row(proxies),
    }
    return pd.DataFrame([examples[artifact.kind]()])


def _ranker_row(artifact: Artifact) -> dict[str, Any]:
    table = pq.read_table(artifact.path / "vocabulary.parquet", columns=["item_id", "trained"])
    trained = table.filter(table["trained"])["item_id"].slice(0, 5).to_pylist()
    return {
        "history_item_ids": trained[:2],
        "history_labels": [1, 0][: len(trained)],
        "history_times": [1_700_000_000, 1_700_000_600][: len(trained)],
        "candidate_item_ids": [*trained[2:], "an-unknown-item"],
        "now": 1_700_001_200,
    }


def _encoder_row() -> dict[str, Any]:
    image = BytesIO()
    Image.new("RGB", (32, 32), (200, 120, 40)).save(image, "PNG")
    return {"title": "A quiet harbour at dusk", "text": "Two boats and a lamp.", "image": image.getvalue()}


def _adaptor_row(proxies: Artifact | None) -> dict[str, Any]:
    if proxies is None:
        raise UserError("an adaptor is registered together with the proxies it was trained on; pass them as proxies")
    metadata = proxies.metadata
    first = next(pq.ParquetFile(sorted(proxies.path.glob("proxies/part-*.parquet"))[0]).iter_batches(batch_size=1))
    row = first.slice(0, 1).to_pylist()[0]
    states = np.reshape(row["states"], (metadata["groups"], -1))
    return {"coarse": row["coarse"], "states": states.tolist()}
