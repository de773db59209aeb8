"""Sound to picture through the real diffusers pipeline of every target, small."""

import numpy as np
import pytest
import torch
from PIL import Image

from audio2img_core import AudioToImagePipeline, GenerationSettings
from audio2img_core.conditioning.prompt import condition, to_diffusers
from audio2img_core.conditioning.text import encode_text
from audio2img_core.devices import diffusion_dtype, encoder_dtype, resolve_device, resolve_dtype
from audio2img_core.generation.settings import Sampler
from tests.helpers.audio import noise, sine

TARGETS = ("sd15", "sd21", "sdxl", "mini")


@pytest.fixture(scope="module")
def pipes(tiny_pipelines):
    return tiny_pipelines


def pixels(image):
    return np.asarray(image, dtype=float)


CLIP = (sine(1.0), 16000)
OTHER = (noise(1.0), 16000)
PICTURE = Image.radial_gradient("L").convert("RGB")


@pytest.mark.parametrize("target", TARGETS)
def test_text_to_image(pipes, target):
    pipe = pipes(target)
    drawn = pipe(CLIP, steps=2, seed=3)
    assert drawn.images[0].size == (128, 128) and drawn.seeds == [3]
    assert type(pipe.diffusion).__name__ == (
        "StableDiffusionXLPipeline" if target == "sdxl" else "StableDiffusionPipeline"
    )
    again = pipe(CLIP, steps=2, seed=3).images[0]
    assert np.array_equal(pixels(drawn.images[0]), pixels(again))
    other = pipe(OTHER, steps=2, seed=3).images[0]
    assert not np.array_equal(pixels(drawn.images[0]), pixels(other))


@pytest.mark.parametrize("target", TARGETS)
def test_it_draws_what_the_diffusers_pipeline_draws_from_the_same_embeddings(pipes, target):
    pipe = pipes(target)
    arguments = to_diffusers(*condition(pipe.encode(CLIP)))
    expected = pipe.diffusion(
        **arguments, num_inference_steps=2, guidance_scale=4.0, generator=torch.Generator().manual_seed(5)
    ).images[0]
    assert np.array_equal(pixels(pipe(CLIP, steps=2, guidance=4.0, seed=5).images[0]), pixels(expected))


@pytest.mark.parametrize("target", TARGETS)
def test_image_to_image(pipes, target):
    drawn = pipes(target)(CLIP, steps=4, seed=1, init_image=PICTURE, denoise=0.5, size=(64, 48))
    assert drawn.images[0].size == (64, 48)


@pytest.mark.parametrize("target", ["sd15", "sd21", "sdxl"])
def test_controlnet(pipes, target):
    pipe = pipes(target, controlnet=True)
    assert "ControlNet" in type(pipe.diffusion).__name__
    drawn = pipe(CLIP, steps=2, seed=1, control_image=PICTURE, size=(64, 64))
    assert drawn.images[0].size == (64, 64)
    other = pipe(CLIP, steps=2, seed=1, control_image=Image.linear_gradient("L"), size=(64, 64))
    assert not np.array_equal(pixels(other.images[0]), pixels(drawn.images[0]))
    both = pipe(CLIP, steps=4, seed=1, control_image=PICTURE, init_image=PICTURE, size=(64, 64))
    assert not np.array_equal(pixels(both.images[0]), pixels(drawn.images[0]))


@pytest.mark.parametrize("target", TARGETS)
def test_text_weight_one_is_the_text_alone(pipes, target):
    pipe = pipes(target)
    positive, _ = pipe.condition(pipe.encode(CLIP), prompt="a piano", prompt_weight=1.0)
    expected = encode_text(pipe.diffusion, "a piano")
    torch.testing.assert_close(positive.tokens, expected.tokens)
    sound, _ = pipe.condition(pipe.encode(CLIP))
    mixed, _ = pipe.condition(pipe.encode(CLIP), prompt="a piano", prompt_weight=0.25)
    torch.testing.assert_close(mixed.tokens, torch.lerp(sound.tokens, expected.tokens, 0.25))
    if target == "sdxl":
        torch.testing.assert_close(positive.pooled, expected.pooled)


@pytest.mark.parametrize("target", TARGETS)
def test_the_negative_is_the_teachers_empty_prompt_or_a_text(pipes, target):
    pipe = pipes(target)
    _, negative = pipe.condition(pipe.encode(CLIP))
    torch.testing.assert_close(negative.tokens, encode_text(pipe.diffusion, "").tokens)
    _, negative = pipe.condition(pipe.encode(CLIP), negative="blurry")
    torch.testing.assert_close(negative.tokens, encode_text(pipe.diffusion, "blurry").tokens)
    assert pipe(CLIP, steps=1, negative="blurry", prompt="a dog").images


