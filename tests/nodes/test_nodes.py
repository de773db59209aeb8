"""The nodes on plain folders, without ComfyUI."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from tests.helpers.audio import audio, noise, sine, write_audio

ROOT = Path(__file__).parents[2]


class LazyAudio(Mapping):
    """AUDIO that is decoded on first use, as VideoHelperSuite gives it."""

    def __init__(self, audio):
        self.audio = audio

    def __getitem__(self, key):
        return self.audio[key]

    def __iter__(self):
        return iter(self.audio)

    def __len__(self):
        return len(self.audio)


def test_the_pack_exports_its_nodes(pack):
    shown = {
        "Audio2ImgLoadAudio": "Load Audio",
        "Audio2ImgLoadEncoder": "Load Audio Encoder (Wav2Vec2Bert)",
        "Audio2ImgEncode": "Audio Encoder (Wav2Vec2Bert)",
        "Audio2ImgToConditioning": "Audio to Conditioning",
        "Audio2ImgBlend": "Blend Conditioning",
        "Audio2ImgSchedule": "Audio Conditioning Schedule",
        "Audio2ImgLoadMini": "Load Mini Diffusion Model",
        "Audio2ImgSpectrogram": "Preview Spectrogram",
        "Audio2ImgSimilarity": "Audio-Text Similarity",
    }
    assert shown == pack.NODE_DISPLAY_NAME_MAPPINGS
    assert set(pack.NODE_CLASS_MAPPINGS) == set(shown)
    assert (ROOT / pack.WEB_DIRECTORY).is_dir()


def test_every_node_is_complete(pack, folders):
    for key, cls in pack.NODE_CLASS_MAPPINGS.items():
        assert cls.CATEGORY == "audio2img" and cls.FUNCTION == "execute", key
        assert cls.DESCRIPTION and cls.SEARCH_ALIASES, key
        assert len(cls.RETURN_TYPES) == len(cls.RETURN_NAMES) == len(cls.OUTPUT_TOOLTIPS), key
        for group in (inputs for kind, inputs in cls.INPUT_TYPES().items() if kind != "hidden"):
            for name, (_, options) in group.items():
                assert options["tooltip"], f"{key}.{name}"
        assert (ROOT / "web" / "docs" / f"{key}.md").is_file(), key


def test_the_locales_say_what_the_nodes_say(pack, folders):
    """English is what the classes say, word for word; the other languages translate each of these texts."""
    english = {}
    for key, cls in pack.NODE_CLASS_MAPPINGS.items():
        shown = {name: o for kind, g in cls.INPUT_TYPES().items() if kind != "hidden" for name, (_, o) in g.items()}
        outputs = zip(cls.RETURN_NAMES, cls.OUTPUT_TOOLTIPS, strict=True)
        english[key] = {
            "display_name": pack.NODE_DISPLAY_NAME_MAPPINGS[key],
            "description": cls.DESCRIPTION,
            "inputs": {name: {"name": name, "tooltip": options["tooltip"]} for name, options in shown.items()},
            "outputs": {str(i): {"name": name, "tooltip": tip} for i, (name, tip) in enumerate(outputs)},
        }
    languages = {p.parent.name: json.loads(p.read_text()) for p in (ROOT / "locales").glob("*/nodeDefs.json")}
    assert languages.pop("en") == english
    assert languages

    def check(translated, original, path):
        if isinstance(original, dict):
            assert translated.keys() == original.keys(), path
            for name, text in original.items():
                check(translated[name], text, f"{path}.{name}")
        else:
            assert translated.strip(), path
            assert translated != original or " " not in original, f"{path} is not translated"

    for language, translated in languages.items():
        check(translated, english, language)


def test_loading_the_pack_imports_neither_transformers_nor_diffusers():
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("pack", {str(ROOT / "__init__.py")!r}, submodule_search_locations=[{str(ROOT)!r}])
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
spec.loader.exec_module(pack)
assert len(pack.NODE_CLASS_MAPPINGS) >= 9
[c.INPUT_TYPES() for c in pack.NODE_CLASS_MAPPINGS.values()]
print([m for m in ("transformers", "diffusers", "torchaudio", "av", "PIL") if m in sys.modules])
"""  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_load_audio(node, folders):
    waveform = torch.stack([sine(2.0, rate=22050), noise(2.0, rate=22050)])
    (folders / "input" / "deep").mkdir()
    write_audio(folders / "input" / "deep" / "a.flac", waveform, 22050)
    options = node("Audio2ImgLoadAudio").INPUT_TYPES()["required"]["audio_file"][0]
    assert [name for name in options if "[example]" not in name] == ["deep/a.flac"]
    loaded = node("Audio2ImgLoadAudio").execute("deep/a.flac", 0.5, 1.0)[0]
    assert loaded["sample_rate"] == 22050 and loaded["waveform"].shape == (1, 2, 22050)
    torch.testing.assert_close(loaded["waveform"][0], waveform[:, 11025:33075], atol=1e-3, rtol=0)
    whole = node("Audio2ImgLoadAudio").execute("deep/a.flac", 0.0, 0.0)[0]
    assert whole["waveform"].shape == (1, 2, 44100)


