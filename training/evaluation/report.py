"""What a run leaves for people: plots and a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor

from audio2img_core.storage.files import whole_file
from audio2img_core.targets import get_target

from ..config import FitConfig
from ..loop.callbacks import read_metrics
from .evaluator import Evaluated
from .metrics import beats_baseline
from .similarity import position_profile, similarity

if TYPE_CHECKING:
    from ..loop.trainer import AlignmentTrainer

_MOST_ROWS = 60  # clips and captions of the similarity plot: more cannot be told apart
_MOST_LABELS = 40
_METRICS = {
    "cosine": "cosine, all positions",
    "content_cosine": "cosine, words only",
    "mse": "mean squared error",
    "euclidean": "Euclidean distance",
    "norm_ratio": "norm ratio",
    "a2t_r1": "R@1, audio to text",
    "a2t_r5": "R@5, audio to text",
    "a2t_r10": "R@10, audio to text",
    "a2t_map10": "mAP@10, audio to text",
    "t2a_r1": "R@1, text to audio",
    "t2a_r5": "R@5, text to audio",
    "t2a_r10": "R@10, text to audio",
    "t2a_map10": "mAP@10, text to audio",
    "effective_rank": "effective rank",
    "pooled_cosine": "cosine, pooled",
    "pooled_a2t_r1": "R@1, audio to text, pooled",
}
_BESIDE = {"noise": "white noise", "shuffled": "shuffled", "mean": "mean prompt", "ceiling": "upper bound"}


def write_report(
    output: Path, config: FitConfig, trainer: AlignmentTrainer, metrics: Mapping[str, float], licence: str
) -> list[Path]:
    """Write the plots and the model card of a run that has been evaluated.

    Args:
        output: Folder of the run.
        config: Settings of the run.
        trainer: Trainer after training and a last evaluation.
        metrics: Metrics of that evaluation, with names `final_...`.
        licence: License of the weights.

    Returns:
        The files: `README.md` and the images that it shows.
    """
    evaluated = trainer.evaluator.last
    assert evaluated is not None
    metrics = {name.removeprefix("final_"): value for name, value in metrics.items()}
    plots = [output / "losses.png", output / "similarity.png", output / "norms.png"]
    plot_losses(read_metrics(output / "metrics.jsonl"), plots[0])
    plot_similarity(evaluated, plots[1])
    plot_norms(evaluated, plots[2], first=trainer.task.positions.start)
    card = output / "README.md"
    with whole_file(card) as partial:
        partial.write_text(model_card(config, metrics, trainer.state.global_step, licence), encoding="utf-8")
    return [card, *plots]


def metrics_table(metrics: Mapping[str, float]) -> list[str]:
    """The metrics of an evaluation with baselines and the upper bound beside them, as lines of a Markdown table."""
    lines = ["| metric | encoder | " + " | ".join(_BESIDE.values()) + " |", "|---" * (len(_BESIDE) + 2) + "|"]
    for name, said in _METRICS.items():
        if name in metrics:
            beside = [metrics.get(_beside(who, name)) for who in _BESIDE]
            cells = [metrics[name], *beside]
            lines.append(f"| {said} | " + " | ".join("" if c is None else f"{c:.3f}" for c in cells) + " |")
    return lines


def plot_losses(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The loss with its parts, and the cosine and R@1 of the evaluations, by step; `entries` as in metrics.jsonl."""
    axes, save = _figure(1, 2, (11, 4))
    train = [entry for entry in entries if entry.get("loss") is not None]
    parts = [n for n in ("loss", "sequence", "pooled", "siglip", "regression", "cosine") if any(n in e for e in train)]
    for name in parts:
        _line(axes[0], train, name, name, linewidth=2 if name == "loss" else 1)
    evals = [entry for entry in entries if "eval_cosine" in entry]
    _line(axes[0], evals, "eval_loss", "loss, held out", linestyle="--", marker=".")
    for name, said in (("eval_cosine", "cosine"), ("eval_a2t_r1", "R@1"), ("eval_mean_cosine", "cosine, mean prompt")):
        _line(axes[1], evals, name, said, marker=".", linestyle=":" if "mean" in name else "-")
    for axis, title in zip(axes, ("loss and its parts", "held out"), strict=True):
        axis.set_title(title)
        axis.set_xlabel("step")
        if axis.lines:
            axis.legend(fontsize=8)
    save(path)


def plot_similarity(evaluated: Evaluated, path: Path) -> None:
    """Similarity of clips with captions, rows sorted by their caption, so that a good encoder shows a diagonal."""
    order = sorted(range(len(evaluated.positives)), key=lambda i: evaluated.positives[i][0])
    order = [order[int(i)] for i in torch.linspace(0, len(order) - 1, min(len(order), _MOST_ROWS)).round()]
    columns = sorted({evaluated.positives[i][0] for i in order})
    scores = similarity(evaluated.audio[order], evaluated.text[columns])
    axes, save = _figure(1, 1, (9, 7))
    image = axes[0].imshow(scores.numpy(), aspect="auto", cmap="magma", interpolation="nearest")
    axes[0].figure.colorbar(image, ax=axes[0], label="mean cosine over positions")
    labels = [evaluated.captions[c] for c in columns]
    shown = len(labels) <= _MOST_LABELS
    axes[0].set_xticks(range(len(labels)) if shown else [], [_short(t) for t in labels] if shown else [], rotation=90)
    own = [_short(evaluated.captions[evaluated.positives[i][0]]) for i in order]
    axes[0].set_yticks(range(len(own)), own) if len(own) <= _MOST_LABELS else axes[0].set_yticks([])
    axes[0].tick_params(labelsize=7)
    axes[0].set_xlabel("captions")
    axes[0].set_ylabel("clips, by their caption")
    save(path)


