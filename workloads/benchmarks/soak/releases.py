"""Makes releases to swap between from one run, and computes the scores that each must return.

Every release has its own ranker, item table and scorer, of IDProxy in frozen mode: those of the run with noise on the
weights, so that no two releases agree on a score. Legend: `R` requests, `T` candidates, `d` ID width.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from coldstart.config import MetricsLog, Recipe, UserError, read_artifact, write_artifact
from coldstart.data.batches import rank_request
from coldstart.data.content import Content
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.encoders import Encoder
from coldstart.methods.available import find_method
from coldstart.methods.base import ITEM_TABLE, SCORER
from coldstart.methods.idproxy.adaptor import load_adaptor, save_adaptor
from coldstart.methods.idproxy.scorers import COARSE, STATES
from coldstart.methods.idproxy.warmup_blend import blend_slots, load_id_weight, save_id_weight
from coldstart.rankers import Ranker, load_ranker, save_ranker
from coldstart.rankers.ranker_classes import ranker_class
from coldstart.rankers.storage import read_item_index
from coldstart.registry import EvaluationOutputs, Registry, register_model

SLOW_LAYERS = (8192, 8192)
"""Hidden layers that make a ranker far slower than the champion."""
_NOISE = 0.05


@dataclass(frozen=True)
class Request:
    """One ranking request.

    Attributes:
        user_id: Decides whether the champion or the challenger ranks it.
        items: Candidates: ids from the catalog, or of items published at the start.
        new: Position of each candidate among the published items, -1 for items of the catalog.
        history: Item ids, labels and Unix seconds.
        now: Unix seconds.
    """

    user_id: str
    items: list[str]
    new: list[int]
    history: tuple[list[str], list[int], list[int]]
    now: int


def draw_requests(dataset: Dataset, *, requests: int, candidates: int, new: list[str], seed: int) -> list[Request]:
    """Draws requests of real users: warm and cold items of the catalog and one item published at the start."""
    rng = np.random.default_rng(seed)
    ids = dataset.items(["item_id"])["item_id"].to_pylist()
    events = dataset.sequences
    users = rng.permutation(np.flatnonzero(np.diff(events.offsets) >= 2))[:requests]
    result = []
    for number, user in enumerate(users):
        span = slice(events.offsets[user], events.offsets[user + 1])
        position = number % len(new)
        history = [ids[item - 1] for item in events.item_idx[span]]
        result.append(
            Request(
                user_id=events.user_id[user],
                items=[*(ids[i] for i in rng.choice(len(ids), candidates - 1, replace=False)), new[position]],
                new=[-1] * (candidates - 1) + [position],
                history=(history, events.label[span].tolist(), events.timestamp[span].tolist()),
                now=int(events.timestamp[span][-1]) + 1,
            )
        )
    return result


def make_release(base: Path, into: Path, *, seed: int, slow: bool = False) -> None:
    """Writes ranker, encoder, item table and scorer of one lineage.

    Args:
        base: Run directory to copy the models from.
        into: Run directory to write.
        seed: Seed of the noise; 0 adds none.
        slow: Whether the ranker gets `SLOW_LAYERS`.
    """
    torch.manual_seed(seed)
    old = {kind: read_artifact(base / kind, kind) for kind in ("ranker", "encoder", ITEM_TABLE, SCORER)}
    fingerprints = {"dataset": old["ranker"].lineage["dataset"]}
    ranker = _load_ranker(old["ranker"].path, slow=slow)
    adaptor = load_adaptor(old[SCORER].path)
    if seed:
        _add_noise(ranker)
        _add_noise(adaptor)
    for kind, artifact in old.items():
        lineage = {name: fingerprints.get(name, fingerprint) for name, fingerprint in artifact.lineage.items()}
        with write_artifact(into / kind, kind, lineage, artifact.metadata) as draft:
            if kind == "ranker":
                save_ranker(ranker, draft, list(read_item_index(artifact.path)))
            elif kind == SCORER:
                save_adaptor(adaptor, draft)
                save_id_weight(load_id_weight(artifact.path, ranker.trained), draft)
            else:
                shutil.copytree(artifact.path, draft, dirs_exist_ok=True)
                (draft / "manifest.json").unlink()
        fingerprints[kind] = read_artifact(into / kind, kind).fingerprint


def register_release(recipe: Recipe, registry: Registry, metrics: Mapping[str, float] | None = None) -> str:
    """Registers the models in the recipe's run directory as the next versions and returns the name of the release.

    Args:
        recipe: Recipe of the run.
        registry: Target registry.
        metrics: Metrics to register with each model; none by default.
    """
    versions: dict[str, int] = {}
    method = find_method(read_artifact(recipe.run_dir / SCORER, SCORER, verify=False).metadata["method"])
    for kind in (one.name for one in method.kinds):
        versions[kind] = register_model(
            registry,
            read_artifact(recipe.run_dir / kind, kind),
            method=method.name,
            recipe=recipe,
            upstream=dict(versions),
            metrics_log=MetricsLog(recipe.run_dir / "metrics" / f"{kind}.jsonl"),
            evaluation=EvaluationOutputs(metrics or {}),
        ).version
    return f"{registry.project}-{SCORER}/{versions[SCORER]}"


def expected_scores(
    run_dir: Path, requests: list[Request], new: list[Content]
) -> Mapping[str, npt.NDArray[np.float32]]:
    """Returns slot source -> probabilities [R, T] on the offline path, as if all candidates had that source."""
    ranker, adaptor, encoder = (
        load_ranker(run_dir / "ranker"),
        load_adaptor(run_dir / SCORER),
        Encoder.load(run_dir / "encoder", "cpu"),
    )
    if ranker.features:
        raise UserError("the ranker uses features, but the soak's requests have none; pass a recipe without features")
    index = read_item_index(run_dir / "ranker")
    encoded = ItemTable.open(run_dir / ITEM_TABLE).columns
    scores: dict[str, list[npt.NDArray[np.float32]]] = {"id": [], "blended": [], "proxy": [], "oov": []}
    shares = load_id_weight(run_dir / SCORER, ranker.trained)
    with torch.inference_mode():
        fine = adaptor(encoded[COARSE], encoded[STATES])
        fresh = torch.cat([adaptor(*encoder(encoder.inputs(encoder.prepare([one]), "cpu"))) for one in new])
        for request in requests:
            items = np.array([index.get(item, 0) for item in request.items])
            past, labels, times = request.history
            batch = rank_request(
                [index.get(item, 0) for item in past], labels, times, items, request.now, history=ranker.max_history
            )
            published = torch.tensor(request.new)
            slots = {
                "id": ranker.id_slots(batch.target_idx),
                "oov": ranker.id_slots(torch.zeros_like(batch.target_idx)),
                "proxy": torch.where(published[:, None] < 0, fine[items], fresh[published.clamp(min=0)])[None],
            }
            slots["blended"] = blend_slots(slots["id"], slots["proxy"], shares[items])
            for kind, vectors in slots.items():
                scores[kind].append(torch.sigmoid(ranker(batch, vectors))[0].numpy())
    return {kind: np.stack(rows) for kind, rows in scores.items()}


def _load_ranker(path: Path, *, slow: bool) -> Ranker:
    ranker = load_ranker(path)
    if not slow:
        return ranker
    settings = ranker.settings.model_copy(update={"mlp_units": SLOW_LAYERS})
    wide = ranker_class(settings.kind)(ranker.vocab_size, settings, ranker.features).eval()
    wide.trained.copy_(ranker.trained)
    return wide


def _add_noise(model: nn.Module) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(_NOISE * weight.std(correction=0) * torch.randn_like(weight))