def test_load_audio_reads_the_sound_of_a_video(node, folders):
    write_audio(folders / "input" / "v.mp4", sine(1.0, rate=44100), 44100, video=True)
    loaded = node("Audio2ImgLoadAudio").execute("v.mp4", 0.0, 0.0)[0]
    assert loaded["waveform"].abs().max() > 0.3


def test_examples_can_be_loaded_without_any_file_of_ones_own(node, folders):
    loader = node("Audio2ImgLoadAudio")
    options = loader.INPUT_TYPES()["required"]["audio_file"][0]
    assert "piano.flac [example]" in options and options[-1].endswith(" [example]")
    assert type(loader).VALIDATE_INPUTS("piano.flac [example]") is True
    (loaded,) = loader.execute("piano.flac [example]", 0.0, 1.0)
    assert loaded["waveform"].shape == (1, 2, 44100) and loaded["sample_rate"] == 44100
    assert "no such example; there are" in type(loader).VALIDATE_INPUTS("gone.flac [example]")
    assert "no such example" in type(loader).VALIDATE_INPUTS("../README.md [example]")


def test_load_audio_notices_a_changed_file(node, folders):
    cls = type(node("Audio2ImgLoadAudio"))
    path = folders / "input" / "a.wav"
    write_audio(path, noise(0.1), 16000)
    before = cls.IS_CHANGED("a.wav", 0.0, 0.0)
    assert before == cls.IS_CHANGED("a.wav", 0.0, 0.0)
    write_audio(path, sine(0.1), 16000)
    assert cls.IS_CHANGED("a.wav", 0.0, 0.0) != before


@pytest.mark.parametrize("name", ["none.wav", "../secret.wav", "/etc/passwd", "deep/../../secret.wav", "a\0.wav", ""])
def test_load_audio_refuses_what_is_not_in_the_input_folder(node, folders, name):
    write_audio(folders / "secret.wav", noise(0.1), 16000)
    loader = node("Audio2ImgLoadAudio")
    verdict = type(loader).VALIDATE_INPUTS(name)
    assert isinstance(verdict, str) and "input folder" in verdict
    with pytest.raises((ValueError, FileNotFoundError), match="input folder"):
        loader.execute(name, 0.0, 0.0)


def test_a_link_out_of_the_input_folder_is_refused(node, folders):
    write_audio(folders / "secret.wav", noise(0.1), 16000)
    (folders / "input" / "link.wav").symlink_to(folders / "secret.wav")
    assert "outside" in type(node("Audio2ImgLoadAudio")).VALIDATE_INPUTS("link.wav")


def test_encoders_are_listed_as_files_and_folders(pack, node, folders, tiny_folders, seed_folder):
    from audio2img_core import AudioEncoder
    from audio2img_core.encoder.checkpoint import save

    models = folders / "models" / "audio_encoders"
    save(AudioEncoder.from_pretrained(tiny_folders("sd15") / "encoder"), models / "one.safetensors")
    shutil.copytree(seed_folder, models / "sub" / "seed")
    loader = node("Audio2ImgLoadEncoder")
    assert loader.INPUT_TYPES()["required"]["encoder_name"][0] == ["mini", "one.safetensors", "sub/seed"]
    assert loader.execute("one.safetensors", "float32")[0].encoder.config.target == "sd15"
    assert loader.execute("sub/seed", "bfloat16")[0].encoder.dtype == torch.bfloat16
    assert loader.execute("mini", "auto")[0].encoder.config.target == "mini"
    for name in ("none.safetensors", "../../secret", "/etc/passwd"):
        with pytest.raises(FileNotFoundError, match="no such encoder in models/audio_encoders"):
            loader.execute(name, "auto")


