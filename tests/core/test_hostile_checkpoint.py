"""Checkpoints from strangers: each is refused with one line, before memory or time is spent, and none runs code."""

import json
import pickle
import re
import resource
import shutil
import struct
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from audio2img_core import AudioEncoder
from audio2img_core.cli import main
from audio2img_core.encoder.checkpoint import METADATA_KEY, save
from audio2img_core.generation.loading import load_diffusion
from audio2img_core.random_init import make_pair

ROOT = Path(__file__).parents[2]
MEGABYTES = 150  # that a refusal may take
SECONDS = 20  # on a busy machine; the lies ask for hours


@contextmanager
def cheaply():
    """What happens inside takes little memory and time; a lie that is believed fails instead of filling the machine."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not clear.exists():
        yield
        return

    def kilobytes(name):
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name))

    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (kilobytes("VmSize") * 1024 + 4 * 2**30, limits[1]))
    clear.write_text("5")  # the peak begins anew
    before, begun = kilobytes("VmRSS"), time.monotonic()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert kilobytes("VmHWM") - before < MEGABYTES * 1024
    assert time.monotonic() - begun < SECONDS


def refused(path, *words):
    """Loading and describing are refused in one line that names the file and holds the words."""
    with cheaply(), pytest.raises((ValueError, FileNotFoundError)) as caught:
        AudioEncoder.from_pretrained(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700 and str(path) in message, message
    for word in words:
        assert word in message, message
    return message


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    encoder = make_pair("sd15")[0]
    whole = tmp_path_factory.mktemp("whole") / "one.safetensors"
    save(encoder, whole)
    AudioEncoder.from_pretrained(whole)  # what is imported and made at the first load is no cost of a refusal
    return encoder


@pytest.fixture(scope="module")
def forms(encoder, tmp_path_factory):
    """The encoder saved in both of its forms."""
    folder = tmp_path_factory.mktemp("forms")
    for form in ("folder", "one.safetensors"):
        save(encoder, folder / form)
    return folder


@pytest.fixture(params=["folder", "one.safetensors"])
def copy(request, forms, tmp_path):
    """A checkpoint to be spoiled, in both of its forms."""
    whole = forms / request.param
    return Path((shutil.copytree if whole.is_dir() else shutil.copy)(whole, tmp_path / request.param))


@pytest.fixture
def seed_copy(seed_folder, tmp_path):
    AudioEncoder.from_pretrained(seed_folder)  # as above: imports of the first load
    return shutil.copytree(seed_folder, tmp_path / "seed")


def weights_of(path):
    return path / "model.safetensors" if path.is_dir() else path


def rewrite(path, change):
    """Rewrite the weights with `change(tensors)`."""
    file = weights_of(path)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata=metadata)


def configure(path, **changes):
    """Change fields of the config; "backbone__x" is x of the backbone."""

    def changed(config):
        for name, value in changes.items():
            *parts, last = name.split("__")
            place = config
            for part in parts:
                place = place[part]
            place[last] = value
        return json.dumps(config)

    if path.is_dir():
        file = path / "config.json"
        file.write_text(changed(json.loads(file.read_text())))
    else:
        tensors = load_file(path)
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata()
        save_file(tensors, path, metadata={**metadata, METADATA_KEY: changed(json.loads(metadata[METADATA_KEY]))})


SIZES = [
    *(("backbone__hidden_size", value) for value in (10**9, 10**30, 0, -32, 2.5, "32", None, True, [32])),
    *(("backbone__num_hidden_layers", value) for value in (10**6, 0)),
    ("backbone__num_attention_heads", 10**9),
    ("backbone__num_attention_heads", 7),
    ("backbone__intermediate_size", 10**9),
    ("backbone__feature_projection_input_dim", 10**9),
    ("backbone__conv_depthwise_kernel_size", 10**9),
    ("backbone__max_source_positions", 10**9),
    ("backbone__left_max_position_embeddings", 10**9),
    ("backbone__num_adapter_layers", 10**9),
    ("backbone__adapter_stride", 0),
    ("head__num_tokens", 10**9),
    ("head__width", 10**9),
    ("head__num_layers", 10**6),
    ("head__num_heads", 7),
    *(("window__seconds", value) for value in (10**9, 0, -1, float("nan"), float("inf"), "10", None)),
    ("window__hop_seconds", 10**9),
    ("window__hop_seconds", 0),
    ("window__pad_value", float("nan")),
    ("window__dynamic_range", -1),
]


@pytest.mark.parametrize(("field", "value"), SIZES)
def test_a_size_beyond_all_bounds_is_refused_by_its_name(copy, field, value):
    configure(copy, **{field: value})
    message = refused(copy, field.split("__")[1].removesuffix("_seconds"))
    assert "must be" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone__hidden_act": "nope"}, ["hidden_act", "'nope'"]),
        ({"backbone__hidden_act": "x" * 10**6}, ["hidden_act"]),
        ({"backbone__position_embeddings_type": "absolute"}, ["position_embeddings_type"]),
        ({"backbone__layer_norm_eps": float("nan")}, ["layer_norm_eps"]),
        ({"backbone__hidden_dropout": "much"}, ["hidden_dropout"]),
        ({"backbone": 3}, ["backbone"]),
        ({"head__kind": "mlp"}, ["conv, query", "'mlp'"]),
        ({"head__magic": 1}, ["unknown HeadConfig fields", "magic"]),
        ({"head": [1]}, ["HeadConfig"]),
        ({"window__normalize": "never"}, ["normalize", "'never'"]),
        ({"window__padding": 3}, ["padding"]),
        ({"window__magic": 1}, ["unknown WindowConfig fields", "magic"]),
        ({"target": "sd99"}, ["unknown target 'sd99'"]),
        ({"target": ["sd15"]}, ["unknown target"]),
        ({"target": "x" * 10**6}, ["unknown target"]),
        ({"prepend_bos": "yes"}, ["prepend_bos"]),
        ({"training": "long"}, ["training"]),
        ({"model_type": "llama"}, ["model_type 'llama' is no audio encoder"]),
        ({"model_type": {}}, ["model_type"]),
    ],
)
def test_an_unknown_value_is_refused_by_its_name(copy, changes, words):
    configure(copy, **changes)
    refused(copy, *words)


@pytest.mark.parametrize("field", ["backbone__hidden_size", "backbone__num_hidden_layers", "head__width"])
def test_a_config_that_asks_for_more_than_the_file_holds_is_refused_before_it_is_built(copy, field):
    """Within all bounds, and 100 times what lies there: gigabytes, if they were taken first."""
    configure(copy, **{field: {"num_hidden_layers": 200}.get(field.split("__")[1], 8192)})
    assert "do not fit the config" in refused(copy)


@pytest.mark.parametrize(
    ("field", "value"), [("hidden_size", 10**9), ("hidden_size", 8192), ("num_hidden_layers", 10**6), ("hidden_act", 3)]
)
def test_a_seed_folder_with_an_absurd_config_is_refused(seed_copy, field, value):
    configure(seed_copy, **{field: value})
    refused(seed_copy)


def pickled(path):
    class Boom:
        def __reduce__(self):
            return (Path.touch, (path.parent / "ran",))

    path.write_bytes(pickle.dumps(Boom()))


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))


def lying(header, data=b"", length=None):
    def write(path):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)

    return write


def entry(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BROKEN = {
    "a pickle": pickled,
    "a zip": zipped,
    "torch's zip": lambda path: torch.save({"a": torch.zeros(2)}, path),
    "nothing": lambda path: path.write_bytes(b""),
    "three bytes": lambda path: path.write_bytes(b"abc"),
    "a header of 2^63 bytes": lying(b"{}", length=2**63),
    "a header of 90 MB that is not there": lying(b"{}", length=90_000_000),
    "a header longer than the file": lying({"a": entry([1], [0, 4])}, length=4000),
    "a header that is no JSON": lying(b"{]"),
    "a header that is deep": lying(b"[" * 200_000),
    "a header that is a list": lying([1]),
    "a tensor beyond the end": lying({"a": entry([10**9], [0, 4 * 10**9])}, b"1234"),
    "a shape that overflows": lying({"a": entry([2**40, 2**40], [0, 4])}, b"1234"),
    "a shape of other bytes": lying({"a": entry([2], [0, 4])}, b"1234"),
    "tensors over each other": lying({"a": entry([2], [0, 8]), "b": entry([2], [4, 12])}, b"0" * 12),
    "a hole": lying({"a": entry([1], [0, 4]), "b": entry([1], [8, 12])}, b"0" * 12),
    "an unknown dtype": lying({"a": entry([1], [0, 4], "F99")}, b"1234"),
    "negative offsets": lying({"a": entry([1], [-4, 0])}, b"1234"),
    "a negative shape": lying({"a": entry([-1], [0, 4])}, b"1234"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("form", ["folder", "one.safetensors", "sharded", "seed"])
def test_weights_that_are_no_safetensors_are_refused(encoder, seed_folder, tmp_path, kind, form):
    path = tmp_path / form
    if form == "sharded":
        encoder.save_pretrained(path, max_shard_size="300KB")
        BROKEN[kind](sorted(path.glob("*.safetensors"))[-1])
    elif form == "seed":
        shutil.copytree(seed_folder, path)
        BROKEN[kind](path / "model.safetensors")
    else:
        save(encoder, path)
        BROKEN[kind](weights_of(path))
    refused(path, "safetensors")
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl"])
def test_pickles_are_never_opened(tmp_path, encoder, suffix):
    pickled(tmp_path / f"m{suffix}")
    refused(tmp_path / f"m{suffix}", "pickle")
    folder = tmp_path / "folder"
    save(encoder, folder)
    (folder / "model.safetensors").unlink()
    pickled(folder / f"pytorch_model{suffix}")
    refused(folder, "pickle")
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(copy, value):
    name = "backbone.encoder.layers.0.ffn1.output_dense.weight"
    rewrite(copy, lambda tensors: tensors[name].view(-1)[5].fill_(value))
    refused(copy, name, "NaN or infinite")


def test_a_nan_in_the_empty_prompt_and_in_a_seed_folder_is_refused(copy, seed_copy):
    rewrite(copy, lambda tensors: tensors["null_tokens"][3, 3].fill_(float("nan")))
    refused(copy, "null_tokens", "NaN")
    name = "adapter.layers.0.residual_conv.weight"
    rewrite(seed_copy, lambda tensors: tensors[name].view(-1)[-1].fill_(float("nan")))
    refused(seed_copy, name, "NaN")


def test_weights_that_the_dtype_asked_for_cannot_hold_are_refused(copy):
    name = "head.norm.weight"
    rewrite(copy, lambda tensors: tensors[name].fill_(1e30))
    AudioEncoder.from_pretrained(copy, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=f"{name} holds NaN or infinite values, in float16"):
        AudioEncoder.from_pretrained(copy, dtype=torch.float16)


def test_weights_whose_sum_alone_is_infinite_load(copy):
    rewrite(copy, lambda tensors: tensors["head.norm.weight"].fill_(3e38))
    AudioEncoder.from_pretrained(copy)


def test_names_in_a_file_do_not_break_the_line(copy):
    rewrite(copy, lambda tensors: tensors.update({"a\nb\x1b" + "c" * 10**5: torch.zeros(1)}))
    refused(copy, "1 unexpected")


@pytest.mark.parametrize(
    "named", ["../other.safetensors", "/etc/passwd", "..\\x.safetensors", "pytorch_model.bin", "", 3]
)
def test_an_index_names_only_files_beside_it(encoder, tmp_path, named):
    path = tmp_path / "sharded"
    encoder.save_pretrained(path, max_shard_size="300KB")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    file = path / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = named
    file.write_text(json.dumps(index))
    refused(path, "index.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": 3}', '{"weight_map": {}}', "[" * 100_000])
def test_an_index_that_is_none_is_refused(encoder, tmp_path, text):
    path = tmp_path / "sharded"
    encoder.save_pretrained(path, max_shard_size="300KB")
    (path / "model.safetensors.index.json").write_text(text)
    refused(path, "index.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, '{"a":' * 100_000, "\0", '"\ud800"'])
def test_a_config_that_is_no_json_is_refused(encoder, tmp_path, text):
    save(encoder, tmp_path / "e")
    (tmp_path / "e" / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(tmp_path / "e", "config.json")
    save_file({"a": torch.zeros(1)}, tmp_path / "e.safetensors", metadata={METADATA_KEY: text.replace("\ud800", "")})
    refused(tmp_path / "e.safetensors", "config")


def test_no_code_beside_a_checkpoint_runs(copy, encoder, tmp_path):
    """What makes transformers run a repository's own code, or load an attention's from elsewhere."""
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    folder = copy if copy.is_dir() else copy.parent
    for name in ("modeling_evil.py", "configuration_evil.py", "__init__.py"):
        (folder / name).write_text(code)
    classes = {"AutoConfig": "configuration_evil.Evil", "AutoModel": "modeling_evil.Evil"}
    configure(copy, auto_map=classes, trust_remote_code=True, custom_pipelines={"evil": classes})
    loaded = AudioEncoder.from_pretrained(copy)
    assert type(loaded) is AudioEncoder and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation", "backbone__attn_implementation"])
def test_an_attention_from_the_hub_is_refused(copy, field):
    configure(copy, **{field: "someone/kernel"})
    refused(copy, "someone/kernel", "code from elsewhere")


def test_a_folder_that_points_to_another_model_is_refused(encoder, tmp_path):
    save(encoder, tmp_path / "e")
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "/somewhere/else"}
    (tmp_path / "e" / "adapter_config.json").write_text(json.dumps(adapter))
    refused(tmp_path / "e", "adapter_config.json")


def test_trust_remote_code_is_never_set():
    sources = [p for folder in ("audio2img_core", "nodes", "training") for p in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 50
    for path in sources:
        text = path.read_text(encoding="utf-8")
        assert "trust_remote_code" not in text, path
        for call in re.findall(r"torch\.load\([^)]*\)?", text):
            assert "weights_only=True" in call, path
        if path.name == "ray_engine.py":
            continue  # tasks and reports between its own processes, which Ray pickles in any case
        assert not re.search(r"^\s*(import|from) (pickle|dill|cloudpickle|joblib)\b", text, re.MULTILINE), path


@pytest.mark.parametrize("command", ["generate", "info", "encode", "convert"])
def test_the_command_line_says_it_in_one_line(copy, examples, tmp_path, capsys, command):
    configure(copy, backbone__hidden_size="wide")
    sound, out = str(examples / "drum.flac"), str(tmp_path / "out.safetensors")
    words = {
        "generate": ["generate", sound, "-o", str(tmp_path / "o.png"), "--encoder", str(copy)],
        "info": ["info", str(copy)],
        "encode": ["encode", sound, "-o", out, "--encoder", str(copy)],
        "convert": ["convert", str(copy), out],
    }[command]
    assert main(words) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and "hidden_size" in errors[0], errors


@pytest.mark.parametrize(
    ("part", "named", "place"),
    [
        ("_class_name", ["evil", "Evil"], ""),
        ("unet", ["evil", "EvilUNet"], "unet"),
        ("scheduler", ["os", "system"], ""),
    ],
)
def test_no_code_of_a_diffusion_model_runs(tiny_folders, tmp_path, part, named, place):
    """What makes diffusers load a pipeline or a part of one from a file beside it, or from any module."""
    folder = shutil.copytree(tiny_folders("sd15") / "diffusion", tmp_path / "model")
    code = "from diffusers import StableDiffusionPipeline as Evil, UNet2DConditionModel as EvilUNet\n"
    (folder / place / "evil.py").write_text(f"{code}open({str(tmp_path / 'ran')!r}, 'w')\n")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, part: named}))
    with pytest.raises(ValueError, match="cannot be loaded as a part of a diffusion model") as caught:
        load_diffusion(folder)
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()
