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
from .evaluate import Judged
from .metrics import beats_floor, position_profile, similarity

if TYPE_CHECKING:
    from ..loop.trainer import AlignmentTrainer

_MOST_ROWS = 60  # clips and captions of the similarity plot: more cannot be told apart
_MOST_LABELS = 40
_FIGURES = {
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
_BESIDE = {"noise": "white noise", "shuffled": "shuffled", "mean": "mean target", "ceiling": "ground truth"}


def write_report(
    output: Path, config: FitConfig, trainer: AlignmentTrainer, figures: Mapping[str, float], licence: str
) -> list[Path]:
    """Draw the plots and write the model card of a run that has been judged.

    Args:
        output: the run's folder.
        config: its settings.
        trainer: after training and a last evaluation.
        figures: that evaluation's, with names `final_...`.
        licence: of the weights.

    Returns:
        The files: `README.md` and the pictures it shows.
    """
    judged = trainer.evaluator.judged
    figures = {name.removeprefix("final_"): value for name, value in figures.items()}
    plots = [output / "losses.png", output / "similarity.png", output / "norms.png"]
    plot_losses(read_metrics(output / "metrics.jsonl"), plots[0])
    plot_similarity(judged, plots[1])
    plot_norms(judged, plots[2], first=trainer.positions.start)
    card = output / "README.md"
    with whole_file(card) as partial:
        partial.write_text(model_card(config, figures, trainer.state.global_step, licence), encoding="utf-8")
    return [card, *plots]


def figures_table(figures: Mapping[str, float]) -> list[str]:
    """The figures of an evaluation with floors and ceiling beside them, as lines of a Markdown table."""
    lines = ["| figure | encoder | " + " | ".join(_BESIDE.values()) + " |", "|---" * (len(_BESIDE) + 2) + "|"]
    for name, said in _FIGURES.items():
        if name in figures:
            beside = [figures.get(_beside(who, name)) for who in _BESIDE]
            cells = [figures[name], *beside]
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
    for name, said in (("eval_cosine", "cosine"), ("eval_a2t_r1", "R@1"), ("eval_mean_cosine", "cosine, mean target")):
        _line(axes[1], evals, name, said, marker=".", linestyle=":" if "mean" in name else "-")
    for axis, title in zip(axes, ("loss and its parts", "held out"), strict=True):
        axis.set_title(title)
        axis.set_xlabel("step")
        if axis.lines:
            axis.legend(fontsize=8)
    save(path)


def plot_similarity(judged: Judged, path: Path) -> None:
    """Similarity of clips with captions, rows sorted by their caption, so that a good encoder shows a diagonal."""
    order = sorted(range(len(judged.right)), key=lambda i: judged.right[i][0])
    order = [order[int(i)] for i in torch.linspace(0, len(order) - 1, min(len(order), _MOST_ROWS)).round()]
    columns = sorted({judged.right[i][0] for i in order})
    scores = similarity(judged.audio[order], judged.text[columns])
    axes, save = _figure(1, 1, (9, 7))
    image = axes[0].imshow(scores.numpy(), aspect="auto", cmap="magma", interpolation="nearest")
    axes[0].figure.colorbar(image, ax=axes[0], label="mean cosine over positions")
    labels = [judged.captions[c] for c in columns]
    shown = len(labels) <= _MOST_LABELS
    axes[0].set_xticks(range(len(labels)) if shown else [], [_short(t) for t in labels] if shown else [], rotation=90)
    own = [_short(judged.captions[judged.right[i][0]]) for i in order]
    axes[0].set_yticks(range(len(own)), own) if len(own) <= _MOST_LABELS else axes[0].set_yticks([])
    axes[0].tick_params(labelsize=7)
    axes[0].set_xlabel("captions")
    axes[0].set_ylabel("clips, by their caption")
    save(path)


def plot_norms(judged: Judged, path: Path, *, first: int) -> None:
    """Mean norm of encoder's and teacher's tokens and their mean cosine by position; `first` is the first position."""
    profile = position_profile(judged.audio, judged.text, judged.right)
    positions = torch.arange(first, first + judged.audio.shape[1])
    captions = torch.tensor([right[0] for right in judged.right])
    axes, save = _figure(1, 2, (11, 4))
    for tokens, said in ((judged.audio, "encoder"), (judged.text[captions].float(), "teacher")):
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


def model_card(config: FitConfig, figures: Mapping[str, float], steps: int, licence: str) -> str:
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
    held, reason = beats_floor(dict(figures)) if "mean_cosine" in figures else (True, "")
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
            f"It turns a sound into prompt embeddings of target `{target.name}`: {target.convention}.",
            "",
            "```sh",
            "audio2img generate sound.wav -o picture.png --encoder encoder.safetensors --diffusion MODEL",
            "```",
            "",
            "In ComfyUI, `encoder.safetensors` belongs into `models/audio_encoders`.",
            "",
            "## Data",
            "",
            f"Trained on `{run.data}`, judged by {_judged_by(run)}.",
            f"Licence of the data: {run.licence or 'not stated'}.",
            *([f"With what it started from, the weights are under: {licence}."] if licence != run.licence else []),
            f"Started from `{start}`; the teacher was `{run.teacher}`; {steps} steps.",
            "",
            "## Figures",
            "",
            f"Of {figures.get('clips', 0):.0f} clips that were not trained on, against "
            f"{figures.get('captions', 0):.0f} distinct captions; beside them the floors (white noise of the "
            "teacher's norms, shuffled pairs, the mean target of each position) and the ceiling (the caption itself).",
            "",
            *figures_table(figures),
            "",
            *([] if held else [f"**Mind: {reason}.**", ""]),
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


def _judged_by(run: Any) -> str:
    return f"`{run.eval_data}`" if run.eval_data else f"{run.eval_share:.0%} of it that were held out"


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
