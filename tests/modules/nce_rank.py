"""One of four ranks, which compute a gradient on one, two and four of them."""

from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from coldstart.modules.info_nce import Targets, info_nce


def gradient(rows: dict[str, torch.Tensor], first: int, last: int) -> dict[str, torch.Tensor]:
    """Gradients of a linear encoder and a temperature from this rank's rows."""
    weight = rows["weight"].clone().requires_grad_()
    temperature = torch.tensor(0.1, requires_grad=True)
    coarse = torch.nn.functional.normalize(rows["features"][first:last] @ weight, dim=-1)
    own = Targets(rows["targets"][first:last], rows["groups"][first:last])
    info_nce(coarse, own, Targets(rows["targets"], rows["groups"]), temperature=temperature).mean().backward()
    return {"weight": weight.grad, "temperature": temperature.grad}


def compute(path: Path, rank: int) -> None:
    """Writes the gradient of each number of ranks next to the rows at `path`."""
    torch.set_num_threads(1)
    rows = load_file(path)
    dist.init_process_group("gloo", init_method=f"file://{path}.meet", rank=rank, world_size=4)
    for world in (1, 2, 4):
        group = dist.new_group(list(range(world)))
        if rank >= world:
            continue
        per_rank = len(rows["groups"]) // world
        gradients = gradient(rows, rank * per_rank, (rank + 1) * per_rank)
        for value in gradients.values():
            dist.all_reduce(value, group=group)
        if rank == 0:
            save_file({name: value / world for name, value in gradients.items()}, f"{path}.{world}")
    dist.destroy_process_group()
