"""A user's ranker: class and weights from outside, laid out by item index and checked.

Legend: `n` items of the user's table, `d` ID width, `V` vocabulary (items + 1; row 0 is OOV).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from coldstart.config import UserError
from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.rankers.conformance import faults
from coldstart.rankers.features import FeatureSchema
from coldstart.rankers.given_table import check_ids
from coldstart.rankers.interface import Ranker
from coldstart.rankers.kinds import ranker_class

TABLE = "id_table.weight"


def read_ranker(
    settings: RankerSettings,
    weights: Path,
    item_index: Mapping[str, int],
    features: FeatureSchema,
    *,
    ids: Sequence[str] | None = None,
) -> Ranker:
    """A trained ranker of the class `settings.kind`, in eval mode.

    Args:
        settings: The recipe's section.
        weights: safetensors with its state_dict.
        item_index: Item id -> item index, 1..N, of the dataset.
        features: Of the dataset.
        ids: [n] whose the rows 1..n of the weights' `id_table.weight` are; None if they lie by item index.

    Raises:
        UserError: all that is wrong with class, weights and behaviour, a line each.
    """
    kind = ranker_class(settings.kind)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise UserError(f"ranker {settings.kind} is no torch.nn.Module class; subclass coldstart.rankers.Ranker")

    def make() -> Ranker:
        return kind(len(item_index) + 1, settings, features)

    try:
        ranker = make()
    except TypeError as error:
        raise UserError(
            f"ranker {settings.kind} cannot be made: {error}; its constructor must take (vocabulary: int, "
            "settings: coldstart.config.recipe.Ranker, features: coldstart.rankers.FeatureSchema)"
        ) from error
    state = _read(weights)
    if ids is not None:
        state = _laid_out(state, weights, ids, item_index)
    wrong = _weight_faults(ranker.state_dict(), state)
    if not wrong:
        ranker.load_state_dict(state)
        wrong = faults(ranker.eval(), make)
    if wrong:
        listed = "".join(f"\n  - {fault}" for fault in wrong)
        raise UserError(f"ranker {settings.kind} with {weights} does not meet the interface:{listed}")
    return ranker


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"weights {path} do not exist")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(
            f"weights {path} are no safetensors file ({error}); write them with safetensors.torch.save_file"
        ) from error


def _laid_out(
    state: dict[str, Tensor], path: Path, ids: Sequence[str], item_index: Mapping[str, int]
) -> dict[str, Tensor]:
    """The state with the ID table, and which rows are trained, by item index; items without a row get the OOV row."""
    check_ids(path, ids)
    table = state.get(TABLE)
    if table is None or len(table) != len(ids) + 1:
        shape = "missing" if table is None else list(table.shape)
        raise UserError(
            f"bring.ids names {len(ids)} items, so {TABLE} in {path} must have {len(ids) + 1} rows (row 0 is OOV); "
            f"it is {shape}"
        )
    had = state.get("trained", torch.ones(len(table), dtype=torch.bool))
    row = torch.zeros(len(item_index) + 1, dtype=torch.int64)
    for place, item_id in enumerate(ids, start=1):
        row[item_index.get(item_id, 0)] = place
    row[0] = 0
    if not row.any():
        raise UserError(f"none of the {len(ids)} ids of bring.ids is in the catalogue")
    return state | {TABLE: table[row], "trained": had[row] & (row > 0)}


def _weight_faults(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{name} {list(wanted[name].shape)} is missing" for name in wanted if name not in given]
    unknown = [f"{name} {list(given[name].shape)} is unknown to the class" for name in given if name not in wanted]
    shapes = [
        f"{name} has shape {list(given[name].shape)}; the class has {list(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    return [f"weights: {fault}" for fault in missing + unknown + shapes]
