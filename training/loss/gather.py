"""Batches joined over the ranks of torch.distributed, so that every rank sees all negatives."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def gather_with_gradients(tensor: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """Rows of all ranks in the order of the ranks: [B, ...] -> [world * B, ...]; itself without a process group.

    The backward pass sums the gradients that the ranks' losses send to a row. How to scale the loss: not at all.
    DistributedDataParallel averages the parameters' gradients over the ranks, which undoes that sum, so each rank
    takes either the same loss over the whole joined batch, or the mean over its own rows against all the others. The
    gradients then are those of one process with the joined batch, for parameters of the encoder and of the loss (a
    learned temperature) alike.

    Raises:
        ValueError: the ranks have different numbers of rows.
    """
    return tensor if _world_size(group) == 1 else _Gather.apply(tensor, group)


def gather_ids(ids: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """`gather_with_gradients` for what has no gradient, such as caption ids: [B, ...] -> [world * B, ...].

    Raises:
        ValueError: the ranks have different numbers of rows.
    """
    return ids if _world_size(group) == 1 else _gather(ids.detach(), group)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group, ctx.size = group, len(tensor)
        return _gather(tensor, group)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad, group=ctx.group)
        start = dist.get_rank(ctx.group) * ctx.size
        return grad[start : start + ctx.size], None


def _gather(tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    world = _world_size(group)
    size = torch.tensor([len(tensor)], device=tensor.device)
    sizes = [torch.empty_like(size) for _ in range(world)]
    dist.all_gather(sizes, size, group=group)
    sizes = torch.cat(sizes).tolist()
    if len(set(sizes)) > 1:
        raise ValueError(f"every rank needs the same number of rows, not {sizes}: drop the last, smaller batch")
    rows = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world)]
    dist.all_gather(rows, tensor.contiguous(), group=group)
    return torch.cat(rows)


def _world_size(group: dist.ProcessGroup | None) -> int:
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1
