"""Groups similar layers of the MLLM; each group is read at its medoid layer or as the mean of its layers."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def group_layers(means: Floats, groups: int, *, reduction: str = "medoid") -> list[list[int]]:
    """The layers to read of each group, from shallow to deep.

    K-means clusters the layers by their similarity to every layer (linear CKA of their item matrices).

    Args:
        means: `[B, layers, D]` mean-pooled states of a sample of items.
        groups: G, at most the number of layers.
        reduction: `medoid` keeps the layer that is most similar to the others of its cluster, `mean` keeps all.

    Returns:
        G lists of layer positions, ascending, ordered by their medoids.
    """
    # The import takes seconds, and every training rank imports this module.
    from sklearn.cluster import KMeans

    similarity = linear_cka(means)
    labels = KMeans(groups, n_init=10, random_state=0).fit_predict(similarity)
    members = [np.flatnonzero(labels == group) for group in np.unique(labels)]
    members.sort(key=lambda group: _medoid(similarity, group))
    return [group.tolist() if reduction == "mean" else [_medoid(similarity, group)] for group in members]


def linear_cka(means: Floats) -> NDArray[np.float64]:
    """Layer-layer linear CKA `[layers, layers]` of item matrices `[B, layers, D]` (Kornblith et al. 2019)."""
    centered = means.astype(np.float64) - means.mean(axis=0, dtype=np.float64)
    # Gram matrices over items (B x B), because D is in the thousands.
    grams = np.einsum("ild,jld->lij", centered, centered)
    flat = grams.reshape(len(grams), -1)
    norms = np.linalg.norm(flat, axis=1)
    similarity: NDArray[np.float64] = flat @ flat.T / np.maximum(np.outer(norms, norms), 1e-12)
    return similarity


def _medoid(similarity: NDArray[np.float64], members: NDArray[np.intp]) -> int:
    return int(members[similarity[np.ix_(members, members)].sum(axis=1).argmax()])
