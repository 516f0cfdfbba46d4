"""The files of a baseline: what its adaptor and its scorer are made of, as JSON, and their weights.

The ranker is an artifact of its own and is not saved again.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from coldstart.config import UserError
from coldstart.data.item_table import ColumnSpec, ColumnSpecs
from coldstart.methods.base import ItemAdaptor, JoinedColumns, KeepColumns
from coldstart.methods.baselines.adaptors import MAPS, MappedColumn
from coldstart.methods.baselines.item_bias import ItemBiasScorer
from coldstart.methods.baselines.similarity_scorer import CenteredStates, SimilarityScorer
from coldstart.methods.idproxy.scorers import FrozenScorer
from coldstart.rankers import Ranker
from coldstart.rankers.scorer import IdScorer, Scorer

CONFIG, WEIGHTS = "baseline.json", "baseline.safetensors"
SIMILARITY = "similarity_weights"
_ADAPTOR = "adaptor."
Description = dict[str, Any]


def _frozen(ranker: Ranker) -> Scorer:
    return FrozenScorer(ranker, ranker.trained.float())


_SCORERS: Mapping[str, tuple[type[Scorer], Callable[[Ranker], Scorer]]] = {
    "id": (IdScorer, IdScorer),
    "slot": (FrozenScorer, _frozen),
    "item_bias": (ItemBiasScorer, ItemBiasScorer),
}
"""Name -> class of a scorer on the unchanged ranker, and what makes it."""


def save_baseline(adaptor: ItemAdaptor, scorer: Scorer, directory: Path) -> None:
    """Writes a baseline into an existing directory."""
    tensors = {_ADAPTOR + name: value for name, value in adaptor.state_dict().items()}
    similar, base = None, scorer
    if isinstance(scorer, SimilarityScorer):
        tensors[SIMILARITY], similar, base = scorer.weights, scorer.widths, scorer.base
    kind = next(name for name, (made, _) in _SCORERS.items() if type(base) is made)
    config = {"adaptor": _describe(adaptor), "scorer": kind, "similar": similar}
    (directory / CONFIG).write_text(json.dumps(config, indent=2))
    save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, directory / WEIGHTS)


def load_adaptor(directory: Path) -> ItemAdaptor:
    """The adaptor of a saved baseline, in eval mode on the CPU.

    Raises:
        UserError: a file is missing, or the files do not match each other.
    """
    config, tensors = _read(directory)
    try:
        adaptor = _restore(config["adaptor"])
        weights = {name.removeprefix(_ADAPTOR): v for name, v in tensors.items() if name.startswith(_ADAPTOR)}
        adaptor.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        raise _damaged(directory, error) from error
    return adaptor.eval()


def load_scorer(directory: Path, ranker: Ranker) -> Scorer:
    """The scorer of a saved baseline, in eval mode on the CPU.

    Args:
        directory: Of the baseline.
        ranker: Of the release.

    Raises:
        UserError: a file is missing, or the files do not match each other.
    """
    config, tensors = _read(directory)
    try:
        scorer: Scorer = _SCORERS[config["scorer"]][1](ranker)
        if config["similar"] is not None:
            scorer = SimilarityScorer(scorer, config["similar"])
            scorer.weights.copy_(tensors[SIMILARITY])
    except (KeyError, TypeError, RuntimeError) as error:
        raise _damaged(directory, error) from error
    return scorer.eval()


def _read(directory: Path) -> tuple[Description, dict[str, Any]]:
    if not (directory / CONFIG).is_file() or not (directory / WEIGHTS).is_file():
        raise UserError(
            f"no baseline at {directory}: {CONFIG} or {WEIGHTS} is missing; run the fit_baseline stage first"
        )
    return json.loads((directory / CONFIG).read_text()), load_file(directory / WEIGHTS)


def _damaged(directory: Path, error: Exception) -> UserError:
    first = str(error).splitlines()[0]
    return UserError(f"{directory} does not hold a complete baseline ({first}); run the fit_baseline stage again")


def _describe(adaptor: ItemAdaptor) -> Description:
    if isinstance(adaptor, JoinedColumns):
        return {"kind": "joined", "parts": [_describe(part) for part in adaptor.parts]}
    if isinstance(adaptor, KeepColumns):
        return {"kind": "kept", "columns": _shapes(adaptor.inputs)}
    if isinstance(adaptor, CenteredStates):
        return {"kind": "centered", "shape": list(adaptor.mean.shape)}
    if isinstance(adaptor, MappedColumn):
        kind = next(name for name, made in MAPS.items() if type(adaptor.content_map) is made)
        columns = {"source": _shapes(adaptor.inputs), "target": _shapes(adaptor.outputs)}
        return {"kind": kind, "map": adaptor.content_map.config, **columns}
    raise TypeError(f"{type(adaptor).__name__} is no adaptor of a baseline")


def _restore(description: Description) -> ItemAdaptor:
    """An adaptor of this description, whose weights are to be loaded."""
    kind = description["kind"]
    if kind == "joined":
        return JoinedColumns(*(_restore(part) for part in description["parts"]))
    if kind == "kept":
        return KeepColumns(_specs(description["columns"]))
    if kind == "centered":
        return CenteredStates(torch.zeros(description["shape"]))
    content_map = MAPS[kind](**description["map"])
    return MappedColumn(content_map, _specs(description["source"]), _specs(description["target"]))


def _shapes(columns: ColumnSpecs) -> dict[str, list[int]]:
    return {name: list(spec.shape) for name, spec in columns.items()}


def _specs(shapes: Mapping[str, list[int]]) -> ColumnSpecs:
    """Every column of a baseline is float32."""
    return {name: ColumnSpec("float32", tuple(shape)) for name, shape in shapes.items()}
