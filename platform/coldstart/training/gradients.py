"""Sums gradients over all ranks; of embedding tables it exchanges only the rows that were looked up.

An ID table has a row for every item of the catalog, and a step looks up some thousands of them. Averaging whole tables,
as DistributedDataParallel does, costs a ranker of ten thousand items a third of its step and one of ten million items
more than a gigabyte per step. The remaining data is small, so that latency dominates: everything is sent in one
exchange, which overlaps with preparing the next batch.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from coldstart.training.distributed import world_size

SPARE = 1.125
"""Buffer size for looked-up rows, relative to the largest step so far; a step that exceeds it is exchanged twice."""


class GradientSum:
    """Sets gradients to their dense sum over all ranks, bit-identical on every rank.

    All ranks call `start` and `finish` after each `backward`. A parameter without a gradient on any rank keeps none.
    Gradients are added in order of rank, in float32.

    Args:
        parameters: The same on all ranks. Those with sparse gradients `[V, d]` are embedding tables.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._capacity = 0
        self._pending: tuple[Tensor, Tensor, Any] | None = None

    def start(self) -> None:
        """Sends this rank's gradients; they must not change before `finish`."""
        if world_size() > 1:
            packed = self._packed()
            gathered = packed.new_empty(world_size(), len(packed))
            work = dist.all_gather_into_tensor(gathered.view(-1), packed, async_op=True)
            self._pending = packed, gathered, work

    def finish(self) -> None:
        """Sets `grad` of the parameters to the sums."""
        tables, dense = self._kinds()
        if world_size() == 1:
            looked_up = [(table.grad._indices()[0], table.grad._values()) for table in tables if table.grad is not None]
        else:
            looked_up = self._received(tables, dense)
        for table, (index, rows) in zip(tables, looked_up, strict=True):
            table.grad = torch.ops.aten.embedding_dense_backward(rows, index, len(table), -1, False)

    def _kinds(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Embedding tables, and the other parameters."""
        sparse = [weight.grad is not None and weight.grad.is_sparse for weight in self._parameters]
        pairs = list(zip(self._parameters, sparse, strict=True))
        return [weight for weight, table in pairs if table], [weight for weight, table in pairs if not table]

    def _packed(self) -> Tensor:
        """This rank's buffer: gradient flags and row counts, dense gradients, then the rows of each table."""
        tables, dense = self._kinds()
        sparse = [table.grad for table in tables if table.grad is not None]
        header = [float(weight.grad is not None) for weight in dense] + [float(grad._nnz()) for grad in sparse]
        parts = [torch.tensor(header, device=self._parameters[0].device)]
        parts += [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in dense]
        for grad in sparse:
            spare = max(self._capacity - grad._nnz(), 0)
            # An index is sent as the bits of a float, so that one exchange is enough.
            parts += [grad._indices()[0, : self._capacity].int().view(torch.float32), parts[0].new_zeros(spare)]
            parts += [grad._values()[: self._capacity], parts[0].new_zeros(spare * grad.shape[1])]
        return torch.cat([part.flatten().float() for part in parts])

    def _received(self, tables: list[nn.Parameter], dense: list[nn.Parameter]) -> list[tuple[Tensor, Tensor]]:
        """Sums dense gradients; returns indices and gradients of looked-up rows per table, in order of rank."""
        assert self._pending is not None
        _, gathered, work = self._pending
        work.wait()
        header = gathered[:, : len(dense) + len(tables)].cpu()
        counts = header[:, len(dense) :].int()
        if tables and counts.max() > self._capacity:
            self._capacity = int(SPARE * counts.max())
            self.start()
            return self._received(tables, dense)
        start, sizes = header.shape[1], [weight.numel() for weight in dense]
        total = gathered[:, start : start + sum(sizes)].sum(0)
        for weight, part, owners in zip(dense, torch.split(total, sizes), header.T.bool(), strict=False):
            weight.grad = part.view_as(weight).to(weight.dtype) if owners.any() else None
        looked_up, at = [], start + sum(sizes)
        for table, count in zip(tables, counts.T.tolist(), strict=True):
            first, width = at + self._capacity, table.shape[1]
            index = torch.cat([gathered[of, at : at + length] for of, length in enumerate(count)])
            rows = torch.cat([gathered[of, first : first + length * width] for of, length in enumerate(count)])
            looked_up.append((index.view(torch.int32).long(), rows.view(-1, width).to(table.dtype)))
            at = first + self._capacity * width
        return looked_up
