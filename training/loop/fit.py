"""Putting a run together: data, teacher, encoder, trainer, and what the run leaves."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainingArguments, set_seed

from audio2img_core.checks import first_line
from audio2img_core.encoder.checkpoint import save_single_file
from audio2img_core.encoder.model import AudioEncoder
from audio2img_core.storage.files import check_writable, remove_partials, whole_folder

from ..config import FitConfig, keep_settings
from ..data.clips import Source
from ..data.dataset import clip_items
from ..data.skiplog import SkipLog
from ..data.sources import distinct_captions, held_in_memory, hold_out, open_source
from ..evaluation.evaluator import Evaluator
from ..evaluation.report import write_report
from ..loss.alignment import AlignmentLoss
from ..teacher.captions import CaptionCache
from ..teacher.text_encoder import OnStep, Teacher
from .callbacks import MetricsFile, Progress, TensorBoard
from .checkpoints import has_ended, remove_broken, whole_checkpoints
from .start import add_lora, finished_encoder, freeze, layered_optimizer, start_encoder, teach
from .task import AlignmentTask
from .trainer import AlignmentTrainer

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""Folder in a run's, which is the output folder of transformers' Trainer."""
_DEFAULTS = {
    "report_to": "none",  # TensorBoard is written all the same, see `_callbacks`
    "ddp_find_unused_parameters": False,
    "hub_strategy": "end",
}
_FREE = ("run.chunk_size", "run.bank_bytes", "trainer.per_device_eval_batch_size")
"""Settings that may differ when a run resumes: what fits in memory changes with the number of processes."""
# FSDP2, each layer by itself, each process its own part of a checkpoint, from which any number of processes resumes.
_SHARDED = {
    "version": 2,
    "transformer_layer_cls_to_wrap": ["Wav2Vec2BertEncoderLayer"],
    "state_dict_type": "SHARDED_STATE_DICT",
}


def fit(config: FitConfig, *, on_caption: OnStep | None = None) -> AlignmentTrainer:
    """Train an encoder, or resume the same run from its last complete checkpoint.

    Args:
        config: All settings.
        on_caption: Called as on_caption(done, missing) while captions are encoded.

    Returns:
        The trainer, after training. The output folder holds `settings.yaml`, `checkpoints/`, `metrics.jsonl`,
        `tensorboard/`, `skipped.csv`, plots, a model card, and the trained encoder as the folder `encoder` and as
        `encoder.safetensors`.

    Raises:
        FileNotFoundError: Missing data, teacher or encoder, before the first step.
        ValueError: Impossible settings, data, teacher or output folder, before the first step; or too many skipped
            clips or a loss that is not finite, and the last good checkpoint stays.
    """
    run = config.run
    run.require("data", "teacher", "output")
    output = Path(run.output)
    check_writable(output)
    arguments = training_arguments(config)
    source, held_out = open_data(config)
    teacher = Teacher.from_pretrained(run.teacher, run.target, device=arguments.device)
    captions = CaptionCache(captions_folder(config), teacher)
    train_captions = distinct_captions(source)
    with arguments.main_process_first(local=False, desc="captions"):
        _keep_settings(config)
        captions.add(train_captions + distinct_captions(held_out), on_step=on_caption)
    train_rows = [captions.row(caption) for caption in train_captions]

    set_seed(arguments.seed)
    encoder = start_encoder(config, seed=arguments.seed)
    if arguments.fsdp:
        encoder.without_scalars()
    teach(encoder, captions, train_rows, new=not run.encoder)
    teacher.to("cpu")  # its memory is the encoder's now; mixed clips call it back
    freeze(encoder, run.freeze_layers)
    lora = add_lora(encoder, run) if run.lora_rank else None
    loss = AlignmentLoss(config.loss, log_scale=encoder.logit_scale, logit_bias=encoder.logit_bias)
    task = AlignmentTask(
        encoder.config,
        arguments,
        captions=captions,
        train_rows=train_rows,
        loss=loss,
        data=config.data,
        mask_padding=run.mask_padding,
        bank_bytes=run.bank_bytes,
    )
    evaluator = Evaluator(
        captions,
        encoder.config.positions,
        mean_tokens=captions.mean_tokens(train_rows)[encoder.config.positions],
        mean_pooled=captions.mean_pooled(train_rows),
        device=arguments.device,
    )
    trainer = AlignmentTrainer(
        encoder,
        arguments,
        task=task,
        evaluator=evaluator,
        skipped=SkipLog(output / "skipped.csv", max_bad_share=config.data.max_bad_share, rank=arguments.process_index),
        most_captions=max(len(captions) for part in (source, held_out) for captions in part.captions()),
        ema_decay=run.ema_decay,
        train_dataset=clip_items(
            source, config.data, seed=arguments.seed, **({"endless": True} if source.streaming else {})
        ),
        eval_dataset=clip_items(held_out, config.data, seed=arguments.seed, training=False),
        callbacks=_callbacks(config, output, arguments),
    )
    no_decay = {name for name, _ in encoder.named_parameters()} - set(trainer.get_decay_parameter_names(encoder))
    trainer.optimizer = layered_optimizer(encoder, arguments, run.layer_decay, no_decay)
    _quieter(trainer)
    with arguments.main_process_first(local=False, desc="checkpoints"):
        if arguments.should_save:
            remove_partials(output)
            for path in remove_broken(str(arguments.output_dir)):
                logger.warning("%s is incomplete and is removed: the run was stopped while it was written", path)
    last = _last_checkpoint(arguments)
    if last is not None:
        logger.info("resuming from %s", last)
    if last is not None and has_ended(last):
        trainer.take_ended(last)
    else:
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    finish(trainer, config, lora=lora)
    return trainer


