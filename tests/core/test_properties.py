"""What holds for every input, tried on many: windows, blends, conversions, configs, decoding."""

import json
import math
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from audio2img_core.audio.io import load_audio
from audio2img_core.audio.mel import MIN_FRAMES
from audio2img_core.audio.resample import resample
from audio2img_core.audio.waveform import read_clips
from audio2img_core.checks import MAX_RATE, MIN_RATE
from audio2img_core.conditioning.blend import blend
from audio2img_core.conditioning.comfy import from_comfy, to_comfy
from audio2img_core.conditioning.modes import BLEND_MODES
from audio2img_core.conditioning.prompt import Conditioning, condition, match_lengths, to_diffusers
from audio2img_core.conditioning.schedule import _smooth, keyframes
from audio2img_core.encoder.config import AudioEncoderConfig
from audio2img_core.encoder.embeddings import AudioEmbeddings, TokenSpace
from audio2img_core.encoder.heads import HEADS
from audio2img_core.encoder.kardsim import kardsim_name, kardsim_weights
from audio2img_core.encoder.windows import NORMALIZE, PADDING, WindowConfig, plan_windows
from audio2img_core.targets import TARGETS
from tests.helpers.audio import write_audio

# The same examples in every run, and no time limit for each: a busy machine must not fail.
many = settings(max_examples=80, deadline=None, derandomize=True, database=None)
few = settings(many, max_examples=25)

shares = st.floats(0, 1)
seeds = st.integers(0, 2**31)


