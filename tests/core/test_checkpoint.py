"""Checkpoint forms: what loads, what is refused and why, and conversion between them."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from audio2img_core import AudioEncoder
from audio2img_core.encoder.checkpoint import METADATA_KEY, read_config, save
from audio2img_core.encoder.config import AudioEncoderConfig
from audio2img_core.encoder.inspect import describe
from audio2img_core.mini.names import ENCODER
from audio2img_core.random_init import make_encoder, make_pair
from tests.helpers.audio import noise


@pytest.fixture(scope="module")
def encoder():
    encoder = make_pair("sdxl")[0]
    encoder.config.training = {"steps": 12, "data": "none"}
    return encoder


@pytest.fixture(scope="module", params=["folder", "sharded", "one.safetensors"])
def saved(request, encoder, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / request.param
    if request.param == "sharded":
        encoder.save_pretrained(path, max_shard_size="300KB")
        assert len(list(path.glob("*.safetensors"))) > 1
    else:
        save(encoder, path)
    return path


def test_round_trip(encoder, saved):
    loaded = AudioEncoder.from_pretrained(saved)
    clip = noise(1.0)
    expected, heard = encoder.encode(clip, 16000), loaded.encode(clip, 16000)
    assert torch.equal(heard.tokens, expected.tokens) and torch.equal(heard.pooled, expected.pooled)
    assert torch.equal(heard.space.null_tokens, expected.space.null_tokens)
    assert torch.equal(heard.space.null_pooled, expected.space.null_pooled)
    assert torch.equal(loaded.token_norms, encoder.token_norms)
    assert torch.equal(loaded.bos_token, encoder.null_tokens[0])
    assert loaded.config.training == {"steps": 12, "data": "none"}
    assert not loaded.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loads_where_inference_mode_is_on(saved, dtype):
    """As in ComfyUI's nodes: the threads that read do not inherit it."""
    expected = AudioEncoder.from_pretrained(saved, dtype=dtype).state_dict()
    with torch.inference_mode():
        loaded = AudioEncoder.from_pretrained(saved, dtype=dtype)
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, expected[name]), name


