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
        `recall_at_<k>` and its chance level `chance_recall_at_<k>` for each k; `mean_rank` (1 is best; rows with an
        equal score share their ranks), `mean_reciprocal_rank` and its standard error `reciprocal_rank_error`,
        `mean_cosine` with the own row, and `uniformity` of the proxies.
    """
    coarse, ranks, own_scores = coarse.float(), [], []
    for start in range(0, len(coarse), _ROWS_PER_TILE):
        rows = slice(start, start + _ROWS_PER_TILE)
        scores = coarse[rows] @ candidates.float().T
        own_score = scores.gather(1, own[rows, None])
        ties = (scores == own_score).sum(dim=1) - 1
        ranks.append((scores > own_score).sum(dim=1) + 1 + ties / 2)
        own_scores.append(own_score)
    rank = torch.cat(ranks)
    recall = {f"recall_at_{k}": (rank <= k).float().mean().item() for k in top_k}
    return recall | {
        **{f"chance_recall_at_{k}": min(1.0, k / len(candidates)) for k in top_k},
        "mean_rank": rank.mean().item(),
        "mean_reciprocal_rank": (1 / rank).mean().item(),
        "reciprocal_rank_error": ((1 / rank).std(correction=0) / len(rank) ** 0.5).item(),
        "mean_cosine": torch.cat(own_scores).mean().item(),
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