def plot_norms(evaluated: Evaluated, path: Path, *, first: int) -> None:
    """Mean norm of encoder's and teacher's tokens and their mean cosine by position; `first` is the first position."""
    profile = position_profile(evaluated.audio, evaluated.text, evaluated.positives)
    positions = torch.arange(first, first + evaluated.audio.shape[1])
    captions = torch.tensor([positives[0] for positives in evaluated.positives])
    axes, save = _figure(1, 2, (11, 4))
    for tokens, said in ((evaluated.audio, "encoder"), (evaluated.text[captions].float(), "teacher")):
        axes[0].plot(positions, _norms(tokens), label=said)
    axes[0].legend(fontsize=8)
    axes[0].set_ylim(bottom=0)
    axes[0].set_title("mean norm of the tokens")
    axes[1].plot(positions, profile["cosine"], label="cosine")
    axes[1].plot(positions, profile["norm_ratio"], label="norm ratio")
    axes[1].axhline(1.0, color="grey", linewidth=0.5)
    axes[1].legend(fontsize=8)
    axes[1].set_title("encoder against teacher")
    for axis in axes:
        axis.set_xlabel("position in the prompt")
    save(path)


def model_card(config: FitConfig, metrics: Mapping[str, float], steps: int, licence: str) -> str:
    """The Markdown text of a run's model card, with the hub's metadata in front.

    `licence` is what the data and the encoder that the run started from ask for.
    """
    run, target = config.run, get_target(config.run.target)
    metadata: dict[str, Any] = {
        "library_name": "transformers",
        "tags": ["audio2img", "audio", "text-to-image", f"target:{target.name}"],
    }
    if licence:
        metadata["license"] = "other"
        metadata["license_name"] = licence
    start = run.encoder or run.backbone
    if "/" in start and not Path(start).exists():
        metadata["base_model"] = start
    held, reason = beats_baseline(dict(metrics)) if "mean_cosine" in metrics else (True, "")
    sections = config.to_dict()
    if run.encoder:  # which has its own
        sections = {name: values for name, values in sections.items() if name not in ("head", "window")}
        sections["run"] = {name: value for name, value in sections["run"].items() if name != "backbone"}
    settings = yaml.safe_dump(sections, sort_keys=False)
    return "\n".join(
        [
            "---",
            yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).rstrip(),
            "---",
            "",
            f"# An audio encoder for {target.family}",
            "",
            f"It turns audio into prompt embeddings of target `{target.name}`: {target.convention}.",
            "",
            "```sh",
            "audio2img generate sound.wav -o image.png --encoder encoder.safetensors --diffusion MODEL",
            "```",
            "",
            "In ComfyUI, `encoder.safetensors` belongs into `models/audio_encoders`.",
            "",
            "## Data",
            "",
            f"Trained on `{run.data}`, evaluated on {_evaluated_by(run)}.",
            f"License of the data: {run.licence or 'not stated'}.",
            *([f"License of the weights, with what they started from: {licence}."] if licence != run.licence else []),
            f"Started from `{start}`; the teacher was `{run.teacher}`; {steps} steps.",
            "",
            "## Metrics",
            "",
            f"{metrics.get('clips', 0):.0f} clips that were not trained on, against "
            f"{metrics.get('captions', 0):.0f} distinct captions. Beside them stand the baselines (white noise of the "
            "teacher's norms, shuffled pairs, the mean prompt) and the upper bound (the caption itself).",
            "",
            *metrics_table(metrics),
            "",
            *([] if held else [f"**Warning: {reason}.**", ""]),
            "![losses](losses.png)",
            "![similarity of clips and captions](similarity.png)",
            "![norms by position](norms.png)",
            "",
            "## Settings",
            "",
            "```yaml",
            settings.rstrip(),
            "```",
            "",
        ]
    )


def _evaluated_by(run: Any) -> str:
    return f"`{run.eval_data}`" if run.eval_data else f"{run.eval_share:.0%} of it, held out"


def _beside(who: str, name: str) -> str:
    return f"pooled_{who}_{name.removeprefix('pooled_')}" if name.startswith("pooled_") else f"{who}_{name}"


def _norms(tokens: Tensor) -> Tensor:
    return tokens.norm(dim=-1).mean(0)


def _short(text: str, size: int = 28) -> str:
    return text if len(text) <= size else text[: size - 1] + "\u2026"


def _line(axis: Any, entries: Sequence[Mapping[str, Any]], name: str, label: str, **style: Any) -> None:
    points = [(entry["step"], entry[name]) for entry in entries if entry.get(name) is not None]
    if points:
        axis.plot(*zip(*points, strict=True), label=label, **style)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """Axes as a flat list, and a function that writes the figure as PNG; no window, no global state of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()

    def save(path: Path) -> None:
        with whole_file(path) as partial:
            figure.savefig(partial, format="png", dpi=110)

    return axes, save
