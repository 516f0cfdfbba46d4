"""The stages of SaviorRec: encoder, embedding, co-click pairs, quantizer, and the scorer that clicks train."""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from coldstart.config import Artifact, MetricsLog, Recipe, UserError, read_artifact, write_artifact
from coldstart.config.recipe import settings_of
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.data.pairs import CoClickPairs, mine_pairs, pairs_report
from coldstart.data.streaming import stream_items
from coldstart.methods.base import ITEM_TABLE, SCORER, Method, Stage
from coldstart.methods.embed_items import embed_items
from coldstart.methods.mllm_checkpoint import mllm_checkpoint, recorded_name
from coldstart.methods.saviorrec.config import Settings
from coldstart.methods.saviorrec.content_encoder import SAMPLE, fit_content_encoder
from coldstart.methods.saviorrec.encoder_training import train_on_pairs
from coldstart.methods.saviorrec.item_encoder import SemanticIds, save_pool
from coldstart.methods.saviorrec.model import (
    CODES,
    CONTENT,
    Catalog,
    check_supports_interaction,
    save_scorer,
)
from coldstart.methods.saviorrec.registered import QUANTIZER
from coldstart.methods.saviorrec.scorer_training import train_scorer
from coldstart.metrics.codes import code_purity, code_report
from coldstart.modules.residual_quantizer import load_quantizer
from coldstart.rankers import load_ranker
from coldstart.rankers.storage import check_has_scorer
from coldstart.training.distributed import device, rank
from coldstart.training.quantizer_training import (
    QuantizerData,
    QuantizerSettings,
    fit_rq_kmeans,
    fit_rq_vae,
    relative_error,
)
from coldstart.training.retrieval_curve import before_and_after
from coldstart.training.stage import TrainingStage

ENCODE, TRAIN_SCORER = "fit_encoder", "train_scorer"
BLOCK_ROWS = 256
"""Items per Ray Data task."""
PAIRS = "pairs"
LEVELS, SMALLEST, LARGEST = 3, 16, 256
"""Levels and smallest and largest codebook if the recipe does not name the sizes."""
_SOURCES = ("dataset", "ranker", "encoder", ITEM_TABLE, QUANTIZER)


def stages(method: Method, recipe: Recipe) -> tuple[Stage, ...]:
    """The stages after the ranker; pairs are mined only if the quantizer reads them."""
    settings = settings_of(recipe, Settings)
    encoder = ("content", "encoder", "method.encoder")
    mine = Stage("mine_pairs", PAIRS, run_pairs, ("method.pairs",), ("dataset",), intermediate=True)
    pairs = (mine,) if settings.uses_pairs else ()
    for_encoder = (PAIRS,) if settings.encoder.train == "pairs" else ()
    for_quantizer = (PAIRS,) if settings.quantizer_reads_pairs else ()
    quantizer_inputs = ("dataset", ITEM_TABLE, *for_quantizer)
    found = (
        *pairs,
        Stage(ENCODE, "encoder", run_encoder, encoder, ("dataset", *for_encoder)),
        Stage("embed_items", ITEM_TABLE, partial(embed_items, method=method), (), ("dataset", "encoder")),
        Stage("quantize", QUANTIZER, run_quantizer, ("method.quantizer",), quantizer_inputs),
    )
    if recipe.ranker.pretrained.id_table is not None:
        return found
    scorer = Stage(TRAIN_SCORER, SCORER, run_scorer, ("method.rank", "method.mode"), _SOURCES)
    return (*found, scorer)


def run_encoder(recipe: Recipe) -> Artifact:
    """Makes the encoder, trains it on pairs unless it stays frozen, and writes `<run_dir>/encoder`.

    An interrupted training continues from its last checkpoint.

    Raises:
        UserError: there is no dataset or no pairs, or the MLLM or the content width does not fit.
    """
    run_dir, settings = recipe.run_dir.absolute(), settings_of(recipe, Settings).encoder
    dataset = Dataset.open(run_dir / "dataset")
    lineage = {"dataset": dataset.artifact.fingerprint}
    if settings.train == "pairs":
        pairs = read_artifact(run_dir / PAIRS, PAIRS)
        if pairs.lineage != lineage:
            raise UserError(f"the pairs in {run_dir} are from another dataset; run mine_pairs again")
        lineage[PAIRS] = pairs.fingerprint
    parts = [settings, recipe.encoder, recipe.content]
    stage = TrainingStage.of(recipe, ENCODE, parts, lineage, mllm=mllm_checkpoint(recipe, dataset))
    stage.run(_encoder_worker)
    encoder = read_artifact(run_dir / "encoder", "encoder")
    if settings.train == "none":
        stage.metrics_log.write(1, 1, variance_kept=encoder.metadata["variance_kept"])
    return encoder


