"""The settings of a training run: sections of fields, from presets, YAML files and flags."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from audio2img_core.checks import first_line
from audio2img_core.encoder.heads import HeadConfig
from audio2img_core.encoder.windows import WindowConfig
from audio2img_core.storage.files import whole_file
from audio2img_core.targets import get_target

from .data.config import DataConfig
from .loss.alignment import LossConfig

PRESETS = Path(__file__).parent / "presets"

_MOST_NAMES = 40  # that an error lists
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
    """What is trained on what."""

    data: str = ""  # sounds and captions to train on: folder, manifest, tar pattern or Hugging Face dataset
    eval_data: str = ""  # the same to judge by; empty = eval_share of data is held out
    eval_share: float = 0.1  # of the clips, held out where eval_data is empty
    split: str = ""  # of data, where it has splits
    eval_split: str = ""  # of eval_data
    target: str = "sd15"  # the text-encoder space, a name of audio2img_core.targets
    teacher: str = ""  # diffusers folder or hub id whose text encoders are the teacher
    backbone: str = "facebook/w2v-bert-2.0"  # Wav2Vec2-BERT folder or hub id; "tiny" or "full" = untrained
    encoder: str = ""  # checkpoint to go on with, instead of a backbone and a new head
    output: str = ""  # folder of the run
    captions: str = ""  # folder of cached captions; empty = captions/ of prepared data, else of the output folder
    batch_size: int = 0  # clips of a step, shared out over however many processes there are; 0 = as trainer says
    bank_bytes: int = 2**31  # of captions that one process holds as negatives; a larger bank is split over them all
    chunk_size: int = 0  # clips encoded at once, for batches larger than memory (GradCache); 0 = the whole batch
    freeze_layers: int = 0  # lowest layers of the backbone that stay as they are, its feature projection with them
    lora_rank: int = 0  # of low-rank adapters on the backbone's linear layers, which then learn in its place; 0 = none
    lora_alpha: int = 16  # scale of the adapters, over their rank
    lora_dropout: float = 0.0  # before the adapters
    layer_decay: float = 1.0  # learning rate of a layer as a share of the one above it; 1 = equal
    ema_decay: float = 0.0  # of an exponential moving average of the weights, which is what is kept; 0 = none
    early_stopping: int = 0  # evaluations in a row without a better one, after which the run stops; 0 = never
    mask_padding: bool = True  # hide padded frames in training, whatever the encoder's windows do
    licence: str = ""  # of the data, for the model card

    def __post_init__(self) -> None:
        get_target(self.target)
        for name, low, high in _SHARES:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"run.{name} must be between {low} and {high}, not {getattr(self, name)!r}")
        for name, low in _COUNTS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ValueError(f"run.{name} must be a whole number of at least {low}, not {value!r}")

    def require(self, *names: str) -> None:
        """Refuse settings without these.

        Raises:
            ValueError: one is empty.
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
        """Settings by section and field, as a YAML file holds them.

        Raises:
            ValueError: an unknown section or field (with the nearest name), or an impossible value.
        """
        _check_names(settings, [*SECTIONS, TRAINER], "section")
        parts: dict[str, Any] = {}
        for name, section in SECTIONS.items():
            values = settings.get(name) or {}
            if not isinstance(values, Mapping):
                raise ValueError(f"section {name!r} must hold fields, not {values!r}")
            _check_names(values, [f.name for f in fields(section)], f"field of section {name!r}")
            if name == "data":
                values = {**values, "window_seconds": _window_seconds(values, parts["run"], parts["window"])}
            kinds = get_type_hints(section)
            try:
                parts[name] = section(**{key: _as(kinds[key], value) for key, value in values.items()})
            except (TypeError, ValueError) as error:
                raise ValueError(f"section {name!r}: {first_line(error)}") from error
        trainer = dict(settings.get(TRAINER) or {})
        _check_names(trainer, trainer_fields(), f"field of section {TRAINER!r}")
        kinds = trainer_fields()
        return cls(**parts, trainer={key: _as(kinds[key], value) for key, value in trainer.items()})

    def to_dict(self) -> dict[str, Any]:
        """The form that `from_dict` takes, every field of our own sections included."""
        return {**{name: asdict(getattr(self, name)) for name in SECTIONS}, TRAINER: dict(self.trainer)}


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
    given = _as(float, data.get("window_seconds", seconds))
    if given != seconds:
        encoder = f"the encoder {run.encoder}" if run.encoder else "the encoder (section 'window')"
        takes = "whole clips (null)" if seconds is None else f"windows of {seconds:g} s"
        raise ValueError(
            f"data.window_seconds is {'null' if given is None else given}, but {encoder} takes {takes}: leave it out"
        )
    return seconds