def test_linked_model_folders_are_listed_and_half_written_files_are_not(node, folders, tiny_folders):
    models = folders / "models" / "audio_encoders"
    (models / "linked").symlink_to(tiny_folders("sd15") / "encoder")
    (models / ".half.safetensors.x.partial.safetensors").touch()
    loader = node("Audio2ImgLoadEncoder")
    assert loader.INPUT_TYPES()["required"]["encoder_name"][0] == ["mini", "linked"]
    assert loader.execute("linked", "auto")[0].encoder.config.target == "sd15"


def test_a_linked_input_is_validated_later(node):
    assert type(node("Audio2ImgLoadAudio")).VALIDATE_INPUTS(None) is True


def test_audio_to_conditioning(node, encoder):
    embeds = node("Audio2ImgEncode").execute(encoder, audio(2.0))[0]
    positive, negative = node("Audio2ImgToConditioning").execute(embeds, 1.0, "average")
    assert positive[0][0].shape == negative[0][0].shape == (1, 77, 768)
    assert positive[0][1] == {} and len(positive) == 1
    zero, _ = node("Audio2ImgToConditioning").execute(embeds, 0.0, "average")
    assert torch.equal(zero[0][0], negative[0][0])


def test_the_nodes_give_what_the_library_gives(node, encoder, tiny_folders):
    from audio2img_core import AudioEncoder
    from audio2img_core.conditioning.prompt import condition

    library = AudioEncoder.from_pretrained(tiny_folders("sd15") / "encoder", dtype=encoder.encoder.dtype)
    sound = audio(2.0)
    expected, _ = condition(library.encode(sound["waveform"], 16000))
    embeds = node("Audio2ImgEncode").execute(encoder, sound)[0]
    positive, _ = node("Audio2ImgToConditioning").execute(embeds, 1.0, "average")
    assert torch.equal(positive[0][0], expected.tokens)


@pytest.mark.parametrize(("batch", "channels", "rate"), [(1, 2, 44100), (3, 1, 16000), (2, 2, 48000)])
def test_any_batch_channels_and_rate(node, encoder, batch, channels, rate):
    embeds = node("Audio2ImgEncode").execute(encoder, LazyAudio(audio(1.0, batch, channels, rate)))[0]
    positive, _ = node("Audio2ImgToConditioning").execute(embeds, 1.0, "average")
    assert positive[0][0].shape == (batch, 77, 768)


def test_a_stereo_file_gives_the_same_through_nodes_and_library(node, encoder, folders, tiny_folders, examples):
    from audio2img_core import AudioToImagePipeline

    shutil.copy(examples / "piano.flac", folders / "input")
    loaded = node("Audio2ImgLoadAudio").execute("piano.flac", 0.3, 1.5)[0]
    embeds = node("Audio2ImgEncode").execute(encoder, loaded)[0]
    folder = tiny_folders("sd15")
    pipe = AudioToImagePipeline.from_pretrained(folder / "encoder", folder / "diffusion")
    assert torch.equal(embeds.tokens, pipe.encode(examples / "piano.flac", start=0.3, duration=1.5).tokens)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sound_has_one_embedding_everywhere(node, encoder, folders, examples, tmp_path, dtype):
    """Twice, after a reload, beside others, on the command line and in the node."""
    from safetensors.torch import load_file

    from audio2img_core import AudioEncoder
    from audio2img_core.audio.waveform import read_clips
    from audio2img_core.cli import main

    sound, folder = examples / "piano.flac", folders / "models" / "audio_encoders" / "mine"
    library = AudioEncoder.from_pretrained(folder, dtype=dtype)
    once = library.encode(read_clips(sound)[0], 16_000).tokens
    assert torch.equal(library.encode(read_clips(sound)[0], 16_000).tokens, once)
    assert torch.equal(
        AudioEncoder.from_pretrained(folder, dtype=dtype).encode(read_clips(sound)[0], 16_000).tokens, once
    )

    line = ["encode", str(sound), "-o", str(tmp_path / "e.safetensors"), "--encoder", str(folder), "--dtype", dtype]
    assert main(line) == 0
    assert torch.equal(load_file(tmp_path / "e.safetensors")[f"{sound.as_posix()}/tokens"], once)
    loaded = node("Audio2ImgLoadAudio").execute("piano.flac [example]", 0.0, 0.0)[0]
    managed = node("Audio2ImgLoadEncoder").execute("mine", dtype)[0]
    assert torch.equal(node("Audio2ImgEncode").execute(managed, loaded)[0].tokens, once)

    others = [read_clips(examples / f"{name}.flac")[0] for name in ("bird", "rain", "choir")]
    for place in range(4):
        clips = [*others[:place], read_clips(sound)[0], *others[place:]]
        together = library.encode(clips, 16_000)
        rows = [row for row, clip in enumerate(together.clips) if clip == place]
        assert torch.equal(together.tokens[rows], once)  # on a CPU each window is encoded by itself
        if dtype == "float32":
            together = library.encode(clips, 16_000, batch_size=3)
            assert (together.tokens[rows] - once).abs().max() < 1e-5


