"""The model card: what people should know of a registered version, in Markdown, made from the run alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coldstart.config import Artifact, Recipe, digest

Facts = Mapping[str, Any]
VARIANTS = {"ranker": "id", "encoder": "coarse", "adaptor": "release"}
"""Kind of a model -> variant of the evaluation that shows it at work."""
_PURPOSES = {
    "ranker": "Scores candidates for a user by their history (click probability). Its ID space is what the encoder and "
    "the adaptor are aligned with.",
    "encoder": "Reads an item's picture and text; writes a coarse proxy in the ranker's ID space, and layer states.",
    "adaptor": "Turns an item's coarse proxy and layer states into the fine proxy that stands in the ranker's item "
    "slot. Promoting it promotes the ranker and the encoder it was made with.",
}
_SHORT = 12
_FEW_ROWS = 1000
"""Fewer rows than this in a slice are named as a limit."""


def write_card(
    artifact: Artifact, recipe: Recipe, *, upstream: Mapping[str, int], dataset: Facts, evaluation: Facts | None
) -> str:
    """The card of one version.

    Args:
        artifact: The model.
        recipe: What it was trained with.
        upstream: kind -> registered version of the models it was made from.
        dataset: What the dataset's manifest says about itself.
        evaluation: What the evaluation's manifest says; `None` if there was none.

    Returns:
        Markdown. A figure that is not defined is shown as such.
    """
    kind = artifact.kind
    sections = (
        ("", [f"# {recipe.project}-{kind}", _PURPOSES[kind]]),
        ("Data", _data(artifact, recipe, dataset)),
        ("Figures", _figures(kind, evaluation)),
        ("Made from", _lineage(artifact, recipe, upstream)),
        ("Limits", [_bullets(_limits(kind, recipe, upstream, dataset, evaluation))]),
    )
    return "\n\n".join(part for title, parts in sections for part in ([f"## {title}"] if title else []) + parts) + "\n"


def _data(artifact: Artifact, recipe: Recipe, dataset: Facts) -> list[str]:
    rows = [["fingerprint", f"`{artifact.lineage['dataset'][:_SHORT]}`"], ["source", recipe.data.source]]
    rows += [[name, f"{dataset[name]:,}"] for name in ("items", "users", "events", "cold_items") if name in dataset]
    rows += [
        [f"{name} events", f"{counts['events']:,} ({counts['clicks']:,} clicked)"]
        for name, counts in dataset.get("splits", {}).items()
    ]
    rows.append(["split", ", ".join(f"{key} {value}" for key, value in recipe.data.split)])
    return [_table(["dataset", recipe.name], rows)]


def _figures(kind: str, evaluation: Facts | None) -> list[str]:
    if evaluation is None:
        return ["Not measured."]
    variant = VARIANTS[kind]
    head = ["slice", "rows", "users", "GAUC", "GAUC of the item's part", "AUC", "log loss", "calibration error"]
    rows = [
        [
            name,
            f"{found['rows']:,}",
            f"{found['users']:,}",
            _interval(found, "gauc", "gauc_low", "gauc_high"),
            _interval(found, "gauc_item", "gauc_item_low", "gauc_item_high"),
            *(_number(found[metric]) for metric in ("auc", "logloss", "ece")),
        ]
        for name, found in evaluation["metrics"][variant].items()
    ]
    about = (
        f"Test rows, scored with variant `{variant}`; in brackets {evaluation['confidence']:.0%} intervals from "
        f"{evaluation['resamples']} resamples of users (seed {evaluation['seed']})."
    )
    gains = [
        f"{name} {_interval(gain, 'gauc', 'low', 'high', sign='+')}"
        for name, gain in evaluation["delta_item_vs_oov"].get(variant, {}).items()
    ]
    told = (
        [f"GAUC of the item's part, against the vector of an unknown item, paired: {', '.join(gains)}."]
        if gains
        else []
    )
    return [about, _table(head, rows), *told]


def _lineage(artifact: Artifact, recipe: Recipe, upstream: Mapping[str, int]) -> list[str]:
    rows = [
        [kind, str(upstream.get(kind, "")), f"`{fingerprint[:_SHORT]}`"]
        for kind, fingerprint in artifact.lineage.items()
    ]
    rows += [["recipe", recipe.name, f"`{digest(recipe)[:_SHORT]}`"], ["seed", str(recipe.seed), ""]]
    rows.append(["this model", "", f"`{artifact.fingerprint[:_SHORT]}`"])
    return [_table(["", "version", "fingerprint"], rows)]


def _limits(
    kind: str, recipe: Recipe, upstream: Mapping[str, int], dataset: Facts, evaluation: Facts | None
) -> Iterator[str]:
    if recipe.data.source == "generated":
        yield "The data is simulated: figures on it say nothing of what the model is worth on real traffic."
    if kind != "ranker":
        ranker = f"version {upstream['ranker']}" if "ranker" in upstream else "it was made with"
        yield f"Its vectors mean something only in the ID space of ranker {ranker}."
        missing = [name for name, on in recipe.content if not on]
        if missing:
            yield f"It does not read: {', '.join(missing)}."
    if kind == "encoder" and recipe.encoder.mllm == "tiny":
        yield "The MLLM is the tiny offline one, trained from scratch on this dataset's content."
    if evaluation is None:
        yield "It was registered without an evaluation."
        return
    yield "Figures are of logged impressions that another policy chose, not of an online test."
    found = evaluation["metrics"][VARIANTS[kind]]
    undefined = [name for name, figures in found.items() if figures["gauc"] is None]
    if undefined:
        yield f"GAUC is not defined on: {', '.join(undefined)} (no user with both a click and a skip there)."
    few = [f"{name} ({figures['rows']:,} rows)" for name, figures in found.items() if 0 < figures["rows"] < _FEW_ROWS]
    if few:
        yield f"Few rows behind the figures on: {', '.join(few)}."
    quarantined = sum(sum(reasons.values()) for reasons in dataset.get("quarantined", {}).values())
    if quarantined:
        yield f"{quarantined:,} input rows were put aside by preparation and are not in the data."


def _bullets(lines: Iterator[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _interval(figures: Facts, value: str, low: str, high: str, *, sign: str = "") -> str:
    if figures[value] is None:
        return _number(None)
    ends = f" [{_number(figures[low], sign)}, {_number(figures[high], sign)}]" if figures[low] is not None else ""
    return _number(figures[value], sign) + ends


def _number(value: float | None, sign: str = "") -> str:
    return "not defined" if value is None else f"{value:{sign}.4f}"
