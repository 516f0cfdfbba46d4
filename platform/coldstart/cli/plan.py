"""`coldstart plan`: memory, time and checkpoint size of coarse alignment, estimated before it starts."""

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
from coldstart.config import Recipe, UserError, runtime_env
from coldstart.config.recipe import settings_of
from coldstart.methods.idproxy.config import Settings

if TYPE_CHECKING:
    from coldstart.data.content import Content

GIB = 2**30
ACCELERATORS = {"H200": 141, "H100": 80, "A100-80G": 80, "A100-40G": 40, "L40S": 48, "A10G": 24, "L4": 24, "T4": 16}
"""GB of the accelerators that Ray names by type; for any other one, --memory is needed."""
MAX_PROBE_ITEMS = 4


@app.command(epilog="Example: coldstart plan qwen2.5-vl-3b --set encoder.mllm=checkpoints/qwen --memory 80")
def plan(
    recipe: Annotated[str, typer.Argument()],
    overrides: Overrides = None,
    memory: Annotated[
        float | None, typer.Option(help="GiB of memory per rank; default: that of this machine or of --address.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="host:port of a running Ray cluster whose GPUs to plan for.")
    ] = None,
    probe: Annotated[bool, typer.Option(help="Time a few passes on this machine if they fit.")] = True,
    as_json: AsJson = False,
) -> None:
    """Estimate coarse alignment: memory per ZeRO stage, the micro-batch that fits, hours and checkpoint size."""
    loaded = load(recipe, overrides)
    coarse = settings_of(loaded, Settings).coarse
    import torch

    if not torch.cuda.is_available():
        runtime_env.set_deepspeed_on_cpu()
    from coldstart.training.memory_estimate import estimate_memory
    from coldstart.training.zero_plan import best_plan, candidate_plans

    bytes_per_rank, source = _memory_per_rank(loaded, memory, address)
    ranks = loaded.cluster.workers
    with _mllm(loaded) as mllm:
        sample = [_largest_item(loaded)]
        options: dict[str, Any] = {"width": loaded.ranker.embedding_dim, "content": loaded.content}
        size = estimate_memory(mllm, loaded.encoder, sample=sample, **options)
        plans = candidate_plans(size, ranks=ranks, share=coarse.batch // ranks, memory=bytes_per_rank)
        choice = best_plan(plans)
        rate = _rate(loaded, mllm, size, options) if probe else None
    items = _train_items(loaded)
    hours = None if rate is None or items is None else items * coarse.epochs / (rate * ranks) / 3600
    report = {
        "parameters": {"trained": size.counts.trained, "frozen": size.counts.frozen},
        "tokens_per_item": size.tokens,
        "ranks": ranks,
        "memory": {"bytes": bytes_per_rank, "source": source},
        "stages": [vars(row) | {"fits": row.micro_batch > 0} for row in plans],
        "recommended": choice
        and {"method.coarse.zero_stage": choice.stage, "method.coarse.micro_batch": choice.micro_batch},
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
            f"no ZeRO stage fits into {bytes_per_rank / GIB:.1f} GiB per rank ({source}) with cluster.workers {ranks}; "
            "set encoder.gradient_checkpointing or encoder.lora, lower encoder.image_size, or add workers"
        )


def _memory_per_rank(recipe: Recipe, gib: float | None, address: str | None) -> tuple[int, str]:
    """Returns the bytes of one rank and their source."""
    import torch

    if gib is not None:
        return int(gib * GIB), "--memory"
    if address is not None:
        return _gpu_memory_of_cluster(address)
    if not recipe.cluster.gpus_per_worker:
        return _ram("SC_PHYS_PAGES") // recipe.cluster.workers, "this machine, shared by its ranks"
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory, torch.cuda.get_device_name(0)
    raise UserError(
        f"cluster.gpus_per_worker is {recipe.cluster.gpus_per_worker:g} but this machine has no GPU; pass --memory GiB "
        "or --address of the cluster"
    )


def _ram(pages: str) -> int:
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def _gpu_memory_of_cluster(address: str) -> tuple[int, str]:
    import ray

    from coldstart.jobs.runner import join_ray

    join_ray(address)
    types = [name.removeprefix("accelerator_type:") for name in ray.cluster_resources() if "accelerator_type" in name]  # type: ignore[no-untyped-call]
    known = {name: ACCELERATORS[name] for name in types if name in ACCELERATORS}
    if not known:
        raise UserError(
            f"the memory of the accelerators at {address} ({', '.join(types) or 'none'}) is not known; "
            "pass --memory GiB"
        )
    smallest = min(known, key=lambda name: known[name])
    return int(known[smallest] * 1e9), f"{smallest} of {address}"


@contextmanager
def _mllm(recipe: Recipe) -> Iterator[str]:
    """Yields the path of the checkpoint; the tiny MLLM is created if the run does not have it yet."""
    from coldstart.encoders import create_tiny_mllm

    own = recipe.run_dir / "mllm"
    if recipe.encoder.mllm != "tiny":
        yield recipe.encoder.mllm
    elif own.is_dir():
        yield str(own)
    else:
        with tempfile.TemporaryDirectory() as folder:
            texts = [_largest_item(recipe).title or ""]
            create_tiny_mllm(Path(folder) / "mllm", texts, image_size=recipe.encoder.image_size, seed=recipe.seed)
            yield str(Path(folder) / "mllm")


def _largest_item(recipe: Recipe) -> "Content":
    """Returns an item with the longest text and the largest image that the recipe reads."""
    from PIL import Image

    from coldstart.data.content import Content

    image = BytesIO()
    Image.new("RGB", (2 * recipe.encoder.image_size,) * 2, "grey").save(image, "PNG")
    return Content(title="an item " * recipe.encoder.max_text_tokens, text=None, image=image.getvalue())


def _rate(recipe: Recipe, mllm: str, size: Any, options: dict[str, Any]) -> float | None:
    """Returns the items per second of one rank on this machine, or None if the encoder does not fit here."""
    import torch

    from coldstart.training.zero_plan import USABLE, probe_items_per_second

    gpu = torch.cuda.is_available() and recipe.cluster.gpus_per_worker > 0
    if recipe.cluster.gpus_per_worker and not gpu:
        return None
    free = torch.cuda.mem_get_info()[0] if gpu else _ram("SC_AVPHYS_PAGES")
    items = min(MAX_PROBE_ITEMS, recipe.method.coarse.batch // recipe.cluster.workers)
    if size.total(0, 1, items) > USABLE * free:
        return None
    device = torch.device("cuda" if gpu else "cpu")
    if not gpu:
        torch.set_num_threads(recipe.cluster.threads_per_worker)
    return probe_items_per_second(
        mllm, recipe.encoder, sample=[_largest_item(recipe)] * items, device=device, **options
    )


def _train_items(recipe: Recipe) -> int | None:
    """Returns the number of mature items in training, or None before the dataset is prepared."""
    from coldstart.data.dataset import Dataset

    if not (recipe.run_dir / "dataset").is_dir():
        return None
    counts = Dataset.open(recipe.run_dir / "dataset", verify=False).train_counts
    coarse = recipe.method.coarse
    return round(int((counts >= recipe.mature_events).sum()) * float(1 - coarse.holdout_fraction))


def _show(report: dict[str, Any]) -> None:
    trained, frozen = report["parameters"]["trained"], report["parameters"]["frozen"]
    OUT.print(
        f"parameters   {trained + frozen:,}, {trained:,} of them trained; {report['tokens_per_item']} tokens per item"
    )
    OUT.print(f"memory       {report['memory']['bytes'] / GIB:.1f} GiB per rank [dim]({report['memory']['source']})[/]")
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
            *cells,
            style="bold" if (report["recommended"] or {}).get("method.coarse.zero_stage") == row["stage"] else "",
        )
    OUT.print(table)
    OUT.print("[dim]total = states + the larger of activations + exchange (backward pass) and update[/]")
    if report["recommended"]:
        OUT.print("recommended  " + " ".join(f"--set {name}={value}" for name, value in report["recommended"].items()))
    if report["items_per_second_and_rank"] is not None:
        rate = f"{report['items_per_second_and_rank']:.1f} items/s per rank, measured here"
        total = "" if report["hours"] is None else f"; {report['hours']:.2f} h for {report['items']:,} items"
        OUT.print(f"time         {rate}{total}")
    resumable, encoder = (report["checkpoint_bytes"][name] / GIB for name in ("resumable", "encoder"))
    OUT.print(f"checkpoint   {resumable:.2f} GiB to resume from, {encoder:.2f} GiB encoder")