def _checkpoint_window(name_or_path: str) -> WindowConfig:
    from transformers import Wav2Vec2BertConfig

    from audio2img_core import mini
    from audio2img_core.encoder.checkpoint import read_config
    from audio2img_core.encoder.kardsim import seed_config

    config = read_config(mini.FOLDER / "encoder" if name_or_path == mini.NAME else name_or_path)
    return (seed_config(name_or_path, config) if isinstance(config, Wav2Vec2BertConfig) else config).window


def load_settings(preset: str | None, files: Iterable[str | Path], flags: Mapping[str, str]) -> FitConfig:
    """Preset, then YAML files, then flags `section.field` -> text: the later one wins.

    Raises:
        ValueError: unknown preset (with the nearest name), no YAML mapping, or as `FitConfig.from_dict`.
        FileNotFoundError: no such YAML file.
    """
    settings: dict[str, dict[str, Any]] = {}
    if preset is not None:
        names = sorted(p.stem for p in PRESETS.glob("*.yaml"))
        if preset not in names:
            raise ValueError(f"unknown preset {preset!r}{_nearest(preset, names)}; there are {', '.join(names)}")
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
        settings.setdefault(section, {})[name.replace("-", "_")] = yaml.safe_load(text) if text else text
    return FitConfig.from_dict(settings)


def keep_settings(
    file: Path, settings: Mapping[str, Any], *, defaults: Mapping[str, Any] | None = None, free: Iterable[str] = ()
) -> list[str]:
    """Write settings where none are yet, else say which differ from those in the file.

    Args:
        file: YAML.
        settings: by name, or by section and name.
        defaults: of those that the file does not hold, which an earlier release did not know. free: may differ.

    Returns:
        The names of those that differ, as `name` or `section.name`.
    """
    if not file.exists():
        with whole_file(file) as partial:
            partial.write_text(yaml.safe_dump(dict(settings), sort_keys=False), encoding="utf-8")
        return []
    before, now = {**_flat(defaults or {}), **_flat(yaml.safe_load(file.read_text(encoding="utf-8")))}, _flat(settings)
    names = (before.keys() | now.keys()) - set(free)
    return sorted(name for name in names if before.get(name) != now.get(name))


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of fields as `section.field`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, Mapping) else {name: value}
    return flat


def trainer_fields() -> dict[str, Any]:
    """Fields of transformers' `TrainingArguments` and their types, without the folder, which is the run's."""
    from transformers import TrainingArguments

    return {f.name: f.type for f in fields(TrainingArguments) if f.init and f.name != "output_dir"}


def defaults(section: type) -> dict[str, Any]:
    """Field -> default of a section."""
    return {f.name: f.default if f.default is not MISSING else None for f in fields(section)}


def _as(kind: Any, value: Any) -> Any:
    """YAML reads 1e-4 as text, 1 as a whole number and no as false: a float, and a strategy's name, where wanted."""
    names = str(kind)
    if value is False and "str" in names and "bool" not in names:
        return "no"
    if isinstance(value, str) and "float" in names and "str" not in names:
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"{value!r} is no number") from None
    if isinstance(value, int) and not isinstance(value, bool) and kind is float:
        return float(value)
    return value


def _check_names(given: Iterable[str], known: Iterable[str], what: str) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            there = ", ".join(known) if len(known) <= _MOST_NAMES else f"{len(known)}, see --help"
            raise ValueError(f"unknown {what} {name!r}{_nearest(str(name), known)}; there are {there}")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
