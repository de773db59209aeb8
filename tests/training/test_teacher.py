"""The teacher against the diffusers pipelines' own `encode_prompt`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from audio2img_core.conditioning.text import encode_text
from audio2img_core.generation.loading import load_mini_diffusion
from audio2img_core.random_init import make_diffusion, make_tokenizer
from audio2img_core.targets import get_target
from training.teacher.text_encoder import Teacher

ROOT = Path(__file__).parents[2]
CAPTIONS = ["", "rain on a tin roof", "Café, 雨の音 \U0001f327 — Übung", "a dog barks " * 40, "  two\n lines "]
TARGETS = ("sd15", "sd21", "sdxl")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """target -> (pipeline, folder): tiny, stored as diffusers stores them, padded as the published ones are."""
    made = {}

    def model(target):
        if target not in made:
            diffusion, folder = make_diffusion(target), tmp_path_factory.mktemp("diffusion") / target
            if target == "sdxl":
                diffusion.tokenizer_2 = make_tokenizer(514)
            if target in ("sd21", "sdxl"):  # OpenCLIP pads with token 0, "!"; CLIP-L with EOS
                padded = diffusion.tokenizer if target == "sd21" else diffusion.tokenizer_2
                padded.pad_token = "!"
            diffusion.save_pretrained(folder)
            made[target] = diffusion, folder
        return made[target]

    return model


@pytest.fixture(scope="module")
def teacher(models):
    return Teacher.from_pretrained(models("sd15")[1], "sd15", device="cpu")


@pytest.mark.parametrize("target", TARGETS)
def test_equal_to_the_pipelines_own_prompts(models, target):
    diffusion, folder = models(target)
    taught = Teacher.from_pretrained(folder, target, device="cpu")
    output = taught.encode(CAPTIONS, batch_size=2)
    for i, caption in enumerate(CAPTIONS):
        own = encode_text(diffusion, caption)
        torch.testing.assert_close(output.tokens[i : i + 1], own.tokens, atol=1e-5, rtol=0)
        assert (output.pooled is None) == (own.pooled is None)
        if own.pooled is not None:
            torch.testing.assert_close(output.pooled[i : i + 1], own.pooled, atol=1e-5, rtol=0)
    null = encode_text(diffusion, "")
    torch.testing.assert_close(taught.null.tokens, null.tokens, atol=1e-5, rtol=0)
    assert output.tokens.shape == (len(CAPTIONS), 77, get_target(target).width)
    # BOS, bytes other than blanks, EOS
    assert output.mask.sum(1).tolist() == [min(77, 2 + len("".join(c.split()).lower().encode())) for c in CAPTIONS]


def test_reads_text_encoders_and_tokenizers_only(models, tmp_path):
    folder = models("sdxl")[1]
    for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        shutil.copytree(folder / name, tmp_path / name)
    assert Teacher.from_pretrained(tmp_path, "sdxl", device="cpu").null.pooled.shape == (1, 1280)


def test_hub_id_from_the_hubs_cache(models, tmp_path):
    repo = tmp_path / "hub" / "models--someone--diffusion"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    (repo / "snapshots").mkdir()
    (repo / "snapshots" / ("0" * 40)).symlink_to(models("sd21")[1])
    code = (
        "from training.teacher.text_encoder import Teacher\n"
        "print(Teacher.from_pretrained('someone/diffusion', 'sd21', device='cpu').fingerprint)\n"
        "try: Teacher.from_pretrained('no/such', 'sd21')\n"
        "except FileNotFoundError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0] == Teacher.from_pretrained(models("sd21")[1], "sd21", device="cpu").fingerprint, done.stderr
    assert len(lines) == 2 and "no/such" in lines[1]


def test_mini():
    diffusion = load_mini_diffusion()
    output = Teacher.from_pretrained("mini", "mini", device="cpu").encode(["rain"])
    torch.testing.assert_close(output.tokens, encode_text(diffusion, "rain").tokens)


def test_mask_is_bos_words_and_one_eos(teacher):
    mask = teacher.encode(["", "ab c", "x" * 200]).mask
    assert mask.dtype == torch.bool and mask.sum(1).tolist() == [2, 5, 77]  # the tokenizer knows bytes only
    assert mask[1, :5].all()


def test_encode_reports_its_steps_and_takes_no_caption(teacher):
    steps = []
    teacher.encode(["a", "b", "c"], batch_size=2, on_step=lambda *step: steps.append(step))
    assert steps == [(2, 3), (3, 3)]
    assert teacher.encode([]).tokens.shape == (0, 77, 768)
    for wrong in ("a text", ["a", 3]):
        with pytest.raises(ValueError, match="sequence of strings"):
            teacher.encode(wrong)


@pytest.mark.parametrize(
    "model, target, says",
    [
        ("sd21", "sd15", ["width 1024", "'sd15'", "768", "target 'sd21'"]),
        ("sd15", "sdxl", ["width 768", "'sdxl'", "2048", "target 'sd15'"]),
        ("sdxl", "sd15", ["768 + 1280", "'sd15'", "target 'sdxl'"]),
        ("mini", "sd21", ["width 256", "'sd21'", "target 'mini'"]),
    ],
)
def test_a_teacher_that_does_not_fit_the_target(models, model, target, says):
    with pytest.raises(ValueError) as raised:
        Teacher.from_pretrained("mini" if model == "mini" else models(model)[1], target, device="cpu")
    assert all(words in str(raised.value) for words in says), raised.value


def test_bad_folders(models, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Teacher.from_pretrained(tmp_path / "nowhere", "sd15")
    with pytest.raises(FileNotFoundError, match="no text_encoder/config.json"):
        Teacher.from_pretrained(tmp_path, "sd15")
    broken = tmp_path / "broken"
    for name in ("text_encoder", "tokenizer"):
        shutil.copytree(models("sd15")[1] / name, broken / name)
    weights = broken / "text_encoder" / "model.safetensors"
    whole = load_file(weights)
    lost = max(whole)
    save_file({n: w for n, w in whole.items() if n != lost}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks weights.*layer_norm"):
        Teacher.from_pretrained(broken, "sd15", device="cpu")
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(ValueError, match="cannot be loaded as a text encoder"):
        Teacher.from_pretrained(broken, "sd15", device="cpu")
    shutil.rmtree(broken / "tokenizer")
    with pytest.raises(FileNotFoundError, match="tokenizer"):
        Teacher.from_pretrained(broken, "sd15", device="cpu")


def test_weights_under_their_published_names(models, teacher, tmp_path):
    """Published text encoders carry their positions; names without prefix are those of newer transformers."""
    shutil.copytree(models("sd15")[1], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{name.removeprefix('text_model.')}": weight for name, weight in load_file(file).items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights, file, metadata={"format": "pt"})
    assert Teacher.from_pretrained(tmp_path, "sd15", device="cpu").fingerprint == teacher.fingerprint
    weights["text_model.encoder.layers.7.mlp.fc1.bias"] = torch.zeros(64)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="unknown weights.*layers.7"):
        Teacher.from_pretrained(tmp_path, "sd15", device="cpu")


def test_fingerprint_tells_teachers_apart(models, teacher):
    folder = models("sd15")[1]
    assert Teacher.from_pretrained(folder, "sd15", device="cpu").fingerprint == teacher.fingerprint
    other = Teacher.from_pretrained(folder, "sd15", device="cpu")
    next(other.encoders[0].parameters()).data[0, 0] += 1e-3
    half = Teacher.from_pretrained(folder, "sd15", device="cpu", dtype=torch.bfloat16)
    assert len({teacher.fingerprint, other.fingerprint, half.fingerprint}) == 3
