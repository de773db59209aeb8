"""What the web UI does with a sound, without the UI: classify it, generate images and videos, within limits."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..audio.io import SAMPLE_RATE, load_audio
from ..audio.waveform import read_clips
from ..checks import check_setting
from ..conditioning.schedule import ScheduleSettings, schedule
from ..conditioning.zero_shot import Heard, check_captions
from ..generation.pipeline import AudioToImagePipeline
from ..generation.png import picture_metadata, write_picture
from ..generation.settings import GenerationSettings
from ..generation.video import draw_frames, write_film
from ..plots import draw_spectrogram
from .turns import Turns

NOTHING = "nothing to hear: drop a sound, record one or choose an example"
_KEPT = 3600.0  # seconds; the page takes a copy of a result as soon as it is made


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for at once."""

    seconds: float = 60.0  # of sound that is heard
    megabytes: float = 50.0  # of a file
    pictures: int = 8
    steps: int = 100
    frames: int = 600  # of a film
    captions: int = 100  # to choose from
    letters: int = 200  # of a caption


class Studio:
    """One pair of models, at which callers from several threads take turns, in the order in which they come.

    Args:
        pipeline: Pipeline that encodes and generates.
        limits: What a visitor may ask for.
    """

    def __init__(self, pipeline: AudioToImagePipeline, *, limits: Limits | None = None):
        self.pipeline = pipeline
        self.limits = limits or Limits()
        self._turns = Turns()
        self._folder = tempfile.TemporaryDirectory(prefix="audio2img-app-")

    def close(self) -> None:
        """Begin nothing more, wait for what is being drawn, remove the files."""
        self._turns.close()
        self._folder.cleanup()

    def hear(
        self, sound: str | None, *, start: float = 0.0, duration: float | None = None, captions: Sequence[str] = ()
    ) -> tuple[Image.Image, list[Heard]]:
        """A sound's spectrogram, and the captions that fit it, best first.

        Args:
            sound: A file's path.
            start: Seconds to skip.
            duration: Seconds to read; None = to the end.
            captions: Captions to choose from; none = the model's own, where it has some.

        Raises:
            ValueError: No sound, one that cannot be read, or something beyond the limits.
        """
        if captions:
            check_captions(captions, most=self.limits.captions, longest=self.limits.letters)
        (waveform,) = read_clips(self._load(sound, GenerationSettings(start=start, duration=duration)))
        captions = captions or self.pipeline.captions
        heard: list[Heard] = []
        if captions:
            with self._turns:
                (heard,) = self.pipeline.hear((waveform, SAMPLE_RATE), captions, top=len(captions))
        return draw_spectrogram(waveform, width=680, height=320), heard

    def draw(
        self, sound: str | None, settings: GenerationSettings, *, on_step: Callable[[int, int], None] | None = None
    ) -> list[tuple[Path, dict[str, Any]]]:
        """Images of a sound as PNG files, which carry their metadata, and this metadata.

        Args:
            sound: A file's path.
            settings: How to generate.
            on_step: Called as on_step(sampler steps done, steps in all).

        Raises:
            ValueError: No sound, one that cannot be read, or something beyond the limits.
        """
        check_setting("count", settings.count, least=1, most=self.limits.pictures)
        path = self._check(sound, settings)
        clips = read_clips(self._load(path, settings))
        with self._turns:
            made = self.pipeline((clips, SAMPLE_RATE), settings, on_step=on_step)
        stem, folder = Path(path).stem, self._new_folder()
        pictures = []
        for image, seed in zip(made.images, made.seeds, strict=True):
            told = picture_metadata(made.settings, sound=path, seed=seed, names=self.pipeline.names)
            pictures.append((folder / f"{stem}-{seed}.png", told))
            write_picture(image, *pictures[-1])
        return pictures

    def film(
        self,
        sound: str | None,
        settings: GenerationSettings,
        course: ScheduleSettings,
        *,
        on_hear: Callable[[int, int], None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> tuple[Path, dict[str, Any]]:
        """An MP4 of images that change with the sound, and the sound beside them; and its metadata.

        Images of other visitors are generated between its own.

        Args:
            sound: A file's path.
            settings: How to generate; the seed is that of every image.
            course: Frames a second and smoothing.
            on_hear: Called as on_hear(windows encoded, windows in all).
            on_step: Called as on_step(images done, images in all).

        Raises:
            ValueError: No sound, one that cannot be read, or something beyond the limits.
        """
        path = self._check(sound, settings)
        settings = self.pipeline.complete(settings)
        waveform, rate = self._load(path, settings)
        seconds = waveform.shape[1] / rate
        frames = course.count_frames(seconds)
        if frames > self.limits.frames:
            raise ValueError(
                f"{seconds:.1f} s at {course.fps:g} images a second are {frames} images; "
                f"at most {self.limits.frames} are allowed: choose a shorter part or fewer a second"
            )

        def hearing(done: int, total: int) -> None:
            if on_hear is not None:
                on_hear(done, total)
            self._turns.pass_on()

        with self._turns:
            heard = schedule(self.pipeline.encoder, waveform, rate, course, on_step=hearing)
        images = draw_frames(self.pipeline, heard, settings, on_step=on_step)
        output = self._new_folder() / f"{Path(path).stem}.mp4"
        write_film(output, self._in_turn(images), fps=course.fps, waveform=waveform, sample_rate=rate)
        assert settings.seed is not None
        told = picture_metadata(settings, sound=path, seed=settings.seed, names=self.pipeline.names)
        return output, {**told, "fps": course.fps, "smoothing": course.smoothing}

    def _check(self, sound: str | None, settings: GenerationSettings) -> str:
        if settings.steps is not None:
            check_setting("steps", settings.steps, least=1, most=self.limits.steps)
        if not sound:
            raise ValueError(NOTHING)
        return sound

    def _load(self, sound: str | None, part: GenerationSettings) -> tuple[Tensor, int]:
        """The part of a file, [C, T] and its rate; errors name the file as its owner knows it, without its folder."""
        if not sound:
            raise ValueError(NOTHING)
        start, duration = part.start, part.duration
        limits, name = self.limits, Path(sound).name
        if os.path.getsize(sound) > limits.megabytes * 1e6:
            raise ValueError(f"{name} has {os.path.getsize(sound) / 1e6:.0f} MB; allowed: {limits.megabytes:g} MB")
        # A little more than is allowed: enough to see that there is more.
        most = limits.seconds + 0.5 if duration is None else min(limits.seconds + 0.5, duration)
        try:
            waveform, rate = load_audio(sound, start=start, duration=most, sample_rate=None)
        except (ValueError, OSError) as error:
            raise ValueError(str(error).replace(sound, name)) from error
        if waveform.shape[1] > (limits.seconds + 0.1) * rate:
            raise ValueError(f"{name} is longer than {limits.seconds:g} s: choose a part of at most that length")
        return waveform, rate

    def _in_turn(self, images: Iterator[Image.Image]) -> Iterator[Image.Image]:
        """The same pictures, each drawn when it is its turn among what others ask for."""
        while True:
            with self._turns:
                image = next(images, None)
            if image is None:
                return
            yield image

    def _new_folder(self) -> Path:
        """An empty folder for a result; folders that are old are removed."""
        for folder in Path(self._folder.name).iterdir():
            with contextlib.suppress(FileNotFoundError):  # another visitor's request was faster
                if folder.stat().st_mtime < time.time() - _KEPT:
                    shutil.rmtree(folder, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=self._folder.name))
