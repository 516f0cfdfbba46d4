"""One of two ranks that train an MLLM family under ZeRO-3 without Ray: run as a program by the tests.

Arguments: JSON file with `{family: {checkpoint, encoder, coarse}}`, rank, directory. Writes `<family>-<rank>.json`.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from coldstart.config.recipe import Coarse, Modalities
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.data.content import Content
from coldstart.encoders import Encoder
from coldstart.encoders.freezing import count_parameters
from coldstart.training.deepspeed_engine import deepspeed_config, full_state_dict, start_engine, zero3_init_context
from tests.encoders.conftest import encode

WIDTH = 8
BOTH, TEXT, IMAGE, NOTHING = "both", "text", "image", "nothing"
# Modalities of the items of the two ranks at each step.
MIXTURES = [
    ([BOTH, BOTH], [BOTH, BOTH]),
    ([TEXT, TEXT], [IMAGE, IMAGE]),
    ([IMAGE, TEXT], [NOTHING, NOTHING]),
    ([NOTHING, BOTH], [TEXT, TEXT]),
]


def item(kind: str, number: int) -> Content:
    size = np.array([[20, 60], [70, 30], [84, 84]])[number % 3]
    image = encode(np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8))
    text = " ".join(["red round vase", "blue lamp"][: 1 + number % 2])
    return Content(text if kind in (BOTH, TEXT) else None, None, image if kind in (BOTH, IMAGE) else None)


def contents(step: int, ranks: list[int]) -> list[Content]:
    mixture = MIXTURES[step]
    return [item(kind, 10 * step + 2 * rank + n) for rank in ranks for n, kind in enumerate(mixture[rank])]


def loss_of(encoder: Any, module: Any, step: int, ranks: list[int]) -> torch.Tensor:
    """A loss whose mean over ranks is the loss of all rows."""
    coarse, _ = module(encoder.inputs(encoder.prepare(contents(step, ranks)), "cpu"))
    return (coarse * torch.arange(1.0, WIDTH + 1)).sum(dim=1).mean()


def create(run: dict[str, Any]) -> Encoder:
    settings = EncoderSettings(**run["encoder"])
    return Encoder.create(run["checkpoint"], settings, width=WIDTH, content=Modalities(), seed=3)


def train(run: dict[str, Any], rank: int) -> dict[str, Any]:
    """Trains on two ranks with partitioned weights; returns the results of this rank."""
    coarse = Coarse(**run["coarse"])
    config = deepspeed_config(coarse, dtype="float32")
    partitioned = zero3_init_context(config)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    encoder = create(run)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    full = count_parameters(encoder.mllm)
    facts: dict[str, Any] = {
        "grown_bytes": 1024 * peak,
        "full": full.trained + full.frozen,
        "unpartitioned": [name for name, weight in encoder.mllm.named_parameters() if weight.numel() > 100],
    }
    if not run.get("steps", True):
        return facts
    engine = start_engine(encoder, coarse, config, total_steps=100)
    losses = []
    for step in range(len(MIXTURES)):
        loss = loss_of(encoder, engine, step, [rank])
        engine.backward(loss)
        engine.step()
        dist.all_reduce(loss := loss.detach())
        losses.append(loss.item() / 2)
    state = full_state_dict(engine.module)
    del partitioned
    facts |= {"losses": losses, "finite": state is None or all(bool(v.isfinite().all()) for v in state.values())}
    engine.destroy()
    return facts


def main() -> None:
    runs, rank, out = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}.meet", rank=rank, world_size=2)
    for name, run in runs.items():
        (out / f"{name}-{rank}.json").write_text(json.dumps(train(run, rank)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
