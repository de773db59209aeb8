"""One row of tokens a frame, and curves of a sound's course."""

import pytest
import torch

from audio2img_core.conditioning.prompt import condition
from audio2img_core.conditioning.schedule import ScheduleSettings, keyframes, loudness, onsets, schedule
from audio2img_core.random_init import make_pair
from tests.helpers.audio import noise, sine

RATE = 16_000


@pytest.fixture(scope="module")
def encoder():
    return make_pair("sd15")[0]


@pytest.fixture
def sound():
    """A low tone, then noise: 4 s."""
    return torch.cat([sine(2.0, freq=200.0), noise(2.0)])


def test_each_frame_hears_the_window_around_it(encoder, sound):
    film = schedule(encoder, sound, RATE, ScheduleSettings(fps=4, window=1.0))
    assert film.tokens.shape[0] == 16 and set(film.clips) == {0} and film.starts[4] == 1.0
    middle = round((7 + 0.5) / 4 * RATE)
    alone = encoder.encode(sound[middle - RATE // 2 : middle + RATE // 2], RATE, window=1.0).averaged()
    torch.testing.assert_close(film.tokens[7:8], alone.tokens)
    # At both ends the window is moved into the sound.
    for frame, part in ((0, sound[:RATE]), (15, sound[-RATE:])):
        at_end = encoder.encode(part, RATE, window=1.0).averaged()
        torch.testing.assert_close(film.tokens[frame : frame + 1], at_end.tokens)


def test_keyframes_are_heard_and_straight_lines_lie_between(encoder, sound):
    whole = schedule(encoder, sound, RATE, ScheduleSettings(fps=4, window=1.0))
    steps = []
    film = schedule(
        encoder, sound, RATE, ScheduleSettings(fps=4, window=1.0, every=4), on_step=lambda *s: steps.append(s)
    )
    for key in (0, 4, 8, 12, 15):
        torch.testing.assert_close(film.tokens[key], whole.tokens[key])
    torch.testing.assert_close(film.tokens[6], torch.lerp(whole.tokens[4], whole.tokens[8], 0.5))
    torch.testing.assert_close(film.tokens[14], torch.lerp(whole.tokens[12], whole.tokens[15], 2 / 3))
    assert steps[-1] == (5, 5)


def test_smoothing_evens_out_and_keeps_what_is_constant(encoder, sound):
    plain = schedule(encoder, sound, RATE, ScheduleSettings(fps=4, window=0.5))
    smooth = schedule(encoder, sound, RATE, ScheduleSettings(fps=4, window=0.5, smoothing=0.5))
    assert smooth.tokens.diff(dim=0).abs().mean() < 0.5 * plain.tokens.diff(dim=0).abs().mean()
    torch.testing.assert_close(smooth.tokens.mean((0, 1)), plain.tokens.mean((0, 1)), atol=0.05, rtol=0)
    one = schedule(
        encoder, sound, RATE, ScheduleSettings(fps=4, frames=3, window=4.0, smoothing=2.0)
    )  # one window for all
    torch.testing.assert_close(one.tokens[0], one.tokens[2])


def test_a_film_can_be_longer_and_shorter_than_its_sound(encoder, sound):
    long = schedule(encoder, sound, RATE, ScheduleSettings(fps=2, frames=12, window=1.0))
    assert len(long.tokens) == 12
    torch.testing.assert_close(long.tokens[11], long.tokens[8])  # the last window stays
    assert len(schedule(encoder, sound, RATE, ScheduleSettings(fps=2, frames=2, window=1.0)).tokens) == 2


def test_the_frames_become_a_batch_of_prompts(encoder, sound):
    film = schedule(encoder, torch.stack([sound, sound]), 32_000, ScheduleSettings(fps=3, window=1.0))  # stereo, 2 s
    positive, negative = condition(film, windows="keep")
    assert positive.tokens.shape == negative.tokens.shape == (6, 77, 768)


def test_xl_has_a_pooled_embedding_for_each_frame(sound):
    film = schedule(make_pair("sdxl")[0], sound, RATE, ScheduleSettings(fps=2, window=1.0, every=3, smoothing=0.3))
    assert film.pooled.shape == (8, 1280) and film.pooled.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "fps must be above 0"),
        ({"fps": 8, "frames": 0}, "frames must be between 1 and 10000"),
        ({"fps": 8, "every": 0}, "every must be at least 1"),
        ({"fps": 8, "smoothing": -1.0}, "smoothing must be at least 0"),
        ({"fps": 8, "window": -1.0}, "window must be above 0"),
    ],
)
def test_schedules_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        ScheduleSettings(**options)


def test_frames_of_a_clip_are_counted():
    assert ScheduleSettings(fps=12.5).count_frames(2.0) == 25 and ScheduleSettings(fps=8).count_frames(0.01) == 1
    assert ScheduleSettings(fps=8, frames=3).count_frames(60.0) == 3
    with pytest.raises(ValueError, match="are 20000 frames; at most 10000"):
        ScheduleSettings(fps=1000).count_frames(20.0)


def test_a_batch_is_refused(encoder, sound):
    with pytest.raises(ValueError, match="one clip, not of a batch of 2"):
        schedule(encoder, torch.stack([sound, sound])[:, None], RATE, ScheduleSettings(fps=4))


def test_loudness_follows_the_level():
    sound = torch.cat([0.25 * sine(1.0), sine(1.0), torch.zeros(RATE)])
    curve = loudness(sound, fps=10, frames=40)
    assert curve.shape == (40,) and curve.max() == 1.0
    torch.testing.assert_close(curve[2:8], torch.full((6,), 0.25), atol=0.01, rtol=0)
    assert curve[21:].max() == 0.0
    assert loudness(torch.zeros(RATE), fps=10, frames=10).max() == 0.0


def test_onsets_are_where_sounds_begin():
    sound = torch.zeros(3 * RATE)
    for second in (0.5, 1.5, 2.2):
        at = round(second * RATE)
        sound[at : at + 4000] = sine(0.25, freq=600.0) * torch.linspace(1, 0, 4000)
    curve = onsets(sound, fps=20, frames=60)
    highest = sorted(curve.topk(3).indices.tolist())
    assert all(abs(frame - round(second * 20)) <= 1 for frame, second in zip(highest, (0.5, 1.5, 2.2), strict=True))
    assert curve.max() == 1.0 and curve[20:29].max() < 0.2
    assert onsets(torch.zeros(100), fps=20, frames=5).tolist() == [0.0] * 5


def test_a_curve_as_text():
    assert keyframes(torch.tensor([0.0, 0.5, 1.0])) == "0:(0.000), 1:(0.500), 2:(1.000)"
