"""Sums the gradients of all ranks: dense ones whole, those of tables only in the rows that were looked up.

An ID table has a row for every item of the catalogue, and a step looks up some thousands of them. Averaging whole
tables, as DistributedDataParallel does, costs a ranker of ten thousand items a third of its step and one of ten
million items more than a gigabyte per step. What is left is small, so waiting is what costs: everything travels in one
exchange, and the next batch is drawn meanwhile.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from coldstart.training.ranks import world_size

SPARE = 1.125
"""Room for looked-up rows, in those of the largest step so far; a step that needs more is exchanged twice."""


class GradientSum:
    """Gives parameters the dense sum of their gradients on all ranks, the same to the bit on every rank.

    `start` and `finish` are called by all ranks after each `backward`. A parameter that has no gradient on any rank is
    left without one. Gradients are added in order of rank, in float32.

    Args:
        parameters: The same on all ranks. Those with sparse gradients `[V, d]` are tables.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._room = 0
        self._under_way: tuple[Tensor, Tensor, Any] | None = None

    def start(self) -> None:
        """Sends this rank's gradients; they must not be touched before `finish`."""
        if world_size() > 1:
            mine = self._packed()
            everyone = mine.new_empty(world_size(), len(mine))
            work = dist.all_gather_into_tensor(everyone.view(-1), mine, async_op=True)
            self._under_way = mine, everyone, work

    def finish(self) -> None:
        """Puts the sums into the parameters' `grad`."""
        tables, dense = self._kinds()
        if world_size() == 1:
            looked_up = [(table.grad._indices()[0], table.grad._values()) for table in tables if table.grad is not None]
        else:
            looked_up = self._received(tables, dense)
        for table, (index, rows) in zip(tables, looked_up, strict=True):
            table.grad = torch.ops.aten.embedding_dense_backward(rows, index, len(table), -1, False)

    def _kinds(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Tables, and the others."""
        sparse = [weight.grad is not None and weight.grad.is_sparse for weight in self._parameters]
        pairs = list(zip(self._parameters, sparse, strict=True))
        return [weight for weight, table in pairs if table], [weight for weight, table in pairs if not table]

    def _packed(self) -> Tensor:
        """This rank's buffer: which of the others have a gradient and rows of each table, gradients, then rows."""
        tables, dense = self._kinds()
        sparse = [table.grad for table in tables if table.grad is not None]
        facts = [float(weight.grad is not None) for weight in dense] + [float(grad._nnz()) for grad in sparse]
        parts = [torch.tensor(facts, device=self._parameters[0].device)]
        parts += [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in dense]
        for grad in sparse:
            spare = max(self._room - grad._nnz(), 0)
            # An index travels as the bits of a float, so that one exchange is enough.
            parts += [grad._indices()[0, : self._room].int().view(torch.float32), parts[0].new_zeros(spare)]
            parts += [grad._values()[: self._room], parts[0].new_zeros(spare * grad.shape[1])]
        return torch.cat([part.flatten().float() for part in parts])

    def _received(self, tables: list[nn.Parameter], dense: list[nn.Parameter]) -> list[tuple[Tensor, Tensor]]:
        """Sums what is dense; returns looked-up indices and their gradients for each table, in order of rank."""
        assert self._under_way is not None
        _, everyone, work = self._under_way
        work.wait()
        facts = everyone[:, : len(dense) + len(tables)].cpu()
        counts = facts[:, len(dense) :].int()
        if tables and counts.max() > self._room:
            self._room = int(SPARE * counts.max())
            self.start()
            return self._received(tables, dense)
        before, sizes = facts.shape[1], [weight.numel() for weight in dense]
        total = everyone[:, before : before + sum(sizes)].sum(0)
        for weight, part, owners in zip(dense, torch.split(total, sizes), facts.T.bool(), strict=False):
            weight.grad = part.view_as(weight).to(weight.dtype) if owners.any() else None
        found, at = [], before + sum(sizes)
        for table, count in zip(tables, counts.T.tolist(), strict=True):
            first, width = at + self._room, table.shape[1]
            index = torch.cat([everyone[of, at : at + some] for of, some in enumerate(count)])
            rows = torch.cat([everyone[of, first : first + some * width] for of, some in enumerate(count)])
            found.append((index.view(torch.int32).long(), rows.view(-1, width).to(table.dtype)))
            at = first + self._room * width
        return found
