"""The model card of a registered version, in Markdown, generated from the run alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coldstart.config import Artifact, Recipe, digest
from coldstart.methods.base import ArtifactKind

Facts = Mapping[str, Any]
_DIGEST_LENGTH = 12
_FEW_ROWS = 1000
"""The card names slices with fewer rows as a limitation."""


def write_model_card(
    kind: ArtifactKind,
    artifact: Artifact,
    recipe: Recipe,
    *,
    upstream: Mapping[str, int],
    dataset: Facts,
    evaluation: Facts | None,
) -> str:
    """Writes the card of one version.

    Args:
        kind: Kind of the model.
        artifact: The model.
        recipe: The recipe of its training.
        upstream: kind -> registered version of the models it was made from.
        dataset: Content of the dataset's manifest.
        evaluation: Content of the evaluation's manifest; `None` if there was no evaluation.

    Returns:
        Markdown. Undefined metrics are shown as "not defined".
    """
    sections = (
        ("", [f"# {recipe.project}-{kind.name}", *filter(None, [kind.purpose])]),
        ("Data", _data(artifact, recipe, dataset)),
        ("Metrics", _metrics(kind, evaluation)),
        ("Made from", _lineage(artifact, recipe, upstream)),
        ("Limitations", [_bullets(_limitations(kind, recipe, upstream, dataset, evaluation))]),
    )
    return "\n\n".join(part for title, parts in sections for part in ([f"## {title}"] if title else []) + parts) + "\n"


def _data(artifact: Artifact, recipe: Recipe, dataset: Facts) -> list[str]:
    rows = [["fingerprint", f"`{artifact.lineage['dataset'][:_DIGEST_LENGTH]}`"], ["source", recipe.data.source]]
    rows += [[name, f"{dataset[name]:,}"] for name in ("items", "users", "events", "cold_items") if name in dataset]
    rows += [
        [f"{name} events", f"{counts['events']:,} ({counts['clicks']:,} clicked)"]
        for name, counts in dataset.get("splits", {}).items()
    ]
    rows.append(["split", ", ".join(f"{key} {value}" for key, value in recipe.data.split)])
    return [_table(["dataset", recipe.name], rows)]


def _metrics(kind: ArtifactKind, evaluation: Facts | None) -> list[str]:
    if evaluation is None:
        return ["Not measured."]
    variant = kind.evaluated_as
    head = ["slice", "rows", "users", "GAUC", "GAUC minus OOV", "AUC", "log loss", "calibration error"]
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
    legend = (
        f"Test rows, scored with variant `{variant}`; in brackets: {evaluation['confidence']:.0%} confidence "
        f"intervals from {evaluation['resamples']} bootstrap resamples of users (seed {evaluation['seed']})."
    )
    gains = [
        f"{name} {_interval(gain, 'gauc', 'low', 'high', sign='+')}"
        for name, gain in evaluation["delta_item_vs_oov"].get(variant, {}).items()
    ]
    paired = [f"GAUC minus OOV, paired difference to the OOV vector: {', '.join(gains)}."] if gains else []
    return [legend, _table(head, rows), *paired]


def _lineage(artifact: Artifact, recipe: Recipe, upstream: Mapping[str, int]) -> list[str]:
    rows = [
        [kind, str(upstream.get(kind, "")), f"`{fingerprint[:_DIGEST_LENGTH]}`"]
        for kind, fingerprint in artifact.lineage.items()
    ]
    rows += [["recipe", recipe.name, f"`{digest(recipe)[:_DIGEST_LENGTH]}`"], ["seed", str(recipe.seed), ""]]
    rows.append(["this model", "", f"`{artifact.fingerprint[:_DIGEST_LENGTH]}`"])
    return [_table(["", "version", "fingerprint"], rows)]


def _limitations(
    kind: ArtifactKind, recipe: Recipe, upstream: Mapping[str, int], dataset: Facts, evaluation: Facts | None
) -> Iterator[str]:
    if recipe.data.source == "generated":
        yield "The data is simulated: metrics on it do not predict the quality on real traffic."
    if upstream:
        models = ", ".join(f"{name} version {number}" for name, number in upstream.items())
        yield f"It is valid only with the models that it was made from: {models}."
    yield from kind.limitations(recipe)
    if evaluation is None:
        yield "It was registered without an evaluation."
        return
    yield "Metrics are from logged impressions that another policy chose, not from an online test."
    found = evaluation["metrics"][kind.evaluated_as]
    undefined = [name for name, metrics in found.items() if metrics["gauc"] is None]
    if undefined:
        yield f"GAUC is not defined on: {', '.join(undefined)} (no user has both a click and a non-click there)."
    few = [f"{name} ({metrics['rows']:,} rows)" for name, metrics in found.items() if 0 < metrics["rows"] < _FEW_ROWS]
    if few:
        yield f"These slices have few rows: {', '.join(few)}."
    quarantined = sum(sum(reasons.values()) for reasons in dataset.get("quarantined", {}).values())
    if quarantined:
        yield f"{quarantined:,} input rows were quarantined by preparation and are not in the data."


def _bullets(lines: Iterator[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _interval(metrics: Facts, value: str, low: str, high: str, *, sign: str = "") -> str:
    if metrics[value] is None:
        return _number(None)
    ends = f" [{_number(metrics[low], sign)}, {_number(metrics[high], sign)}]" if metrics[low] is not None else ""
    return _number(metrics[value], sign) + ends


def _number(value: float | None, sign: str = "") -> str:
    return "not defined" if value is None else f"{value:{sign}.4f}"
