"""Embeddings of many sounds as parts: safetensors files that any number of machines write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save

from ..audio.clips import AudioClip, shard_clip
from ..checks import message
from ..storage.paths import read, write
from .jobs import Job, Part, Problem, Report
from .store import METADATA_KEY, fingerprint, tensors_of

if TYPE_CHECKING:
    from ..encoder.model import AudioEncoder
    from ..storage.shards import Sample

_MOST_SAMPLES = 64 * 2**20  # of all sounds of a part that are decoded ahead of the encoder: 256 MB, over an hour
_HEADER = 2**16  # bytes read at first: most headers are shorter
_LONGEST_HEADER = 100_000_000  # safetensors' own limit


@dataclass(frozen=True)
class Loaded:
    """A sound that was read."""

    sound: AudioClip
    waveform: np.ndarray | None = None  # [T] float32, mono, 16 kHz; None = too much to hold: decode it while encoding
    problem: str = ""


@dataclass(frozen=True)
class EncodeJob(Job):
    """AudioClips to `PATH/tokens` [W, N, D] and `PATH/pooled` [W, P] in parts, as an `EmbeddingStore` writes them."""

    output: str
    encoder: str  # folder, file or hub id, which all machines must see
    settings: Mapping[str, Any]  # of `settings_of`: they decide the numbers
    size: int = 256
    batch_size: int | None = None
    device: str | None = None
    dtype: str | None = None

    suffix: ClassVar[str] = ".safetensors"
    entries: ClassVar[str] = "sounds"
    heavy: ClassVar[bool] = True

    @property
    def on_gpus(self) -> bool:
        """Unless it was told another device."""
        return self.device is None or self.device.startswith("cuda")

    def key(self, item: AudioClip) -> str:
        """The sound's."""
        return item.key

    def item(self, sample: Sample, shard: str) -> AudioClip:
        """The sample's sound."""
        return shard_clip(sample, shard)

    def load(self, items: Sequence[AudioClip]) -> list[Loaded]:
        """Decode sounds, as many as a part may hold; those beyond are decoded while they are encoded."""
        loaded, room = [], _MOST_SAMPLES
        for sound in items:
            try:
                waveform = self._decoded(sound, room)
            except (ValueError, OSError, ImportError) as error:
                loaded.append(Loaded(_without_content(sound), problem=message(error)))
                continue
            room -= 0 if waveform is None else len(waveform)
            loaded.append(Loaded(sound if waveform is None else _without_content(sound), waveform))
        return loaded

    def worker(self) -> Callable[[Part], Report]:
        """Load the encoder.

        Raises:
            ValueError: it is not the one that the work was begun with.
        """
        encoder = load_encoder(self.encoder, device=self.device, dtype=self.dtype)
        if fingerprint(encoder) != self.settings["encoder"]:
            raise ValueError(f"{self.encoder}: is another encoder on this machine than where the work was begun")
        return self.writer(encoder)

    def writer(self, encoder: AudioEncoder) -> Callable[[Part], Report]:
        """What writes parts with an encoder that is loaded already."""
        return partial(self._write, encoder)

    def header(self, file: str) -> dict[str, Any]:
        """The metadata of a safetensors file, of which no more is read."""
        try:
            start = read(file, 0, _HEADER)
            length = int.from_bytes(start[:8], "little")
            if length > _LONGEST_HEADER:
                raise ValueError("no safetensors file")
            start += read(file, len(start), 8 + length) if len(start) < 8 + length else b""
            facts = json.loads(json.loads(start[8 : 8 + length])["__metadata__"][METADATA_KEY])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: is no part of audio2img embeddings; choose another output") from error
        return self.checked(facts, file)

    def line(self, key: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        """The sound, and where its windows begin."""
        return {"sound": key, "starts": entry["starts"], "durations": entry["durations"]}

    def _decoded(self, sound: AudioClip, room: int) -> np.ndarray | None:
        blocks = []
        for block in sound.blocks(self.settings["start"], self.settings["duration"]):
            room -= len(block)
            if room < 0:
                return None
            blocks.append(block)
        return torch.cat(blocks).numpy()

    def _write(self, encoder: AudioEncoder, part: Part) -> Report:
        tensors: dict[str, torch.Tensor] = {}
        entries: dict[str, Any] = {}
        problems = list(part.problems)
        for item, heard in self._encoded(encoder, part.loaded, problems):
            tensors |= tensors_of(item.sound.key, heard)
            entries[item.sound.key] = {"starts": heard.starts, "durations": heard.durations}
        if entries or part.origin:
            facts = self.facts(part, entries, problems)
            write(self.file(part), save(tensors, {METADATA_KEY: json.dumps(facts, ensure_ascii=False)}))
        return Report(len(entries), tuple(problems))

    def _encoded(self, encoder: AudioEncoder, loaded: Sequence[Loaded], problems: list[Problem]) -> Iterator[Any]:
        """Each sound that can be encoded and what the encoder hears in it; windows of many sounds go in one batch."""
        from ..audio.io import SAMPLE_RATE

        ready = [item for item in loaded if item.waveform is not None]
        if ready:
            heard = encoder.encode(
                [torch.from_numpy(item.waveform) for item in ready],
                SAMPLE_RATE,
                batch_size=self.batch_size,
                names=[item.sound.key for item in ready],
            )
            heard = heard.averaged() if self.settings["average"] else heard
            firsts = [heard.clips.index(number) for number in range(len(ready))] + [len(heard.clips)]
            for number, item in enumerate(ready):
                yield item, heard.rows(firsts[number], firsts[number + 1])
        for item in loaded:
            if item.problem:
                problems.append((item.sound.key, item.problem))
            elif item.waveform is None:
                blocks = item.sound.blocks(self.settings["start"], self.settings["duration"])
                try:
                    heard = encoder.encode_stream(blocks, batch_size=self.batch_size, name=item.sound.key)
                except (ValueError, OSError, ImportError) as error:
                    problems.append((item.sound.key, message(error)))
                    continue
                yield item, heard.averaged() if self.settings["average"] else heard


def load_encoder(name: str, *, device: str | None = None, dtype: str | None = None) -> AudioEncoder:
    """An encoder on a device (None = the GPU where there is one), in a dtype (None = the device's best).

    Raises:
        ValueError, FileNotFoundError: as `AudioEncoder.from_pretrained`, or an impossible device.
    """
    from ..devices import encoder_dtype, resolve_device
    from ..encoder.model import AudioEncoder

    on = resolve_device(device)
    return AudioEncoder.from_pretrained(name, dtype=encoder_dtype(on, name, dtype)).to(on)


def _without_content(sound: AudioClip) -> AudioClip:
    """What need not be sent along once it is decoded."""
    return AudioClip(sound.key, b"") if isinstance(sound.audio, bytes) else sound