def test_text_alone_equals_the_diffusers_pipeline_with_that_prompt(pipes):
    pipe = pipes("sd15")
    ours = pipe(CLIP, prompt="a dog", prompt_weight=1.0, negative="a cat", steps=2, seed=4).images[0]
    theirs = pipe.diffusion(
        "a dog", negative_prompt="a cat", num_inference_steps=2, generator=torch.Generator().manual_seed(4)
    ).images[0]
    assert np.array_equal(pixels(ours), pixels(theirs))


def test_a_batch_draws_what_each_clip_draws_alone(pipes):
    pipe = pipes("sd15")
    drawn = pipe([CLIP, OTHER], steps=2, seed=7, count=2)
    assert drawn.seeds == [7, 8, 7, 8] and drawn.clips == [0, 0, 1, 1] and len(drawn.images) == 4
    for i, sound in enumerate((CLIP, OTHER)):
        alone = pipe(sound, steps=2, seed=7, count=2).images
        for k in range(2):
            difference = abs(pixels(drawn.images[2 * i + k]) - pixels(alone[k]))
            assert difference.max() <= 1  # rounding of a batched product


def test_sounds_come_as_files_tensors_comfy_audio_and_embeddings(pipes, examples):
    pipe = pipes("sd15")
    path = examples / "drum.flac"
    from audio2img_core import load_audio

    waveform, rate = load_audio(path)
    expected = pixels(pipe(path, steps=1, seed=0).images[0])
    for sound in (
        str(path),
        (waveform, rate),
        {"waveform": waveform[None], "sample_rate": rate},
        pipe.encode(path),
        [path],
    ):
        assert np.array_equal(pixels(pipe(sound, steps=1, seed=0).images[0]), expected)


def test_windows_kept_give_a_picture_each(pipes):
    pipe = pipes("sd15")
    drawn = pipe([(noise(15.0), 16000), CLIP], steps=1, windows="keep")
    assert len(drawn.images) == 3 and drawn.clips == [0, 0, 1]
    assert len(pipe((noise(15.0), 16000), steps=1, windows="join").images) == 1


