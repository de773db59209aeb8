"""Embeddings of many sounds in one safetensors file, built so that a stopped run can go on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ..audio.excerpt import Excerpt
from ..audio.io import stream_mono
from ..storage.files import whole_file

if TYPE_CHECKING:
    from ..encoder.embeddings import AudioEmbeddings
    from ..encoder.model import AudioEncoder

METADATA_KEY = "audio2img_embeddings"


class EmbeddingStore:
    """Embeddings by sound: tensors `PATH/tokens` [W, N, D] and, for targets that have it, `PATH/pooled` [W, P].

    Each sound is a whole file of its own in the folder `OUTPUT.partial` until `finish` joins them, so a run that is
    killed loses one sound at most. The file's metadata tell the encoder, the settings, and the windows of each sound.

    Args:
        output: the `.safetensors` file; where it exists, new sounds are added to it.
        encoder: what encodes; another one, or other settings, than a file was made with is refused.
        start, duration: seconds to read of each sound.
        average: keep one row a sound instead of one a window.

    Raises:
        ValueError: `output` or its partial folder was made with another encoder or other settings.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        encoder: AudioEncoder,
        *,
        start: float = 0.0,
        duration: float | None = None,
        average: bool = False,
    ):
        self.output = Path(output)
        self.partial = self.output.with_name(f"{self.output.name}.partial")
        self.encoder = encoder
        self.settings = settings_of(encoder, start=start, duration=duration, average=average)
        self.sounds: dict[str, dict[str, Any]] = {}
        for file in [self.output, *self._parts()]:
            if file.exists():
                self.sounds |= self._read_index(file)

    def has(self, sound: str | os.PathLike[str]) -> bool:
        """Whether this very file (by path, size and time of change) is encoded already."""
        known = self.sounds.get(Path(sound).as_posix())
        return known is not None and known["stat"] == _stat(sound)

    def add(self, sound: str | os.PathLike[str], *, batch_size: int | None = None) -> None:
        """Encode one sound and write it down.

        Raises:
            ValueError, FileNotFoundError: as `stream_mono`; nothing is written then.
        """
        name = Path(sound).as_posix()
        blocks = stream_mono(sound, Excerpt(self.settings["start"], self.settings["duration"]))
        heard = self.encoder.encode_stream(blocks, batch_size=batch_size, name=name)
        if self.settings["average"]:
            heard = heard.averaged()
        tensors = tensors_of(name, heard)
        entry = {"stat": _stat(sound), "starts": heard.starts, "durations": heard.durations}
        part = self.partial / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors"
        self._write(part, tensors, {name: entry})
        self.sounds[name] = entry

    def finish(self) -> None:
        """Join all sounds in the output file and remove the partial folder."""
        tensors: dict[str, torch.Tensor] = {}
        for file in [self.output, *self._parts()]:
            if file.exists():
                tensors |= load_file(file)
        self._write(self.output, tensors, self.sounds)
        shutil.rmtree(self.partial, ignore_errors=True)

    def _write(self, file: Path, tensors: dict[str, torch.Tensor], sounds: dict[str, dict[str, Any]]) -> None:
        metadata = {METADATA_KEY: json.dumps({"settings": self.settings, "sounds": sounds}, ensure_ascii=False)}
        with whole_file(file) as partial:
            save_file(tensors, partial, metadata=metadata)

    def _parts(self) -> list[Path]:
        # A name with a leading dot was being written when the run was killed.
        return sorted(p for p in self.partial.glob("*.safetensors") if not p.name.startswith("."))

    def _read_index(self, file: Path) -> dict[str, dict[str, Any]]:
        try:
            with safe_open(file, "pt") as opened:
                index = json.loads((opened.metadata() or {})[METADATA_KEY])
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{file}: exists and is no file of audio2img embeddings; choose another name") from error
        if not isinstance(index, dict) or not index.keys() >= {"settings", "sounds"}:
            raise ValueError(f"{file}: exists and is no file of audio2img embeddings; choose another name")
        if index["settings"] != self.settings:
            changed = [name for name, value in self.settings.items() if index["settings"].get(name) != value]
            raise ValueError(
                f"{file}: was made with another {' and '.join(changed)}; choose another name, or remove it first"
            )
        return index["sounds"]


def settings_of(encoder: AudioEncoder, *, start: float, duration: float | None, average: bool) -> dict[str, Any]:
    """What decides the numbers of an embedding, beside the sound."""
    return {
        "encoder": fingerprint(encoder),
        "target": encoder.config.target,
        "start": start,
        "duration": duration,
        "average": average,
    }


def tensors_of(name: str, heard: AudioEmbeddings) -> dict[str, torch.Tensor]:
    """What is kept of a sound, by the names that it has in a file."""
    tensors = {f"{name}/tokens": heard.tokens, f"{name}/pooled": heard.pooled}
    return {key: tensor.cpu().contiguous() for key, tensor in tensors.items() if tensor is not None}


def fingerprint(encoder: AudioEncoder) -> str:
    """16 hexadecimal digits that tell encoders apart by their weights and by how they cut and join."""
    config = encoder.config
    facts = [config.target, config.prepend_bos, asdict(config.head), asdict(config.window)]
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8)
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _stat(sound: str | os.PathLike[str]) -> list[int]:
    status = os.stat(sound)
    return [status.st_size, status.st_mtime_ns]
