"""Fine alignment: trains the adaptor by click loss through the frozen ranker, on Ray Train with DDP.

With `fine.mode: joint` a joint ranker is trained beside it, from the same ranker and proxies.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from coldstart.alignment import save_adaptor, save_joint
from coldstart.alignment.hand_over import id_shares, save_id_shares
from coldstart.alignment.item_vectors import parameters
from coldstart.alignment.joint_ranker import check_joint
from coldstart.config import Artifact, Journal, Recipe, UserError, digest, read_artifact, write_artifact
from coldstart.data.dataset import Dataset
from coldstart.encoders.proxies import read_proxies
from coldstart.evaluation.metrics import gauc
from coldstart.evaluation.summary import without_nan
from coldstart.rankers import Ranker, load_ranker
from coldstart.rankers.storage import check_whole
from coldstart.rankers.storage import digest as digest_ranker
from coldstart.training.click_loop import Progress
from coldstart.training.fine_loop import align_fine, choose_hand_over
from coldstart.training.joint_loop import align_joint
from coldstart.training.launch import launch
from coldstart.training.ranks import rank
from workloads.job import main

STAGE, JOINT = "align_fine", "align_joint"
SOURCES = ("dataset", "ranker", "encoder", "proxies")
Floats = npt.NDArray[np.float32]


def run(recipe: Recipe) -> Artifact:
    """Trains on the run's proxies and events and writes `<run_dir>/adaptor`.

    A run that was interrupted goes on after its last finished epoch.

    Raises:
        UserError: an earlier stage's result is missing, damaged, or was made from another ranker.
    """
    return _fit(recipe, STAGE, "adaptor", epochs=recipe.fine.epochs)


def run_joint(recipe: Recipe) -> Artifact:
    """Trains a joint ranker, as `run` does the adaptor, and writes `<run_dir>/joint`.

    Raises:
        UserError: as `run`, or the ranker is not in two parts.
    """
    check_joint(load_ranker(recipe.run_dir / "ranker"))
    return _fit(recipe, JOINT, "joint", epochs=recipe.fine.joint.epochs)


def _fit(recipe: Recipe, stage: str, kind: str, *, epochs: int) -> Artifact:
    run_dir = recipe.run_dir.absolute()
    check_whole(run_dir / "ranker")
    sources = {source: read_artifact(run_dir / source, source) for source in SOURCES}
    for source, made_from in sources["proxies"].lineage.items():
        if source in sources and sources[source].fingerprint != made_from:
            raise UserError(
                f"the proxies in {run_dir} were made from another {source}; run the embed_items stage again"
            )
    lineage = {source: artifact.fingerprint for source, artifact in sources.items()}
    settings = digest([recipe.fine, recipe.seed, lineage])
    checkpoints = run_dir / "checkpoints" / stage / settings[:16]
    journal = Journal(run_dir / "journals" / f"{stage}.jsonl")
    if not checkpoints.exists():
        journal.clear()
        journal.write(0, epochs)
    payload = {
        "recipe": recipe.model_dump(mode="json"),
        "run_dir": str(run_dir),
        "lineage": lineage,
        "groups": int(sources["proxies"].about["groups"]),
        "checkpoints": str(checkpoints),
    }
    worker = _worker if kind == "adaptor" else _joint_worker
    launch(worker, payload, cluster=recipe.cluster, name=stage, storage=run_dir / "checkpoints")
    shutil.rmtree(checkpoints.parent, ignore_errors=True)
    return read_artifact(run_dir / kind, kind)


def _worker(payload: dict[str, Any]) -> None:
    recipe, run_dir, dataset, ranker, proxies = _opened(payload)
    adaptor, progress = align_fine(
        ranker,
        dataset.sequences,
        *proxies,
        recipe.fine,
        history=ranker.history,
        seed=recipe.seed,
        gauc=gauc,
        journal=Journal(run_dir / "journals" / f"{STAGE}.jsonl"),
        checkpoints=Path(payload["checkpoints"]),
    )
    curve = choose_hand_over(adaptor, ranker, dataset.sequences, *proxies, gauc=gauc)
    if rank() == 0:
        until = hand_over(recipe, curve)
        shares = id_shares(torch.from_numpy(dataset.train_counts), ranker.trained.cpu(), until=until)
        about = {
            **adaptor.shape,
            "hand_over": until,
            "hand_over_curve": without_nan({str(choice): round(value, 5) for choice, value in curve.items()}),
            "parameters": parameters(adaptor),
            **_course(progress),
            "ranker_digest": digest_ranker(ranker),
        }
        with write_artifact(run_dir / "adaptor", "adaptor", payload["lineage"], about) as draft:
            save_adaptor(adaptor, draft)
            save_id_shares(shares, draft)


def hand_over(recipe: Recipe, curve: Mapping[int, float]) -> int:
    """Train events by which the ID row takes over: the recipe's word, or the earliest choice that did best."""
    if recipe.fine.hand_over != "curve":
        return recipe.fine.hand_over
    return max(curve, key=lambda until: (np.nan_to_num(curve[until], nan=-1.0), -until))


def _joint_worker(payload: dict[str, Any]) -> None:
    recipe, run_dir, dataset, ranker, proxies = _opened(payload)
    joint, progress = align_joint(
        check_joint(ranker),
        dataset.sequences,
        *proxies,
        recipe.fine,
        seed=recipe.seed,
        gauc=gauc,
        journal=Journal(run_dir / "journals" / f"{JOINT}.jsonl"),
        checkpoints=Path(payload["checkpoints"]),
    )
    if rank() == 0:
        about = {**joint.vectors.shape, "parameters": parameters(joint.vectors), **_course(progress)}
        with write_artifact(run_dir / "joint", "joint", payload["lineage"], about) as draft:
            save_joint(joint, draft, list(dataset.item_index), dataset.item_features)


def _opened(payload: dict[str, Any]) -> tuple[Recipe, Path, Dataset, Ranker, tuple[Floats, Floats]]:
    """What the stage was given, in the process that trains."""
    recipe = Recipe.model_validate(payload["recipe"])
    run_dir = Path(payload["run_dir"])
    dataset = Dataset.open(run_dir / "dataset", verify=False)
    proxies = read_proxies(run_dir / "proxies", dataset.num_items, groups=payload["groups"])
    return recipe, run_dir, dataset, load_ranker(run_dir / "ranker"), proxies


def _course(progress: Progress) -> dict[str, Any]:
    return {
        "valid_gauc": round(progress.best, 5),
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch + 1,
        "rows_per_second": round(progress.rows_per_second),
    }


if __name__ == "__main__":
    main(STAGE, run, __doc__)
