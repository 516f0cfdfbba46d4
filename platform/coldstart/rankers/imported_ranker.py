"""Imports a custom ranker: its class and weights, ordered by item index and checked.

Legend: `n` items of the imported table, `d` ID width, `V` vocabulary (items + 1; row 0 is OOV).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from coldstart.config import UserError
from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.rankers.feature_embedding import FeatureSchema
from coldstart.rankers.imported_table import check_item_ids
from coldstart.rankers.interface import Ranker
from coldstart.rankers.interface_check import check_interface
from coldstart.rankers.ranker_classes import ranker_class

TABLE = "id_table.weight"


def load_imported_ranker(
    settings: RankerSettings,
    weights: Path,
    item_index: Mapping[str, int],
    features: FeatureSchema,
    *,
    item_ids: Sequence[str] | None = None,
) -> Ranker:
    """Loads a trained ranker of the class `settings.kind` in eval mode.

    Args:
        settings: The recipe's section `ranker`.
        weights: safetensors file with its state_dict.
        item_index: Item id -> item index, 1..N, of the dataset.
        features: Of the dataset.
        item_ids: [n] items of rows 1..n of `id_table.weight`; None if the rows are ordered by item index.

    Raises:
        UserError: lists every problem with the class, the weights and the behavior, one per line.
    """
    kind = ranker_class(settings.kind)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise UserError(f"ranker {settings.kind} is not a torch.nn.Module class; subclass coldstart.rankers.Ranker")

    def create() -> Ranker:
        return kind(len(item_index) + 1, settings, features)

    try:
        ranker = create()
    except TypeError as error:
        raise UserError(
            f"ranker {settings.kind} cannot be created: {error}; its constructor must accept (vocab_size: int, "
            "settings: coldstart.config.recipe.Ranker, features: coldstart.rankers.FeatureSchema)"
        ) from error
    state = _read(weights)
    if item_ids is not None:
        state = _by_item_index(state, weights, item_ids, item_index)
    problems = _weight_problems(ranker.state_dict(), state)
    if not problems:
        ranker.load_state_dict(state)
        problems = check_interface(ranker.eval(), create)
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise UserError(f"ranker {settings.kind} with {weights} does not meet the interface:{listed}")
    return ranker


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"ranker.pretrained.weights: {path} does not exist")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(
            f"ranker.pretrained.weights: {path} is not a safetensors file ({error}); "
            "write it with safetensors.torch.save_file"
        ) from error


def _by_item_index(
    state: dict[str, Tensor], path: Path, item_ids: Sequence[str], item_index: Mapping[str, int]
) -> dict[str, Tensor]:
    """The state with ID table and `trained` ordered by item index; items without a row get the OOV row."""
    check_item_ids(path, item_ids)
    table = state.get(TABLE)
    if table is None or len(table) != len(item_ids) + 1:
        shape = "missing" if table is None else list(table.shape)
        raise UserError(
            f"ranker.pretrained.item_ids names {len(item_ids)} items, so {TABLE} in {path} must have "
            f"{len(item_ids) + 1} rows (row 0 is OOV); its shape is {shape}"
        )
    trained = state.get("trained", torch.ones(len(table), dtype=torch.bool))
    row = torch.zeros(len(item_index) + 1, dtype=torch.int64)
    for position, item_id in enumerate(item_ids, start=1):
        row[item_index.get(item_id, 0)] = position
    row[0] = 0
    if not row.any():
        raise UserError(f"none of the {len(item_ids)} ids in ranker.pretrained.item_ids is in the catalog")
    return state | {TABLE: table[row], "trained": trained[row] & (row > 0)}


def _weight_problems(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{name} {list(expected[name].shape)} is missing" for name in expected if name not in found]
    unknown = [f"{name} {list(found[name].shape)} is unknown to the class" for name in found if name not in expected]
    shapes = [
        f"{name} has shape {list(found[name].shape)}; the class has {list(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    return [f"weights: {problem}" for problem in missing + unknown + shapes]
