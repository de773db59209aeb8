"""Blending, schedules, spectrograms and similarity on the canvas: what the nodes add to the core's functions."""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.helpers.audio import audio, noise, sine


@pytest.fixture
def heard(node, encoder):
    """CONDITIONING of a sound for sd15."""
    embeds = node("Audio2ImgEncode").execute(encoder, audio())[0]
    return node("Audio2ImgToConditioning").execute(embeds, 1.0, "average")[0]


def text(tokens=77, width=768, pooled=True):
    extra = {"pooled_output": torch.randn(1, width)} if pooled else {}
    return [[torch.randn(1, tokens, width), extra]]


def test_blending_keeps_what_else_the_first_prompt_says(node, heard):
    first = [[tokens, {**extra, "area": (1, 2, 3, 4)}] for tokens, extra in [*heard, *text(pooled=False)]]
    before, other = copy.deepcopy(first), text(pooled=False)
    (mixed,) = node("Audio2ImgBlend").execute(first, other, 0.25, "linear")
    assert len(mixed) == 2 and all(extra["area"] == (1, 2, 3, 4) for _, extra in mixed)
    for (tokens, _), (source, _) in zip(mixed, first, strict=True):
        torch.testing.assert_close(tokens, torch.lerp(source, other[0][0], 0.25))
    assert all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(first, before, strict=True))


@pytest.mark.parametrize(("mode", "tokens"), [("linear", 77), ("spherical", 77), ("join", 154)])
def test_every_mode_blends(node, heard, mode, tokens):
    (mixed,) = node("Audio2ImgBlend").execute(heard, text(pooled=False), 0.5, mode)
    assert mixed[0][0].shape == (1, tokens, 768) and mixed[0][0].isfinite().all()


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (text(), text(width=1024), "width 768 and of width 1024"),
        (text(width=2048), text(width=2048, pooled=False), "pooled embedding and the other has none"),
        ([], text(), "no entry"),
        (text(), [], "no entry"),
    ],
)
def test_prompts_that_do_not_go_together(node, a, b, message):
    with pytest.raises(ValueError, match=message):
        node("Audio2ImgBlend").execute(a, b, 0.5, "linear")


def test_sound_blends_with_the_text_of_a_comfyui_clip(node, heard):
    """ComfyUI's CLIP gives a pooled embedding for Stable Diffusion 1.x too, which has no use for it."""
    (mixed,) = node("Audio2ImgBlend").execute(heard, text(), 0.5, "linear")
    assert mixed[0][0].shape == (1, 77, 768)


def test_a_schedule_has_a_prompt_for_every_frame(node, encoder):
    sound = torch.cat([sine(1.0, freq=200.0), torch.zeros(16000)])
    mapping = {"waveform": sound.expand(1, 2, -1), "sample_rate": 16000}
    schedule = node("Audio2ImgSchedule")
    positive, negative, frames, loudness, onsets, keyframes = schedule.execute(
        encoder, mapping, 5.0, 0, 1, 0.0, 1.0, window=0.5
    )
    assert frames == 10 and positive[0][0].shape == negative[0][0].shape == (10, 77, 768)
    assert not torch.equal(positive[0][0][0], positive[0][0][9]) and torch.equal(negative[0][0][0], negative[0][0][9])
    assert len(loudness) == len(onsets) == 10 and max(loudness) == 1.0 and loudness[9] == 0.0
    assert keyframes.startswith("0:(") and keyframes.endswith("9:(0.000)")
    shorter = schedule.execute(encoder, mapping, 5.0, 4, 2, 0.2, 0.0)
    assert shorter[2] == 4 and torch.allclose(shorter[0][0][0], shorter[1][0][0])


def test_a_schedule_of_a_batch_is_refused(node, encoder):
    with pytest.raises(ValueError, match="not of a batch of 2"):
        node("Audio2ImgSchedule").execute(encoder, audio(1.0, batch=2), 5.0, 0, 1, 0.0, 1.0)


def test_a_spectrogram_for_each_sound(node):
    (image,) = node("Audio2ImgSpectrogram").execute(audio(1.0, batch=2, channels=2, rate=44100), 400, 240)
    assert image.shape == (2, 240, 400, 3) and image.dtype == torch.float32
    assert 0 <= image.min() < 0.2 and image.max() == 1.0 and not torch.equal(image[0], image[1])


def test_similarity_needs_nothing_else_for_mini(node, folders):
    encoder = node("Audio2ImgLoadEncoder").execute("mini", "auto")[0]
    sounds = {"waveform": torch.stack([noise(1.0), sine(1.0)])[:, None], "sample_rate": 16000}
    embeds = node("Audio2ImgEncode").execute(encoder, sounds)[0]
    scores, image, best = node("Audio2ImgSimilarity").execute(embeds, "a piano\n\n  a dog \na piano\nrain\n")
    blocks = [block.splitlines() for block in scores.split("\n\n")]
    assert [len(block) for block in blocks] == [3, 3]
    for block, name in zip(blocks, best.splitlines(), strict=True):
        shares = [float(line.rsplit(" ", 1)[1].rstrip("%")) for line in block]
        assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(100, abs=0.3)
        assert block[0].startswith(f"{name}: ")
    assert image.shape[0] == 2 and image.shape[3] == 3


def test_similarity_takes_the_clip_of_other_models(node, encoder):
    said = {"rain": 0, "a dog": 1}
    prompts = torch.randn(2, 1, 77, 768)

    class Clip:
        """What a ComfyUI CLIP answers."""

        def tokenize(self, words):
            return words

        def encode_from_tokens_scheduled(self, words):
            return [[prompts[said[words]], {"pooled_output": torch.zeros(1, 768)}]]

    embeds = node("Audio2ImgEncode").execute(encoder, audio())[0]
    closest = embeds.tokens.clone()
    prompts[1, :, 1:77] = closest[:, :76]
    _, _, best = node("Audio2ImgSimilarity").execute(embeds, "rain\na dog", clip=Clip())
    assert best == "a dog"
    with pytest.raises(ValueError, match="'sd15' need the CLIP"):
        node("Audio2ImgSimilarity").execute(embeds, "rain\na dog")
    with pytest.raises(ValueError, match="at least two captions"):
        node("Audio2ImgSimilarity").execute(embeds, "rain\n\n")


def model(width, adm=None):
    """As much of a ComfyUI MODEL as tells its family."""
    config = SimpleNamespace(unet_config={"context_dim": width, "adm_in_channels": adm})
    return SimpleNamespace(model=SimpleNamespace(model_config=config))


def test_a_model_of_another_family_is_named(node, encoder):
    embeds = node("Audio2ImgEncode").execute(encoder, audio())[0]
    execute = node("Audio2ImgToConditioning").execute
    assert execute(embeds, 1.0, "average", model=model(768))[0][0][0].shape == (1, 77, 768)
    for other, message in (
        (model(1024), "trained for 'sd15'.*'sd21' would fit"),
        (model(2048, adm=2816), "trained for 'sd15'.*'sdxl' would fit"),
        (model(None), "takes no CLIP prompt"),
    ):
        with pytest.raises(ValueError, match=message):
            execute(embeds, 1.0, "average", model=other)


def test_the_loader_writes_what_it_loaded_on_the_canvas(node, encoder, monkeypatch):
    said = []
    instance = SimpleNamespace(send_progress_text=lambda text, node: said.append((text, node)))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    node("Audio2ImgLoadEncoder").execute("mine", "float32", unique_id="7")
    ((text, where),) = said
    assert where == "7" and text.startswith("sd15 (Stable Diffusion 1.x): 76 tokens from") and "float32" in text
