"""transformers' Trainer with our loss."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from audio2img_core.checks import first_line
from audio2img_core.encoder.model import AudioEncoder

from ..data.skiplog import SkipLog
from ..evaluation.evaluator import Evaluator
from .average import WeightAverage
from .callbacks import Averaging
from .checkpoints import mark_whole, rotate
from .collator import Collator
from .task import AlignmentTask

_MOST_CAPTIONS = 64  # of one clip that are known to be positives; further ones count as negatives


class AlignmentTrainer(Trainer):
    """Trains an `AudioEncoder` so that its tokens stand in for the teacher's.

    Precision, accumulation, checkpoints and processes are Trainer's. Ours are the task, the metrics of an evaluation,
    loaders of streams (which divide clips among the processes by themselves), an average of the weights, and the mark
    that tells a complete checkpoint from one that was cut off.

    Args:
        model: Encoder.
        args: As of `transformers.Trainer`, and so are train_dataset, eval_dataset and the other options; the datasets
            are those of `data.clip_items`.
        task: What a batch is trained on.
        evaluator: Metrics of an evaluation.
        skipped: Log of the clips that cannot be used.
        most_captions: Captions of one clip, at most.
        ema_decay: Decay of the average of the weights, which is then evaluated and kept; 0 = none.
    """

    def __init__(
        self,
        model: AudioEncoder,
        args: Any,
        *,
        task: AlignmentTask,
        evaluator: Evaluator,
        skipped: SkipLog,
        most_captions: int = 1,
        ema_decay: float = 0.0,
        **options: Any,
    ):
        args.remove_unused_columns = False
        args.label_names = ["positives"]
        super().__init__(model, args, compute_metrics=evaluator, **options)
        self.task, self.evaluator, self.skipped = task, evaluator, skipped
        self.most_captions = min(most_captions, _MOST_CAPTIONS)
        self.model_accepts_loss_kwargs = False  # the loss is a mean already: Trainer divides it for accumulation
        self.average = WeightAverage(model, ema_decay) if ema_decay else None
        if self.average is not None:
            self.add_callback(Averaging(self.average))
        self.card_files: list[Path] = []  # the run's model card and what it shows
        self._parts: dict[str, Tensor] = {}  # sums of the loss's parts since the last log
        self._batches = 0

    def create_accelerator_and_postprocess(self) -> None:
        """As Trainer's; FSDP on processes without accelerators too, which torch can and Accelerate passes over."""
        state = PartialState()
        if self.args.fsdp and state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = DistributedType.MULTI_GPU  # the kind that Accelerate turns into FSDP
        super().create_accelerator_and_postprocess()

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the alignment loss of a batch.

        Raises:
            ValueError: The loss is not finite; the message names the step and the clips.
        """
        inputs = self.skipped.update(dict(inputs))
        parts, output = self.task(model, inputs, step=self.state.global_step)
        loss = parts["loss"]
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; clips: {', '.join(inputs['keys'])}"
            )
        if model.training:
            self._batches += 1
            for name, part in parts.items():
                if name != "loss":
                    self._parts[name] = self._parts.get(name, 0.0) + part
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer's, with the means of the loss's parts beside the loss."""
        if "loss" in logs and self._batches:
            logs |= {name: (total / self._batches).item() for name, total in self._parts.items()}
            self._parts, self._batches = {}, 0
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """As Trainer's, of the average of the weights where one is kept."""
        with self.average.swapped() if self.average is not None else contextlib.nullcontext():
            return super().evaluate(*args, **options)

    def keep_average(self) -> None:
        """Give the encoder the average of its weights for good, where one is kept."""
        if self.average is not None:
            self.average.apply()
            self.average = None

    def create_model_card(self, *args: Any, **options: Any) -> None:
        """Puts the run's own card, with its pictures, beside the model that is pushed to the hub."""
        for path in self.card_files:
            shutil.copy(path, str(self.args.output_dir))

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Trainer's, without the temperature and the bias of the logits (as CLIP: gains and biases do not decay)."""
        return [name for name in super().get_decay_parameter_names(model) if not name.startswith("logit_")]

    def _get_dataloader(
        self, dataset: Any, description: str, batch_size: int, *args: Any, is_training: bool = False, **options: Any
    ) -> DataLoader:
        self.data_collator = Collator(self.task.captions, training=is_training, most_captions=self.most_captions)
        if not isinstance(dataset, IterableDataset):
            return super()._get_dataloader(dataset, description, batch_size, *args, is_training=is_training, **options)
        # Accelerate would read a stream on one rank and send it to the others; ours is shared out among the readers.
        settings = self.args
        return DataLoader(
            dataset,
            batch_size=batch_size,
            collate_fn=self.data_collator,
            num_workers=settings.dataloader_num_workers,
            pin_memory=settings.dataloader_pin_memory and settings.device.type == "cuda",
            prefetch_factor=settings.dataloader_prefetch_factor,
            persistent_workers=settings.dataloader_persistent_workers,
            drop_last=is_training,
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        learning = ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)
        broken = [name for name, p in learning if not (p.to_local() if isinstance(p, DTensor) else p).isfinite().all()]
        if broken:
            raise ValueError(
                f"weights are not finite after step {self.state.global_step}, such as {broken[0]}: not saved"
            )
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        # Trainer takes it for the best one where it finds the folder, which it makes later when weights are sharded.
        folder.mkdir(parents=True, exist_ok=True)
        try:
            super()._save_checkpoint(model, trial)
            if self.average is not None and self.args.should_save:
                self.average.save(folder)
        except (SafetensorError, RuntimeError, OSError) as error:  # torch says of a full disk what it likes
            raise OSError(
                f"{folder}: could not be written ({first_line(error)}); earlier checkpoints are kept: make room "
                "and start again"
            ) from error
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()  # each rank writes its own random state
        if self.args.should_save:
            mark_whole(folder)
            rotate(str(self.args.output_dir), limit, best=self.state.best_global_step)

    def take_ended(self, checkpoint: Path) -> None:
        """Be as at the end of a training whose last checkpoint this is: `train` would go one step beyond its end."""
        if self.is_fsdp_enabled:
            self.create_optimizer()  # FSDP2 is prepared with it alone
            self.model, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
            self.model_wrapped = self.model
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self.state.is_local_process_zero = self.is_local_process_zero()
        self.state.is_world_process_zero = self.is_world_process_zero()
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._load_best_model()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None:
            self.average.load(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.average is not None:
            self.average.load(str(self.state.best_model_checkpoint))
