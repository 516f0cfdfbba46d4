"""Retrieval metrics: rank of a query's partner (an ID row, an item) among candidates, alignment and uniformity."""

import torch
from torch import Tensor

_ROWS_PER_TILE = 256


def retrieval_metrics(
    coarse: Tensor, own: Tensor, candidates: Tensor, *, top_k: tuple[int, ...] = (1, 10)
) -> dict[str, float]:
    """Retrieval of each item's own ID row by its proxy.

    Args:
        coarse: Proxies `[B, d]` of unit norm.
        own: Position `[B]` of each item's ID row among the candidates.
        candidates: ID rows `[C, d]` of unit norm.
        top_k: Values of k for recall@k.

    Returns:
        `recall_at_<k>` for each k, and the chance level of the last; `mean_rank` (1 is best), `mean_reciprocal_rank`,
        `mean_cosine` with the own row, and `uniformity` of the proxies.
    """
    coarse, ranks = coarse.float(), []
    own_score = (coarse * candidates[own].float()).sum(dim=1)
    for start in range(0, len(coarse), _ROWS_PER_TILE):
        rows = slice(start, start + _ROWS_PER_TILE)
        ahead = (coarse[rows] @ candidates.float().T) > own_score[rows, None]
        # Rounding may differ between the two products; the own row must never be ahead of itself.
        ahead.scatter_(1, own[rows, None], False)
        ranks.append(ahead.sum(dim=1) + 1)
    rank = torch.cat(ranks).float()
    recall = {f"recall_at_{k}": (rank <= k).float().mean().item() for k in top_k}
    return recall | {
        f"chance_recall_at_{top_k[-1]}": min(1.0, top_k[-1] / len(candidates)),
        "mean_rank": rank.mean().item(),
        "mean_reciprocal_rank": (1 / rank).mean().item(),
        "mean_cosine": own_score.mean().item(),
        "uniformity": uniformity(coarse),
    }


def alignment(rows: Tensor, partners: Tensor) -> float:
    """Mean squared distance of unit rows `[B, d]` to their partners `[B, d]` (Wang and Isola 2020); 0 if they agree."""
    return (rows.float() - partners.float()).square().sum(dim=1).mean().item()


def uniformity(rows: Tensor) -> float:
    """Logarithm of the mean Gaussian potential of all pairs of unit rows `[B, d]` (Wang and Isola 2020).

    0 if all rows are equal; about -4 if they are spread evenly over a sphere of many dimensions.
    """
    if len(rows) < 2:
        return 0.0
    return torch.pdist(rows.float()).square().mul(-2).exp().mean().log().item()
