"""One rank of a gradient computation, run as a program: arguments file, rank, world."""

import sys

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from coldstart.alignment.contrastive import info_nce


def gradient(rows: dict[str, torch.Tensor], first: int, last: int) -> torch.Tensor:
    """Gradient of a linear encoder from this rank's share of the rows."""
    weight = rows["weight"].clone().requires_grad_()
    coarse = torch.nn.functional.normalize(rows["features"][first:last] @ weight, dim=-1)
    info_nce(coarse, rows["targets"][first:last], rows["item_idx"][first:last], temperature=0.1).backward()
    return weight.grad


def main() -> None:
    path, rank, world = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rows = load_file(path)
    dist.init_process_group("gloo", init_method=f"file://{path}.meet", rank=rank, world_size=world)
    share = len(rows["item_idx"]) // world
    grad = gradient(rows, rank * share, (rank + 1) * share)
    dist.all_reduce(grad)
    if rank == 0:
        save_file({"gradient": grad / world}, f"{path}.out")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
