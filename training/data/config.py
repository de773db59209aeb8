"""The settings of what a clip becomes before it is encoded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from audio2img_core.audio.io import SAMPLE_RATE
from audio2img_core.audio.mel import FRAME_HOP, FRAME_LENGTH, MIN_SAMPLES, NUM_MELS
from audio2img_core.encoder.windows import WindowConfig


@dataclass(frozen=True)
class DataConfig:
    """What a clip becomes.

    Each augmentation is off at 0 or false. In evaluation all are off except `repeat_pad`.

    Attributes:
        window_seconds: Length of a training item in seconds. It follows from the encoder's window; null = whole clips,
            where the encoder normalises over them.
        max_seconds: Longest part of a clip that is decoded, in seconds; longer clips, and those of unknown length, are
            cut.
        min_seconds: Shortest usable clip in seconds; shorter clips are skipped.
        silence_db: Lowest usable peak in dB of full scale; quieter clips are skipped.
        balance: Balance of the captions: 0 = every clip is shown equally often, 1 = every (first) caption is.
        random_crop: Crops start anywhere in the clip; otherwise, and in evaluation, at its beginning.
        repeat_pad: Short clips are repeated as waveforms; window.padding "repeat" repeats their features, as inference
            does.
        gain_db: Largest random gain in dB, up or down.
        speed: Largest random change of speed and pitch, as a share.
        eq_db: Largest gain of a random equaliser in dB, up or down.
        room_probability: Share of items that get the echo of a random room.
        noise_probability: Share of items that get noise of a random colour.
        noise_snr_db: Lowest signal-to-noise ratio of that noise, in dB.
        codec_probability: Share of items that are passed through MP3 at a low bit rate.
        mix_probability: Share of items that are mixed with another clip; the captions are joined by "and".
        mix_db: Largest random gain of the other clip in dB, up or down.
        time_masks: Number of time masks for each item, applied to the features on the training device.
        time_width: Widest time mask, in features of 20 ms.
        freq_masks: Number of frequency masks for each item.
        freq_width: Widest frequency mask, in mel bins of 80.
        max_bad_share: Largest share of unusable clips before training stops.
    """

    window_seconds: float | None = 10.0
    max_seconds: float = 60.0
    min_seconds: float = 0.1
    silence_db: float = -80.0
    balance: float = 0.0
    random_crop: bool = True
    repeat_pad: bool = False
    gain_db: float = 6.0
    speed: float = 0.0
    eq_db: float = 0.0
    room_probability: float = 0.0
    noise_probability: float = 0.0
    noise_snr_db: float = 5.0
    codec_probability: float = 0.0
    mix_probability: float = 0.0
    mix_db: float = 5.0
    time_masks: int = 2
    time_width: int = 25
    freq_masks: int = 2
    freq_width: int = 16
    max_bad_share: float = 0.05

    def __post_init__(self) -> None:
        for name, low, high in (
            ("window_seconds", 0.035, 3600.0),
            ("max_seconds", 0.1, 3600.0),
            ("min_seconds", MIN_SAMPLES / SAMPLE_RATE, 3600.0),
            ("silence_db", -math.inf, 0.0),
            ("balance", 0, 1),
            ("gain_db", 0, 60),
            ("speed", 0, 0.5),
            ("eq_db", 0, 60),
            ("room_probability", 0, 1),
            ("noise_probability", 0, 1),
            ("noise_snr_db", -20, 40),
            ("codec_probability", 0, 1),
            ("mix_probability", 0, 1),
            ("mix_db", 0, 60),
            ("time_masks", 0, 1000),
            ("time_width", 0, 1000),
            ("freq_masks", 0, 1000),
            ("freq_width", 0, NUM_MELS),
            ("max_bad_share", 0, 1),
        ):
            value = getattr(self, name)
            if name == "window_seconds" and value is None:
                continue
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"data {name} must be a number within {low:g}..{high:g}, not {value!r}")
        if self.min_seconds > min(self.max_seconds, self.window_seconds or math.inf):
            raise ValueError(f"data min_seconds must not exceed the window and max_seconds, not {self.min_seconds!r}")

    @property
    def samples(self) -> int:
        """Samples of an item (the most, where clips stay whole): enough for all mel frames of the encoder's window.

        3.75 s are 376 frames (whole stacked ones) of 25 ms every 10 ms: 60,400 samples.
        """
        if self.window_seconds is None:
            return round(self.max_seconds * SAMPLE_RATE)
        return FRAME_LENGTH + (WindowConfig(seconds=self.window_seconds).size_frames - 1) * FRAME_HOP
