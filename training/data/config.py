"""The settings of what a clip becomes before it is encoded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from audio2img_core.audio.io import SAMPLE_RATE
from audio2img_core.audio.mel import FRAME_HOP, FRAME_LENGTH, MIN_SAMPLES, NUM_MELS
from audio2img_core.encoder.windows import WindowConfig


@dataclass(frozen=True)
class DataConfig:
    """What a clip becomes. Each augmentation is off at 0 or False, and in evaluation all but `repeat_pad` are."""

    window_seconds: float | None = 10.0  # follows from the encoder's window; None = whole clips, if normalised over
    max_seconds: float = 60.0  # what is decoded at once: whole clips, and those of unknown length, are cut there
    min_seconds: float = 0.1  # shorter clips are bad
    silence_db: float = -80.0  # dB of full scale; a clip whose peak lies below is bad
    balance: float = 0.0  # 0: every clip is shown alike, 1: every (first) caption is, however many clips it has
    random_crop: bool = True  # from anywhere in the clip; otherwise, and in evaluation, its beginning
    repeat_pad: bool = False  # repeat a short sound itself; window.padding "repeat" repeats its features, as inference
    gain_db: float = 6.0  # louder or softer by at most this
    speed: float = 0.0  # faster and higher, or slower and lower, by at most this share
    eq_db: float = 0.0  # a random equaliser of at most this, up and down
    room_probability: float = 0.0  # share of items that get the echo of a random room
    noise_probability: float = 0.0  # share of items that get noise of a random colour
    noise_snr_db: float = 5.0  # the least signal-to-noise ratio then
    codec_probability: float = 0.0  # share of items that go through MP3 of a low bit rate
    mix_probability: float = 0.0  # share of items that another clip is mixed into; captions are joined by "and"
    mix_db: float = 5.0  # the other clip is louder or softer by at most this
    time_masks: int = 2  # per item; these four are for `augment.mask_features`, on the training device
    time_width: int = 25  # the widest, in features of 20 ms
    freq_masks: int = 2  # per item
    freq_width: int = 16  # the widest, in mel bins of 80
    max_bad_share: float = 0.05  # training stops when more of the clips are bad

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