def _encoder_worker(stage: TrainingStage) -> None:
    recipe, run_dir = stage.recipe, stage.run_dir
    settings = settings_of(recipe, Settings).encoder
    if settings.train == "none" and rank() != 0:
        return
    dataset = Dataset.open(run_dir / "dataset", verify=False)
    seen = np.random.default_rng((recipe.seed, 4)).permutation(np.flatnonzero(dataset.train_counts > 0))[:SAMPLE]
    contents = dataset.contents(np.sort(seen).astype(np.int64))
    encoder, kept = fit_content_encoder(recipe, stage.options["mllm"], contents, device())
    metadata = {
        "method": recipe.method.name,
        "train": settings.train,
        "width": encoder.width,
        "hidden": encoder.hidden,
        "groups": 0,
        "mllm": recorded_name(recipe, stage.options["mllm"]),
        "content": recipe.content.model_dump(),
        "items": len(contents),
        "variance_kept": round(kept, 5),
    }
    if settings.train == "pairs":
        pairs = CoClickPairs.read(run_dir / PAIRS)
        read = partial(stream_items, run_dir / "dataset", block_rows=BLOCK_ROWS)
        groups = dataset.content_groups(recipe.content)
        curve = train_on_pairs(encoder.to(device()), pairs, groups, settings.contrast, read, stage.contrastive_training)
        metadata |= {"pairs": len(pairs), **before_and_after(curve)}
    if rank() == 0:
        with write_artifact(run_dir / "encoder", "encoder", stage.inputs, metadata) as draft:
            encoder.cpu().save(draft)


def run_pairs(recipe: Recipe) -> Artifact:
    """Mines co-click pairs and writes `<run_dir>/pairs`.

    Raises:
        UserError: there is no dataset, or no user clicked two items.
    """
    dataset = Dataset.open(recipe.run_dir / "dataset")
    metrics_log = MetricsLog(recipe.run_dir / "metrics" / "mine_pairs.jsonl")
    metrics_log.clear()
    pairs = mine_pairs(dataset.sequences, dataset.num_items, settings_of(recipe, Settings).pairs)
    report = pairs_report(pairs, dataset.train_counts)
    metrics_log.write(1, 1, pairs=len(pairs))
    path = recipe.run_dir / PAIRS
    with write_artifact(path, PAIRS, {"dataset": dataset.artifact.fingerprint}, report) as draft:
        pairs.write(draft)
    return read_artifact(path, PAIRS)


def run_quantizer(recipe: Recipe) -> Artifact:
    """Trains the quantizer on the content of train items and writes `<run_dir>/quantizer`.

    Raises:
        UserError: the result of an earlier stage is missing, or the vectors cannot be quantized.
    """
    settings, run_dir = settings_of(recipe, Settings), recipe.run_dir
    dataset = Dataset.open(run_dir / "dataset")
    table = read_artifact(run_dir / ITEM_TABLE, ITEM_TABLE)
    lineage = {**table.lineage, ITEM_TABLE: table.fingerprint}
    vectors = ItemTable.open(table.path).columns[CONTENT]
    rows = np.flatnonzero(dataset.train_counts > 0)
    data = QuantizerData(vectors, rows)
    if settings.quantizer_reads_pairs:
        source = read_artifact(run_dir / PAIRS, PAIRS)
        pairs = CoClickPairs.read(source.path)
        lineage[PAIRS] = source.fingerprint
        data = QuantizerData(vectors, rows, pairs.trigger.astype(np.int64), pairs.target.astype(np.int64))
    metrics_log = MetricsLog(run_dir / "metrics" / "quantize.jsonl")
    metrics_log.clear()

    def progress(done: int, total: int, figures: dict[str, float]) -> None:
        metrics_log.write(done, total, **{name: round(value, 6) for name, value in figures.items()})

    options = quantizer_settings(settings, len(rows), recipe.seed)
    fit = fit_rq_vae if settings.quantizer.kind == "rq_vae" else fit_rq_kmeans
    quantizer = fit(data, options, progress)
    metadata = {
        "method": settings.name,
        "kind": quantizer.kind,
        "width": quantizer.width,
        "levels": quantizer.levels,
        "sizes": list(quantizer.sizes),
    }
    for name, items in (("train", rows), ("cold", dataset.cold_items)):
        if len(items):
            codes = quantizer.encode(data.take(items)).numpy()
            error = {"relative_error": round(relative_error(quantizer, data, items), 5)}
            metadata[name] = {**code_report(codes, quantizer.sizes), **error, "purity": _purity(dataset, codes, items)}
    with write_artifact(run_dir / QUANTIZER, QUANTIZER, lineage, metadata) as draft:
        quantizer.save(draft)
    return read_artifact(run_dir / QUANTIZER, QUANTIZER)


