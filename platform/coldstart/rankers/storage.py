"""How a ranker lies on disk: weights in safetensors, its class and settings in JSON, the item vocabulary in Parquet."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from coldstart.config import UserError
from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.rankers.din_dcn import DinDcn
from coldstart.rankers.interface import Ranker

CLASSES: dict[str, type[Ranker]] = {"din_dcn": DinDcn}
"""What `ranker.kind` and a `ranker.json` may name; a file never says what to import."""

WEIGHTS, CARD, VOCABULARY = "weights.safetensors", "ranker.json", "vocabulary.parquet"


def save_ranker(ranker: Ranker, path: Path, item_ids: Sequence[str]) -> None:
    """Writes a ranker into a directory.

    Args:
        ranker: To be written.
        path: Existing directory.
        item_ids: [V - 1] the catalogue's ids; the first is item 1.
    """
    name = next(name for name, kind in CLASSES.items() if type(ranker) is kind)
    card = {
        "class": name,
        "vocabulary": ranker.vocabulary,
        "settings": ranker.settings.model_dump(mode="json"),
    }
    (path / CARD).write_text(json.dumps(card, indent=2))
    save_file({key: value.contiguous().cpu() for key, value in ranker.state_dict().items()}, path / WEIGHTS)
    table = {
        "item_id": pa.array(item_ids, pa.string()),
        "item_idx": pa.array(range(1, len(item_ids) + 1), pa.int32()),
        "trained": pa.array(ranker.trained[1:].cpu().numpy()),
    }
    pq.write_table(pa.table(table), path / VOCABULARY)


def load_ranker(path: Path) -> Ranker:
    """Reads a ranker, in eval mode, from a directory that `save_ranker` wrote.

    Raises:
        UserError: files are missing, of an unknown class, or do not fit together.
    """
    if not (path / CARD).is_file() or not (path / WEIGHTS).is_file():
        raise UserError(f"no ranker at {path}: {CARD} or {WEIGHTS} is missing; run the train_ranker stage first")
    card = json.loads((path / CARD).read_text())
    kind = CLASSES.get(card.get("class"))
    if kind is None:
        raise UserError(
            f"{path / CARD}: class {card.get('class')!r} is unknown; this release has: {', '.join(CLASSES)}"
        )
    try:
        ranker = kind(int(card["vocabulary"]), RankerSettings.model_validate(card["settings"]))
        ranker.load_state_dict(load_file(path / WEIGHTS))
    except (KeyError, TypeError, ValidationError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path} does not hold a whole {card['class']} ranker ({first}); train it anew") from error
    return ranker.eval()


def vocabulary(path: Path) -> dict[str, int]:
    """Item id to item index, for the items the ranker has a trained row for or a place in its table."""
    table = pq.read_table(path / VOCABULARY, columns=["item_id", "item_idx"])
    return dict(zip(table["item_id"].to_pylist(), table["item_idx"].to_pylist(), strict=True))


def digest(ranker: Ranker) -> str:
    """sha256 over the names and bytes of all weights."""
    total = hashlib.sha256()
    for name, value in sorted(ranker.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().numpy().tobytes())
    return total.hexdigest()
