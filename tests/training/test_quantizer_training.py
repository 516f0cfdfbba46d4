from dataclasses import replace

import numpy as np
import pytest
import torch

from coldstart.config import UserError
from coldstart.metrics.codes import code_purity, code_report
from coldstart.training.quantizer_training import (
    QuantizerData,
    QuantizerSettings,
    fit_rq_kmeans,
    fit_rq_vae,
    relative_error,
    reset_dead_codes,
)

ITEMS, WIDTH, CLUSTERS = 600, 10, 6
FITS = {"rq_kmeans": fit_rq_kmeans, "rq_vae": fit_rq_vae}
SETTINGS = QuantizerSettings(sizes=(8, 8), epochs=8, batch=100, seed=1, min_steps=300, code_width=6, learning_rate=5e-3)


def ignore(*figures):
    pass


@pytest.fixture(scope="module")
def cluster():
    return np.random.default_rng(0).integers(0, CLUSTERS, ITEMS + 1)


@pytest.fixture(scope="module")
def data(cluster):
    """Items around cluster centers, of which the last 100 are cold."""
    rng = np.random.default_rng(1)
    points = rng.normal(size=(CLUSTERS, WIDTH))[cluster] + 0.15 * rng.normal(size=(ITEMS + 1, WIDTH))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return QuantizerData(torch.from_numpy(points.astype(np.float32)), np.arange(1, ITEMS - 99))


@pytest.mark.parametrize("kind", FITS)
def test_codes_follow_the_clusters_also_of_cold_items(kind, data, cluster):
    calls = []
    quantizer = FITS[kind](data, SETTINGS, lambda *figures: calls.append(figures))
    assert [done for done, *_ in calls] == list(range(1, calls[-1][1] + 1))
    cold = np.arange(ITEMS - 99, ITEMS + 1)
    assert relative_error(quantizer, data, data.rows) < 0.15
    assert relative_error(quantizer, data, cold) < 0.25
    first = quantizer.encode(data.vectors)[:, 0].numpy()
    # Each code of the first level belongs to one cluster.
    purity = sum(np.bincount(cluster[cold][first[cold] == code]).max() for code in np.unique(first[cold])) / len(cold)
    assert purity > 0.95


@pytest.mark.parametrize("kind", FITS)
def test_the_same_seed_gives_the_same_codes(kind, data):
    short = replace(SETTINGS, epochs=2, min_steps=0)
    first, again = (FITS[kind](data, short, ignore) for _ in range(2))
    assert torch.equal(first.encode(data.vectors), again.encode(data.vectors))


def test_k_means_equals_a_plain_loop_of_the_library(data):
    from sklearn.cluster import MiniBatchKMeans

    settings = replace(SETTINGS, batch=1000, epochs=3)
    quantizer = fit_rq_kmeans(data, settings, ignore)
    rest = data.vectors.numpy()
    for level, size in enumerate(settings.sizes):
        rng, means = np.random.default_rng((1, level)), MiniBatchKMeans(size, n_init=1, random_state=1 + level)
        for _ in range(settings.epochs):
            means.partial_fit(rest[rng.permutation(data.rows)])
        assert np.allclose(quantizer.codebooks[level].numpy(), means.cluster_centers_, atol=1e-5)
        rest = rest - means.cluster_centers_[means.predict(rest)]


def test_pairs_bring_decoded_vectors_together(data, cluster):
    """Pairs join clusters 0 and 1, which their content does not."""
    ones = [data.rows[cluster[data.rows] == label] for label in (0, 1)]
    count = min(map(len, ones))
    paired = replace(data, trigger=ones[0][:count], target=ones[1][:count])

    def similarity(quantizer):
        means = [quantizer.decode(quantizer.encode(data.take(rows))).mean(0) for rows in ones]
        return float(torch.cosine_similarity(*means, dim=0))

    alone = fit_rq_vae(data, SETTINGS, ignore)
    together = fit_rq_vae(paired, replace(SETTINGS, contrast=3.0), ignore)
    without = fit_rq_vae(paired, replace(SETTINGS, contrast=0.0), ignore)
    assert similarity(together) > similarity(alone) + 0.1
    assert torch.equal(without.encode(data.vectors), alone.encode(data.vectors))


def test_dead_codes_move_to_residuals(data):
    quantizer = fit_rq_vae(data, replace(SETTINGS, epochs=1, min_steps=0), ignore)
    with torch.no_grad():
        quantizer.codebooks[1][:3] = 100.0
    used = [torch.ones(8, dtype=torch.bool) for _ in range(2)]
    used[1][:3] = False
    before = [codebook.clone() for codebook in quantizer.codebooks]
    reset_dead_codes(quantizer, used, data.take(data.rows), np.random.default_rng(0))
    assert torch.equal(quantizer.codebooks[0], before[0])
    assert torch.equal(quantizer.codebooks[1][3:], before[1][3:])
    assert quantizer.codebooks[1][:3].norm(dim=1).max() < 5
    codes = quantizer.encode(data.take(data.rows))[:, 1]
    assert all((codes == code).any() for code in range(3))


def broken(data, **change):
    vectors = data.vectors.clone()
    for row, value in change.items():
        vectors[int(row.removeprefix("row"))] = value
    return replace(data, vectors=vectors)


@pytest.mark.parametrize("kind", FITS)
def test_unusable_vectors_are_named(kind, data):
    fit = FITS[kind]
    with pytest.raises(UserError, match="the content vector of item 7 is not finite"):
        fit(broken(data, row7=float("nan")), SETTINGS, ignore)
    with pytest.raises(UserError, match="the content vector of item 9 is not finite"):
        fit(broken(data, row9=float("inf")), SETTINGS, ignore)
    equal = replace(data, vectors=torch.ones(ITEMS + 1, WIDTH))
    with pytest.raises(UserError, match="500 items have only 1 distinct values, too few for 8 codes"):
        fit(equal, SETTINGS, ignore)
    with pytest.raises(UserError, match="codebook of 8 codes needs as many items, but only 7 have train events"):
        fit(replace(data, rows=data.rows[:7]), SETTINGS, ignore)


def test_the_code_report_equals_its_definitions():
    codes = np.array([[0, 0], [0, 0], [0, 1], [1, 2]])
    report = code_report(codes, (4, 3))
    assert report["utilization"] == [0.5, 1.0]
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert report["perplexity"] == pytest.approx([np.exp(entropy), 2 * np.sqrt(2)], abs=1e-3)
    assert (report["unique_ids"], report["largest_bucket"]) == (0.75, 2)


def test_the_purity_of_codes_equals_its_definition():
    codes = np.array([[0, 0], [0, 1], [0, 1], [1, 0], [1, 0]])
    category = np.array([3, 5, 5, 3, 5])
    # One code for all: 3 of 5 items are of category 5. First code: 2 of 3, and 1 of 2. Both: 1, 2, and 1 of 2.
    assert code_purity(codes, category) == [0.6, 0.6, 0.8]
    assert code_purity(codes, np.zeros(5, int)) == [1.0, 1.0, 1.0]
