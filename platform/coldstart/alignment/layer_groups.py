"""Which layers of the MLLM are read: layers that say the same are grouped, each read at its medoid or as its mean."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def group_layers(means: Floats, groups: int, *, reading: str = "medoid") -> list[list[int]]:
    """The layers that are read of each group, from shallow to deep.

    Layers are described by how similar they are to every other layer (linear CKA of their item matrices) and clustered
    by k-means.

    Args:
        means: `[B, layers, D]` mean-pooled states of a sample of items.
        groups: G, at most the number of layers.
        reading: `medoid`, the layer nearest to the others of its cluster, or `mean`, all of them.

    Returns:
        G lists of layer positions, ascending, ordered by their medoids.
    """
    # Takes seconds to import, and every training rank imports this module.
    from sklearn.cluster import KMeans

    similarity = linear_cka(means)
    found = KMeans(groups, n_init=10, random_state=0).fit_predict(similarity)
    members = [np.flatnonzero(found == group) for group in np.unique(found)]
    members.sort(key=lambda group: _medoid(similarity, group))
    return [group.tolist() if reading == "mean" else [_medoid(similarity, group)] for group in members]


def linear_cka(means: Floats) -> NDArray[np.float64]:
    """Layer-layer linear CKA `[layers, layers]` of item matrices `[B, layers, D]` (Kornblith et al. 2019)."""
    centred = means.astype(np.float64) - means.mean(axis=0, dtype=np.float64)
    # Gram matrices over items: B x B stays small where D is in the thousands.
    grams = np.einsum("ild,jld->lij", centred, centred)
    flat = grams.reshape(len(grams), -1)
    norms = np.linalg.norm(flat, axis=1)
    similarity: NDArray[np.float64] = flat @ flat.T / np.maximum(np.outer(norms, norms), 1e-12)
    return similarity


def _medoid(similarity: NDArray[np.float64], members: NDArray[np.intp]) -> int:
    return int(members[similarity[np.ix_(members, members)].sum(axis=1).argmax()])
