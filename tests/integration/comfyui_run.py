"""Run inside ComfyUI's process by test_comfyui.py: loads the pack, samples with it, and reports what it saw as JSON.

Usage: python comfyui_run.py REPORT --cpu --base-directory FOLDER   (working directory: the ComfyUI checkout)
"""

import asyncio
import importlib
import json
import os
import sys
from pathlib import Path

report = Path(sys.argv.pop(1))
sys.path.insert(0, os.getcwd())
base = Path(sys.argv[sys.argv.index("--base-directory") + 1])

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.latent_formats  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402

import nodes  # noqa: E402

CLASSES = nodes.NODE_CLASS_MAPPINGS
FAMILIES = {
    "sd15": comfy.supported_models.SD15,
    "sd21": comfy.supported_models.SD20,
    "sdxl": comfy.supported_models.SDXL,
}
seen = {"runs": {}}


def load_pack():
    """Load core's extra nodes for audio and our pack, as the server does at its start."""
    before = set(sys.modules)
    pack = os.path.join(folder_paths.get_folder_paths("custom_nodes")[0], "audio2img")
    seen["loaded"] = asyncio.run(nodes.load_custom_node(pack, set(CLASSES)))
    new = set(sys.modules) - before
    seen["imported_by_loading"] = sorted({name.split(".")[0] for name in new})
    ours = [key for key in CLASSES if key.startswith("Audio2Img")]
    seen["nodes"] = {key: nodes.NODE_DISPLAY_NAME_MAPPINGS[key] for key in ours}
    extra = Path(os.getcwd()) / "comfy_extras" / "nodes_audio.py"
    asyncio.run(nodes.load_custom_node(str(extra), set(), module_parent="comfy_extras"))
    seen["core_load_audio_is_core"] = "nodes_audio" in CLASSES["LoadAudio"].__module__


def pack(module):
    """A module of the pack, found under the name ComfyUI gave the pack."""
    root = CLASSES["Audio2ImgEncode"].__module__.rsplit(".nodes", 1)[0]
    return importlib.import_module(f"{root}.{module}")


def to_comfy_model(unet, target):
    """A small diffusers UNet in ComfyUI's own architecture: the same weights under ComfyUI's names."""
    c = unet.config
    config = pack("nodes.diffusion").unet_config(unet)
    config |= {"adm_in_channels": c.projection_class_embeddings_input_dim, "dtype": torch.float32}
    if c.addition_embed_type == "text_time":
        config["num_classes"] = "sequential"
    family = FAMILIES[target]({key: value for key, value in config.items() if value is not None})
    # The families fix their heads for the published sizes.
    family.unet_config |= {"num_heads": c.attention_head_dim, "num_head_channels": -1}
    family.set_inference_dtype(torch.float32, None)
    names = comfy.utils.unet_to_diffusers(config)
    weights = unet.state_dict()
    mapped = {names[name]: tensor for name, tensor in weights.items() if name in names}
    model = family.get_model({}, "", device="cpu")
    if len(mapped) != len(weights):
        raise SystemExit(f"{target}: no place for {sorted(set(weights) - set(names))[:5]}")
    model.diffusion_model.load_state_dict(mapped, strict=True)
    load, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=load, offload_device=offload)


def run(key, **inputs):
    return CLASSES[key]().execute(**inputs)


def conditioning(encoder, name, **options):
    audio = run("Audio2ImgLoadAudio", audio_file=name, start=0.0, duration=0.0)[0]
    embeds = run("Audio2ImgEncode", encoder=encoder, audio=audio)[0]
    return run("Audio2ImgToConditioning", embeds=embeds, strength=1.0, windows="average", **options)


def sample(model, positive, negative):
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    done = nodes.KSampler().sample(model, 3, 4, 5.0, "euler", "normal", positive, negative, latent)
    return done[0]["samples"]


def through_ksampler(target):
    models, checkpoint = pack("audio2img_core.random_init"), pack("audio2img_core.encoder.checkpoint")
    encoder, diffusion = models.make_pair(target)
    file = Path(folder_paths.get_folder_paths("audio_encoders")[0]) / "tiny.safetensors"
    file.unlink(missing_ok=True)
    checkpoint.save(encoder, file)
    loaded = run("Audio2ImgLoadEncoder", encoder_name="tiny.safetensors", dtype="auto")[0]
    model = to_comfy_model(diffusion.unet, target)
    calls = []

    def count(apply, arguments):
        calls.append(arguments["input"].shape[0])
        return apply(arguments["input"], arguments["timestep"], **arguments["c"])

    model.set_model_unet_function_wrapper(count)
    piano, bird = (conditioning(loaded, f"{name}.flac") for name in ("piano", "bird"))
    a, again, b = sample(model, *piano), sample(model, *piano), sample(model, *bird)
    out = {
        "cond_shape": list(piano[0][0][0].shape),
        "batched": set(calls) == {2},
        "finite": bool(a.isfinite().all()),
        "piano_differs_from_bird": (a - b).abs().max().item(),
        "same_again": (a - again).abs().max().item(),
    }
    if target == "sd15":
        x, t = torch.randn(1, 4, 16, 16), torch.tensor([500.0])
        context = piano[0][0][0]
        with torch.no_grad():
            theirs = model.model.diffusion_model(x, t, context=context)
            out["unet_difference"] = (theirs - diffusion.unet(x, t, context).sample).abs().max().item()
    seen["runs"][target] = out
    return loaded


