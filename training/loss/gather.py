"""Batches joined over the processes of torch.distributed, so that every process sees all negatives."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def gather_rows(tensor: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """Join the rows of all processes in the order of their ranks: [B, ...] -> [world * B, ...].

    This is torch's all-gather with gradients, behind a check of the sizes, without which it hangs or mixes rows. The
    backward pass sums the gradients that the processes' losses send to a row. Do not scale the loss:
    DistributedDataParallel averages the parameters' gradients over the processes, which undoes that sum. Each process
    therefore takes either the same loss over the whole joined batch, or the mean over its own rows against all the
    others. The gradients then are those of one process with the joined batch, for the parameters of the encoder and of
    the loss (a learned temperature) alike.

    Args:
        tensor: Rows of this process, [B, ...]; integers have no gradient.
        group: Process group; None = all processes.

    Returns:
        The joined rows; `tensor` itself without a process group, or in a group of one.

    Raises:
        ValueError: The processes have different numbers of rows.
    """
    if not dist.is_available() or not dist.is_initialized():
        return tensor
    group = dist.group.WORLD if group is None else group
    world = dist.get_world_size(group)
    if world == 1:
        return tensor
    sizes = torch.empty(world, dtype=torch.int64, device=tensor.device)
    dist.all_gather(list(sizes.split(1)), torch.tensor([len(tensor)], device=tensor.device), group=group)
    if len(set(sizes.tolist())) > 1:
        raise ValueError(
            f"every process needs the same number of rows, not {sizes.tolist()}: drop the last, smaller batch"
        )
    rows = torch.cat(all_gather(tensor, group=group))
    if rows.requires_grad:
        rows.register_hook(torch.Tensor.contiguous)  # torch's backward pass misplaces gradients of other strides
    return rows