def test_dtype(saved):
    assert AudioEncoder.from_pretrained(saved).dtype == torch.float32
    assert AudioEncoder.from_pretrained(saved, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert AudioEncoder.from_pretrained(saved, dtype="bfloat16").dtype == torch.bfloat16
    assert AudioEncoder.from_pretrained(saved, torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="unknown dtype 'bf16'"):
        AudioEncoder.from_pretrained(saved, dtype="bf16")


def test_describe_reads_no_weights(saved):
    facts = describe(saved)
    assert facts["target"].startswith("sdxl") and facts["window"] == "10 s every 10 s"
    assert facts["parameters"] == sum(t.numel() for t in make_pair("sdxl")[0].state_dict().values())
    assert facts["training"] == {"steps": 12, "data": "none"}


def test_config_round_trip(encoder):
    again = AudioEncoderConfig(**json.loads(json.dumps(encoder.config.to_dict())))
    assert again.head == encoder.config.head and again.window == encoder.config.window
    assert again.backbone.to_dict() == encoder.config.backbone.to_dict()


def test_seed_folder(seed_folder):
    loaded = AudioEncoder.from_pretrained(seed_folder)
    assert loaded.config.target == "sd21" and loaded.config.num_tokens == 47
    assert loaded.config.window.size_frames == 376 and loaded.config.window.pad_value == 1.0
    assert loaded.config.window.normalize == "clip" and loaded.config.window.padding == "constant"
    assert describe(seed_folder)["form"] == "plain Wav2Vec2-BERT folder"
    plain = load_file(seed_folder / "model.safetensors")
    ours = loaded.state_dict()
    assert ours.keys() - {"logit_scale", "logit_bias"} == {
        f"head.{name}" if name.startswith("adapter.") else f"backbone.{name}" for name in plain
    }
    assert loaded.logit_scale.exp().item() == pytest.approx(1 / 0.15)
    name = "adapter.layers.0.residual_conv.weight"
    assert torch.equal(ours[f"head.{name}"], plain[name])


def test_a_seed_folder_becomes_ours(seed_folder, tmp_path):
    encoder = AudioEncoder.from_pretrained(seed_folder)
    save(encoder, tmp_path / "seed.safetensors")
    clip = noise(2.0)
    again = AudioEncoder.from_pretrained(tmp_path / "seed.safetensors")
    assert torch.equal(again.encode(clip, 16000).tokens, encoder.encode(clip, 16000).tokens)


def test_the_padding_value_comes_from_the_extractor_beside_the_weights(seed_folder, tmp_path):
    folder = shutil.copytree(seed_folder, tmp_path / "seed")
    (folder / "preprocessor_config.json").write_text(json.dumps({"padding_value": 0.5}))
    assert read_config(folder).add_adapter
    assert AudioEncoder.from_pretrained(folder).config.window.pad_value == 0.5
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(ValueError, match="preprocessor_config.json"):
        AudioEncoder.from_pretrained(folder)


def test_sharded_seed_folder(seed_folder, tmp_path):
    from transformers import Wav2Vec2BertModel

    Wav2Vec2BertModel.from_pretrained(seed_folder).save_pretrained(tmp_path / "s", max_shard_size="500KB")
    assert len(list((tmp_path / "s").glob("*.safetensors"))) > 1
    clip = noise(1.0)
    a, b = (AudioEncoder.from_pretrained(p).encode(clip, 16000).tokens for p in (tmp_path / "s", seed_folder))
    assert torch.equal(a, b)


def edit_weights(file, change):
    """Rewrite a safetensors file with `change(tensors, metadata)`."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    change(tensors, metadata)
    save_file(tensors, file, metadata=metadata)


@pytest.mark.parametrize("form", ["folder", "one.safetensors", "seed"])
@pytest.mark.parametrize("problem", ["missing", "unexpected", "wrongly shaped"])
def test_weights_that_do_not_fit_are_named(encoder, seed_folder, tmp_path, form, problem):
    path = tmp_path / form
    if form == "seed":
        shutil.copytree(seed_folder, path)
    else:
        save(encoder, path)
    prefix = "" if form == "seed" else "backbone."
    name = f"{prefix}encoder.layers.0.ffn1.output_dense.bias"

    def change(tensors, metadata):
        assert name in tensors
        if problem == "missing":
            del tensors[name]
        elif problem == "unexpected":
            tensors["extra.weight"] = torch.zeros(1)
        else:
            tensors[name] = torch.zeros(3)

    edit_weights(path if path.is_file() else path / "model.safetensors", change)
    with pytest.raises(ValueError) as error:
        AudioEncoder.from_pretrained(path)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    assert ("extra.weight" if problem == "unexpected" else name) in message


def test_pickles_are_refused_with_the_way_to_convert(tmp_path, encoder):
    pickled = tmp_path / "model.bin"
    torch.save(encoder.state_dict(), pickled)
    with pytest.raises(ValueError, match="pickle.*python -c.*save_file"):
        AudioEncoder.from_pretrained(pickled)
    folder = tmp_path / "folder"
    save(encoder, folder)
    (folder / "model.safetensors").unlink()
    torch.save(encoder.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickle.*python -c.*save_file"):
        AudioEncoder.from_pretrained(folder)


@pytest.mark.parametrize("name", ["nothing.safetensors", "./nothing", "/nothing/at/all", "a/b/c", "nothing"])
def test_nothing_there(name):
    with pytest.raises(FileNotFoundError, match="no such encoder"):
        AudioEncoder.from_pretrained(name)


def test_other_files_are_refused(tmp_path):
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    with pytest.raises(ValueError, match="not a safetensors file"):
        AudioEncoder.from_pretrained(text)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=METADATA_KEY):
        AudioEncoder.from_pretrained(tmp_path / "other.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "j.safetensors", metadata={METADATA_KEY: "[]"})
    with pytest.raises(ValueError, match="JSON"):
        AudioEncoder.from_pretrained(tmp_path / "j.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="config.json"):
        AudioEncoder.from_pretrained(tmp_path / "empty")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="'bert' is no audio encoder"):
        AudioEncoder.from_pretrained(tmp_path / "bert")


def test_a_backbone_without_adapter_is_no_encoder(tmp_path):
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

    config = Wav2Vec2BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    Wav2Vec2BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="without adapter"):
        AudioEncoder.from_pretrained(tmp_path)


def test_a_config_with_impossible_values_is_refused(encoder, tmp_path):
    save(encoder, tmp_path / "e")
    file = tmp_path / "e" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "target": "sd99"}))
    with pytest.raises(ValueError, match="unknown target 'sd99'"):
        AudioEncoder.from_pretrained(tmp_path / "e")


def test_nothing_is_half_written(encoder, tmp_path, monkeypatch):
    from audio2img_core.encoder import checkpoint

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    monkeypatch.setattr(type(encoder), "save_pretrained", fail)
    for name in ("e.safetensors", "folder"):
        with pytest.raises(OSError, match="No space"):
            save(encoder, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(encoder, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError):
        save(encoder, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_every_position_embedding_of_the_backbone_loads(tmp_path):
    for kind in ("rotary", "relative", "relative_key"):
        config = make_encoder("sd15").config.to_dict()
        config["backbone"]["position_embeddings_type"] = kind
        encoder = AudioEncoder(AudioEncoderConfig(**config)).eval()
        save(encoder, tmp_path / f"{kind}.safetensors")
        again = AudioEncoder.from_pretrained(tmp_path / f"{kind}.safetensors")
        assert torch.equal(again.encode(noise(1.0), 16000).tokens, encoder.encode(noise(1.0), 16000).tokens)


def test_set_teacher_checks_shapes():
    encoder = make_encoder("sdxl")
    with pytest.raises(ValueError, match="null_tokens"):
        encoder.set_teacher(torch.zeros(77, 768), null_pooled=torch.zeros(1280))
    with pytest.raises(ValueError, match="null_pooled"):
        encoder.set_teacher(torch.zeros(77, 2048))
    with pytest.raises(ValueError, match="token_norms"):
        encoder.set_teacher(torch.zeros(77, 2048), null_pooled=torch.zeros(1280), token_norms=torch.zeros(3))
    assert encoder.bos_token is None and not encoder.config.null_prompt


def test_a_subclass_loads_as_itself(saved, seed_folder):
    class Subclass(AudioEncoder):
        pass

    for source in ("mini", saved, seed_folder):
        assert type(Subclass.from_pretrained(source)) is Subclass


def test_a_subclass_of_the_trainer_can_save_and_load(tmp_path):
    """`save_pretrained` and `from_pretrained` are transformers' own: what Trainer calls works."""
    encoder = make_pair("sd15")[0]
    encoder.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["AudioEncoder"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("options", [{}, {"device_map": "cpu"}])  # read by ourselves, and by transformers
def test_the_empty_prompt_stays_exact_in_every_dtype(encoder, tmp_path, options):
    save(encoder, tmp_path / "folder")
    loaded = AudioEncoder.from_pretrained(tmp_path / "folder", dtype="bfloat16", **options)
    assert loaded.dtype == loaded.backbone.dtype == torch.bfloat16
    assert torch.equal(loaded.space.null_tokens, encoder.space.null_tokens)
    assert torch.equal(loaded.token_norms, encoder.token_norms)


def test_int8_hears_the_same():
    clip = noise(1.0)
    expected = AudioEncoder.from_pretrained("mini", dtype="float32").encode(clip, 16000)
    for source in ("mini", ENCODER):
        small = AudioEncoder.from_pretrained(source, dtype="int8")
        heard = small.encode(clip, 16000)
        assert torch.cosine_similarity(heard.tokens, expected.tokens, dim=-1).min() > 0.995
    layer = small.backbone.encoder.layers[0].ffn1.intermediate_dense
    assert layer.weight.qdata.dtype == torch.int8


def test_int8_without_its_library_says_what_to_install(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match="dtype 'int8' needs torchao: pip install 'audio2img.int8.'"):
        AudioEncoder.from_pretrained(saved, dtype="int8")
