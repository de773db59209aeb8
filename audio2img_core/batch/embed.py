"""Embeddings of many clips as shards: safetensors files that any number of machines write; one file is their export."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save, save_file

from ..audio.clips import AudioClip, shard_clip
from ..audio.excerpt import Excerpt
from ..audio.io import SAMPLE_RATE
from ..checks import message
from ..devices import encoder_dtype, resolve_device
from ..storage.files import whole_file
from ..storage.paths import is_url, read, write
from .jobs import SHARD_SIZE, Folder, Job, Problem, Report, Shard

if TYPE_CHECKING:
    from ..encoder.embeddings import AudioEmbeddings
    from ..encoder.model import AudioEncoder
    from ..storage.shards import Sample

METADATA_KEY = "audio2img_embeddings"
_MOST_SAMPLES = 64 * 2**20  # of all clips of a shard that are decoded ahead of the encoder: 256 MB, over an hour
_HEADER = 2**16  # bytes read at first: most headers are shorter
_LONGEST_HEADER = 100_000_000  # safetensors' own limit


@dataclass(frozen=True)
class Loaded:
    """A clip that was read."""

    clip: AudioClip
    waveform: np.ndarray | None = None  # [T] float32, mono, 16 kHz; None = too much to hold: decode it while encoding
    problem: str = ""


@dataclass(frozen=True)
class EncodeJob(Job):
    """Clips to shards of `KEY/tokens` [W, N, D] and, for targets that have it, `KEY/pooled` [W, P].

    A shard's metadata hold the encoder's fingerprint, the settings, and where the windows of each clip begin.
    """

    output: str
    encoder: str  # folder, file or hub id, which all machines must see
    settings: Mapping[str, Any]  # of `settings_of`: they decide the numbers
    size: int = SHARD_SIZE
    batch_size: int | None = None
    device: str | None = None
    dtype: str | None = None
    watched: bool = False  # note each local file's size and time of change, and encode a file that changed again

    suffix: ClassVar[str] = ".safetensors"
    entries: ClassVar[str] = "sounds"
    heavy: ClassVar[bool] = True

    @property
    def on_gpus(self) -> bool:
        """Whether no other device was named."""
        return self.device is None or self.device.startswith("cuda")

    def key(self, item: AudioClip) -> str:
        """The clip's."""
        return item.key

    def item(self, sample: Sample, tar: str) -> AudioClip:
        """The sample's clip."""
        return shard_clip(sample, tar)

    def is_current(self, item: AudioClip, entry: Mapping[str, Any]) -> bool:
        """Whether the file is the one that was encoded, by its size and time of change, where these are watched."""
        return not self.watched or entry.get("stat") == _stat(item)

    def load(self, items: Sequence[AudioClip]) -> list[Loaded]:
        """Decode clips, as many as a shard may hold; those beyond are decoded while they are encoded."""
        loaded, room = [], _MOST_SAMPLES
        for clip in items:
            try:
                waveform = self._decoded(clip, room)
            except (ValueError, OSError, ImportError) as error:
                loaded.append(Loaded(_without_content(clip), problem=message(error)))
                continue
            room -= 0 if waveform is None else len(waveform)
            loaded.append(Loaded(clip if waveform is None else _without_content(clip), waveform))
        return loaded

    def worker(self) -> Callable[[Shard], Report]:
        """Load the encoder.

        Raises:
            ValueError: it is not the one that the job was started with.
        """
        encoder = load_encoder(self.encoder, device=self.device, dtype=self.dtype)
        if fingerprint(encoder) != self.settings["encoder"]:
            raise ValueError(f"{self.encoder}: differs from the encoder that this job was started with")
        return self.writer(encoder)

    def writer(self, encoder: AudioEncoder) -> Callable[[Shard], Report]:
        """What writes shards with an encoder that is loaded already."""
        return partial(self._write, encoder)

    def header(self, file: str) -> dict[str, Any]:
        """Read the metadata of a safetensors file, and nothing more of the file."""
        try:
            start = read(file, 0, _HEADER)
            length = int.from_bytes(start[:8], "little")
            if length > _LONGEST_HEADER:
                raise ValueError("no safetensors file")
            start += read(file, len(start), 8 + length) if len(start) < 8 + length else b""
            facts = json.loads(json.loads(start[8 : 8 + length])["__metadata__"][METADATA_KEY])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: is no shard of audio2img embeddings; choose another output") from error
        return self.checked(facts, file)

    def line(self, key: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        """The clip, and where its windows begin."""
        return {"sound": key, "starts": entry["starts"], "durations": entry["durations"]}

    @property
    def _excerpt(self) -> Excerpt:
        return Excerpt(self.settings["start"], self.settings["duration"])

    def _decoded(self, clip: AudioClip, room: int) -> np.ndarray | None:
        blocks = []
        for block in clip.blocks(self._excerpt):
            room -= len(block)
            if room < 0:
                return None
            blocks.append(block)
        return torch.cat(blocks).numpy()

    def _write(self, encoder: AudioEncoder, shard: Shard) -> Report:
        tensors: dict[str, torch.Tensor] = {}
        entries: dict[str, Any] = {}
        problems = list(shard.problems)
        for item, embeddings in self._encoded(encoder, shard.loaded, problems):
            tensors |= tensors_of(item.clip.key, embeddings)
            entry = {"starts": embeddings.starts, "durations": embeddings.durations}
            entries[item.clip.key] = {"stat": _stat(item.clip), **entry} if self.watched else entry
        if entries or shard.origin:
            facts = self.facts(shard, entries, problems)
            write(self.file(shard), save(tensors, {METADATA_KEY: json.dumps(facts, ensure_ascii=False)}))
        return Report(len(entries), tuple(problems))

    def _encoded(self, encoder: AudioEncoder, loaded: Sequence[Loaded], problems: list[Problem]) -> Iterator[Any]:
        """Yield each valid clip and its embeddings; the windows of many clips go in one batch."""
        ready = [item for item in loaded if item.waveform is not None]
        if ready:
            embeddings = encoder.encode(
                [torch.from_numpy(item.waveform) for item in ready],
                SAMPLE_RATE,
                batch_size=self.batch_size,
                names=[item.clip.key for item in ready],
            )
            embeddings = embeddings.averaged() if self.settings["average"] else embeddings
            firsts = [embeddings.clips.index(number) for number in range(len(ready))] + [len(embeddings.clips)]
            for number, item in enumerate(ready):
                yield item, embeddings.rows(firsts[number], firsts[number + 1])
        for item in loaded:
            if item.problem:
                problems.append((item.clip.key, item.problem))
            elif item.waveform is None:
                blocks = item.clip.blocks(self._excerpt)
                try:
                    embeddings = encoder.encode_stream(blocks, batch_size=self.batch_size, name=item.clip.key)
                except (ValueError, OSError, ImportError) as error:
                    problems.append((item.clip.key, message(error)))
                    continue
                yield item, embeddings.averaged() if self.settings["average"] else embeddings


def load_encoder(name: str, *, device: str | None = None, dtype: str | None = None) -> AudioEncoder:
    """An encoder on a device (None = the GPU where there is one), in a dtype (None = the device's best).

    Raises:
        ValueError, FileNotFoundError: as `AudioEncoder.from_pretrained`, or an impossible device.
    """
    from ..encoder.model import AudioEncoder

    on = resolve_device(device)
    encoder = AudioEncoder.from_pretrained(name, dtype=encoder_dtype(on, name, dtype))
    return encoder.to(on)  # pyright: ignore[reportArgumentType] - transformers' stub loses self


def export(folder: Folder, output: str) -> None:
    """Join the shards of a local folder, and the output where it is there already, in one file; remove the folder."""
    tensors: dict[str, torch.Tensor] = {}
    entries: dict[str, Any] = {}
    shards = sorted(folder.headers.keys() - {output}, key=os.path.getmtime)  # a file may have changed once more
    for file in [output] * (output in folder.headers) + shards:
        tensors |= load_file(file)
        entries |= folder.headers[file]["sounds"]
    facts = {"settings": dict(folder.job.settings), "sounds": entries}
    with whole_file(output) as partial:
        save_file(tensors, partial, metadata={METADATA_KEY: json.dumps(facts, ensure_ascii=False)})
    shutil.rmtree(folder.job.output)


def settings_of(encoder: AudioEncoder, *, start: float, duration: float | None, average: bool) -> dict[str, Any]:
    """What decides the numbers of an embedding, beside the audio."""
    return {
        "encoder": fingerprint(encoder),
        "target": encoder.config.target,
        "start": start,
        "duration": duration,
        "average": average,
    }


def tensors_of(name: str, embeddings: AudioEmbeddings) -> dict[str, torch.Tensor]:
    """The tensors of a clip, by their names in a file."""
    tensors = {f"{name}/tokens": embeddings.tokens, f"{name}/pooled": embeddings.pooled}
    return {key: tensor.cpu().contiguous() for key, tensor in tensors.items() if tensor is not None}


def fingerprint(encoder: AudioEncoder) -> str:
    """16 hexadecimal digits that tell encoders apart by their weights and by how they cut and join."""
    config = encoder.config
    facts = [config.target, config.prepend_bos, asdict(config.head), asdict(config.window)]
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8)
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _without_content(clip: AudioClip) -> AudioClip:
    """What need not be sent along once it is decoded."""
    return AudioClip(clip.key, b"") if isinstance(clip.audio, bytes) else clip


def _stat(clip: AudioClip) -> list[int] | None:
    if isinstance(clip.audio, bytes) or is_url(clip.audio):
        return None
    with contextlib.suppress(OSError):
        status = os.stat(clip.audio)
        return [status.st_size, status.st_mtime_ns]
    return None
