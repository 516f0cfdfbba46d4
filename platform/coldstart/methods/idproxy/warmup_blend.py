"""Warm-up blend: the slot of a warming item moves from its proxy to its ID row as train events arrive.

Legend: `d` ID width, `V` vocabulary.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WARMUP_EVENT_CHOICES = (0, 3, 10, 30, 100)
"""Candidate values of `method.fine.warmup_events`; with 0, an item uses its ID row from its first event on."""
FILE = "warmup_blend.safetensors"


def id_weight(events: Tensor, trained: Tensor, *, warmup_events: int) -> Tensor:
    """Weight `[V]` of the ID row in each item's slot.

    It grows linearly with train events and is 1 from `warmup_events` on. It is 0 for an item without train events or
    without a trained ID row, which keeps its proxy.

    Args:
        events: [V] train events.
        trained: [V] whether there is a trained ID row.
        warmup_events: Events from which the ID row alone is used; 0 uses it from the first event on.
    """
    weight = (events > 0).float() if warmup_events == 0 else (events / warmup_events).clamp(max=1)
    return weight * trained


def blend_slots(ids: Tensor, proxies: Tensor, weight: Tensor) -> Tensor:
    """Weighted means of ID rows and proxies `[..., d]`; `weight` `[...]` is that of the ID row."""
    # `lerp` keeps rows with weight 0 or 1 bit-exact; `weight * ids + ...` does not.
    return proxies.lerp(ids, weight.unsqueeze(-1))


def save_id_weight(weight: Tensor, path: Path) -> None:
    """Writes the weights `[V]` into the directory of the adaptor."""
    save_file({"id_weight": weight.float().cpu().contiguous()}, path / FILE)


def load_id_weight(path: Path, trained: Tensor) -> Tensor:
    """Loads the weights `[V]` of an adaptor; without a file, every trained item uses its ID row alone.

    Args:
        path: Directory of the adaptor.
        trained: [V] whether the ranker has a trained ID row.
    """
    if not (path / FILE).is_file():
        return trained.float()
    weight: Tensor = load_file(path / FILE)["id_weight"]
    return torch.where(trained, weight, 0.0)