def _purity(dataset: Dataset, codes: NDArray[np.int16], items: NDArray[np.int64]) -> dict[str, list[float]]:
    """Purity of codes [n, Lq] for each categorical feature of the items [n]."""
    names = [feature.key for feature in dataset.features.of("item").categorical]
    categories = dataset.item_features.categorical[items]
    return {name: code_purity(codes, categories[:, place]) for place, name in enumerate(names)}


def quantizer_settings(settings: Settings, items: int, seed: int) -> QuantizerSettings:
    """The training of the recipe's quantizer.

    Args:
        settings: The recipe section `method`.
        items: Items in training, which determine the sizes if the recipe does not.
        seed: Of the run.
    """
    options = settings.quantizer
    nearest = 2 ** round(np.log2(max(items, 1)) / 2)
    return QuantizerSettings(
        sizes=options.sizes or (int(np.clip(nearest, SMALLEST, LARGEST)),) * LEVELS,
        seed=seed,
        **options.model_dump(exclude={"kind", "sizes"}),
    )


def run_scorer(recipe: Recipe) -> Artifact:
    """Trains the scorer and writes `<run_dir>/scorer`; an interrupted run continues after its last finished epoch.

    Raises:
        UserError: the result of an earlier stage is missing, damaged, or of another lineage.
    """
    run_dir, settings = recipe.run_dir.absolute(), settings_of(recipe, Settings)
    check_has_scorer(run_dir / "ranker")
    check_supports_interaction(load_ranker(run_dir / "ranker"))
    sources = {kind: read_artifact(run_dir / kind, kind) for kind in _SOURCES}
    for source in sources.values():
        for kind, fingerprint in source.lineage.items():
            if kind in sources and sources[kind].fingerprint != fingerprint:
                raise UserError(
                    f"the {source.kind} in {run_dir} was made from another {kind} than the one there; run the stages "
                    f"from the {source.kind} on again"
                )
    lineage = {kind: source.fingerprint for kind, source in sources.items()}
    stage = TrainingStage.of(recipe, TRAIN_SCORER, [settings.rank, settings.mode], lineage)
    stage.run(_scorer_worker, epochs=settings.rank.epochs)
    return read_artifact(run_dir / SCORER, SCORER)


def _scorer_worker(stage: TrainingStage) -> None:
    run_dir, settings = stage.run_dir, settings_of(stage.recipe, Settings)
    dataset = Dataset.open(run_dir / "dataset", verify=False)
    quantizer = load_quantizer(run_dir / QUANTIZER)
    content = ItemTable.open(run_dir / ITEM_TABLE)
    pool = None
    if settings.rank.ablate.shuffled_codes:
        pool = _codes(SemanticIds(quantizer), content)[1:]
    items = ItemTable({CONTENT: content.columns[CONTENT], CODES: _codes(SemanticIds(quantizer, pool), content)})
    ranker = check_supports_interaction(load_ranker(run_dir / "ranker"))
    scorer, state = train_scorer(
        ranker, dataset.sequences, items, settings, stage.click_training, sizes=quantizer.sizes
    )
    if rank() == 0:
        metadata = {
            "method": settings.name,
            "mode": settings.mode,
            "width": quantizer.width,
            "levels": quantizer.levels,
            **state.summary,
        }
        with write_artifact(run_dir / SCORER, SCORER, stage.inputs, metadata) as draft:
            save_scorer(scorer, draft, Catalog(list(dataset.item_index), dataset.item_features))
            if pool is not None:
                save_pool(pool, draft)


def _codes(semantic_ids: SemanticIds, content: ItemTable) -> torch.Tensor:
    """Codes [V, Lq] of all items; the content stays on disk."""
    return torch.cat([semantic_ids(columns)[CODES] for _, columns in content.select([CONTENT]).passes()])
