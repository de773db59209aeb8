"""A source of captioned clips, which all kinds of training data become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from audio2img_core.audio.clips import AudioClip


class Source:
    """Clips in a fixed order, by index."""

    streaming = False

    def __init__(self, name: str, clips: Sequence[AudioClip] = ()) -> None:
        self.name = name
        self._clips = clips

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> AudioClip:
        return self._clips[index]

    def __iter__(self) -> Iterator[AudioClip]:
        return (self[index] for index in range(len(self)))

    def captions(self) -> Iterator[tuple[str, ...]]:
        """The captions of each clip in order, without reading any sound."""
        return (clip.captions for clip in self._clips)


def is_saved(path: Path) -> bool:
    """Whether a folder is what `save_to_disk` of `datasets` writes."""
    files = (("dataset_dict.json",), ("state.json", "dataset_info.json"))
    return any(all((path / name).is_file() for name in names) for names in files)