def test_on_step_counts_sampler_steps(pipes):
    steps = []
    pipes("sd21")(CLIP, steps=3, on_step=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_a_seed_checkpoint_takes_bos_and_empty_prompt_from_the_diffusion_model(seed_folder, tiny_folders):
    pipe = AudioToImagePipeline.from_pretrained(seed_folder, tiny_folders("sd21") / "diffusion")
    positive, negative = pipe.condition(pipe.encode(CLIP))
    empty = encode_text(pipe.diffusion, "").tokens
    torch.testing.assert_close(negative.tokens, empty)
    torch.testing.assert_close(positive.tokens[:, 0], empty[:, 0])
    assert pipe(CLIP, steps=1).images


def test_a_model_without_text_encoder_draws_sound_and_refuses_text(tiny_folders):
    pipe = AudioToImagePipeline.from_pretrained(tiny_folders("sd15") / "encoder", tiny_folders("sd15") / "diffusion")
    pipe.diffusion.register_modules(text_encoder=None, tokenizer=None)
    assert pipe(CLIP, steps=1).images
    with pytest.raises(ValueError, match="text encoder"):
        pipe(CLIP, steps=1, prompt="a dog")


def test_the_default_pair_is_mini_with_its_own_sampler(mini_pipeline, caplog):
    pipe = mini_pipeline
    assert pipe.encoder.config.target == "mini" and pipe.defaults == Sampler(12, 5.0)
    drawn = pipe(CLIP, steps=1)
    assert drawn.images[0].size == (128, 128)
    assert sum(heard.score for heard in pipe.hear(drawn.embeddings, top=99)[0]) == pytest.approx(1, abs=1e-4)
    assert not [record for record in caplog.records if not record.name.startswith("transformers")]


@pytest.mark.parametrize(("encoder", "diffusion"), [("sd15", "sd21"), ("sd21", "sdxl"), ("sdxl", "sd15")])
def test_a_target_that_does_not_fit_is_refused_before_anything_is_loaded(tiny_folders, no_models, encoder, diffusion):
    with pytest.raises(ValueError, match=f"trained for '{encoder}'.*an encoder for '{diffusion}' would fit"):
        AudioToImagePipeline.from_pretrained(tiny_folders(encoder) / "encoder", tiny_folders(diffusion) / "diffusion")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "^steps must be between 1 and 1000, not 0$"),
        ({"steps": 1.5}, "^steps must be"),
        ({"steps": True}, "^steps must be"),
        ({"guidance": -1.0}, "^guidance must be at least 0"),
        ({"guidance": float("nan")}, "^guidance"),
        ({"guidance": float("inf")}, "^guidance"),
        ({"count": 0}, "^count must be at least 1"),
        ({"seed": -1}, "^seed must be between 0"),
        ({"size": (0, 64)}, "^size"),
        ({"size": 64}, "^size"),
        ({"prompt": 5}, "^prompt must be text"),
        ({"prompt_weight": 2.0}, "^prompt_weight must be between 0 and 1, not 2.0$"),
        ({"prompt_weight": "much"}, "^prompt_weight"),
        ({"sound_strength": -1.0}, "^sound_strength"),
        ({"windows": "first"}, "^windows must be one of average, join, keep"),
        ({"blend_mode": "cubic"}, "^blend_mode must be one of"),
        ({"denoise": 0.0}, "^denoise must be above 0"),
        ({"init_image": PICTURE, "steps": 4, "denoise": 0.1}, "^denoise leaves no step of 4"),
        ({"control_scale": float("nan")}, "^control_scale"),
        ({"start": -1.0}, "^start must be at least 0"),
        ({"duration": -1.0}, "^duration must be above 0"),
    ],
)
def test_impossible_values_are_refused_when_the_settings_are_made(options, message):
    with pytest.raises(ValueError, match=message):
        GenerationSettings(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (100, 64)}, "^size must be multiples of 8 pixels, not 100x64$"),
        ({"control_image": PICTURE}, "^control_image needs a ControlNet"),
        ({"init_image": PICTURE, "denoise": 0.04}, "^denoise leaves no step of 20"),  # the model's own steps
    ],
)
def test_what_the_models_cannot_do_is_refused_before_they_are_loaded(pipes, tiny_folders, request, options, message):
    with pytest.raises(ValueError, match=message):
        pipes("sd15")(CLIP, **options)
    request.getfixturevalue("no_models")
    folder = tiny_folders("sd15")
    with pytest.raises(ValueError, match=message):
        AudioToImagePipeline.from_pretrained(
            folder / "encoder", folder / "diffusion", settings=GenerationSettings(**options)
        )


def test_settings_and_keyword_arguments_say_the_same(pipes):
    pipe, settings = pipes("sd15"), GenerationSettings(steps=2, seed=3, prompt="a dog", prompt_weight=0.3)
    a = pipe(CLIP, settings)
    b = pipe(CLIP, steps=2, seed=3, prompt="a dog", prompt_weight=0.3)
    assert np.array_equal(pixels(a.images[0]), pixels(b.images[0])) and a.settings == b.settings
    assert a.settings.guidance == 7.5  # the model's own
    other = pipe(CLIP, settings, seed=4)
    assert other.seeds == [4] and settings.seed == 3
    assert pipe(CLIP, steps=1).settings.seed is not None


def test_the_old_name_of_denoise_is_understood():
    assert GenerationSettings.of(None, {"strength": 0.3}).denoise == 0.3
    with pytest.raises(TypeError, match="strenght"):
        GenerationSettings.of(None, {"strenght": 0.3})


def test_embeddings_of_another_target_are_refused(pipes):
    with pytest.raises(ValueError, match="trained for 'sdxl'.*an encoder for 'sd15'"):
        pipes("sd15")(pipes("sdxl").encode(CLIP), steps=1)


def test_a_controlnet_of_another_width_is_refused(tiny_folders):
    folder = tiny_folders("sd15")
    with pytest.raises(ValueError, match="width 1024.*takes 768"):
        AudioToImagePipeline.from_pretrained(
            folder / "encoder", folder / "diffusion", controlnet=tiny_folders("sd21") / "controlnet"
        )


def test_two_pictures_of_different_size_are_brought_together(pipes):
    pipe = pipes("sd15", controlnet=True)
    drawn = pipe(CLIP, steps=2, init_image=PICTURE.resize((128, 96)), control_image=PICTURE.resize((64, 200)))
    assert drawn.images[0].size == (128, 96)


def test_sounds_that_are_none(pipes):
    for sound, words in [((np.zeros(4000), 16000), None), (("a.wav", "b.wav"), "sample_rate"), ((CLIP[0], 1), "1000")]:
        if words is None:
            assert pipes("sd15")(sound, steps=1).images
        else:
            with pytest.raises(ValueError, match=words):
                pipes("sd15")(sound, steps=1)


