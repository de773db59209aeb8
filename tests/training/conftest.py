"""Sounds with captions, and the settings of small runs on them."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.audio import noise, sine, write_audio

CAPTIONS = ("noise of rain", "a low tone", "a high tone", "noise, then a tone")


@pytest.fixture(scope="session")
def sounds(tmp_path_factory):
    """24 clips of one second and of four kinds, each with its caption."""
    folder = tmp_path_factory.mktemp("sounds")
    for i in range(24):
        kinds = (
            noise(1.0, seed=i),
            sine(1.0, freq=220.0 + 5 * i),
            sine(1.0, freq=2000.0 + 9 * i),
            torch.cat([noise(0.5, seed=i), sine(0.5)]),
        )
        write_audio(folder / f"{i:02}.wav", kinds[i % 4], 16000)
        (folder / f"{i:02}.txt").write_text(CAPTIONS[i % 4])
    return folder


@pytest.fixture(scope="session")
def flags(sounds, tiny_folders):
    """Function output, more -> flags section.field of a run of six steps on `sounds` for a tiny sd15."""

    def make(output, **more: str) -> dict[str, str]:
        return {
            "run.data": str(sounds),
            "run.teacher": str(tiny_folders("sd15") / "diffusion"),
            "run.target": "sd15",
            "run.backbone": "tiny",
            "run.output": str(output),
            "window.seconds": "1.0",
            "trainer.max_steps": "6",
            "trainer.per_device_train_batch_size": "4",
            "trainer.gradient_accumulation_steps": "1",
            "trainer.learning_rate": "1e-3",
            "trainer.warmup_steps": "2",
            "trainer.logging_steps": "2",
            "trainer.eval_steps": "3",
            "trainer.save_steps": "3",
            "trainer.gradient_checkpointing": "false",
            "trainer.use_cpu": "true",
            **more,
        }

    return make


@pytest.fixture(scope="session")
def words(flags):
    """The same as words of a command line."""

    def make(output, **more: str) -> list[str]:
        return [word for name, text in flags(output, **more).items() for word in (f"--{name}", text)]

    return make