def tokens(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Windows.


@many
@given(frames=st.integers(MIN_FRAMES, 50_000), size=st.integers(MIN_FRAMES, 4000), clip=st.integers(0, 9))
def test_windows_side_by_side_cover_the_clip_exactly_once(frames, size, clip):
    windows = plan_windows(frames, size, size, clip=clip)
    position = 0
    for window in windows:
        assert window.clip == clip and window.start == position and MIN_FRAMES <= window.length <= size
        position += window.length
    # Only a tail of less than a twentieth of a window, or of a single frame, is left out, and only behind another.
    assert position == frames or (frames - position < max(MIN_FRAMES, size // 20) and len(windows) > 0)
    assert all(window.length == size for window in windows[:-1])


@many
@given(frames=st.integers(MIN_FRAMES, 20_000), size=st.integers(MIN_FRAMES, 2000), data=st.data())
def test_windows_that_overlap_leave_no_gap_and_say_nothing_twice_at_the_end(frames, size, data):
    hop = data.draw(st.integers(MIN_FRAMES, size))
    assume(frames / hop < 3000)
    windows = plan_windows(frames, size, hop)
    assert [window.start for window in windows] == [i * hop for i in range(len(windows))]
    assert all(window.length == min(size, frames - window.start) for window in windows)
    end = max(window.start + window.length for window in windows)
    assert frames - end < max(MIN_FRAMES, size // 20)
    assert all(window.start + size < frames for window in windows[:-1])  # the one before did not reach the end yet


@pytest.mark.parametrize("bad", [(1, 10, 10), (10, 1, 10), (10, 10, 1), (0, 0, 0), (-5, 10, 10)])
def test_windows_that_cannot_be_are_refused(bad):
    with pytest.raises(ValueError, match="at least 2 frames"):
        plan_windows(*bad)


# Blends and conditionings.


@st.composite
def pairs(draw):
    """Two conditionings of a width whose lengths have a common multiple, with pooled embeddings or without."""
    width, rows, pooled = draw(st.integers(1, 9)), draw(st.integers(1, 3)), draw(st.booleans())
    length = draw(st.integers(1, 8))
    made = []
    for _ in range(2):
        count, batch = length * draw(st.integers(1, 3)), draw(st.sampled_from([1, rows]))
        scale = draw(st.sampled_from([0.0, 1e-3, 1.0, 30.0]))
        seed = draw(seeds)
        extra = tokens(seed + 1, batch, 5, scale=scale) if pooled else None
        made.append(Conditioning(tokens(seed, batch, count, width, scale=scale), extra))
    return made


@many
@given(pair=pairs(), weight=shares)
def test_a_linear_blend_stays_between_its_ends(pair, weight):
    a, b = pair
    mixed = blend(a, b, weight)
    length = mixed.tokens.shape[1]
    ends = [c.tokens.repeat(1, length // c.tokens.shape[1], 1).expand_as(mixed.tokens) for c in (a, b)]
    slack = 1e-5 * (1 + torch.maximum(ends[0].abs(), ends[1].abs()))
    assert (mixed.tokens >= torch.minimum(*ends) - slack).all()
    assert (mixed.tokens <= torch.maximum(*ends) + slack).all()


@many
@given(pair=pairs(), weight=shares)
def test_a_spherical_blend_has_norms_between_those_of_its_ends(pair, weight):
    a, b = pair
    mixed = blend(a, b, weight, mode="spherical")
    length = mixed.tokens.shape[1]
    ends = [c.tokens.repeat(1, length // c.tokens.shape[1], 1).expand_as(mixed.tokens).norm(dim=-1) for c in (a, b)]
    norms = mixed.tokens.norm(dim=-1)
    assert torch.isfinite(norms).all()
    assert (norms <= torch.maximum(*ends) * (1 + 1e-3) + 1e-5).all()
    # Between two that point in opposite directions a straight line goes through the middle.
    if a.tokens.shape[-1] > 2 and min(float(end.min()) for end in ends) > 0:
        cosines = torch.nn.functional.cosine_similarity(
            *(c.tokens.repeat(1, length // c.tokens.shape[1], 1).expand_as(mixed.tokens) for c in (a, b)), dim=-1
        )
        apart = cosines > -0.999
        assert (norms >= torch.minimum(*ends) * (1 - 1e-2))[apart].all()


@many
@given(pair=pairs(), mode=st.sampled_from(BLEND_MODES))
def test_the_ends_of_a_blend_are_its_sides(pair, mode):
    for weight, side in ((0.0, pair[0]), (1.0, pair[1])):
        mixed = blend(*pair, weight, mode=mode)
        repeats = mixed.tokens.shape[1] // side.tokens.shape[1]
        expected = side.tokens.repeat(1, repeats, 1).expand_as(mixed.tokens)
        torch.testing.assert_close(mixed.tokens, expected, rtol=1e-5, atol=1e-5)
        if side.pooled is not None:
            torch.testing.assert_close(mixed.pooled, side.pooled.expand_as(mixed.pooled), rtol=1e-5, atol=1e-5)


@many
@given(pair=pairs(), weight=st.floats().filter(lambda w: not 0 <= w <= 1), mode=st.sampled_from(BLEND_MODES))
def test_a_weight_outside_is_refused(pair, weight, mode):
    with pytest.raises(ValueError, match="weight must be between 0 and 1"):
        blend(*pair, weight, mode=mode)


@st.composite
def heard(draw):
    """Embeddings of one to three clips of one to four windows, of a target with a pooled embedding or without."""
    target = TARGETS[draw(st.sampled_from(["mini", "sdxl"]))]
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    clips = tuple(clip for clip, count in enumerate(counts) for _ in range(count))
    bos, seed = draw(st.booleans()), draw(seeds)
    number = draw(st.sampled_from([1, 47, 76]))
    pooled = None if target.pooled_width is None else tokens(seed + 1, len(clips), target.pooled_width)
    null_pooled = None if target.pooled_width is None else tokens(seed + 2, target.pooled_width)
    space = TokenSpace(target.name, bos, tokens(seed + 3, 77, target.width), null_pooled)
    durations = tuple(draw(st.floats(0.02, 10)) for _ in clips)
    return AudioEmbeddings(
        tokens(seed, len(clips), number, target.width), pooled, clips, (0.0,) * len(clips), durations, space
    )


@few
@given(embeddings=heard())
def test_the_average_of_windows_stays_between_them(embeddings):
    averaged = embeddings.averaged()
    assert averaged.clips == tuple(range(embeddings.num_clips))
    for clip in averaged.clips:
        rows = embeddings.tokens[torch.tensor(embeddings.clips) == clip]
        assert (averaged.tokens[clip] >= rows.amin(0) - 1e-5).all()
        assert (averaged.tokens[clip] <= rows.amax(0) + 1e-5).all()
    assert sum(averaged.durations) == pytest.approx(sum(embeddings.durations))


@few
@given(
    embeddings=heard(), windows=st.sampled_from(["average", "join", "keep"]), strength=st.sampled_from([0.0, 0.5, 1.0])
)
def test_a_prompt_is_a_multiple_of_77_tokens_on_the_way_from_the_empty_one(embeddings, windows, strength):
    positive, negative = condition(embeddings, sound_strength=strength, windows=windows)
    full, _ = condition(embeddings, windows=windows)
    assert positive.tokens.shape == negative.tokens.shape and positive.tokens.shape[1] % 77 == 0
    assert len(positive.tokens) == (len(embeddings.tokens) if windows == "keep" else embeddings.num_clips)
    assert (positive.pooled is None) == (embeddings.pooled is None)
    expected = negative.tokens + strength * (full.tokens - negative.tokens)
    torch.testing.assert_close(positive.tokens, expected, rtol=1e-4, atol=1e-5)
    null = embeddings.space.null_tokens.repeat(negative.tokens.shape[1] // 77, 1)
    assert torch.equal(negative.tokens, null.expand_as(negative.tokens))


# Conversions.


@many
@given(pair=pairs())
def test_conversions_there_and_back_change_nothing(pair):
    a, b = pair
    again = from_comfy(to_comfy(a))
    assert again.tokens is a.tokens and again.pooled is a.pooled
    for c, stretched in zip(pair, match_lengths(a, b), strict=True):
        assert torch.equal(stretched.tokens[:, : c.tokens.shape[1]], c.tokens)
        assert stretched.tokens.shape[1] == max(x.tokens.shape[1] for x in pair)
    given_to = to_diffusers(a, b)
    assert given_to["prompt_embeds"].shape[1] == given_to["negative_prompt_embeds"].shape[1]
    assert ("pooled_prompt_embeds" in given_to) == (a.pooled is not None)


@many
@given(names=st.lists(st.text("ab.", min_size=1).map(lambda s: f"x{s}"), min_size=1, unique=True))
def test_the_names_of_a_seed_checkpoint_go_there_and_back(names):
    theirs = {name: torch.zeros(1) for name in [*names, *(f"adapter.{name}" for name in names)]}
    ours = kardsim_weights(theirs)
    assert sorted(filter(None, map(kardsim_name, ours))) == sorted(theirs)


@many
@given(curve=st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_a_curve_as_text_can_be_read_back(curve):
    text = keyframes(torch.tensor(curve))
    values = [float(part.split(":(")[1].rstrip(")")) for part in text.split(", ")]
    assert values == pytest.approx(curve, abs=6e-4)


@many
@given(seed=seeds, rows=st.integers(1, 30), deviation=st.floats(0, 40, allow_subnormal=False))
def test_what_is_smoothed_stays_between_what_it_was(seed, rows, deviation):
    assume(deviation == 0 or deviation > 1e-3)
    values = tokens(seed, rows, 2, 3)
    smooth = _smooth(values, deviation)
    assert smooth.shape == values.shape and torch.isfinite(smooth).all()
    assert (smooth >= values.amin(0) - 1e-5).all() and (smooth <= values.amax(0) + 1e-5).all()


# Configs.


@st.composite
def configs(draw):
    heads = draw(st.sampled_from([1, 2, 4]))
    backbone = {
        "hidden_size": 8 * heads * draw(st.integers(1, 8)),
        "num_attention_heads": heads,
        "num_hidden_layers": draw(st.integers(1, 30)),
        "intermediate_size": draw(st.integers(1, 5000)),
        "num_adapter_layers": draw(st.integers(0, 3)),
        "adapter_stride": draw(st.integers(1, 4)),
        "position_embeddings_type": draw(st.sampled_from([None, "rotary", "relative", "relative_key"])),
        "hidden_act": draw(st.sampled_from(["swish", "gelu", "relu"])),
        "layer_norm_eps": draw(st.sampled_from([1e-5, 1e-6])),
    }
    head = {"kind": draw(st.sampled_from(HEADS)), "num_tokens": draw(st.integers(1, 200))}
    head |= {"width": heads * draw(st.integers(1, 99)), "num_heads": heads, "num_layers": draw(st.integers(1, 9))}
    normalize = draw(st.sampled_from(NORMALIZE))
    window = {
        "seconds": draw(st.floats(0.02, 3600)),
        "hop_seconds": draw(st.none() | st.floats(0.02, 3600)),
        "normalize": normalize,
        "dynamic_range": draw(st.none() | st.floats(0.1, 30)) if normalize == "window" else None,
        "padding": draw(st.sampled_from(PADDING)),
        "pad_value": draw(st.floats(-10, 10)),
    }
    return AudioEncoderConfig(
        backbone=backbone,
        head=head,
        window=window,
        target=draw(st.sampled_from(sorted(TARGETS))),
        prepend_bos=draw(st.booleans()),
        null_prompt=draw(st.booleans()),
        training=draw(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.booleans(), max_size=3)),
    )


@many
@given(config=configs())
def test_a_config_goes_to_json_and_back(config):
    data = json.loads(json.dumps(config.to_dict()))
    data.pop("model_type")
    again = AudioEncoderConfig(**data)
    assert again.to_dict() == config.to_dict()
    assert again.head == config.head and again.window == config.window
    assert again.num_tokens == config.num_tokens and again.token_dim == TARGETS[config.target].width


@many
@given(seconds=st.floats())
def test_a_window_is_between_two_frames_and_an_hour_or_refused(seconds):
    if 0.02 <= seconds <= 3600:
        config = WindowConfig(seconds=seconds)
        assert config.size_frames % 2 == 0 and abs(config.size_frames / 100 - seconds) <= 0.0151
    else:
        with pytest.raises(ValueError, match="window seconds must be a finite number"):
            WindowConfig(seconds=seconds)


# Decoding.


@few
@given(
    channels=st.integers(1, 8),
    rate=st.sampled_from([1000, 8000, 11_025, 16_000, 44_100, 48_000, 96_000, 192_000]) | st.integers(1000, 400_000),
    samples=st.integers(1, 9000),
    seed=seeds,
    data=st.data(),
)
def test_any_shape_and_rate_is_decoded_exactly(channels, rate, samples, seed, data):
    waveform = tokens(seed, channels, samples, scale=0.1)
    first = data.draw(st.integers(0, samples - 1))
    count = data.draw(st.integers(1, samples))
    with tempfile.TemporaryDirectory() as folder:
        path = write_audio(Path(folder) / "a.wav", waveform, rate, codec="pcm_f32le")
        whole, found = load_audio(path, sample_rate=None)
        part, _ = load_audio(path, start=first / rate, duration=count / rate, sample_rate=None)
        (mono,) = read_clips(path)
    assert found == rate and torch.equal(whole, waveform)
    assert torch.equal(part, waveform[:, first : first + count])
    assert mono.shape == (math.ceil(samples * 16_000 / rate),)
    torch.testing.assert_close([mono], read_clips((waveform, rate)), atol=1e-5, rtol=0)


@few
@given(
    shape=st.lists(st.integers(1, 3), max_size=2),
    samples=st.integers(0, 3000),
    rates=st.tuples(*[st.integers(MIN_RATE, 200_000)] * 2),
)
def test_any_shape_is_resampled_to_the_length_that_it_should_have(shape, samples, rates):
    waveform = torch.ones(*shape, samples)
    result = resample(waveform, *rates)
    assert result.shape == (*shape, -(-samples * rates[1] // rates[0])) and result.dtype == torch.float32
    assert torch.isfinite(result).all() and result.abs().max().item() < 1.5 if result.numel() else True


@many
@given(rate=st.integers() | st.floats() | st.none() | st.text(max_size=5) | st.booleans())
def test_a_rate_that_cannot_be_is_refused(rate):
    assume(not (type(rate) is int and MIN_RATE <= rate <= MAX_RATE))
    with pytest.raises(ValueError, match="sample_rate must be"):
        read_clips((torch.zeros(100), rate))
