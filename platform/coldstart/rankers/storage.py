"""Files of a saved ranker: weights in safetensors, class and settings in JSON, the item vocabulary in Parquet.

An imported ID table without a ranker has the same files, with the class `id_table`.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from coldstart.config import UserError
from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.features import EncodedFeatures
from coldstart.rankers.feature_embedding import NO_FEATURES, FeatureSchema
from coldstart.rankers.imported_table import IdEmbeddings
from coldstart.rankers.interface import Ranker
from coldstart.rankers.ranker_classes import RANKERS, ranker_class

WEIGHTS, CONFIG, VOCABULARY, FEATURES = "weights.safetensors", "ranker.json", "vocabulary.parquet", "features.json"
TABLE_ONLY = "id_table"


def save_ranker(
    ranker: Ranker, path: Path, item_ids: Sequence[str], item_features: EncodedFeatures | None = None
) -> None:
    """Writes a ranker into a directory.

    Args:
        ranker: The ranker to save.
        path: Existing directory.
        item_ids: [V - 1] the catalog's ids; the first is item 1.
        item_features: [V] the catalog's encoded features, if the ranker reads any; None: unknown.
    """
    name = next((name for name, kind in RANKERS.items() if type(ranker) is kind), ranker.settings.kind)
    config = {
        "class": name,
        "vocab_size": ranker.vocab_size,
        "settings": ranker.settings.model_dump(mode="json", exclude={"pretrained"}),
    }
    (path / CONFIG).write_text(json.dumps(config, indent=2))
    (path / FEATURES).write_text(ranker.features.model_dump_json())
    save_file({key: value.contiguous().cpu() for key, value in ranker.state_dict().items()}, path / WEIGHTS)
    schema = ranker.features.of("item")
    item_features = item_features or schema.unknown(ranker.vocab_size)
    _write_vocabulary(path, item_ids, ranker.trained, schema.columns(item_features))


def save_id_embeddings(table: IdEmbeddings, path: Path, item_ids: Sequence[str]) -> None:
    """Writes an ID table without a ranker into an existing directory; arguments as for `save_ranker`."""
    (path / CONFIG).write_text(json.dumps({"class": TABLE_ONLY, "vocab_size": len(table.rows)}, indent=2))
    save_file({"rows": table.rows, "trained": table.trained}, path / WEIGHTS)
    _write_vocabulary(path, item_ids, table.trained, {})


def load_ranker(path: Path) -> Ranker:
    """Loads a ranker in eval mode from a directory that `save_ranker` wrote.

    Raises:
        UserError: a file is missing, the class is unknown, or the files do not match each other.
    """
    check_has_scorer(path)
    config = _read_config(path)
    kind = ranker_class(config["class"])
    schema = path / FEATURES
    try:
        features = FeatureSchema.model_validate_json(schema.read_text()) if schema.is_file() else NO_FEATURES
        ranker = kind(int(config["vocab_size"]), RankerSettings.model_validate(config["settings"]), features)
        ranker.load_state_dict(load_file(path / WEIGHTS))
    except (KeyError, TypeError, ValidationError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"{path} does not hold a complete {config['class']} ranker ({first}); train it again"
        ) from error
    return ranker.eval()


def load_id_embeddings(path: Path) -> IdEmbeddings:
    """Loads the ID embeddings of a saved ranker or of an ID table without a ranker.

    Raises:
        UserError: as for `load_ranker`.
    """
    if _read_config(path)["class"] == TABLE_ONLY:
        return IdEmbeddings(**load_file(path / WEIGHTS))
    ranker = load_ranker(path)
    return IdEmbeddings(ranker.id_rows(), ranker.trained)


def check_has_scorer(path: Path) -> None:
    """Checks early that the directory holds a ranker that can score.

    Raises:
        UserError: there is no ranker, or only an ID table.
    """
    if _read_config(path)["class"] == TABLE_ONLY:
        raise UserError(
            f"{path} holds only an ID table; align_fine, evaluate and serve need a whole ranker: set ranker.kind and "
            "ranker.pretrained.weights instead of ranker.pretrained.id_table. An ID table is enough for align_coarse, "
            "embed_items and `coldstart export`"
        )


def _read_config(path: Path) -> dict[str, Any]:
    if not (path / CONFIG).is_file() or not (path / WEIGHTS).is_file():
        raise UserError(f"no ranker at {path}: {CONFIG} or {WEIGHTS} is missing; run the train_ranker stage first")
    card: dict[str, Any] = json.loads((path / CONFIG).read_text())
    return card


def _write_vocabulary(
    path: Path, item_ids: Sequence[str], trained: Tensor, features: dict[str, npt.NDArray[Any]]
) -> None:
    table = {
        "item_id": pa.array(item_ids, pa.string()),
        "item_idx": pa.array(range(1, len(item_ids) + 1), pa.int32()),
        "trained": pa.array(trained[1:].cpu().numpy()),
        **{key: pa.array(values[1:]) for key, values in features.items()},
    }
    pq.write_table(pa.table(table), path / VOCABULARY)


def read_item_index(path: Path) -> dict[str, int]:
    """Item id to item index, for all items in the ranker's table, trained or not."""
    table = pq.read_table(path / VOCABULARY, columns=["item_id", "item_idx"])
    return dict(zip(table["item_id"].to_pylist(), table["item_idx"].to_pylist(), strict=True))


def read_item_features(path: Path, features: FeatureSchema) -> EncodedFeatures:
    """[V] encoded features of the items in a saved ranker's table, by item index."""
    keys = [feature.key for feature in features.of("item").features]
    return features.stack_items(pq.read_table(path / VOCABULARY, columns=["item_idx", *keys]))


def weights_sha256(ranker: Ranker) -> str:
    """sha256 over the names and bytes of all weights."""
    total = hashlib.sha256()
    for name, value in sorted(ranker.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().numpy().tobytes())
    return total.hexdigest()
