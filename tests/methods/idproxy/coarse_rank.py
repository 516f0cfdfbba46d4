"""One rank of coarse alignment without Ray; the tests call `train`, or run it as a program, once per rank.

The arguments of both: JSON file with a list of runs `{name, coarse, dtype, stop_after, corrupted, leave_after}`, rank,
world, and a directory.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from coldstart.config import UserError
from coldstart.config.recipe import Coarse, Modalities
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.data.content import Content
from coldstart.methods.idproxy.coarse_training import AlignmentJob, NonFiniteLossError, train_coarse

ITEMS = 40


def contents() -> list[Content]:
    """A catalog in which every second item has no image and every third has no text."""
    import io

    from PIL import Image

    rng = np.random.default_rng(0)
    items = [Content()]
    for index in range(ITEMS):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(stream, "PNG")
        title = " ".join(rng.choice(["red", "round", "vase", "blue", "lamp", "steel"], 4)) if index % 3 else None
        items.append(Content(title, None, stream.getvalue() if index % 2 else None))
    return items


def stream(order: Any, transform: Any, batch_size: int) -> Iterator[dict[str, Any]]:
    """Same interface as `stream_items`, in this process."""
    items = contents()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield {"item_idx": np.asarray(chosen), **transform([items[index] for index in chosen])}


def task(root: Path, run: dict[str, Any]) -> AlignmentJob:
    out = root / run["name"]
    return AlignmentJob(
        mllm=str(root / "mllm"),
        encoder=EncoderSettings(image_size=32, max_text_tokens=8, layer_groups=2, dtype=run["dtype"]),
        content=Modalities(),
        coarse=Coarse(**run["coarse"]),
        seed=5,
        train=np.arange(1, 33),
        heldout=np.arange(33, ITEMS + 1),
        groups=np.arange(ITEMS + 1) // 2,
        events=np.arange(ITEMS + 1),
        metrics_log=out / "metrics.jsonl",
        checkpoints=out / "checkpoints",
        result=out / "result",
        key="k",
    )


def faulty(run: dict[str, Any]) -> Any:
    """A stream that ends the process, or that corrupts an item's image from the third training batch on."""

    def cut(order: Any, transform: Any, batch_size: int) -> Iterator[dict[str, Any]]:
        for number, batch in enumerate(stream(order, transform, batch_size)):
            if run["stop_after"] is not None and number >= run["stop_after"]:
                os._exit(9)
            if number >= 2:
                batch["pixel_values"][batch["item_idx"] == run["corrupted"]] = np.nan
            yield batch

    return cut


def preempted_after(steps: int | None) -> Callable[[], bool]:
    """Requests preemption on the last rank only, after so many steps."""
    calls = count(1)
    return lambda: steps is not None and next(calls) >= steps and dist.get_rank() == dist.get_world_size() - 1


def train(file: Path, rank: int, world: int, root: Path) -> None:
    os.environ.update(DS_ACCELERATOR="cpu", LOCAL_RANK="0")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}.meet", rank=rank, world_size=world)
    table = torch.randn(ITEMS + 1, 8, generator=torch.Generator().manual_seed(1))
    for run in json.loads(file.read_text()):
        try:
            train_coarse(task(root, run), table, faulty(run), preempted_after(run["leave_after"]))
        except NonFiniteLossError as error:
            (root / run["name"] / f"diverged-{rank}").write_text(json.dumps([error.step, error.items.tolist()]))
        except UserError as error:
            (root / run["name"] / f"user-error-{rank}").write_text(str(error))
            raise
    dist.destroy_process_group()


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