def finished_run(config: FitConfig) -> Path | None:
    """Return the encoder's file of a run that has ended; None where there is something left to train.

    Raises:
        ValueError: The output folder holds a run of other settings.
    """
    config.run.require("output")
    file = Path(config.run.output) / "encoder.safetensors"
    if not file.is_file():
        return None
    _keep_settings(config)
    return file


def finish(trainer: AlignmentTrainer, config: FitConfig, *, lora: Any = None) -> AudioEncoder | None:
    """Evaluate and write what the run leaves; return the encoder on the main process, else None."""
    run, output = config.run, Path(config.run.output)
    trainer.keep_average()
    metrics = trainer.evaluate(metric_key_prefix="final")
    if lora is not None:
        lora.merge_and_unload()
    weights = trainer.accelerator.get_state_dict(trainer.model)
    trainer.accelerator.wait_for_everyone()
    if not trainer.is_world_process_zero():
        return None
    trainer.skipped.merge()
    trainer.skipped.finish()
    encoder = finished_encoder(trainer.model.config, weights)
    licences = (run.licence, trainer.model.config.training.get("licence", ""))  # of the data, of what it started from
    shown = ("cosine", "mean_cosine", "norm_ratio", "a2t_r1", "mean_a2t_r1")
    encoder.config.training = {
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "data": run.data,
        "licence": " and ".join(dict.fromkeys(filter(None, licences))),
        "backbone": run.encoder or run.backbone,
        "teacher": run.teacher,
        "figures": {name: round(metrics[f"final_{name}"], 4) for name in shown if f"final_{name}" in metrics},
    }
    with whole_folder(output / "encoder", replace=True) as partial:
        encoder.save_pretrained(partial)
    trainer.card_files = write_report(output, config, trainer, metrics, encoder.config.training["licence"])
    save_single_file(encoder, output / "encoder.safetensors")  # last: it says that the run has ended
    if trainer.args.push_to_hub:
        trainer.model = encoder
        trainer.push_to_hub()
    return encoder


