"""Methods as contenders of a comparison: each configuration has a run directory, and shares equal artifacts.

IDProxy and the baselines are cheap variations over one encoder, see `methods.baselines.contenders`. Other methods have
encoders of their own, so a contender of theirs is a whole run, up to the scorer.
"""

import sys
from collections.abc import Collection, Mapping
from typing import Any

import yaml

from coldstart.config import Artifact, Recipe, digest, read_artifact, resolve_recipe
from coldstart.config.recipe.method import SETTINGS, ContenderInfo, MethodSettings
from coldstart.data.item_table import ItemTable
from coldstart.jobs.pipeline import link_artifact, nested_run, run_outdated_stages
from coldstart.methods.available import find_method
from coldstart.methods.base import ITEM_TABLE, SCORER
from coldstart.methods.baselines.config import READS_ALIGNED, READS_TEXT
from coldstart.methods.baselines.config import Settings as BaselineSettings
from coldstart.methods.baselines.contenders import CONTENDERS, Contender, Setting, make_contender
from coldstart.methods.idproxy.config import Settings as IDProxySettings
from coldstart.rankers import load_ranker

FOLDER = "contenders"
"""Directory of these runs, in that of the compared run."""
METHOD_CONTENDERS: Mapping[str, tuple[str, ContenderInfo]] = {
    contender: (method, info)
    for method, settings in SETTINGS.items()
    for contender, info in settings.contenders.items()
}
"""Contender -> its method and its configuration."""
JOINT_CONTENDERS = {"joint": True, "joint_plain": False}
"""Contenders that IDProxy serves in joint mode, and their `method.fine.joint.structure_reuse`."""


def method_recipe(recipe: Recipe, method: str, changes: Mapping[str, Any], *, folder: str) -> Recipe:
    """The recipe of a contender: the same data and ranker, and the settings of a method with changes.

    Args:
        recipe: Of the compared run.
        method: Its settings are those of `recipe.method`, of `recipe.comparison`, or the defaults, in this order.
        changes: Settings by their dotted key in the section `method`.
        folder: Name of its run directory.

    Raises:
        UserError: the settings do not fit the rest of the recipe.
    """
    settings = recipe.method if recipe.method.name == method else recipe.comparison.get(method, SETTINGS[method]())
    own = nested_run(recipe, FOLDER, folder).model_dump(mode="json")
    values = own | {"method": settings.model_dump(mode="json")}
    overrides = [f"method.{key}={value}" for key, value in changes.items()]
    return resolve_recipe(values, overrides, f"contender {folder}")


def contender_recipe(recipe: Recipe, name: str, setting: Setting) -> Recipe:
    """The recipe of a key of `METHOD_CONTENDERS` with a point of its grid; equal settings have equal directories."""
    method, info = METHOD_CONTENDERS[name]
    changes = {**info.changes, **setting}
    return method_recipe(recipe, method, changes, folder=f"{method}-{digest(changes)[:12]}")


def run_contender_stages(
    recipe: Recipe, contender: Recipe, *, kinds: Collection[str] | None = None
) -> dict[str, Artifact]:
    """Runs the stages of a contender, up to its scorer, that no other run of the comparison has done.

    Args:
        recipe: Of the compared run, which has a dataset.
        contender: From `method_recipe`.
        kinds: Kinds of artifacts that it needs; None makes all of its method.
    """
    dataset = read_artifact(recipe.run_dir / "dataset", "dataset", verify=False)
    link_artifact(dataset.path, contender.run_dir / "dataset")
    made = ("ranker", *(stage.output for stage in find_method(contender.method.name).stages(contender)))
    others = (run for run in sorted((recipe.run_dir / FOLDER).iterdir()) if run != contender.run_dir)
    _, artifacts = run_outdated_stages(
        contender, dataset, kinds=made if kinds is None else kinds, lenders=[recipe.run_dir, *others]
    )
    return artifacts


def open_contender(contender: Recipe) -> Contender:
    """The trained contender of a run whose stages are done."""
    method = find_method(contender.method.name)
    parts = {kind: contender.run_dir / kind for kind in ("ranker", *method.upstream, ITEM_TABLE, SCORER)}
    scorer = method.load_scorer(parts)
    of_ranker = sum(weight.numel() for weight in load_ranker(parts["ranker"]).parameters())
    added = sum(weight.numel() for weight in scorer.parameters()) - of_ranker
    epochs = read_artifact(parts[SCORER], SCORER, verify=False).metadata["epochs"]
    encoded = ItemTable.open(parts[ITEM_TABLE])
    return make_contender(method.load_adaptor(parts), scorer, encoded, parameters=added, epochs=epochs)


def serving_settings(recipe: Recipe, encoded: IDProxySettings, name: str, setting: Setting) -> MethodSettings | None:
    """The section `method` of a recipe that serves a contender.

    Args:
        recipe: Of the compared run.
        encoded: IDProxy's settings in the comparison.
        name: The contender.
        setting: The point of its grid that was chosen.

    Returns:
        None if no method serves it.
    """
    if name in METHOD_CONTENDERS:
        found: MethodSettings = contender_recipe(recipe, name, setting).method
        return found
    clicks = CONTENDERS[name].clicks
    fine = encoded.fine.model_copy(update=dict(setting)) if clicks else encoded.fine
    if name in READS_TEXT + READS_ALIGNED:
        sections = {"coarse": encoded.coarse} if name in READS_ALIGNED else {}
        return BaselineSettings.model_validate({"use": name, **sections, **({"fine": fine} if clicks else setting)})
    if name in JOINT_CONTENDERS:
        joint = fine.joint.model_copy(update={"structure_reuse": JOINT_CONTENDERS[name]})
        return encoded.model_copy(update={"mode": "joint", "fine": fine.model_copy(update={"joint": joint})})
    return encoded.model_copy(update={"mode": "frozen", "fine": fine}) if name == "fine" else None


def recipe_line(settings: MethodSettings) -> str:
    """Settings as one line of a recipe, without those that have their default value."""
    chosen = {"use": settings.use} if isinstance(settings, BaselineSettings) else {}
    values = {"name": settings.name, **chosen, **settings.model_dump(mode="json", exclude_defaults=True)}
    return f"method: {yaml.safe_dump(values, default_flow_style=True, sort_keys=False, width=sys.maxsize).strip()}"
