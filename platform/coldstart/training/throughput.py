"""How fast ranks train, and how near that is to what their processors could do."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from coldstart.encoders import Encoder
from coldstart.training.flops import FlopCounter, Rows
from coldstart.training.ranks import device, gather, world_size

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
"""Dense peak by a part of the name that torch gives a GPU (NVIDIA's data sheets, without sparsity and TF32)."""
_SIDE = {"cuda": 8192, "cpu": 1024}
_TRIES = 5


def peak_flops(where: torch.device, dtype: torch.dtype) -> float:
    """Operations per second that utilisation is measured against: of the data sheet, or else the matmul ceiling."""
    if where.type == "cuda":
        words = torch.cuda.get_device_name(where).replace("-", " ").split()
        for name, peaks in TFLOPS.items():
            if set(name.split()) <= set(words) and dtype in peaks:
                return peaks[dtype] * 1e12
    return matmul_ceiling(where, dtype)


def matmul_ceiling(where: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the best of a few large matrix products, here and now."""
    side = _SIDE.get(where.type, _SIDE["cuda"])
    left, right = torch.randn(2, side, side, device=where, dtype=dtype)
    out = torch.empty_like(left)
    seconds = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        torch.mm(left, right, out=out)
        wait(where)
        seconds.append(time.perf_counter() - began)
    return float(2 * side**3 / min(seconds))


def wait(where: torch.device) -> None:
    """Until a GPU has done what it was asked."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)


class Meter:
    """Times the steps of all ranks and counts what they did.

    Attributes:
        peak: Operations per second of this rank's processor.
    """

    def __init__(self, encoder: Encoder) -> None:
        """Called by all ranks at the same time, so that a measured ceiling is one of a busy machine."""
        self._encoder = encoder
        self._counter = FlopCounter(encoder)
        self.peak = peak_flops(device(), encoder.mllm.dtype)
        self._began = self._waited = 0.0
        self._items, self._work = 0, np.zeros(4)

    def start(self) -> None:
        """A step begins, with waiting for its data."""
        self._began = time.perf_counter()
        self._items, self._work = 0, np.zeros(4)

    def arrived(self) -> None:
        """The data is here."""
        self._waited = time.perf_counter() - self._began

    def read(self, rows: Rows, lengths: NDArray[np.int64], passes: Sequence[NDArray[np.int64]]) -> None:
        """Tells what this rank reads in the step: rows, their lengths, and which are padded to one length together."""
        padded = sum(len(chosen) * int(lengths[chosen].max()) for chosen in passes)
        self._items = len(lengths)
        self._work = np.array([lengths.sum(), padded, *self._counter.count(rows, lengths, passes)])

    def finish(self) -> dict[str, float]:
        """The step has ended. Called by all ranks.

        Returns:
            Of all ranks together: `items_per_second`, `tokens_per_second` (without padding), `mfu` and `hfu`
            (operations that were needed, or were carried out, as a share of the peak), `padding` (share of the tokens
            read), `data_wait` (share of the time, of the rank that waited longest).
        """
        mine = torch.tensor([*self._work, self._waited, self.peak], dtype=torch.float64, device=device())
        everyone = gather(mine).view(world_size(), -1).cpu()
        seconds = time.perf_counter() - self._began
        tokens, padded, needed, done, _, peak = everyone.sum(dim=0).tolist()
        return {
            "items_per_second": self._items * world_size() / seconds,
            "tokens_per_second": tokens / seconds,
            "mfu": needed / seconds / peak,
            "hfu": done / seconds / peak,
            "padding": 1 - tokens / padded,
            "data_wait": min(1.0, everyone[:, 4].max().item() / seconds),
        }
