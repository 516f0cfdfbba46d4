"""How a ranker lies on disk: weights in safetensors, its class and settings in JSON, the item vocabulary in Parquet.

An ID table that came without its ranker lies there in the same way, as weights of the class `id_table`.
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
from coldstart.data.features import Coded
from coldstart.rankers.features import NO_FEATURES, FeatureSchema
from coldstart.rankers.given_table import IdRows
from coldstart.rankers.interface import Ranker
from coldstart.rankers.kinds import CLASSES, ranker_class

WEIGHTS, CARD, VOCABULARY, FEATURES = "weights.safetensors", "ranker.json", "vocabulary.parquet", "features.json"
TABLE_ONLY = "id_table"


def save_ranker(ranker: Ranker, path: Path, item_ids: Sequence[str], item_features: Coded | None = None) -> None:
    """Writes a ranker into a directory.

    Args:
        ranker: To be written.
        path: Existing directory.
        item_ids: [V - 1] the catalogue's ids; the first is item 1.
        item_features: [V] the catalogue's encoded features, if the ranker reads any; None: nothing is known of them.
    """
    name = next((name for name, kind in CLASSES.items() if type(ranker) is kind), ranker.settings.kind)
    card = {
        "class": name,
        "vocabulary": ranker.vocabulary,
        "settings": ranker.settings.model_dump(mode="json"),
    }
    (path / CARD).write_text(json.dumps(card, indent=2))
    (path / FEATURES).write_text(ranker.features.model_dump_json())
    save_file({key: value.contiguous().cpu() for key, value in ranker.state_dict().items()}, path / WEIGHTS)
    known = ranker.features.of("item")
    item_features = item_features or known.unknown(ranker.vocabulary)
    _write_vocabulary(path, item_ids, ranker.trained, known.columns(item_features))


def save_id_rows(given: IdRows, path: Path, item_ids: Sequence[str]) -> None:
    """Writes an ID table that came without its ranker into an existing directory; arguments as of `save_ranker`."""
    (path / CARD).write_text(json.dumps({"class": TABLE_ONLY, "vocabulary": len(given.rows)}, indent=2))
    save_file({"rows": given.rows, "trained": given.trained}, path / WEIGHTS)
    _write_vocabulary(path, item_ids, given.trained, {})


def load_ranker(path: Path) -> Ranker:
    """Reads a ranker, in eval mode, from a directory that `save_ranker` wrote.

    Raises:
        UserError: files are missing, of an unknown class, or do not fit together.
    """
    check_whole(path)
    card = _card(path)
    kind = ranker_class(card["class"])
    schema = path / FEATURES
    try:
        features = FeatureSchema.model_validate_json(schema.read_text()) if schema.is_file() else NO_FEATURES
        ranker = kind(int(card["vocabulary"]), RankerSettings.model_validate(card["settings"]), features)
        ranker.load_state_dict(load_file(path / WEIGHTS))
    except (KeyError, TypeError, ValidationError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path} does not hold a whole {card['class']} ranker ({first}); train it anew") from error
    return ranker.eval()


def load_id_rows(path: Path) -> IdRows:
    """The ID rows of a ranker, or of an ID table that came without one.

    Raises:
        UserError: as `load_ranker`.
    """
    if _card(path)["class"] == TABLE_ONLY:
        return IdRows(**load_file(path / WEIGHTS))
    ranker = load_ranker(path)
    return IdRows(ranker.id_rows(), ranker.trained)


def check_whole(path: Path) -> None:
    """Finds out early that what lies there cannot score.

    Raises:
        UserError: nothing, or an ID table that came without its ranker.
    """
    if _card(path)["class"] == TABLE_ONLY:
        raise UserError(
            f"{path} holds an ID table alone, and scores come from a whole ranker: align_fine, evaluate and serve need "
            "one (ranker.kind and bring.weights in the place of bring.id_table). With the table alone there are "
            "align_coarse, embed_items and, for your own ranker, `coldstart export`"
        )


def _card(path: Path) -> dict[str, Any]:
    if not (path / CARD).is_file() or not (path / WEIGHTS).is_file():
        raise UserError(f"no ranker at {path}: {CARD} or {WEIGHTS} is missing; run the train_ranker stage first")
    card: dict[str, Any] = json.loads((path / CARD).read_text())
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


def vocabulary(path: Path) -> dict[str, int]:
    """Item id to item index, for the items the ranker has a trained row for or a place in its table."""
    table = pq.read_table(path / VOCABULARY, columns=["item_id", "item_idx"])
    return dict(zip(table["item_id"].to_pylist(), table["item_idx"].to_pylist(), strict=True))


def read_item_features(path: Path, features: FeatureSchema) -> Coded:
    """[V] encoded features of the items a saved ranker has a place for, by index."""
    keys = [feature.key for feature in features.of("item").features]
    return features.stack_items(pq.read_table(path / VOCABULARY, columns=["item_idx", *keys]))


def digest(ranker: Ranker) -> str:
    """sha256 over the names and bytes of all weights."""
    total = hashlib.sha256()
    for name, value in sorted(ranker.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().numpy().tobytes())
    return total.hexdigest()
