"""Changing the sample rate, by FFmpeg (libswresample)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..checks import describe, positive_int

if TYPE_CHECKING:
    import av


def resample(waveform: Tensor, orig_rate: int, new_rate: int) -> Tensor:
    """Band-limited resampling, [..., T] -> [..., ceil(T * new_rate / orig_rate)] float32 on the same device.

    FFmpeg's default filter: 32 taps, Kaiser window with beta 9, cut-off at 0.97 of the lower Nyquist frequency. Not
    differentiable. `benchmarks/resamplers.py` compares it with torchaudio's and soxr's.

    Args:
        waveform: [..., T] float.
        orig_rate: Hz, an integer.
        new_rate: Hz, an integer.

    Raises:
        ValueError: a rate is not an integer >= 1, or waveform is not float with at least one dimension.
    """
    orig_rate, new_rate = positive_int(orig_rate, "orig_rate"), positive_int(new_rate, "new_rate")
    if waveform.ndim < 1 or not waveform.is_floating_point():
        raise ValueError(f"waveform must be float [..., T], not {describe(waveform)}")
    waveform = waveform.float()
    if orig_rate == new_rate:
        return waveform
    shape = waveform.shape[:-1]
    if waveform.numel() == 0:
        return waveform.new_zeros(*shape, -(-waveform.shape[-1] * new_rate // orig_rate))
    rows = waveform.reshape(-1, waveform.shape[-1])
    return torch.cat(list(resample_blocks([rows], orig_rate, new_rate)), -1).reshape(*shape, -1)


def resample_blocks(blocks: Iterable[Tensor], orig_rate: int, new_rate: int) -> Iterator[Tensor]:
    """Resample a sound that comes in blocks, [C, T] float each -> [C, T'] float32 each.

    Joined, the results are bit for bit those of `resample`, whatever the lengths of the blocks: FFmpeg always gets a
    second at a time.
    """
    if orig_rate == new_rate:
        yield from (block.float() for block in blocks)
        return
    import av  # a tenth of a second, which a ComfyUI that starts need not wait for

    resamplers: list[av.AudioResampler] = []
    device = None
    taken = given = 0
    for part in itertools.chain(parts_of(blocks, orig_rate), [None]):
        if part is not None:
            device, taken = part.device, taken + part.shape[-1]
            resamplers = resamplers or [av.AudioResampler("fltp", "mono", new_rate) for _ in part]
        rows = [None] * len(resamplers) if part is None else part.detach().float().cpu().contiguous().numpy()
        outputs = [_fed(resampler, row, orig_rate) for resampler, row in zip(resamplers, rows, strict=True)]
        if outputs:
            length = -(-taken * new_rate // orig_rate) - given
            result = torch.from_numpy(np.stack([output[:length] for output in outputs])).to(device)
            if part is None:
                result = torch.nn.functional.pad(result, (0, length - result.shape[-1]))
            given += result.shape[-1]
            yield result


def parts_of(blocks: Iterable[Tensor], size: int, *, overlap: int = 0) -> Iterator[Tensor]:
    """Cut a sound that comes in blocks anew: [..., T] each -> parts of `size`, the last one shorter.

    With an overlap, each part begins with as many samples of the one before it.
    """
    waiting: list[Tensor] = []
    length = 0
    for block in blocks:
        waiting.append(block)
        length += block.shape[-1]
        if length >= size:
            joined = torch.cat(waiting, -1)
            while joined.shape[-1] >= size:
                yield joined[..., :size]
                joined = joined[..., size - overlap :]
            waiting, length = [joined], joined.shape[-1]
    if length:
        yield torch.cat(waiting, -1)


def _fed(resampler: av.AudioResampler, row: np.ndarray | None, rate: int) -> np.ndarray:
    """What a resampler gives for one more row [T] at `rate`; None = its rest."""
    import av

    frame = None
    if row is not None:
        frame = av.AudioFrame.from_ndarray(row[None], format="fltp", layout="mono")
        frame.sample_rate = rate
    outputs = [output.to_ndarray()[0] for output in resampler.resample(frame)]
    return np.concatenate([np.zeros(0, np.float32), *outputs])
