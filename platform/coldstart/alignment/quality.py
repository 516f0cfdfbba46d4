"""How good coarse proxies are: whether they find their own ID row, and how they spread."""

import torch
from torch import Tensor

_ROWS_PER_TILE = 256


def retrieval(
    coarse: Tensor, own: Tensor, candidates: Tensor, *, lengths: tuple[int, ...] = (1, 10)
) -> dict[str, float]:
    """How well proxies of unseen items find their own ID row.

    Args:
        coarse: Proxies `[B, d]` of unit norm.
        own: Position `[B]` of each one's ID row among the candidates.
        candidates: ID rows `[C, d]` of unit norm.
        lengths: Of the lists in which the own row counts as found.

    Returns:
        `recall_at_<length>` for each length, and the chance level of the last; `mean_rank` (1 is best),
        `mean_reciprocal_rank`, `mean_cosine` with the own row, and `uniformity` of the proxies.
    """
    coarse, ranks = coarse.float(), []
    mine = (coarse * candidates[own].float()).sum(dim=1)
    for start in range(0, len(coarse), _ROWS_PER_TILE):
        rows = slice(start, start + _ROWS_PER_TILE)
        ahead = (coarse[rows] @ candidates.float().T) > mine[rows, None]
        # The own row is not ahead of itself, whatever the rounding of another order of summation.
        ahead.scatter_(1, own[rows, None], False)
        ranks.append(ahead.sum(dim=1) + 1)
    rank = torch.cat(ranks).float()
    figures = {}
    for length in lengths:
        figures[f"recall_at_{length}"] = (rank <= length).float().mean().item()
    return figures | {
        f"chance_recall_at_{lengths[-1]}": min(1.0, lengths[-1] / len(candidates)),
        "mean_rank": rank.mean().item(),
        "mean_reciprocal_rank": (1 / rank).mean().item(),
        "mean_cosine": mine.mean().item(),
        "uniformity": uniformity(coarse),
    }


def uniformity(rows: Tensor) -> float:
    """Logarithm of the mean Gaussian potential of all pairs of unit rows `[B, d]` (Wang and Isola 2020).

    0 where all rows are one, about -4 where they are spread evenly over a sphere of many dimensions.
    """
    if len(rows) < 2:
        return 0.0
    return torch.pdist(rows.float()).square().mul(-2).exp().mean().log().item()
