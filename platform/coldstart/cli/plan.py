"""The verb that says what coarse alignment needs before it is started."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from coldstart.cli.app import OUT, AsJson, Overrides, app, load
from coldstart.config import Recipe, UserError

if TYPE_CHECKING:
    from coldstart.data.content import Content

GIB = 2**30
ACCELERATORS = {"H200": 141, "H100": 80, "A100-80G": 80, "A100-40G": 40, "L40S": 48, "A10G": 24, "L4": 24, "T4": 16}
"""GB of the accelerators that Ray names by type; of another one, say --memory."""
PROBED = 4
"""Most items of a probed pass."""


@app.command(epilog="Example: coldstart plan qwen2.5-vl-3b --set encoder.mllm=checkpoints/qwen --memory 80")
def plan(
    recipe: Annotated[str, typer.Argument()],
    overrides: Overrides = None,
    memory: Annotated[
        float | None, typer.Option(help="GiB of one rank; default what this machine or --address has.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster whose GPUs to plan for.")] = None,
    probe: Annotated[bool, typer.Option(help="Time a few passes here, where they fit.")] = True,
    as_json: AsJson = False,
) -> None:
    """Say what coarse alignment needs: memory by ZeRO stage, the micro-batch that fits, hours and checkpoint size."""
    import torch

    if not torch.cuda.is_available():
        # DeepSpeed, which is loaded with what follows, would say on standard output that it has found none.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from coldstart.training.footprint import footprint
    from coldstart.training.plan import best, rows

    loaded = load(recipe, overrides)
    bytes_per_rank, of = _memory(loaded, memory, address)
    ranks = loaded.cluster.workers
    share = loaded.coarse.batch // ranks
    with _mllm(loaded) as mllm:
        sample = [_largest_item(loaded)]
        known: dict[str, Any] = {"width": loaded.ranker.width, "content": loaded.content}
        size = footprint(mllm, loaded.encoder, sample=sample, **known)
        found = rows(size, ranks=ranks, share=share, memory=bytes_per_rank)
        choice = best(found)
        rate = _rate(loaded, mllm, size, known) if probe else None
    items = _train_items(loaded)
    hours = None if rate is None or items is None else items * loaded.coarse.epochs / (rate * ranks) / 3600
    report = {
        "parameters": {"trained": size.counts.trained, "frozen": size.counts.frozen},
        "tokens_per_item": size.tokens,
        "ranks": ranks,
        "memory": {"bytes": bytes_per_rank, "of": of},
        "stages": [vars(row) | {"fits": row.micro_batch > 0} for row in found],
        "recommended": choice and {"coarse.zero_stage": choice.stage, "coarse.micro_batch": choice.micro_batch},
        "items": items,
        "items_per_second_and_rank": rate,
        "hours": hours,
        "checkpoint_bytes": {"resumable": size.resume_bytes(), "encoder": size.encoder_bytes()},
    }
    if as_json:
        print(json.dumps(report))
        return
    _show(report)
    if choice is None:
        raise UserError(
            f"no ZeRO stage fits {bytes_per_rank / GIB:.1f} GiB a rank ({of}) with cluster.workers {ranks}; set "
            "encoder.gradient_checkpointing or encoder.lora, lower encoder.picture_size, or add workers"
        )


def _memory(recipe: Recipe, said: float | None, address: str | None) -> tuple[int, str]:
    """Bytes of one rank, and where that is known from."""
    import torch

    if said is not None:
        return int(said * GIB), "--memory"
    if address is not None:
        return _of_cluster(address)
    if not recipe.cluster.gpus_per_worker:
        return _pages("SC_PHYS_PAGES") // recipe.cluster.workers, "this machine, shared by its ranks"
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory, torch.cuda.get_device_name(0)
    raise UserError(
        f"cluster.gpus_per_worker is {recipe.cluster.gpus_per_worker:g} but this machine has no GPU; say --memory GiB, "
        "or --address of the cluster"
    )


def _pages(kind: str) -> int:
    return os.sysconf(kind) * os.sysconf("SC_PAGE_SIZE")


def _of_cluster(address: str) -> tuple[int, str]:
    import ray

    ray.init(address, log_to_driver=False)
    there = [name.removeprefix("accelerator_type:") for name in ray.cluster_resources() if "accelerator_type" in name]  # type: ignore[no-untyped-call]
    known = {name: ACCELERATORS[name] for name in there if name in ACCELERATORS}
    if not known:
        raise UserError(f"the cluster at {address} names no accelerator known here ({', '.join(there)}); say --memory")
    name = min(known, key=lambda name: known[name])
    return int(known[name] * 1e9), f"{name} of {address}"


@contextmanager
def _mllm(recipe: Recipe) -> Iterator[str]:
    """The checkpoint; the tiny one is made if this run does not have it yet."""
    from coldstart.encoders import make_mllm

    made = recipe.run_dir / "mllm"
    if recipe.encoder.mllm != "tiny":
        yield recipe.encoder.mllm
    elif made.is_dir():
        yield str(made)
    else:
        with tempfile.TemporaryDirectory() as room:
            words = [_largest_item(recipe).title or ""]
            make_mllm(Path(room) / "mllm", words, picture_size=recipe.encoder.picture_size, seed=recipe.seed)
            yield str(Path(room) / "mllm")


def _largest_item(recipe: Recipe) -> "Content":
    """As long as the recipe reads."""
    from PIL import Image

    from coldstart.data.content import Content

    picture = BytesIO()
    Image.new("RGB", (2 * recipe.encoder.picture_size,) * 2, "grey").save(picture, "PNG")
    return Content(title="an item " * recipe.encoder.max_text_tokens, text=None, picture=picture.getvalue())


def _rate(recipe: Recipe, mllm: str, size: Any, known: dict[str, Any]) -> float | None:
    """Items per second of a rank on this machine; None where it could not hold the encoder."""
    import torch

    from coldstart.training.plan import USABLE, items_per_second

    gpu = torch.cuda.is_available() and recipe.cluster.gpus_per_worker > 0
    if recipe.cluster.gpus_per_worker and not gpu:
        return None
    room = torch.cuda.mem_get_info()[0] if gpu else _pages("SC_AVPHYS_PAGES")
    items = min(PROBED, recipe.coarse.batch // recipe.cluster.workers)
    if size.total(0, 1, items) > USABLE * room:
        return None
    device = torch.device("cuda" if gpu else "cpu")
    if not gpu:
        torch.set_num_threads(recipe.cluster.threads_per_worker)
    return items_per_second(mllm, recipe.encoder, sample=[_largest_item(recipe)] * items, device=device, **known)


def _train_items(recipe: Recipe) -> int | None:
    """Mature items, if the dataset is prepared."""
    from coldstart.data.dataset import Dataset

    if not (recipe.run_dir / "dataset").is_dir():
        return None
    counts = Dataset.open(recipe.run_dir / "dataset", verify=False).train_counts
    return round(int((counts >= recipe.coarse.min_events).sum()) * (1 - recipe.coarse.holdout))


def _show(report: dict[str, Any]) -> None:
    trained, frozen = report["parameters"]["trained"], report["parameters"]["frozen"]
    OUT.print(
        f"parameters   {trained + frozen:,}, {trained:,} of them trained; {report['tokens_per_item']} tokens an item"
    )
    OUT.print(f"memory       {report['memory']['bytes'] / GIB:.1f} GiB a rank [dim]({report['memory']['of']})[/]")
    names = ("states", "activations", "exchange", "update", "total")
    table = Table("ZeRO", names[0], "micro-batch", *names[1:], "fits", box=None, padding=(0, 2, 0, 0))
    for row in report["stages"]:
        sizes = [f"{row[name] / GIB:.2f} GiB" for name in names]
        cells = (
            str(row["stage"]),
            sizes[0],
            str(row["micro_batch"] or "-"),
            *sizes[1:],
            "yes" if row["fits"] else "no",
        )
        table.add_row(
            *cells, style="bold" if (report["recommended"] or {}).get("coarse.zero_stage") == row["stage"] else ""
        )
    OUT.print(table)
    OUT.print("[dim]total = states + the larger of activations + exchange (backward pass) and update[/]")
    if report["recommended"]:
        OUT.print("recommended  " + " ".join(f"--set {name}={value}" for name, value in report["recommended"].items()))
    if report["items_per_second_and_rank"] is not None:
        rate = f"{report['items_per_second_and_rank']:.1f} items/s a rank, probed here"
        whole = "" if report["hours"] is None else f"; {report['hours']:.2f} h for {report['items']:,} items"
        OUT.print(f"time         {rate}{whole}")
    resumable, encoder = (report["checkpoint_bytes"][name] / GIB for name in ("resumable", "encoder"))
    OUT.print(f"checkpoint   {resumable:.2f} GiB to resume from, {encoder:.2f} GiB encoder")