def test_the_callers_random_numbers_are_left_alone(pipes):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    pipes("sd15")(CLIP, steps=1)
    assert torch.equal(torch.rand(2), expected)


def test_inference_mode(pipes):
    with torch.inference_mode():
        inside = pipes("sd15")(CLIP, steps=1, seed=0).images[0]
    assert np.array_equal(pixels(inside), pixels(pipes("sd15")(CLIP, steps=1, seed=0).images[0]))


def test_a_controlnet_without_its_picture_is_refused(pipes):
    with pytest.raises(ValueError, match="needs a control image"):
        pipes("sd15", controlnet=True)(CLIP, steps=1)


def test_diffusion_models_that_are_none(tmp_path, tiny_folders):
    from audio2img_core.generation.loading import load_diffusion

    for name in ("nothing", "/nothing/here", "./x.safetensors"):
        with pytest.raises(FileNotFoundError, match="no such diffusion model"):
            load_diffusion(name)
    (tmp_path / "model.ckpt").write_bytes(b"pickle")
    with pytest.raises(ValueError, match="pickle"):
        load_diffusion(tmp_path / "model.ckpt")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_diffusion(tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_diffusion(tiny_folders("sd15") / "encoder")
    with pytest.raises(ValueError, match="no ControlNet"):
        load_diffusion("mini", controlnet=tiny_folders("sd15") / "controlnet")
    with pytest.raises(FileNotFoundError, match="no such ControlNet"):
        load_diffusion(tiny_folders("sd15") / "diffusion", controlnet="/nothing")


@pytest.mark.parametrize(
    ("able", "dtype"),
    [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)],
)
def test_encoders_compute_in_bfloat16_on_cpus_that_have_it(monkeypatch, able, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert encoder_dtype(torch.device("cpu"), "other") == dtype
    assert encoder_dtype(torch.device("cpu"), "mini") == torch.float32


def test_devices_and_dtypes():
    assert resolve_device("cpu") == resolve_device("cpu:0") == torch.device("cpu")
    with pytest.raises(ValueError, match="no device 'cuda:77' on this machine: choose one of .*cpu"):
        resolve_device("cuda:77")
    with pytest.raises(ValueError, match="no device 'gpu'"):
        resolve_device("gpu")
    cpu = torch.device("cpu")
    assert encoder_dtype(cpu, "mini") == diffusion_dtype(cpu) == torch.float32
    assert resolve_dtype("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(ValueError, match="float16 is for GPUs"):
        resolve_dtype("float16", cpu)
    with pytest.raises(ValueError, match="unknown dtype"):
        resolve_dtype("int3", cpu)


def test_bfloat16_draws(tiny_folders):
    folder = tiny_folders("sd15")
    pipe = AudioToImagePipeline.from_pretrained(folder / "encoder", folder / "diffusion", dtype="bfloat16")
    assert pipe.diffusion.unet.dtype == torch.bfloat16
    assert pipe(CLIP, steps=1, seed=0).images[0].size == (128, 128)


def test_a_single_file_checkpoint_draws_what_its_folder_draws(tiny_folders, tmp_path):
    from diffusers import StableDiffusionPipeline

    from tests.helpers.ldm import write_single_file

    folder = tiny_folders("sd15")
    write_single_file(StableDiffusionPipeline.from_pretrained(folder / "diffusion"), tmp_path / "model.safetensors")
    # Its configs, as diffusers would fetch them from the hub, lie beside it: without its weights.
    for file in (folder / "diffusion").rglob("*"):
        if file.is_file() and file.suffix != ".safetensors":
            place = tmp_path / "model" / file.relative_to(folder / "diffusion")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
    pictures = [
        AudioToImagePipeline.from_pretrained(folder / "encoder", model)(CLIP, steps=2, seed=1, prompt="a dog").images[0]
        for model in (folder / "diffusion", tmp_path / "model.safetensors")
    ]
    assert abs(pixels(pictures[0]) - pixels(pictures[1])).max() <= 1


def test_an_inpainting_model_is_refused(tiny_folders, tmp_path):
    from diffusers import UNet2DConditionModel

    from audio2img_core.generation.loading import load_diffusion
    from audio2img_core.random_init import make_diffusion

    diffusion = make_diffusion("sd15")
    unet = UNet2DConditionModel(**{**diffusion.unet.config, "in_channels": 9})
    diffusion.register_modules(unet=unet)
    diffusion.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="inpainting"):
        load_diffusion(tmp_path)