def training_arguments(config: FitConfig) -> TrainingArguments:
    """Return Trainer's settings of a run.

    Raises:
        ValueError: Values that Trainer or a run of ours refuses.
    """
    given = config.trainer
    if given.get("save_only_model"):
        raise ValueError("trainer.save_only_model is not supported: the run could not be resumed")
    early = {"load_best_model_at_end": True} if config.run.early_stopping else {}
    given = {**given, **_shared_batch(config)}
    if given.get("fsdp") and not isinstance(given.get("fsdp_config"), str):  # a text is the name of a JSON file
        given["fsdp_config"] = {**_SHARDED, **(given.get("fsdp_config") or {})}
    try:
        arguments = TrainingArguments(
            output_dir=str(Path(config.run.output) / CHECKPOINTS), **{**_DEFAULTS, **early, **given}
        )
    except (ValueError, TypeError, ImportError) as error:
        raise ValueError(f"section 'trainer': {first_line(error)}") from error
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes != arguments.world_size:
        raise ValueError(
            f"{processes} processes were started, but each would train by itself on {arguments.device}: for processes "
            "without GPUs set trainer.use_cpu"
        )
    if config.run.batch_size and arguments.n_gpu > 1:
        raise ValueError(f"run.batch_size with {arguments.n_gpu} GPUs needs a process for each: start it with torchrun")
    for name in ("ema_decay", "lora_rank") if arguments.fsdp else ():
        if getattr(config.run, name):
            raise ValueError(f"run.{name} is not supported with trainer.fsdp: the weights are split over the processes")
    if config.run.early_stopping and arguments.eval_strategy == "no":
        raise ValueError("run.early_stopping needs evaluations: set trainer.eval_strategy to steps or epoch")
    return arguments


def _last_checkpoint(arguments: TrainingArguments) -> Path | None:
    """Return the last complete checkpoint that the main process sees, from which all processes resume.

    Raises:
        ValueError: This process, on another machine, does not see it.
    """
    whole = whole_checkpoints(str(arguments.output_dir))
    chosen = [str(whole[-1]) if whole else None]
    if arguments.world_size > 1:
        torch.distributed.broadcast_object_list(chosen, device=arguments.device)
    if chosen[0] is not None and Path(chosen[0]) not in whole:
        raise ValueError(f"{chosen[0]}: is not there for all processes: run.output must be a folder that they share")
    return None if chosen[0] is None else Path(chosen[0])


def _shared_batch(config: FitConfig) -> dict[str, int]:
    """Divide the clips of a step among the present number of processes."""
    size = config.run.batch_size
    if not size:
        return {}
    parts = int(os.environ.get("WORLD_SIZE", 1)) * int(config.trainer.get("gradient_accumulation_steps", 1))
    if size % parts:
        raise ValueError(
            f"run.batch_size is {size}, which is not divisible by {parts} (processes times gradient_accumulation_steps)"
        )
    return {"per_device_train_batch_size": size // parts}


def open_data(config: FitConfig) -> tuple[Source, Source]:
    """Return the training clips and the evaluation clips; those of a stream are held in memory, as encoded files.

    Raises:
        ValueError, FileNotFoundError: as `sources.open_source`, or a stream that would have to hold clips out itself.
    """
    run = config.run
    source = open_source(run.data, split=run.split or None)
    if run.eval_data:
        return source, held_in_memory(open_source(run.eval_data, split=run.eval_split or None))
    if source.streaming:
        raise ValueError("a stream cannot hold clips out by itself: name run.eval_data")
    return hold_out(source, run.eval_share, seed=int(config.trainer.get("seed", 42)))


def captions_folder(config: FitConfig) -> Path:
    """Return the folder of the teacher's cached captions: as set, beside prepared data, or in the run's folder."""
    run = config.run
    prepared = Path(run.data) / "captions"
    if run.captions:
        return Path(run.captions)
    return prepared if prepared.is_dir() else Path(run.output) / "captions"


def _keep_settings(config: FitConfig) -> None:
    output = Path(config.run.output)
    differing = keep_settings(output / "settings.yaml", config.to_dict(), defaults=FitConfig().to_dict(), free=_FREE)
    if differing:
        raise ValueError(f"{output}: holds a run of other settings ({', '.join(differing)}); choose another run.output")


def _callbacks(config: FitConfig, output: Path, arguments: TrainingArguments) -> list[Any]:
    callbacks: list[Any] = [MetricsFile(output / "metrics.jsonl")]
    if config.run.early_stopping:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=config.run.early_stopping))
    if (
        importlib.util.find_spec("tensorboard")
        and "tensorboard" not in (arguments.report_to or ())
        and arguments.should_save
    ):
        from torch.utils.tensorboard import SummaryWriter

        callbacks.append(TensorBoard(SummaryWriter(str(output / "tensorboard"))))
    return callbacks


def _quieter(trainer: AlignmentTrainer) -> None:
    """Print our few metrics in the place of Trainer's dictionaries."""
    for printing in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(printing)
    trainer.add_callback(Progress())
