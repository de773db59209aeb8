"""The settings of a training run: sections of fields, from presets, YAML files and flags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from audio2img_core.checks import first_line
from audio2img_core.encoder.heads import HeadConfig
from audio2img_core.encoder.windows import WindowConfig
from audio2img_core.storage.files import whole_file
from audio2img_core.targets import get_target

from .data.config import DataConfig
from .fields import check_names, convert, field_types, flat, nearest
from .loss.alignment import LossConfig

PRESETS = Path(__file__).parent / "presets"
PRESET_ALIASES = {"seed": "kardsim"}
"""Former names of presets, which old commands use."""

_SHARES = (("eval_share", 0, 1), ("layer_decay", 0, 1), ("ema_decay", 0, 1), ("lora_dropout", 0, 1))
_COUNTS = {
    "batch_size": 0,
    "bank_bytes": 1,
    "chunk_size": 0,
    "freeze_layers": 0,
    "lora_rank": 0,
    "lora_alpha": 1,
    "early_stopping": 0,
}


@dataclass(frozen=True)
class RunConfig:
    """What is trained on what.

    Attributes:
        data: Training clips with captions: folder, manifest, tar pattern or Hugging Face dataset.
        eval_data: Evaluation clips, given like data; empty = hold out eval_share of data.
        eval_share: Share of the clips held out for evaluation where eval_data is empty.
        split: Split of data, for datasets that have splits.
        eval_split: Split of eval_data.
        target: Text-encoder space to train for: sd15, sd21, sdxl or mini.
        teacher: Diffusion model whose text encoders are the teacher: mini, diffusers folder or hub id.
        backbone: Pretrained Wav2Vec2-BERT, a folder or hub id; "tiny" or "full" = untrained.
        encoder: Checkpoint to train further, in place of a backbone and a new head; it brings its own window and head.
        output: Folder of the run.
        captions: Folder of cached captions; empty = captions/ of prepared data, else of the output folder.
        batch_size: Clips of a step, divided among all processes; 0 = trainer.per_device_train_batch_size on each.
        bank_bytes: Size of the negative captions that one process holds; larger banks are split over the processes.
        chunk_size: Clips encoded at once, for batches larger than memory (GradCache); 0 = the whole batch.
        freeze_layers: Number of the backbone's lowest layers that are not trained, with its feature projection.
        lora_rank: Rank of low-rank adapters, trained in place of the backbone's linear layers; 0 = none.
        lora_alpha: Scale of the adapters, divided by their rank.
        lora_dropout: Dropout probability before the adapters.
        layer_decay: Learning rate of a layer as a share of the layer above it; 1 = equal rates.
        ema_decay: Decay of an exponential moving average of the weights, which is then evaluated and kept; 0 = none.
        early_stopping: Evaluations in a row without improvement after which the run stops; 0 = never.
        mask_padding: Padded frames are masked in training, even where the encoder's windows show them.
        licence: License of the data, for the model card.
    """

    data: str = ""
    eval_data: str = ""
    eval_share: float = 0.1
    split: str = ""
    eval_split: str = ""
    target: str = "sd15"
    teacher: str = ""
    backbone: str = "facebook/w2v-bert-2.0"
    encoder: str = ""
    output: str = ""
    captions: str = ""
    batch_size: int = 0
    bank_bytes: int = 2**31
    chunk_size: int = 0
    freeze_layers: int = 0
    lora_rank: int = 0
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    layer_decay: float = 1.0
    ema_decay: float = 0.0
    early_stopping: int = 0
    mask_padding: bool = True
    licence: str = ""

    def __post_init__(self) -> None:
        get_target(self.target)
        for name, low, high in _SHARES:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"run.{name} must be between {low} and {high}, not {getattr(self, name)!r}")
        for name, low in _COUNTS.items():
            if getattr(self, name) < low:
                raise ValueError(f"run.{name} must be at least {low}, not {getattr(self, name)!r}")

    def require(self, *names: str) -> None:
        """Refuse settings without these fields.

        Raises:
            ValueError: One is empty.
        """
        for name in names:
            if not getattr(self, name):
                raise ValueError(f"run.{name} is empty: name the {name}")


SECTIONS: dict[str, type] = {
    "run": RunConfig,
    "head": HeadConfig,
    "window": WindowConfig,
    "data": DataConfig,
    "loss": LossConfig,
}
DERIVED = ("data.window_seconds",)  # fields that follow from others
TRAINER = "trainer"  # the section that is transformers' TrainingArguments


@dataclass(frozen=True)
class FitConfig:
    """All settings of `fit`. `trainer` holds the fields of transformers' `TrainingArguments` that are not default."""

    run: RunConfig = field(default_factory=RunConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    trainer: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> FitConfig:
        """Make settings from sections of fields, as a YAML file holds them.

        Raises:
            ValueError: An unknown section or field (with the nearest name), or an impossible value.
            FileNotFoundError: No checkpoint `run.encoder`.
        """
        check_names(settings, [*SECTIONS, TRAINER], "section")
        parts: dict[str, Any] = {}
        for name, section in SECTIONS.items():
            values = settings.get(name) or {}
            if not isinstance(values, Mapping):
                raise ValueError(f"section {name!r} must hold fields, not {values!r}")
            values = _converted(name, values, field_types(section))
            if name == "data":
                values["window_seconds"] = _window_seconds(values, parts["run"], parts["window"])
            parts[name] = section(**values)
        trainer = settings.get(TRAINER) or {}
        return cls(**parts, trainer=_converted(TRAINER, trainer, trainer_fields(), strict=False))

    def to_dict(self) -> dict[str, Any]:
        """Return the form that `from_dict` takes, with every field of our own sections."""
        return {**{name: asdict(getattr(self, name)) for name in SECTIONS}, TRAINER: dict(self.trainer)}


def _converted(
    section: str, values: Mapping[str, Any], kinds: Mapping[str, tuple[Any, ...]], *, strict: bool = True
) -> dict[str, Any]:
    check_names(values, kinds, f"field of section {section!r}")
    return {name: convert(f"{section}.{name}", value, kinds[name], strict=strict) for name, value in values.items()}


def item_seconds(window: WindowConfig) -> float | None:
    """Length in seconds of the part of a clip that an encoder with this window is trained and evaluated on.

    Returns:
        The window's length, or None for the whole clip where the features are normalised over it.
    """
    return None if window.normalize == "clip" else window.seconds


def _window_seconds(data: Mapping[str, Any], run: RunConfig, window: WindowConfig) -> float | None:
    """`data.window_seconds`, which follows from the encoder; settings files of earlier releases state it.

    Raises:
        ValueError: the stated value contradicts the encoder.
        FileNotFoundError: no checkpoint `run.encoder`.
    """
    seconds = item_seconds(_checkpoint_window(run.encoder) if run.encoder else window)
    given = data.get("window_seconds", seconds)
    if given != seconds:
        stated = "null" if given is None else f"{given:g}"
        encoder = f"the encoder {run.encoder}" if run.encoder else "the encoder (section 'window')"
        takes = "whole clips (null)" if seconds is None else f"windows of {seconds:g} s"
        raise ValueError(f"data.window_seconds is {stated}, but {encoder} takes {takes}: leave it out")
    return seconds


def _checkpoint_window(name_or_path: str) -> WindowConfig:
    from transformers import Wav2Vec2BertConfig

    from audio2img_core.encoder.checkpoint import read_config
    from audio2img_core.encoder.kardsim import kardsim_config

    config = read_config(name_or_path)
    return (kardsim_config(name_or_path, config) if isinstance(config, Wav2Vec2BertConfig) else config).window


def load_settings(preset: str | None, files: Iterable[str | Path], flags: Mapping[str, str]) -> FitConfig:
    """Load a preset, then YAML files, then flags `section.field` -> text; the later one wins.

    Raises:
        ValueError: Unknown preset (with the nearest name), a file without YAML sections, or as `FitConfig.from_dict`.
        FileNotFoundError: No such YAML file, or as `FitConfig.from_dict`.
    """
    return FitConfig.from_dict(merge_settings(preset, files, flags))


def merge_settings(
    preset: str | None, files: Iterable[str | Path], flags: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Return the sections of `load_settings` with the fields that are set, before they are checked."""
    settings: dict[str, dict[str, Any]] = {}
    if preset is not None:
        preset = PRESET_ALIASES.get(preset, preset)
        names = preset_names()
        if preset not in names:
            close = nearest(preset, names)
            hint = f" (did you mean {close!r}?)" if close else ""
            raise ValueError(f"unknown preset {preset!r}{hint}; there are {', '.join(names)}")
        files = [PRESETS / f"{preset}.yaml", *files]
    for file in files:
        try:
            loaded = yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            raise FileNotFoundError(f"{file}: no such settings file") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{file}: not a YAML file that can be read ({first_line(error)})") from error
        if not isinstance(loaded, Mapping) or not all(isinstance(v, Mapping) or v is None for v in loaded.values()):
            raise ValueError(f"{file}: must hold sections of fields: {', '.join([*SECTIONS, TRAINER])}")
        for name, values in loaded.items():
            settings.setdefault(name, {}).update(values or {})
    for flag, text in flags.items():
        section, _, name = flag.partition(".")
        name = name.replace("-", "_")
        is_text = section in SECTIONS and field_types(SECTIONS[section]).get(name) == (str,)
        settings.setdefault(section, {})[name] = text if is_text or not text else yaml.safe_load(text)
    return settings


def preset_names() -> list[str]:
    """Return the names of all presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def keep_settings(
    file: Path, settings: Mapping[str, Any], *, defaults: Mapping[str, Any] | None = None, free: Iterable[str] = ()
) -> list[str]:
    """Write settings where there are none yet; otherwise compare them with those in the file.

    Args:
        file: YAML file.
        settings: Values by name, or by section and name.
        defaults: Values of settings that the file lacks because an earlier release did not know them.
        free: Names that may differ.

    Returns:
        The names of those that differ, as `name` or `section.name`.
    """
    if not file.exists():
        with whole_file(file) as partial:
            partial.write_text(yaml.safe_dump(dict(settings), sort_keys=False), encoding="utf-8")
        return []
    before, now = {**flat(defaults or {}), **flat(yaml.safe_load(file.read_text(encoding="utf-8")))}, flat(settings)
    names = (before.keys() | now.keys()) - set(free)
    return sorted(name for name in names if before.get(name) != now.get(name))


def trainer_fields() -> dict[str, tuple[Any, ...]]:
    """Return the fields of transformers' `TrainingArguments` with their types; the folder is the run's."""
    from transformers import TrainingArguments

    kinds = field_types(TrainingArguments)
    return {f.name: kinds[f.name] for f in fields(TrainingArguments) if f.init and f.name != "output_dir"}
