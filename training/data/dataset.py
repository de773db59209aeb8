"""From clips to batches: decoding, cropping and augmenting in the workers of a DataLoader; bad clips are left out."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from audio2img_core.audio.clips import AudioClip

from . import acoustics
from .augment import gain, mix, repeat_pad
from .clips import Source
from .config import DataConfig
from .reading import try_clip
from .shards import TarSource

_ATTEMPTS = 32  # bad clips in a row before an item goes out empty, so that the share of bad ones is noticed


class ClipDataset(Dataset):
    """Items of a source with an index; the same item for the same (seed, epoch, index), whoever computes it.

    An item is a dict: waveform [T] float32 (mono, 16 kHz), length (valid samples; 0 = no clip could be used),
    caption (one of the clip's, at random in training and the first in evaluation), captions (all that are right
    for this sound), key, and for `SkipLog`: tried (clips looked at), skipped (pairs of key and reason).
    In training a bad clip is replaced by another one; in evaluation its item is empty, and `collate` drops it.
    """

    def __init__(self, source: Source, config: DataConfig, *, seed: int = 0, training: bool = True) -> None:
        if source.streaming:
            raise ValueError(f"{source.name} is streamed; ClipStream reads it")
        self.source, self.config, self.seed, self.training = source, config, seed, training
        self._shares = _shares(source, config.balance) if training and config.balance > 0 else None
        self._epoch = _shared_number()

    def __len__(self) -> int:
        return len(self.source)

    def set_epoch(self, epoch: int) -> None:
        """Other crops and mixtures from the next item on; workers that run already notice it."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict:
        generator = seeded(self.seed, int(self._epoch), int(index)) if self.training else None
        tries = _Tries()
        clip = self.source[index] if generator is None or self._shares is None else self._another(generator)
        sound = tries.sound(clip, self.config, generator)
        while sound is None and generator is not None and tries.count < _ATTEMPTS:
            sound = tries.sound(self._another(generator), self.config, generator)
        partner = None
        if sound is not None and generator is not None and _happens(self.config.mix_probability, generator):
            partner = tries.sound(self._another(generator), self.config, generator)
        return _item(sound, partner, self.config, generator, tries)

    def _another(self, generator: torch.Generator) -> AudioClip:
        if self._shares is None:
            return self.source[int(torch.randint(len(self.source), (), generator=generator))]
        draw = torch.rand((), dtype=torch.float64, generator=generator)
        return self.source[min(int(torch.searchsorted(self._shares, draw, right=True)), len(self.source) - 1)]


