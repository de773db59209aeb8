"""No recording on both sides of the split: audio fingerprints that find the same sound again, cut or re-encoded.

The fingerprint of a clip is its log-mel spectrogram without the mean of each band and of each frame: neither how a
sound is coloured nor how it dies away counts, for other recordings of the same thing share both. Two clips are
compared at every shift. Copies, cut at another place, encoded again and at another loudness, gave 0.86 to 1.0 here;
different recordings at most 0.7, and single strokes of like drums 0.82.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from audio2img_core.audio.io import SAMPLE_RATE

from .clips import load

log = logging.getLogger(__name__)
BANDS = 48
WINDOW = 1024  # samples; longer than speech needs, so that a shift by a part of a hop changes little
HOP = 160  # samples: 10 ms
SAME = 0.84  # correlation from which two clips are the same sound
SERIES = "several"  # the file that a series of recordings names; it goes when one of its package's recordings does
LEAST = 0.25  # seconds that two clips must share, and half of the shorter


def fingerprint(waveform: Tensor) -> Tensor:
    """Log-mel spectrogram without the means of its frames and bands: [T] at 16 kHz -> [BANDS, frames] float32."""
    padded = torch.nn.functional.pad(waveform, (WINDOW // 2, WINDOW // 2))
    hann = torch.hann_window(WINDOW)
    power = torch.stft(padded, WINDOW, HOP, window=hann, center=False, return_complex=True).abs().square()
    bands = _filters(WINDOW) @ power
    # a floor 60 dB under the loudest keeps quiet noise, which encoders change, from counting
    bands = bands.clamp_min(1e-6 * float(bands.max().clamp_min(1e-12))).log()
    bands = bands - bands.mean(0, keepdim=True)
    return bands - bands.mean(1, keepdim=True)


def _filters(window: int) -> Tensor:
    """Triangular filters, evenly spaced on the mel scale from 60 to 7600 Hz: [BANDS, window / 2 + 1]."""
    mel = torch.linspace(2595 * _log10(1 + 60 / 700), 2595 * _log10(1 + 7600 / 700), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    bins = torch.linspace(0, SAMPLE_RATE / 2, window // 2 + 1)
    up = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(up, down).clamp_min(0)


def _log10(value: float) -> float:
    return float(torch.log10(torch.tensor(value)))


def likeness(one: Tensor, others: Sequence[Tensor]) -> Tensor:
    """The highest correlation of a fingerprint with each of some others, over all shifts: [len(others)].

    At each shift only what overlaps counts; it must be at least LEAST seconds and half of the shorter clip.

    Args:
        one, others: [BANDS, frames], from `fingerprint`.
    """
    longest = max(one.shape[1], *(other.shape[1] for other in others))
    size = 1 << (2 * longest - 1).bit_length()
    lengths = torch.tensor([other.shape[1] for other in others])
    stacked = torch.stack([torch.nn.functional.pad(other, (0, longest - other.shape[1])) for other in others])
    there = (torch.arange(longest) < lengths[:, None]).float()

    def correlate(first: Tensor, second: Tensor) -> Tensor:
        """[..., longest] with [n, ..., longest] -> [n, shifts], summed over what lies between."""
        product = torch.fft.rfft(first, size).conj() * torch.fft.rfft(second, size)
        return torch.fft.irfft(product.sum(1) if product.ndim == 3 else product, size)

    both = correlate(one, stacked)
    mine = correlate(one.square().sum(0), there)  # energy of the one under the other's extent, at each shift
    theirs = correlate(torch.ones(one.shape[1]), stacked.square().sum(1))
    overlap = correlate(torch.ones(one.shape[1]), there).round()
    least = torch.minimum(lengths, torch.tensor(one.shape[1])).mul(0.5).clamp_min(LEAST * SAMPLE_RATE / HOP)
    score = both / (mine * theirs).clamp_min(1e-6).sqrt()
    return torch.where(overlap >= least[:, None], score, -1.0).amax(1)


def leaks(output: Path, rows: Sequence[dict], *, same: float = SAME) -> list[tuple[dict, dict, float]]:
    """Pairs of clips of one concept that are the same sound but stand in different splits, one of them "test".

    Args:
        output: the folder in which the rows' sounds are.
        rows: of the manifest of sounds.
        same: the correlation from which on two clips count as the same.

    Returns:
        (row outside the test split, row of the test split, correlation), the most alike first.
    """
    groups: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        groups[row["concept"]].append(row)
    found = []
    for concept, group in groups.items():
        test = [row for row in group if row["split"] == "test"]
        rest = [row for row in group if row["split"] != "test"]
        if not test or not rest:
            continue
        prints = [fingerprint(load(output / row["audio"])) for row in rest]
        for row in test:
            # two renderings are never the same recording: their soundfonts differ
            other = [index for index, one in enumerate(rest) if not (one["synthesised"] and row["synthesised"])]
            if not other:
                continue
            scores = likeness(fingerprint(load(output / row["audio"])), [prints[index] for index in other])
            found += [
                (rest[index], row, float(score)) for index, score in zip(other, scores, strict=True) if score >= same
            ]
        log.info("compared the clips of %s", concept)
    return sorted(found, key=lambda pair: -pair[2])


def without_leaks(output: Path, rows: list[dict]) -> list[dict]:
    """The rows without those clips to train or validate on whose sound, or another cut of it, is in the test split.

    All clips of a recording go when one does. What went is written to leaks.txt.
    """
    pairs = leaks(output, rows)
    gone = {_recording(row) for row, _, _ in pairs}
    gone |= {(row["concept"], row["source"], SERIES) for row, _, _ in pairs if not row["synthesised"]}
    lines = [f"{score:.3f} {row['audio']} = {held['audio']}\n" for row, held, score in pairs]
    (output / "leaks.txt").write_text("".join(lines), encoding="utf-8")
    kept = [row for row in rows if row["split"] == "test" or _recording(row) not in gone]
    log.info("%d clips left out: their sound is in the test split", len(rows) - len(kept))
    return kept


def _recording(row: dict) -> tuple[str, ...]:
    """What a clip is a part of: a file of a package, all series of one, or, if it was rendered, the clip itself."""
    whole = not row["synthesised"] or row["file"] == SERIES
    return (row["concept"], row["source"], row["file"]) if whole else (row["audio"],)
