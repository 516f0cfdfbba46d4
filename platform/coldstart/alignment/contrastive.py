"""Content-to-ID InfoNCE with negatives from all ranks (IDProxy, stage 1)."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def info_nce(coarse: Tensor, targets: Tensor, item_idx: Tensor, *, temperature: float) -> Tensor:
    """Mean over this rank's rows of the cross entropy of finding an item's own ID row among those of all ranks.

    ID rows are constants, so gathering them needs no gradient, and the mean over ranks of this loss (which is what data
    parallel training forms the gradient of) is exactly the loss of one process with all rows.

    Args:
        coarse: Coarse proxies `[B, d]` of unit norm, with gradient.
        targets: ID rows `[B, d]` of unit norm, frozen.
        item_idx: `[B]` int64; another row of the same item is no negative.
        temperature: Softmax temperature.

    Returns:
        Scalar, float32.
    """
    everyone = gather(targets)
    their_idx = gather(item_idx)
    logits = coarse.float() @ everyone.float().T / temperature
    first = (dist.get_rank() if dist.is_initialized() else 0) * len(coarse)
    own = torch.arange(first, first + len(coarse), device=coarse.device)
    same = item_idx[:, None] == their_idx[None, :]
    same[torch.arange(len(coarse), device=coarse.device), own] = False
    return F.cross_entropy(logits.masked_fill(same, float("-inf")), own)


def gather(rows: Tensor) -> Tensor:
    """Rows `[B, ...]` of all ranks in order of rank `[ranks * B, ...]`, without gradient."""
    rows = rows.detach().contiguous()
    if not dist.is_initialized():
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows)
    return torch.cat(parts)


def retrieval(coarse: Tensor, own: Tensor, candidates: Tensor, *, most: int = 10) -> dict[str, float]:
    """How well proxies of unseen items find their own ID row.

    Args:
        coarse: Proxies `[B, d]` of unit norm.
        own: Position `[B]` of each one's ID row among the candidates.
        candidates: ID rows `[C, d]` of unit norm.
        most: Length of the list in which the own row counts as found.

    Returns:
        `recall_at_<most>`, its chance level, `mean_cosine` with the own row, and `mean_reciprocal_rank`.
    """
    scores = coarse.float() @ candidates.float().T
    mine = scores.gather(1, own[:, None])
    rank = (scores > mine).sum(dim=1) + 1
    return {
        f"recall_at_{most}": (rank <= most).float().mean().item(),
        f"chance_recall_at_{most}": min(1.0, most / len(candidates)),
        "mean_cosine": mine.mean().item(),
        "mean_reciprocal_rank": (1 / rank).float().mean().item(),
    }