def mini():
    """The embedded default in ComfyUI and in diffusers: UNet, autoencoder, and a picture from the same noise."""
    embedded = pack("audio2img_core.generation.loading")
    diffusion = embedded.load_mini_diffusion()
    model, vae = run("Audio2ImgLoadMini")
    loaded = run("Audio2ImgLoadEncoder", encoder_name="mini", dtype="auto")[0]
    positive, negative = conditioning(loaded, "piano.flac")
    size = diffusion.unet.config.sample_size
    x, t = torch.randn(2, 4, size, size), torch.tensor([100.0, 900.0])
    context = positive[0][0].expand(2, -1, -1)
    pixels = torch.rand(1, 3, 64, 64)
    latents = torch.randn(1, 4, size, size)
    seed, steps = 3, 24
    done = nodes.KSampler().sample(
        model, seed, steps, 3.0, "euler", "normal", positive, negative, {"samples": torch.zeros(1, 4, size, size)}
    )
    theirs = vae.decode(done[0]["samples"])
    noise = torch.randn(1, 4, size, size, generator=torch.manual_seed(seed))
    with torch.no_grad():
        unet_difference = model.model.diffusion_model(x, t, context=context) - diffusion.unet(x, t, context).sample
        means = diffusion.vae.encode(pixels * 2 - 1).latents
        scaled = model.model.latent_format.process_in(vae.encode(pixels.movedim(1, -1)))
        decoded = diffusion.vae.decode(latents / diffusion.vae.config.scaling_factor).sample.clamp(-1, 1) / 2 + 0.5
        from diffusers import EulerDiscreteScheduler

        diffusion.scheduler = EulerDiscreteScheduler.from_config(diffusion.scheduler.config)
        ours = diffusion(
            prompt_embeds=positive[0][0], negative_prompt_embeds=negative[0][0], latents=noise, guidance_scale=3.0,
            num_inference_steps=steps, output_type="pt",
        ).images  # fmt: skip
    seen["mini"] = {
        "unet_difference": unet_difference.abs().max().item(),
        "encode_difference": (scaled - means * diffusion.vae.config.scaling_factor).abs().max().item(),
        "decode_difference": (vae.decode(model.model.latent_format.process_out(latents)).movedim(-1, 1) - decoded)
        .abs()
        .max()
        .item(),
        "picture_difference": (theirs.movedim(-1, 1) - ours).abs().mean().item(),
        "picture_contrast": ours.std().item(),
    }


def management(loaded):
    current = [entry.model for entry in comfy.model_management.current_loaded_models]
    loaded.ready()
    current = [entry.model for entry in comfy.model_management.current_loaded_models]
    seen["encoder_was_loaded"] = any(patcher is loaded.patcher for patcher in current)
    comfy.model_management.unload_all_models()
    current = [entry.model for entry in comfy.model_management.current_loaded_models]
    seen["encoder_was_unloaded"] = all(patcher is not loaded.patcher for patcher in current)


def progress_and_cancelling(loaded):
    steps = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *rest, **more: steps.append([value, total]))
    audio = {"waveform": torch.randn(1, 1, 16000 * 4) * 0.1, "sample_rate": 16000}
    run("Audio2ImgEncode", encoder=loaded, audio=audio, window=1.0)
    seen["progress"] = list(steps)

    class Stopped(Exception):
        pass

    def cancel(value, total, *rest, **more):
        steps.append([value, total])
        comfy.model_management.interrupt_current_processing()

    steps.clear()
    comfy.utils.set_progress_bar_global_hook(cancel)
    try:
        run("Audio2ImgEncode", encoder=loaded, audio=audio, window=1.0)
        seen["windows_after_cancel"] = -1
    except comfy.model_management.InterruptProcessingException:
        seen["windows_after_cancel"] = len(steps) - 1
    comfy.model_management.interrupt_current_processing(False)
    comfy.utils.set_progress_bar_global_hook(None)


def core_audio(loaded):
    """Core's audio nodes and ours pass AUDIO to each other."""
    empty = CLASSES.get("EmptyAudio")
    audio = {"waveform": torch.randn(1, 2, 44100) * 0.1, "sample_rate": 44100}
    if empty is not None:
        made = getattr(empty, empty.FUNCTION)(empty(), 1.0, 44100, 2) if hasattr(empty, "FUNCTION") else None
        audio = made[0] if made else audio
    seen["ours_takes_core_audio"] = len(run("Audio2ImgEncode", encoder=loaded, audio=audio)[0].tokens) == 1
    ours = run("Audio2ImgLoadAudio", audio_file="piano.flac", start=0.0, duration=1.0)[0]
    save = CLASSES["SaveAudio"]
    method = getattr(save(), save.FUNCTION)
    method(ours, filename_prefix="check")
    seen["core_takes_our_audio"] = any(Path(folder_paths.get_output_directory()).rglob("check*"))


def memory(loaded):
    """Megabytes that 50 runs add to the process, after ten that fill caches."""
    import gc

    import psutil

    def runs(count):
        for _ in range(count):
            conditioning(loaded, "piano.flac")
        gc.collect()
        return psutil.Process().memory_info().rss

    before = runs(10)
    seen["megabytes_of_50_runs"] = (runs(50) - before) / 1e6


load_pack()
loaded = None
for target in FAMILIES:
    loaded = through_ksampler(target)
mini()
seen["audio_files"] = CLASSES["Audio2ImgLoadAudio"].INPUT_TYPES()["required"]["audio_file"][0]
seen["encoders"] = CLASSES["Audio2ImgLoadEncoder"].INPUT_TYPES()["required"]["encoder_name"][0]
management(loaded)
progress_and_cancelling(loaded)
core_audio(loaded)
memory(loaded)
report.write_text(json.dumps(seen))
