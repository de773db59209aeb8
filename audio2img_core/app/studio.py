"""What the page does with a sound, without the page: hear it, draw it, film it, within limits."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from .. import __version__
from ..audio.excerpt import Excerpt
from ..audio.io import SAMPLE_RATE, load_audio
from ..audio.waveform import read_clips
from ..conditioning.schedule import count_frames, schedule
from ..conditioning.zero_shot import Heard
from ..generation.pipeline import AudioToImagePipeline
from ..generation.png import write_picture
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


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn, as `AudioToImagePipeline` takes it; None = the model's own."""

    prompt: str | None = None
    prompt_weight: float = 0.5
    negative: str | None = None
    steps: int | None = None
    guidance: float | None = None


class Studio:
    """One pair of models, at which callers from several threads take turns, in the order in which they come.

    Args:
        pipeline: hears and draws.
        encoder, diffusion: the names of its models, for the settings that a picture carries.
        limits: what a visitor may ask for.
    """

    def __init__(
        self,
        pipeline: AudioToImagePipeline,
        *,
        encoder: str = "mini",
        diffusion: str = "mini",
        limits: Limits | None = None,
    ):
        self.pipeline = pipeline
        self.limits = limits or Limits()
        self._models = {"encoder": _shown(encoder), "diffusion": _shown(diffusion)}
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
            sound: a file's path.
            start, duration: seconds; None = to the end.
            captions: to choose from; none = the model's own, where it has some.

        Raises:
            ValueError: no sound, one that cannot be read, or one beyond the limits.
        """
        (waveform,) = read_clips(self._load(sound, start, duration))
        captions = captions or self.pipeline.captions
        heard: list[Heard] = []
        if captions:
            with self._turns:
                (heard,) = self.pipeline.hear((waveform, SAMPLE_RATE), captions, top=len(captions))
        return draw_spectrogram(waveform, width=680, height=320), heard

    def draw(
        self,
        sound: str | None,
        drawing: Drawing,
        *,
        start: float = 0.0,
        duration: float | None = None,
        sound_strength: float = 1.0,
        seed: int | None = None,
        count: int = 1,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[tuple[Path, dict[str, Any]]]:
        """Pictures of a sound as PNG files, which carry their settings, and these settings.

        Args:
            sound: a file's path.
            drawing: prompt and sampler.
            start, duration: seconds; None = to the end.
            sound_strength, seed, count: as the pipeline takes them.
            on_step: called as on_step(sampler steps done, steps in all).

        Raises:
            ValueError: no sound, one that cannot be read, a value that cannot be, or one beyond the limits.
        """
        if count > self.limits.pictures:
            raise ValueError(f"count must be between 1 and {self.limits.pictures}, not {count}")
        self._check_steps(drawing)
        clips = read_clips(self._load(sound, start, duration))
        with self._turns:
            drawn = self.pipeline(
                (clips, SAMPLE_RATE),
                prompt=drawing.prompt,
                prompt_weight=drawing.prompt_weight,
                negative=drawing.negative,
                sound_strength=sound_strength,
                steps=drawing.steps,
                guidance=drawing.guidance,
                seed=seed,
                count=count,
                on_step=on_step,
            )
        stem, folder = Path(sound).stem, self._new_folder()
        more = {"start": start, "duration": duration, "sound_strength": sound_strength}
        pictures = []
        for image, seed in zip(drawn.images, drawn.seeds, strict=True):
            pictures.append((folder / f"{stem}-{seed}.png", self._settings(sound, seed, drawing, more)))
            write_picture(image, *pictures[-1])
        return pictures

    def film(
        self,
        sound: str | None,
        drawing: Drawing,
        *,
        start: float = 0.0,
        duration: float | None = None,
        seed: int | None = None,
        fps: float = 8.0,
        smoothing: float = 0.25,
        on_hear: Callable[[int, int], None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> tuple[Path, dict[str, Any]]:
        """An MP4 of pictures that change with the sound, and the sound beside them; and its settings.

        Pictures of other visitors are drawn between its own.

        Args:
            sound: a file's path.
            drawing: prompt and sampler.
            start, duration: seconds; None = to the end.
            seed: of every picture; None = by chance.
            fps, smoothing: as `schedule.schedule` takes them.
            on_hear: called as on_hear(windows heard, windows in all). on_step: the same with pictures drawn.

        Raises:
            ValueError: no sound, one that cannot be read, a value that cannot be, or one beyond the limits.
        """
        self._check_steps(drawing)
        waveform, rate = self._load(sound, start, duration)
        seconds = waveform.shape[1] / rate
        frames = count_frames(seconds, fps)
        if frames > self.limits.frames:
            raise ValueError(
                f"{seconds:.1f} s at {fps:g} pictures a second are {frames} pictures; "
                f"at most {self.limits.frames} are drawn: choose a shorter part or fewer a second"
            )

        def hearing(done: int, total: int) -> None:
            if on_hear is not None:
                on_hear(done, total)
            self._turns.pass_on()

        with self._turns:
            heard = schedule(self.pipeline.encoder, waveform, rate, fps=fps, smoothing=smoothing, on_step=hearing)
        seed = secrets.randbits(32) if seed is None else seed
        images = draw_frames(
            self.pipeline,
            heard,
            prompt=drawing.prompt,
            prompt_weight=drawing.prompt_weight,
            negative=drawing.negative,
            steps=drawing.steps,
            guidance=drawing.guidance,
            seed=seed,
            on_step=on_step,
        )
        path = self._new_folder() / f"{Path(sound).stem}.mp4"
        write_film(path, self._in_turn(images), fps=fps, waveform=waveform, sample_rate=rate)
        more = {"start": start, "duration": duration, "fps": fps, "smoothing": smoothing}
        return path, self._settings(sound, seed, drawing, more)

    def _load(self, sound: str | None, start: float, duration: float | None) -> tuple[Tensor, int]:
        """The part of a file, [C, T] and its rate; errors name the file as its owner knows it, without its folder."""
        if not sound:
            raise ValueError(NOTHING)
        Excerpt(start, duration)  # refuses what cannot be before the file is looked at
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

    def _check_steps(self, drawing: Drawing) -> None:
        if drawing.steps is not None and drawing.steps > self.limits.steps:
            raise ValueError(f"steps must be between 1 and {self.limits.steps}, not {drawing.steps}")

    def _settings(self, sound: str, seed: int, drawing: Drawing, more: dict[str, Any]) -> dict[str, Any]:
        """What a result was made with, under the names that `audio2img generate` uses."""
        drawing = replace(
            drawing,
            prompt_weight=drawing.prompt_weight if drawing.prompt else None,
            steps=self.pipeline.defaults.steps if drawing.steps is None else drawing.steps,
            guidance=self.pipeline.defaults.guidance if drawing.guidance is None else drawing.guidance,
        )
        who = {"audio2img": __version__, "sound": Path(sound).name, "seed": seed}
        settings = {**who, **vars(drawing), **more, **self._models}
        return {name: value for name, value in settings.items() if value is not None}

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


def _shown(model: str) -> str:
    """A model's name as visitors may see it: without the folders of this machine."""
    return Path(model).name if Path(model).exists() else model