def test_window_modes(node, encoder):
    embeds = node("Audio2ImgEncode").execute(encoder, audio(3.0), window=1.0, hop=0.5, batch_size=2)[0]
    assert embeds.starts == (0.0, 0.5, 1.0, 1.5, 2.0)
    shapes = {
        mode: node("Audio2ImgToConditioning").execute(embeds, 1.0, mode)[0][0][0].shape
        for mode in ("average", "join", "keep")
    }
    assert shapes == {"average": (1, 77, 768), "join": (1, 385, 768), "keep": (5, 77, 768)}


def test_xl_has_a_pooled_output(node, folders, tiny_folders):
    shutil.copytree(tiny_folders("sdxl") / "encoder", folders / "models" / "audio_encoders" / "xl")
    encoder = node("Audio2ImgLoadEncoder").execute("xl", "auto")[0]
    embeds = node("Audio2ImgEncode").execute(encoder, audio())[0]
    for conditioning in node("Audio2ImgToConditioning").execute(embeds, 1.0, "average"):
        assert conditioning[0][0].shape == (1, 77, 2048)
        assert conditioning[0][1]["pooled_output"].shape == (1, 1280)


def test_a_seed_encoder_takes_the_empty_prompt_from_clip(node, folders, seed_folder):
    class Clip:
        """What a ComfyUI CLIP answers to the two calls that the node makes."""

        def tokenize(self, text):
            assert text == ""
            return text

        def encode_from_tokens_scheduled(self, tokens):
            return [[torch.full((1, 77, 1024), 0.5), {"pooled_output": torch.zeros(1, 1024)}]]

    shutil.copytree(seed_folder, folders / "models" / "audio_encoders" / "seed")
    encoder = node("Audio2ImgLoadEncoder").execute("seed", "auto")[0]
    embeds = node("Audio2ImgEncode").execute(encoder, audio())[0]
    with pytest.raises(ValueError, match="no empty prompt.*CLIP"):
        node("Audio2ImgToConditioning").execute(embeds, 1.0, "average")
    positive, negative = node("Audio2ImgToConditioning").execute(embeds, 1.0, "average", clip=Clip())
    assert (negative[0][0] == 0.5).all() and positive[0][0].shape == (1, 77, 1024)
    assert (positive[0][0][:, 0] == 0.5).all() and positive[0][1] == {}


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (None, "None"),
        ({"waveform": torch.zeros(1, 1, 100)}, "sample_rate"),
        ({"waveform": torch.zeros(16000), "sample_rate": 16000}, "B, C, T"),
        ({"waveform": torch.zeros(1, 1, 0), "sample_rate": 16000}, "(?i)empty|zero|B, C, T"),
        ({"waveform": torch.zeros(1, 1, 100), "sample_rate": 0}, "sample_rate"),
        ({"waveform": torch.full((1, 1, 100), float("nan")), "sample_rate": 16000}, "NaN"),
    ],
)
def test_audio_that_is_none_is_refused(node, encoder, sound, message):
    with pytest.raises(ValueError, match=message) as error:
        node("Audio2ImgEncode").execute(encoder, sound)
    assert "\n" not in str(error.value)


def test_nodes_keep_no_state(node, encoder):
    first, second = node("Audio2ImgEncode"), node("Audio2ImgEncode")
    a = first.execute(encoder, audio())[0].tokens
    first.execute(encoder, audio(2.0))
    assert torch.equal(second.execute(encoder, audio())[0].tokens, a)
    assert vars(first) == {}
