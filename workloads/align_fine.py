"""Fine alignment: trains the adaptor by click loss through the frozen ranker, on Ray Train with DDP."""

import shutil
from pathlib import Path
from typing import Any

from coldstart.alignment import save_adaptor
from coldstart.config import Artifact, Journal, Recipe, UserError, digest, read_artifact, write_artifact
from coldstart.data.dataset import Dataset
from coldstart.encoders.proxies import read_proxies
from coldstart.evaluation.metrics import gauc
from coldstart.rankers import load_ranker
from coldstart.rankers.storage import check_whole
from coldstart.rankers.storage import digest as digest_ranker
from coldstart.training.fine_loop import align_fine
from coldstart.training.launch import launch
from coldstart.training.ranks import rank
from workloads.job import main

STAGE = "align_fine"
SOURCES = ("dataset", "ranker", "encoder", "proxies")


def run(recipe: Recipe) -> Artifact:
    """Trains on the run's proxies and events and writes `<run_dir>/adaptor`.

    A run that was interrupted goes on after its last finished epoch.

    Raises:
        UserError: an earlier stage's result is missing, damaged, or was made from another ranker.
    """
    run_dir = recipe.run_dir.absolute()
    check_whole(run_dir / "ranker")
    sources = {kind: read_artifact(run_dir / kind, kind) for kind in SOURCES}
    for kind, made_from in sources["proxies"].lineage.items():
        if kind in sources and sources[kind].fingerprint != made_from:
            raise UserError(f"the proxies in {run_dir} were made from another {kind}; run the embed_items stage again")
    lineage = {kind: artifact.fingerprint for kind, artifact in sources.items()}
    settings = digest([recipe.fine, recipe.seed, lineage])
    checkpoints = run_dir / "checkpoints" / STAGE / settings[:16]
    journal = Journal(run_dir / "journals" / f"{STAGE}.jsonl")
    if not checkpoints.exists():
        journal.clear()
        journal.write(0, recipe.fine.epochs)
    payload = {
        "recipe": recipe.model_dump(mode="json"),
        "run_dir": str(run_dir),
        "lineage": lineage,
        "groups": int(sources["proxies"].about["groups"]),
        "checkpoints": str(checkpoints),
    }
    launch(_worker, payload, cluster=recipe.cluster, name=STAGE, storage=run_dir / "checkpoints")
    shutil.rmtree(checkpoints.parent, ignore_errors=True)
    return read_artifact(run_dir / "adaptor", "adaptor")


def _worker(payload: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(payload["recipe"])
    run_dir = Path(payload["run_dir"])
    dataset = Dataset.open(run_dir / "dataset", verify=False)
    ranker = load_ranker(run_dir / "ranker")
    coarse, states = read_proxies(run_dir / "proxies", dataset.num_items, groups=payload["groups"])
    adaptor, progress = align_fine(
        ranker,
        dataset.sequences,
        coarse,
        states,
        recipe.fine,
        history=ranker.history,
        seed=recipe.seed,
        gauc=gauc,
        journal=Journal(run_dir / "journals" / f"{STAGE}.jsonl"),
        checkpoints=Path(payload["checkpoints"]),
    )
    if rank() == 0:
        about = {
            **adaptor.shape,
            "parameters": sum(parameter.numel() for parameter in adaptor.parameters()),
            "valid_gauc": round(progress.best, 5),
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch + 1,
            "rows_per_second": round(progress.rows_per_second),
            "ranker_digest": digest_ranker(ranker),
        }
        with write_artifact(run_dir / "adaptor", "adaptor", payload["lineage"], about) as draft:
            save_adaptor(adaptor, draft)


if __name__ == "__main__":
    main(STAGE, run, __doc__)
