"""From sound files to features for training, without a model: `python benchmarks/data_path.py`.

Clips of 10 s (stereo FLAC, and MP3, at 44.1 kHz), of which a random window of 3.75 s, or all, is shown, in one thread:
ours is `training.data.reading.read_clip` and `log_mel`, as `audio2img-train fit` does it; theirs decodes and resamples
the whole clip with librosa, or with torchcodec where it can be imported, cuts the window and takes
`SeamlessM4TFeatureExtractor`. Both go in turn. Then our `DataLoader` with one worker and with two. Needs librosa;
writes `benchmarks/results/data_path.json`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # librosa's and NumPy's threads, read at their import
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from audio2img_core import log_mel  # noqa: E402
from audio2img_core.audio.clips import AudioClip  # noqa: E402
from benchmarks.generated import noise, write_audio  # noqa: E402
from benchmarks.paired import machine, paired, write_result  # noqa: E402
from training.data.clips import Source  # noqa: E402
from training.data.config import DataConfig  # noqa: E402
from training.data.dataset import ClipDataset, collate  # noqa: E402
from training.data.reading import read_clip  # noqa: E402

SECONDS, RATE = 10.0, 44_100
WINDOWS = (3.75, 10.0)


def ours(clips: list[AudioClip], window: float) -> None:
    generator, config = torch.Generator().manual_seed(0), DataConfig(window_seconds=window)
    for clip in clips:
        log_mel(read_clip(clip, config, generator)[None])


def by_librosa(clips: list[AudioClip], window: float) -> None:
    import librosa

    _features(clips, window, lambda file: librosa.load(file, sr=16_000)[0])


def by_torchcodec(clips: list[AudioClip], window: float) -> None:
    from torchcodec.decoders import AudioDecoder  # pyright: ignore[reportMissingImports] - measured where it is

    _features(clips, window, lambda file: AudioDecoder(file, sample_rate=16_000).get_all_samples().data.mean(0).numpy())


def _features(clips: list[AudioClip], window: float, load) -> None:
    from transformers import SeamlessM4TFeatureExtractor

    extractor = SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2)
    generator = torch.Generator().manual_seed(0)
    for clip in clips:
        waveform, size = load(clip.audio), round(window * 16_000)
        first = int(torch.randint(max(len(waveform) - size, 0) + 1, (), generator=generator))
        extractor(waveform[first : first + size], sampling_rate=16_000, return_tensors="pt")


def seconds_with(clips: list[AudioClip], workers: int, rounds: int) -> float:
    """Seconds of the DataLoader for some rounds of all clips, after one that starts its workers."""
    dataset = ClipDataset(Source("clips", clips), DataConfig(window_seconds=WINDOWS[0]))
    loader = DataLoader(dataset, 8, num_workers=workers, collate_fn=collate, persistent_workers=True)
    for _ in loader:
        pass
    start = time.perf_counter()
    for _ in range(rounds):
        for _ in loader:  # features are made on the training device
            pass
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=32, help="of each kind (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs over them (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ways = {"librosa": by_librosa, "torchcodec": by_torchcodec}
    rows, missing = [], []
    print("| files | window | by | clips a second | ours | ratio |\n| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".flac", ".mp3"):
            sounds = [noise(2 * SECONDS, RATE, i).reshape(2, -1) for i in range(args.clips)]
            files = [write_audio(Path(folder) / f"{i}{suffix}", sound, RATE) for i, sound in enumerate(sounds)]
            clips = [AudioClip(file.name, str(file), ("noise",)) for file in files]
            for name, theirs in ways.items():
                try:
                    theirs(clips[:1], WINDOWS[0])
                except (ImportError, RuntimeError, OSError):  # torchcodec says in either way that it finds no FFmpeg
                    missing.append(name)
                    continue
                for window in WINDOWS:
                    row = paired(
                        lambda c=clips, w=window: ours(c, w),
                        lambda c=clips, w=window, t=theirs: t(c, w),
                        runs=args.runs,
                    )
                    each = {key: args.clips / row[key] for key in ("ours", "theirs")}
                    rows.append({"files": suffix[1:], "window": window, "by": name, **each, "ratio": row["ratio"]})
                    print(
                        f"| {suffix[1:]} | {window:g} s | {name} | {each['theirs']:.0f} | {each['ours']:.0f} "
                        f"| {row['ratio']:.1f}x |"
                    )
        one, two = (seconds_with(clips, workers, 6) for workers in (1, 2))
    print(f"two workers against one: {one / two:.2f}x")
    if missing:
        print(f"not measured: {', '.join(sorted(set(missing)))} cannot be imported here")
    write_result("data_path", {"machine": machine(), "rows": rows, "two_workers": one / two})


if __name__ == "__main__":
    main()
