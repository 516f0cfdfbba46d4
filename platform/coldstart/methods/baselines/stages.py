"""The stages of a baseline: its encoder, the embedding of the catalog, and what is fitted beside the ranker."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from coldstart.config import Artifact, MetricsLog, Recipe, UserError, digest, read_artifact, write_artifact
from coldstart.config.recipe import settings_of
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.methods.base import ITEM_TABLE, SCORER, Method, Stage
from coldstart.methods.baselines.config import Settings
from coldstart.methods.baselines.contenders import ContenderInputs, build_contender
from coldstart.methods.baselines.content_similarity import fit_text
from coldstart.methods.baselines.registered import COLUMNS
from coldstart.methods.baselines.saved import save_baseline
from coldstart.methods.embed_items import embed_items
from coldstart.methods.idproxy import align_coarse
from coldstart.methods.idproxy.config import Settings as IDProxySettings
from coldstart.metrics.clicks import gauc
from coldstart.metrics.undefined import nan_to_none
from coldstart.rankers import load_ranker
from coldstart.rankers.storage import check_has_scorer
from coldstart.training.ctr_trainer import TrainingContext
from coldstart.training.launch import launch

ENCODE, FIT = "fit_encoder", "fit_baseline"
ALIGN_SECTIONS = ("content", "encoder", "mature_events", "method.coarse")
"""Those of IDProxy's stage, so that its encoder is kept when the method of a run changes."""
FIT_SECTIONS = ("mature_events", "method.use", "method.penalty", "method.length", "method.fine")
SOURCES = ("dataset", "ranker", "encoder", ITEM_TABLE)


def stages(method: Method, recipe: Recipe) -> tuple[Stage, ...]:
    """The stages after the ranker."""
    settings = settings_of(recipe, Settings)
    if settings.reads_aligned:
        sections = (*ALIGN_SECTIONS, "method.use") if settings.reads_text else ALIGN_SECTIONS
        encoder = Stage(align_coarse.STAGE, "encoder", run_aligned_encoder, sections, ("dataset", "ranker"))
    else:
        encoder = Stage(ENCODE, "encoder", run_text_encoder, (), ("dataset",))
    embed = Stage("embed_items", ITEM_TABLE, partial(embed_items, method=method), (), ("dataset", "encoder"))
    if recipe.ranker.pretrained.id_table is not None:
        return (encoder, embed)
    return (encoder, embed, Stage(FIT, SCORER, run_baseline, FIT_SECTIONS, SOURCES))


def run_text_encoder(recipe: Recipe) -> Artifact:
    """Fits text vectors to the catalog and writes `<run_dir>/encoder`.

    Raises:
        UserError: there is no dataset, or it has too little text.
    """
    run_dir = recipe.run_dir
    dataset = Dataset.open(run_dir / "dataset")
    svd = fit_text(dataset, seed=recipe.seed)
    metadata = {"method": recipe.method.name, "width": svd.width, "terms": len(svd.terms)}
    with write_artifact(run_dir / "encoder", "encoder", {"dataset": dataset.artifact.fingerprint}, metadata) as draft:
        svd.save(draft)
    metrics_log = MetricsLog(run_dir / "metrics" / f"{ENCODE}.jsonl")
    metrics_log.clear()
    metrics_log.write(1, 1, terms=len(svd.terms))
    return read_artifact(run_dir / "encoder", "encoder")


def run_aligned_encoder(recipe: Recipe) -> Artifact:
    """Runs IDProxy's coarse alignment, which writes `<run_dir>/encoder`, with text vectors if the baseline reads them.

    Raises:
        UserError: as `align_coarse.run`, or the catalog has too little text.
    """
    settings = settings_of(recipe, Settings)
    as_idproxy = recipe.model_copy(update={"method": IDProxySettings(coarse=settings.coarse, fine=settings.fine)})
    if not settings.reads_text:
        return align_coarse.run(as_idproxy)
    # Fitted first: it takes seconds, and a catalog without text is an error that should not wait for the alignment.
    svd = fit_text(Dataset.open(recipe.run_dir / "dataset"), seed=recipe.seed)
    return align_coarse.run(as_idproxy, svd.save)


def run_baseline(recipe: Recipe) -> Artifact:
    """Fits the baseline on one rank and writes `<run_dir>/scorer`; a training by clicks resumes after its last epoch.

    Raises:
        UserError: the result of an earlier stage is missing, damaged, or of another lineage.
    """
    run_dir = recipe.run_dir.absolute()
    check_has_scorer(run_dir / "ranker")
    sources = {kind: read_artifact(run_dir / kind, kind) for kind in SOURCES}
    for source in sources.values():
        stale = [kind for kind, used in source.lineage.items() if kind in sources and sources[kind].fingerprint != used]
        if stale:
            raise UserError(
                f"the {source.kind} in {run_dir} was made from another {stale[0]} than the one there; run the "
                f"stage that makes the {source.kind} again"
            )
    lineage = {kind: source.fingerprint for kind, source in sources.items()}
    key = digest([settings_of(recipe, Settings), recipe.mature_events, recipe.seed, lineage])
    checkpoints = run_dir / "checkpoints" / FIT / key[:16]
    if not checkpoints.exists():
        MetricsLog(run_dir / "metrics" / f"{FIT}.jsonl").clear()
    payload = {
        "recipe": recipe.model_dump(mode="json"),
        "run_dir": str(run_dir),
        "lineage": lineage,
        "checkpoints": str(checkpoints),
    }
    one = recipe.cluster.model_copy(update={"workers": 1, "min_workers": None})
    launch(_worker, payload, cluster=one, name=FIT, storage=run_dir / "checkpoints")
    shutil.rmtree(checkpoints.parent, ignore_errors=True)
    return read_artifact(run_dir / SCORER, SCORER)


def _worker(payload: dict[str, Any]) -> None:
    recipe, run_dir = Recipe.model_validate(payload["recipe"]), Path(payload["run_dir"])
    settings, dataset = settings_of(recipe, Settings), Dataset.open(run_dir / "dataset", verify=False)
    ranker, metrics_log = load_ranker(run_dir / "ranker"), MetricsLog(run_dir / "metrics" / f"{FIT}.jsonl")
    inputs = ContenderInputs(
        ranker,
        dataset.sequences,
        ItemTable.open(run_dir / ITEM_TABLE),
        dataset.mature(ranker.trained.numpy(), recipe.mature_events),
        settings.fine,
        TrainingContext(seed=recipe.seed, gauc=gauc, metrics_log=metrics_log, checkpoints=Path(payload["checkpoints"])),
    )
    baseline = build_contender(settings.use, inputs, settings.point)
    valid_gauc = round(baseline.valid_gauc(dataset.sequences), 5)
    if not baseline.epochs:
        metrics_log.write(1, 1, **nan_to_none({"valid_gauc": valid_gauc}))
    metadata = {
        "method": settings.name,
        "use": settings.use,
        **settings.point,
        "parameters": baseline.parameters,
        "epochs": baseline.epochs,
        "valid_gauc": valid_gauc,
        COLUMNS: {name: list(spec.shape) for name, spec in baseline.adaptor.inputs.items()},
    }
    with write_artifact(run_dir / SCORER, SCORER, payload["lineage"], nan_to_none(metadata)) as draft:
        save_baseline(baseline.adaptor, baseline.scorer, draft)