class ClipStream(IterableDataset):
    """Items (as in `ClipDataset`) of a streamed source, shared out among all workers of all ranks.

    Each clip goes to exactly one of them; a bad one is passed over. What happens to a clip depends only on
    (seed, epoch, its key); the order of clips, and which are mixed, also on the number of readers.

    Args:
        buffer: clips, undecoded, among which each worker picks the next one in training; 0 = in order.
        endless: begin again with the next epoch instead of ending. Ranks whose clips run out at different times
            would wait for each other forever.
        rank, world_size: None = of torch.distributed, else of the environment (RANK, WORLD_SIZE). Where the
            training loop itself shares batches out (accelerate's dispatch_batches), give 0 and 1.
    """

    def __init__(
        self,
        source: TarSource,
        config: DataConfig,
        *,
        seed: int = 0,
        training: bool = True,
        buffer: int = 100,
        endless: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if not source.streaming:
            raise ValueError(f"{source.name} has an index; ClipDataset reads it")
        self.source, self.config, self.seed, self.training = source, config, seed, training
        self.buffer, self.endless = buffer, endless
        self.rank, self.world_size = _process(rank, world_size)
        self._epoch = _shared_number()

    def set_epoch(self, epoch: int) -> None:
        """Another order and other crops from the next iteration on."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[dict]:
        epoch = int(self._epoch)
        yield from self._pass(epoch)
        while self.endless:
            epoch += 1
            yield from self._pass(epoch)

    def _pass(self, epoch: int) -> Iterator[dict]:
        tries, previous, pending = _Tries(), None, None
        for clip in self._clips(epoch):
            generator = seeded(self.seed, epoch, clip.key) if self.training else None
            sound = tries.sound(clip, self.config, generator)
            if sound is None and tries.count < _ATTEMPTS:
                continue
            mixes = sound is not None and generator is not None and _happens(self.config.mix_probability, generator)
            # The last item waits for its successor, so that bad clips at the end need no item of their own.
            if pending is not None:
                yield pending
            pending = _item(sound, previous if mixes else None, self.config, generator, tries)
            tries, previous = _Tries(), sound or previous
        if pending is not None:
            pending["tried"] += tries.count
            pending["skipped"] += tries.skipped
            yield pending
        elif tries.count:
            yield _item(None, None, self.config, None, tries)

    def _clips(self, epoch: int) -> Iterator[AudioClip]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        reader, readers = self.rank * workers + number, self.world_size * workers
        order = seeded(self.seed, epoch, "shards") if self.training else None
        clips = self.source.read(reader=reader, readers=readers, generator=order)
        if not self.training or self.buffer < 1:
            yield from clips
            return
        generator, waiting = seeded(self.seed, epoch, f"reader {reader}"), []
        for clip in clips:
            waiting.append(clip)
            if len(waiting) > self.buffer:
                yield waiting.pop(int(torch.randint(len(waiting), (), generator=generator)))
        for index in torch.randperm(len(waiting), generator=generator).tolist():
            yield waiting[index]


def clip_items(source: Source, config: DataConfig, **options: Any) -> ClipDataset | ClipStream:
    """The dataset that fits the source."""
    if isinstance(source, TarSource):
        return ClipStream(source, config, **options)
    return ClipDataset(source, config, **options)


def collate(items: Sequence[dict]) -> dict:
    """A batch of items: those without a clip are left out, so that B may be smaller than their number, even 0.

    Returns:
        waveform [B, T] float32, lengths [B] int64 (valid samples), caption (list of B texts), captions (list of B
        tuples), keys (list of B texts); tried and skipped, which `SkipLog.update` takes out.
    """
    good = [item for item in items if item["length"]]
    size = max((len(item["waveform"]) for item in good), default=0)
    waveform = torch.zeros(len(good), size)
    for row, item in zip(waveform, good, strict=True):
        row[: len(item["waveform"])] = item["waveform"]
    return {
        "waveform": waveform,
        "lengths": torch.tensor([item["length"] for item in good], dtype=torch.int64),
        "caption": [item["caption"] for item in good],
        "captions": [item["captions"] for item in good],
        "keys": [item["key"] for item in good],
        "tried": sum(item["tried"] for item in items),
        "skipped": [pair for item in items for pair in item["skipped"]],
    }


def seeded(*parts: object) -> torch.Generator:
    """A generator whose numbers depend on these parts, seed, epoch and index, say, and on nothing else."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


@dataclass
class _Sound:
    """A clip that could be read."""

    waveform: Tensor
    caption: str
    captions: tuple[str, ...]
    key: str


@dataclass
class _Tries:
    """What was tried for one item."""

    count: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def sound(self, clip: AudioClip, config: DataConfig, generator: torch.Generator | None) -> _Sound | None:
        self.count += 1
        waveform, reason = try_clip(clip, config, generator)
        if waveform is None:
            self.skipped.append((clip.key, reason))
            return None
        caption = clip.captions[0]
        if generator is not None:
            caption = clip.captions[int(torch.randint(len(clip.captions), (), generator=generator))]
        return _Sound(waveform, caption, clip.captions, clip.key)


def _item(
    sound: _Sound | None, partner: _Sound | None, config: DataConfig, generator: torch.Generator | None, tries: _Tries
) -> dict:
    item = {"waveform": torch.zeros(0), "length": 0, "caption": "", "captions": (), "key": ""}
    if sound is not None:
        waveform, caption, captions, key = sound.waveform, sound.caption, sound.captions, sound.key
        fills = config.repeat_pad and config.window_seconds is not None
        waveform = repeat_pad(waveform, config.samples) if fills else waveform
        if partner is not None and partner.caption not in captions:
            other = repeat_pad(partner.waveform, config.samples) if fills else partner.waveform
            level = config.mix_db * (2 * float(torch.rand((), generator=generator)) - 1)
            waveform = mix(waveform, other, level)
            caption, key = f"{caption} and {partner.caption}", f"{key} + {partner.key}"
            captions = (caption,)
        if generator is not None:
            waveform = _through_the_world(waveform, config, generator)
        if generator is not None and config.gain_db > 0:
            waveform = gain(waveform, generator, max_db=config.gain_db)
        length = len(waveform)
        if config.window_seconds is not None:
            waveform = torch.nn.functional.pad(waveform, (0, config.samples - length))
        item = {"waveform": waveform, "length": length, "caption": caption, "captions": captions, "key": key}
    return {**item, "tried": tries.count, "skipped": tries.skipped}


def _through_the_world(waveform: Tensor, config: DataConfig, generator: torch.Generator) -> Tensor:
    """The sound as another room, microphone and file would give it, at most `config.samples` long."""
    if config.speed > 0:
        factor = 1 + config.speed * (2 * float(torch.rand((), generator=generator)) - 1)
        waveform = acoustics.change_speed(waveform, factor)[: config.samples]
    if config.eq_db > 0:
        waveform = acoustics.equalize(waveform, generator, max_db=config.eq_db)
    if _happens(config.room_probability, generator):
        waveform = acoustics.reverberate(waveform, generator)
    if _happens(config.noise_probability, generator):
        waveform = acoustics.add_noise(waveform, generator, min_snr_db=config.noise_snr_db)
    if _happens(config.codec_probability, generator):
        waveform = acoustics.compress(waveform, generator)
    return waveform


def _happens(probability: float, generator: torch.Generator) -> bool:
    return probability > 0 and float(torch.rand((), generator=generator)) < probability


def _shares(source: Source, balance: float) -> Tensor:
    """[n] float64: the sums of the clips' probabilities, each its caption's number of clips to the power -balance."""
    captions = [clip[0] if clip else "" for clip in source.captions()]
    counts = Counter(captions)
    weights = torch.tensor([counts[caption] ** -balance for caption in captions], dtype=torch.float64)
    return weights.cumsum(0) / weights.sum()


def _shared_number() -> Tensor:
    """An int64 that workers which are running already see change."""
    return torch.zeros((), dtype=torch.int64).share_memory_()


def _process(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if rank is None and world_size is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        else:
            rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if rank is None or world_size is None or not 0 <= rank < world_size:
        raise ValueError(f"rank and world_size must both be given, 0 <= rank < world_size, not {rank} and {world_size}")
    return rank, world_size
