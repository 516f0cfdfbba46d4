"""Training throughput of all ranks, and model FLOPs utilization against the peak of their processors."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from coldstart.encoders import Encoder
from coldstart.training.distributed import all_gather, device, world_size
from coldstart.training.flops import FlopCounter, Rows

TFLOPS: dict[str, dict[torch.dtype, float]] = {
    "B200": {torch.bfloat16: 2250.0, torch.float32: 75.0},
    "H200": {torch.bfloat16: 989.5, torch.float32: 67.0},
    "H100 PCIe": {torch.bfloat16: 756.0, torch.float32: 51.0},
    "H100": {torch.bfloat16: 989.5, torch.float32: 67.0},
    "A100": {torch.bfloat16: 312.0, torch.float32: 19.5},
    "L40S": {torch.bfloat16: 362.0, torch.float32: 91.6},
    "L4": {torch.bfloat16: 121.0, torch.float32: 30.3},
    "A10G": {torch.bfloat16: 70.0, torch.float32: 31.2},
}
"""Dense peak TFLOPS by a part of torch's GPU name (NVIDIA's data sheets, without sparsity and TF32)."""
_SIDE = {"cuda": 8192, "cpu": 1024}
_TRIES = 5


def peak_flops(where: torch.device, dtype: torch.dtype) -> float:
    """Peak operations per second: from the data sheet, or else the measured matmul ceiling."""
    if where.type == "cuda":
        device_words = torch.cuda.get_device_name(where).replace("-", " ").split()
        for name, peaks in TFLOPS.items():
            if set(name.split()) <= set(device_words) and dtype in peaks:
                return peaks[dtype] * 1e12
    return matmul_ceiling(where, dtype)


def matmul_ceiling(where: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the fastest of a few large matrix products, measured now."""
    side = _SIDE.get(where.type, _SIDE["cuda"])
    left, right = torch.randn(2, side, side, device=where, dtype=dtype)
    out = torch.empty_like(left)
    seconds = []
    for _ in range(_TRIES):
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        wait(where)
        seconds.append(time.perf_counter() - start)
    return float(2 * side**3 / min(seconds))


def wait(where: torch.device) -> None:
    """Waits until a GPU has finished its queued work."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)


class ThroughputMeter:
    """Measures the time and the operations of the steps of all ranks.

    Attributes:
        peak: Operations per second of this rank's processor.
    """

    def __init__(self, encoder: Encoder) -> None:
        """Called by all ranks at the same time, so that a measured ceiling includes the load of all ranks."""
        self._encoder = encoder
        self._counter = FlopCounter(encoder)
        self.peak = peak_flops(device(), encoder.mllm.dtype)
        self._start = self._waited = 0.0
        self._items, self._work = 0, np.zeros(4)

    def start_step(self) -> None:
        """Starts a step; the time until `data_ready` counts as waiting for data."""
        self._start = time.perf_counter()
        self._items, self._work = 0, np.zeros(4)

    def data_ready(self) -> None:
        """Marks the arrival of the step's data."""
        self._waited = time.perf_counter() - self._start

    def count_step(self, rows: Rows, lengths: NDArray[np.int64], micro_batches: Sequence[NDArray[np.int64]]) -> None:
        """Counts the tokens and operations of this rank's rows; arguments as in `FlopCounter.count`."""
        padded = sum(len(index) * int(lengths[index].max()) for index in micro_batches)
        self._items = len(lengths)
        self._work = np.array([lengths.sum(), padded, *self._counter.count(rows, lengths, micro_batches)])

    def end_step(self) -> dict[str, float]:
        """Ends a step. Called by all ranks.

        Returns:
            Over all ranks: `items_per_second`, `tokens_per_second` (without padding), `mfu` and `hfu` (model and
            hardware operations as a share of the peak), `padding` (share of all tokens), and `data_wait` (share of the
            time; of the rank that waited longest).
        """
        local = torch.tensor([*self._work, self._waited, self.peak], dtype=torch.float64, device=device())
        ranks = all_gather(local).view(world_size(), -1).cpu()
        seconds = time.perf_counter() - self._start
        tokens, padded, needed, executed, _, peak = ranks.sum(dim=0).tolist()
        return {
            "items_per_second": self._items * world_size() / seconds,
            "tokens_per_second": tokens / seconds,
            "mfu": needed / seconds / peak,
            "hfu": executed / seconds / peak,
            "padding": 1 - tokens / padded,
            "data_wait": min(1.0, ranks[:, 4].max().item() / seconds),
        }
