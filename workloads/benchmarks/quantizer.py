"""Measures RQ-KMeans on a million vectors against the plain loop of scikit-learn, and the report on their codes.

The peer fits one MiniBatchKMeans per level on residuals that it keeps in memory, with the same batches and passes, and
predicts the codes of all vectors. Ours reads batches from the item table, and its codes are exact.

    python -m workloads.benchmarks.quantizer
"""

import argparse
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from coldstart.jobs.progress import CONSOLE
from coldstart.metrics.codes import code_purity, code_report
from coldstart.training.quantizer_training import QuantizerData, QuantizerSettings, fit_rq_kmeans
from workloads.benchmarks.results_page import RESULTS, add_section, commit

WIDTH, SIZES, EPOCHS, BATCH = 128, (256, 256, 256), 4, 1024
CENTERS, CATEGORIES = 2000, 50
Decode = Callable[[], NDArray[np.float32]]


def clustered_vectors(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Vectors `[count, k]` of unit length around random centers, as content vectors are."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(CENTERS, WIDTH)).astype(np.float32)
    vectors = centers[rng.integers(0, CENTERS, count)] + rng.normal(size=(count, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def ours(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int16], Decode]:
    """Codes `[n, Lq]` of a quantizer that is fitted to the vectors, and what makes vectors of them."""
    rows = np.arange(len(vectors))
    data = QuantizerData(torch.from_numpy(vectors), rows)
    settings = QuantizerSettings(sizes=SIZES, epochs=EPOCHS, batch=BATCH, seed=0)
    quantizer = fit_rq_kmeans(data, settings, lambda *_: None)
    codes = quantizer.encode(data.vectors)
    return codes.numpy(), lambda: quantizer.decode(codes).numpy()


def plain(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int16], Decode]:
    """The same by scikit-learn alone."""
    rest, codes = vectors.copy(), []
    for level, size in enumerate(SIZES):
        means, rng = MiniBatchKMeans(size, n_init=1, random_state=level), np.random.default_rng(level)
        for _ in range(EPOCHS):
            order = rng.permutation(len(rest))
            for start in range(0, len(order) - size, BATCH):
                means.partial_fit(rest[order[start : start + BATCH]])
        code = means.predict(rest)
        rest -= means.cluster_centers_[code]
        codes.append(code.astype(np.int16))
    return np.stack(codes, axis=1), lambda: vectors - rest


def _relative_error(vectors: NDArray[np.float32], decoded: NDArray[np.float32]) -> float:
    return float(np.square(vectors - decoded).sum() / np.square(vectors - vectors.mean(0)).sum())


def section(count: int, seconds: dict[str, float], errors: dict[str, float]) -> str:
    """The Markdown section for results/ranker.md."""
    rate = seconds["coldstart"] / seconds["scikit-learn"]
    return "\n".join(
        [
            "## Semantic IDs of many items",
            "",
            f"{datetime.now(UTC):%Y-%m-%d}, commit {commit()}, {platform.machine()}. `python -m "
            f"workloads.benchmarks.quantizer --vectors {count}`. Width {WIDTH}, {len(SIZES)} levels of {SIZES[0]} "
            f"codes, batches of {BATCH}, {EPOCHS} passes per level, then the codes of all vectors.",
            "",
            "| | seconds | relative error |",
            "|---|---|---|",
            *(f"| {name} | {seconds[name]:.1f} | {errors[name]:.4f} |" for name in errors),
            "",
            f"Ours takes {rate:.2f} times as long as scikit-learn's loop. The report on {count:,} codes (use, "
            f"collisions, purity against {CATEGORIES} categories) takes {seconds['report']:.1f} s.",
        ]
    )


def main() -> None:
    """Measures and adds the table to results/ranker.md."""
    parser = argparse.ArgumentParser(prog="python -m workloads.benchmarks.quantizer", description=__doc__)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dry-run", action="store_true", help="print the table only")
    arguments = parser.parse_args()
    vectors = clustered_vectors(arguments.vectors)
    seconds, errors = {}, {}
    codes = np.zeros((0, len(SIZES)), np.int16)
    for name, fit in (("scikit-learn", plain), ("coldstart", ours)):
        began = time.perf_counter()
        codes, decode = fit(vectors)
        seconds[name] = time.perf_counter() - began
        errors[name] = _relative_error(vectors, decode())
    began = time.perf_counter()
    code_report(codes, SIZES)
    code_purity(codes, np.random.default_rng(0).integers(0, CATEGORIES, len(codes)))
    seconds["report"] = time.perf_counter() - began
    text = section(arguments.vectors, seconds, errors)
    CONSOLE.print(text, markup=False, soft_wrap=True)
    if not arguments.dry_run:
        add_section(RESULTS / "ranker.md", text)


if __name__ == "__main__":
    main()
