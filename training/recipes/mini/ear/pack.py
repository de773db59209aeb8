"""Carry a store to a machine with a GPU: `python -m training.recipes.mini.ear.pack --store STORE --output FOLDER`.

Writes `part-0`, `part-1`, ... of at most so many MB each: Ogg Opus files of some minutes, and an index. On that machine
`--unpack part-0 part-1 ... --store STORE` makes a store of them again; that needs `soundfile`, not PyAV.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .store import StoreWriter, read_audio, read_index, write_index
from .teacher import RATE

log = logging.getLogger(__name__)
OPUS_RATE = 48_000
JUDGING = ("valid", "test", "unknown")
_JUDGED = 8  # clips of a kind
# Least and most of Opus, mono. At 16, 24, 32 and 48 kbit/s the teacher's embedding has a cosine of 0.89, 0.95, 0.97 and
# 0.99 to that of the uncoded sound.
_KBPS = (16, 64)
_GAP = RATE // 10  # samples of silence between clips, so that coding one does not smear into the next
_CHUNK = 300 * RATE  # samples of a file, about
_FOUND = ("start", "samples")


def pack(
    store: Path, output: Path, *, budget: float = 116.0, megabytes: float = 29.0, seconds: float = 12.0
) -> list[Path]:
    """Write the clips of a store as parts; their folders.

    Args:
        budget: MB of all parts together; it sets the bit rate. megabytes: the most of one part.
        seconds: the most of one clip.
    """
    audio, parts, size = read_audio(store), [], float("inf")
    rows = chosen(read_index(store))
    total = sum(min(row["samples"] / RATE, seconds) + _GAP / RATE for row in rows)
    kbps = round(min(max(0.95 * 8000 * budget / max(total, 1.0), _KBPS[0]), _KBPS[1]))
    log.info("%.1f h at %d kbit/s", total / 3600, kbps)
    for number, chunk in enumerate(chunks(rows, round(seconds * RATE))):
        waveform = torch.zeros(sum(row["samples"] + _GAP for row in chunk), dtype=torch.int16)
        packed, at = [], 0
        for row in chunk:
            waveform[at : at + row["samples"]] = audio[row["start"] : row["start"] + row["samples"]]
            packed.append({**row, "file": f"{number:04d}.opus", "start": at})
            at += row["samples"] + _GAP
        content = opus(waveform, kbps)
        if size + len(content) > megabytes * 1e6:
            parts.append(output / f"part-{len(parts)}")
            parts[-1].mkdir(parents=True, exist_ok=True)
            (parts[-1] / "index.jsonl").unlink(missing_ok=True)
            size = 0
        (parts[-1] / f"{number:04d}.opus").write_bytes(content)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in packed)
        with (parts[-1] / "index.jsonl").open("a", encoding="utf-8") as file:
            file.write(lines)
        size += len(content) + len(lines.encode())
        log.info("%s: %.1f MB", parts[-1], size / 1e6)
    return parts


def chosen(rows: list[dict]) -> list[dict]:
    """All recordings that are trained on, every third rendered phrase, and enough to judge: eight clips of a kind."""
    kept, counts = [], Counter()
    for row in rows:
        group = (row.get("split"), row["kind"], bool(row.get("rendered")))
        counts[group] += 1
        if row.get("split") == "train":
            if not row.get("rendered") or counts[group] % 3 == 1:
                kept.append(row)
        elif row.get("split") in JUDGING and counts[group] <= _JUDGED:
            kept.append(row)
    return kept


def chunks(rows: list[dict], longest: int) -> Iterator[list[dict]]:
    """Rows of about five minutes at a time, each cut to so many samples."""
    chunk, total = [], 0
    for row in rows:
        cut = min(row["samples"], longest)
        chunk.append({**row, "samples": cut})
        total += cut + _GAP
        if total >= _CHUNK:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk


def opus(waveform: Tensor, kbps: int) -> bytes:
    """[T] int16 at 32 kHz as Ogg Opus."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        options = {"application": "audio", "compression_level": "5"}
        stream = container.add_stream("libopus", rate=OPUS_RATE, layout="mono", options=options)
        stream.bit_rate = 1000 * kbps
        resampler = av.AudioResampler(format="s16", layout="mono", rate=OPUS_RATE)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform.numpy()[None]), format="s16", layout="mono")
        frame.sample_rate = RATE
        for resampled in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
    return file.getvalue()


def unpack(parts: Sequence[Path], store: Path, *, threads: int = 16) -> int:
    """Make a store of parts; how many clips it has.

    Raises:
        FileNotFoundError: a part without an index.
    """
    import soundfile

    writer = StoreWriter(store)
    for part in parts:
        index = part / "index.jsonl"
        if not index.is_file():
            raise FileNotFoundError(f"{index}: no such file; expected a part that pack wrote")
        rows = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines()]
        files = sorted({row["file"] for row in rows})

        def decoded(name: str, part: Path = part) -> Tensor:
            samples, rate = soundfile.read(part / name, dtype="float32")
            return resampled(torch.from_numpy(samples), rate)

        with ThreadPoolExecutor(threads) as pool:
            for name, waveform in zip(files, pool.map(decoded, files), strict=True):
                for row in rows:
                    if row["file"] == name:
                        kept = {key: value for key, value in row.items() if key not in (*_FOUND, "file")}
                        writer.add(waveform[row["start"] : row["start"] + row["samples"]], kept)
    write_index(store, writer.rows)
    return len(writer.rows)


def resampled(waveform: Tensor, rate: int) -> Tensor:
    """[T] at `rate` -> [T'] at 32 kHz, cut off sharply at half the lower rate, a minute at a time."""
    if rate == RATE:
        return waveform
    block, side = 60 * rate, rate // 10
    pieces = []
    for i in range(0, len(waveform), block):
        before = min(side, i)
        piece = waveform[i - before : i + block + side]
        wanted = round(len(piece) * RATE / rate)
        spectrum = torch.fft.rfft(piece)[: wanted // 2 + 1]
        low = torch.fft.irfft(spectrum, n=wanted) * (wanted / len(piece))
        skip = round(before * RATE / rate)
        pieces.append(low[skip : skip + round(min(block, len(waveform) - i) * RATE / rate)])
    return torch.cat(pieces) if pieces else waveform


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.recipes.mini.ear.pack", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--store", type=Path, required=True, help="the store that is packed, or made")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--output", type=Path, help="folder for the parts")
    way.add_argument("--unpack", type=Path, nargs="+", help="parts to make a store of")
    parser.add_argument(
        "--budget",
        type=float,
        default=116.0,
        help="MB of all parts together, which sets the bit rate (default %(default)s)",
    )
    parser.add_argument("--megabytes", type=float, default=29.0, help="the most of one part (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=12.0, help="the most of one clip (default %(default)s)")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if options.unpack:
            print(f"{options.store}: {unpack(options.unpack, options.store)} clips")
        else:
            sizes = {"budget": options.budget, "megabytes": options.megabytes, "seconds": options.seconds}
            print("\n".join(map(str, pack(options.store, options.output, **sizes))))
    except (FileNotFoundError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
