"""Hand-over: what stands in an item's slot while it warms up, from the proxy alone to the ID row alone.

Legend: `d` ID width, `V` vocabulary.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

CHOICES = (0, 3, 10, 30, 100)
"""Train events by which an item may have been handed over; 0 is at once."""
FILE = "hand_over.safetensors"


def id_shares(events: Tensor, trained: Tensor, *, until: int) -> Tensor:
    """The ID row's share `[V]` of each item's slot.

    It grows linearly with train events to all at `until` of them, so an item with as many or more is never touched; one
    without any, or without a row that was trained, has its proxy whole.

    Args:
        events: [V] train events.
        trained: [V] whether there is an ID row.
        until: 0 gives every item with an event its ID row.
    """
    share = (events > 0).float() if until == 0 else (events / until).clamp(max=1)
    return share * trained


def blend(ids: Tensor, proxies: Tensor, shares: Tensor) -> Tensor:
    """ID rows and proxies `[..., d]`, mixed by the share `[...]` that the ID row has."""
    # Not `share * ids + ...`: rows that are not mixed keep their bits.
    return proxies.lerp(ids, shares.unsqueeze(-1))


def save_id_shares(shares: Tensor, path: Path) -> None:
    """Writes shares `[V]` beside the adaptor whose proxies they are about."""
    save_file({"share": shares.float().cpu().contiguous()}, path / FILE)


def load_id_shares(path: Path, trained: Tensor) -> Tensor:
    """Shares `[V]` that lie beside an adaptor; one of an earlier release hands over at once.

    Args:
        path: Of the adaptor.
        trained: [V] whether the ranker has an ID row.
    """
    if not (path / FILE).is_file():
        return trained.float()
    shares: Tensor = load_file(path / FILE)["share"]
    return torch.where(trained, shares, 0.0)
