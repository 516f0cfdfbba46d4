"""Releases to swap between, made from one run in seconds, and what each must answer.

Every release has a ranker, proxies and an adaptor of its own: the run's with noise on their weights, so that no two
agree on a score. Legend: `R` requests, `T` candidates, `d` ID width.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from coldstart.alignment import load_adaptor, save_adaptor
from coldstart.alignment.hand_over import blend, load_id_shares, save_id_shares
from coldstart.config import Journal, Recipe, UserError, read_artifact, write_artifact
from coldstart.data.batches import rank_request
from coldstart.data.content import Content
from coldstart.data.dataset import Dataset
from coldstart.encoders import Encoder, read_proxies
from coldstart.rankers import Ranker, load_ranker, save_ranker
from coldstart.rankers.kinds import ranker_class
from coldstart.rankers.storage import vocabulary
from coldstart.registry import Registry

SLOW_LAYERS = (8192, 8192)
"""Hidden layers of a ranker that is far too expensive for the traffic of a champion."""
_NOISE = 0.05


@dataclass(frozen=True)
class Request:
    """One ranking.

    Attributes:
        user_id: Decides about the arm.
        items: Candidates: ids of the catalogue, or of items published at the start.
        new: Position of each candidate among the published items, -1 for those of the catalogue.
        history: Item ids, labels and Unix seconds.
        now: Unix seconds.
    """

    user_id: str
    items: list[str]
    new: list[int]
    history: tuple[list[str], list[int], list[int]]
    now: int


def draw_requests(dataset: Dataset, *, requests: int, candidates: int, new: list[str], seed: int) -> list[Request]:
    """Rankings of real users: items of the catalogue, warm and cold, and one of those published at the start."""
    rng = np.random.default_rng(seed)
    ids = dataset.items(["item_id"])["item_id"].to_pylist()
    events = dataset.sequences
    users = rng.permutation(np.flatnonzero(np.diff(events.offsets) >= 2))[:requests]
    drawn = []
    for number, user in enumerate(users):
        span = slice(events.offsets[user], events.offsets[user + 1])
        fresh = number % len(new)
        history = [ids[item - 1] for item in events.item_idx[span]]
        drawn.append(
            Request(
                user_id=events.user_id[user],
                items=[*(ids[i] for i in rng.choice(len(ids), candidates - 1, replace=False)), new[fresh]],
                new=[-1] * (candidates - 1) + [fresh],
                history=(history, events.label[span].tolist(), events.timestamp[span].tolist()),
                now=int(events.timestamp[span][-1]) + 1,
            )
        )
    return drawn


def make_release(base: Path, into: Path, *, seed: int, slow: bool = False) -> None:
    """Writes ranker, encoder, proxies and adaptor of one lineage.

    Args:
        base: Run directory whose models are taken.
        into: Run directory to be written.
        seed: Of the noise; 0 leaves the weights as they are.
        slow: Whether its ranker gets `SLOW_LAYERS`.
    """
    torch.manual_seed(seed)
    old = {kind: read_artifact(base / kind, kind) for kind in ("ranker", "encoder", "proxies", "adaptor")}
    made = {"dataset": old["ranker"].lineage["dataset"]}
    ranker = _ranker(old["ranker"].path, slow=slow)
    adaptor = load_adaptor(old["adaptor"].path)
    if seed:
        _shake(ranker)
        _shake(adaptor)
    for kind, artifact in old.items():
        lineage = {name: made.get(name, fingerprint) for name, fingerprint in artifact.lineage.items()}
        with write_artifact(into / kind, kind, lineage, artifact.about) as draft:
            if kind == "ranker":
                save_ranker(ranker, draft, list(vocabulary(artifact.path)))
            elif kind == "adaptor":
                save_adaptor(adaptor, draft)
                save_id_shares(load_id_shares(artifact.path, ranker.trained), draft)
            else:
                shutil.copytree(artifact.path, draft, dirs_exist_ok=True)
                (draft / "manifest.json").unlink()
        made[kind] = read_artifact(into / kind, kind).fingerprint


def register(recipe: Recipe, registry: Registry, metrics: Mapping[str, float] | None = None) -> str:
    """Registers the models in the recipe's run directory as the next versions, and returns the release's name.

    Args:
        recipe: Of the run.
        registry: To register in.
        metrics: Figures of each, which need not have been evaluated.
    """
    versions: dict[str, int] = {}
    for kind in ("ranker", "encoder", "adaptor"):
        versions[kind] = registry.register(
            kind,
            recipe.run_dir / kind,
            recipe=recipe,
            upstream=dict(versions),
            metrics=metrics or {},
            journal=Journal(recipe.run_dir / "journals" / f"{kind}.jsonl"),
        ).version
    return f"{registry.project}-adaptor/{versions['adaptor']}"


def expected(run_dir: Path, requests: list[Request], new: list[Content]) -> Mapping[str, npt.NDArray[np.float32]]:
    """Kind of vector -> probabilities [R, T] of a release, computed on the offline path, were it of that kind."""
    ranker, adaptor, encoder = (
        load_ranker(run_dir / "ranker"),
        load_adaptor(run_dir / "adaptor"),
        Encoder.load(run_dir / "encoder", "cpu"),
    )
    if ranker.features:
        raise UserError("the soak's requests carry no features; take a recipe whose dataset has none")
    index = vocabulary(run_dir / "ranker")
    groups = int(read_artifact(run_dir / "proxies", "proxies", verify=False).about["groups"])
    coarse, states = (torch.from_numpy(part) for part in read_proxies(run_dir / "proxies", len(index), groups=groups))
    answers: dict[str, list[npt.NDArray[np.float32]]] = {"id": [], "blend": [], "fine": [], "oov": []}
    shares = load_id_shares(run_dir / "adaptor", ranker.trained)
    with torch.inference_mode():
        fine = adaptor(coarse, states)
        fresh = torch.cat([adaptor(*encoder(encoder.inputs(encoder.prepare([one]), "cpu"))) for one in new])
        for asked in requests:
            items = np.array([index.get(item, 0) for item in asked.items])
            seen, labels, times = asked.history
            batch = rank_request(
                [index.get(item, 0) for item in seen], labels, times, items, asked.now, history=ranker.history
            )
            published = torch.tensor(asked.new)
            slots = {
                "id": ranker.id_slots(batch.target_idx),
                "oov": ranker.id_slots(torch.zeros_like(batch.target_idx)),
                "fine": torch.where(published[:, None] < 0, fine[items], fresh[published.clamp(min=0)])[None],
            }
            slots["blend"] = blend(slots["id"], slots["fine"], shares[items])
            for kind, vectors in slots.items():
                answers[kind].append(torch.sigmoid(ranker(batch, vectors))[0].numpy())
    return {kind: np.stack(rows) for kind, rows in answers.items()}


def _ranker(path: Path, *, slow: bool) -> Ranker:
    ranker = load_ranker(path)
    if not slow:
        return ranker
    settings = ranker.settings.model_copy(update={"hidden": SLOW_LAYERS})
    wide = ranker_class(settings.kind)(ranker.vocabulary, settings, ranker.features).eval()
    wide.trained.copy_(ranker.trained)
    return wide


def _shake(model: nn.Module) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(_NOISE * weight.std(correction=0) * torch.randn_like(weight))
