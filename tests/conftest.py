"""How the tests run, and the fixtures that several test files share."""

from __future__ import annotations

import functools
import importlib.util
import os
from pathlib import Path

WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:  # one thread in each, and in the processes that its tests start; read when torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).parents[1]
# ComfyUI's environment need not have hypothesis to run the tests marked comfyui.
collect_ignore = [] if importlib.util.find_spec("hypothesis") else ["core/test_properties.py"]
if WORKER:
    torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config) -> int:
    """A worker for each of up to four cores; none for a single file or test, and none where all share one ComfyUI."""
    paths = {argument.partition("::")[0] for argument in config.args}
    single = len(paths) == 1 and paths.pop().endswith(".py")
    if single or config.option.markexpr == "comfyui":
        return 0
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 4)


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1200))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def examples() -> Path:
    return ROOT / "examples"


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory):
    """target -> folder with `encoder`, `diffusion` and `controlnet`, untrained and tiny, made on first use."""
    from diffusers import ControlNetModel

    from audio2img_core.encoder.checkpoint import save
    from audio2img_core.random_init import make_pair

    made: dict[str, Path] = {}

    def folder(target: str) -> Path:
        if target not in made:
            path = tmp_path_factory.mktemp(target)
            encoder, diffusion = make_pair(target)
            save(encoder, path / "encoder")
            diffusion.save_pretrained(path / "diffusion")
            net = ControlNetModel.from_unet(diffusion.unet)
            for parameter in net.parameters():
                if not parameter.any():  # its doors start at zero: it would do nothing
                    torch.nn.init.normal_(parameter, std=0.1)
            net.save_pretrained(path / "controlnet")
            made[target] = path
        return made[target]

    return folder


@pytest.fixture(scope="session")
def mini_pipeline():
    """The embedded pair, loaded once; tests leave it as it is."""
    from audio2img_core import AudioToImagePipeline

    return AudioToImagePipeline.from_pretrained()


@pytest.fixture(scope="session")
def tiny_pipelines(tiny_folders):
    """target -> the pipeline of its tiny models, loaded once; tests leave it as it is.

    `controlnet=True`: with the tiny ControlNet.
    """
    from audio2img_core import AudioToImagePipeline

    made: dict[tuple[str, bool], AudioToImagePipeline] = {}

    def pipeline(target: str, controlnet: bool = False) -> AudioToImagePipeline:
        if (target, controlnet) not in made:
            folder = tiny_folders(target)
            made[target, controlnet] = AudioToImagePipeline.from_pretrained(
                folder / "encoder", folder / "diffusion", controlnet=folder / "controlnet" if controlnet else None
            )
        return made[target, controlnet]

    return pipeline


@pytest.fixture
def no_models(monkeypatch) -> None:
    """A model that is loaded fails the test."""
    from audio2img_core.generation import pipeline

    monkeypatch.setattr(pipeline, "load_models", lambda *names: pytest.fail("a model is loaded"))


@pytest.fixture(scope="session")
def _load_once():
    from audio2img_core.generation import pipeline

    return functools.cache(pipeline.load_models)


@pytest.fixture
def models_loaded_once(monkeypatch, _load_once) -> None:
    """Commands that run in this process share the models of a name; for tests that leave models and folders alone."""
    from audio2img_core.generation import pipeline

    monkeypatch.setattr(pipeline, "load_models", _load_once)


@pytest.fixture(scope="session")
def seed_folder(tmp_path_factory) -> Path:
    """A folder as the seed project published them, small: Wav2Vec2BertModel with its adapter, 1024 wide tokens."""
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

    path = tmp_path_factory.mktemp("seed")
    torch.manual_seed(7)
    config = Wav2Vec2BertConfig(
        hidden_size=64,
        output_hidden_size=1024,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        add_adapter=True,
        adapter_kernel_size=3,
        adapter_stride=2,
        num_adapter_layers=2,
        layerdrop=0.0,
    )
    Wav2Vec2BertModel(config).eval().save_pretrained(path)
    SeamlessM4TFeatureExtractor(padding_value=1.0).save_pretrained(path)
    return path
