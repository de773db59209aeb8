"""transformers' Trainer with our loss."""

from __future__ import annotations

import contextlib
import shutil
import zlib
from collections.abc import Mapping, Sequence
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

from audio2img_core.audio.mel import MIN_SAMPLES
from audio2img_core.checks import first_line
from audio2img_core.encoder.model import AudioEncoder

from ..data.augment import mask_features
from ..data.config import DataConfig
from ..data.dataset import collate, seeded
from ..data.features import batch_features
from ..data.skiplog import SkipLog
from ..evaluation.evaluate import Evaluator
from ..loss.alignment import AlignmentLoss
from ..loss.gather import gather_rows
from ..teacher.captions import CaptionCache
from .average import WeightAverage
from .callbacks import Averaging
from .checkpoints import mark_whole, rotate

_MOST_CAPTIONS = 64  # of one clip that are known to be right for it; more are taken for negatives


class AlignmentTrainer(Trainer):
    """Trains an `AudioEncoder` so that its tokens stand in for the teacher's.

    Precision, accumulation, checkpoints, many processes: all is Trainer's. Ours are the loss, the figures of an
    evaluation, loaders of streams (which share clips out by themselves), an average of the weights, and the mark that
    tells a whole checkpoint from one that was cut off.

    Args:
        model: the encoder. args, train_dataset, eval_dataset, ...: as of `transformers.Trainer`; the datasets are
            those of `data.clip_items`.
        captions: the teacher's embeddings of every caption of both datasets, with its teacher where clips are mixed.
        train_rows: rows in `captions` of the captions to train on: the bank, the mean target and the norms are theirs.
        loss: what is added up; made with the encoder's logit_scale and logit_bias.
        data: for the masks on features while training.
        skipped: takes the clips that cannot be used.
        most_captions: of one clip.
        mask_padding: see `features.batch_features`.
        ema_decay: of the average of the weights, which is then what is judged and kept; 0 = none.
        bank_bytes: of the captions that are kept on the training device as negatives. More are split over the processes
            of the run, each then with its own part in evaluations; what is still too large stays in the CPU's memory.
    """

    def __init__(
        self,
        model: AudioEncoder,
        args: Any,
        *,
        captions: CaptionCache,
        train_rows: Sequence[int],
        loss: AlignmentLoss,
        data: DataConfig,
        skipped: SkipLog,
        most_captions: int = 1,
        mask_padding: bool = True,
        ema_decay: float = 0.0,
        bank_bytes: int = 2**31,
        **options: Any,
    ):
        args.remove_unused_columns = False
        args.label_names = ["right"]
        self.positions = model.config.positions
        self.evaluator = Evaluator(
            captions,
            self.positions,
            mean_tokens=captions.mean_tokens(train_rows)[self.positions],
            mean_pooled=captions.mean_pooled(train_rows),
            device=args.device,
        )
        super().__init__(model, args, compute_metrics=self.evaluator, **options)
        self.captions, self.skipped, self.data_config = captions, skipped, data
        self.mask_padding, self.alignment = mask_padding, loss
        self.most_captions = min(most_captions, _MOST_CAPTIONS)
        self.model_accepts_loss_kwargs = False  # the loss is a mean already: Trainer divides it for accumulation
        self.token_norms = self._here(captions.token_norms(train_rows)[self.positions])
        self.bank = self._bank(train_rows, bank_bytes) if loss.config.bank else {}
        self.window = model.config.window
        self.average = WeightAverage(model, ema_decay) if ema_decay else None
        if self.average is not None:
            self.add_callback(Averaging(self.average))
        self.card_files: list[Path] = []  # the run's model card and what it shows
        self._parts: dict[str, Tensor] = {}  # sums of the loss's parts since the last log
        self._batches = 0
        self._drawn = (-1, 0)  # step and number of the micro-batch that was masked last

    def create_accelerator_and_postprocess(self) -> None:
        """As Trainer's; FSDP on processes without accelerators too, which torch can and Accelerate passes over."""
        state = PartialState()
        if self.args.fsdp and state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = DistributedType.MULTI_GPU  # the kind that Accelerate turns into FSDP
        super().create_accelerator_and_postprocess()

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The alignment loss of a batch.

        Raises:
            ValueError: the loss is not finite; the message names the step and the clips.
        """
        inputs = self.skipped.update(dict(inputs))
        training, rows = model.training, inputs["rows"]
        if len(rows) == 0:
            raise ValueError("no clip of a whole batch could be read: see skipped.csv")
        features, mask = batch_features(
            inputs["waveform"], inputs["lengths"], self.window, mask_padding=self.mask_padding
        )
        if training:
            features = self._masked(features, mask)
        heard = dict(model(input_features=features, attention_mask=mask))
        learned = {name: heard.pop(name) for name in ("log_scale", "logit_bias") if name in heard}
        audio = {"audio_tokens": heard["tokens"], "audio_pooled": heard.get("pooled")}
        right = inputs["right"]
        good = rows >= 0
        if not training and not good.all():  # stand-ins for clips that could not be read
            if not good.any():
                nothing = heard["tokens"].sum() * 0.0
                return (nothing, heard) if return_outputs else nothing
            audio = {name: None if tensor is None else tensor[good] for name, tensor in audio.items()}
            rows, right = rows[good], right[good]
        text, ids = self._text(rows, inputs["caption"])
        ids = torch.cat([ids[:, None], right], 1)
        if training and self.args.world_size > 1:
            audio = {name: _gathered(tensor) for name, tensor in audio.items()}
            text = {name: _gathered(tensor) for name, tensor in text.items()}
            ids = gather_rows(ids)
        bank = self.bank if training or not self.bank else {**self.bank, "bank_join": None}
        parts = self.alignment(**audio, **text, caption_ids=ids, token_norms=self.token_norms, **learned, **bank)
        loss = parts["loss"]
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; clips: {', '.join(inputs['keys'])}"
            )
        if training:
            self._batches += 1
            for name, part in parts.items():
                if name != "loss":
                    self._parts[name] = self._parts.get(name, 0.0) + part
        return (loss, heard) if return_outputs else loss

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

    def create_model_card(self, **options: Any) -> None:
        """Puts the run's own card, with its pictures, beside the model that is pushed to the hub."""
        for path in self.card_files:
            shutil.copy(path, self.args.output_dir)

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Trainer's, without the temperature and the bias of the logits (as CLIP: gains and biases do not decay)."""
        return [name for name in super().get_decay_parameter_names(model) if not name.startswith("logit_")]

    def _get_dataloader(
        self, dataset: Any, description: str, batch_size: int, *args: Any, is_training: bool = False, **options: Any
    ) -> DataLoader:
        self.data_collator = Collator(self.captions, training=is_training, most_captions=self.most_captions)
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
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        # Trainer takes it for the best one where it finds the folder, which it makes later when weights are sharded.
        folder.mkdir(parents=True, exist_ok=True)
        try:
            super()._save_checkpoint(model, trial)
            if self.average is not None and self.args.should_save:
                self.average.save(folder)
        except (SafetensorError, RuntimeError, OSError) as error:  # torch says of a full disk what it likes
            raise OSError(
                f"{folder}: could not be written ({first_line(error)}); the whole checkpoints before it stay: make "
                "room and start again"
            ) from error
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()  # each rank writes its own random state
        if self.args.should_save:
            mark_whole(folder)
            rotate(self.args.output_dir, limit, best=self.state.best_global_step)

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
            self.average.load(self.state.best_model_checkpoint)

    def _masked(self, features: Tensor, mask: Tensor | None) -> Tensor:
        data, step = self.data_config, self.state.global_step
        self._drawn = (step, self._drawn[1] + 1 if self._drawn[0] == step else 0)
        return mask_features(
            features,
            mask,
            seeded(self.args.seed, *self._drawn),
            time_masks=data.time_masks,
            time_width=data.time_width,
            freq_masks=data.freq_masks,
            freq_width=data.freq_width,
            first=self.args.process_index * len(features),
            of=self.args.world_size * len(features),
        )

    def _text(self, rows: Tensor, captions: Sequence[str]) -> tuple[dict[str, Tensor | None], Tensor]:
        """The teacher's tokens, pooled embeddings and masks of a batch's captions, and ids that tell these apart.

        Joined captions of mixed clips are not in the cache (row -1): the teacher encodes them now.
        """
        known = rows.clamp(min=0).tolist()
        tokens, pooled, mask = self.captions.tokens(known), self.captions.pooled(known), self.captions.mask(known)
        ids, new = rows.clone(), (rows < 0).nonzero().flatten().tolist()
        if new:
            said = self.captions.teacher.to(self.args.device).encode([captions[i] for i in new])
            tokens[new], mask[new] = said.tokens.cpu(), said.mask.cpu()
            if pooled is not None:
                pooled[new] = said.pooled.cpu()
            # The same on every rank, and below every row and the -1 that means none.
            ids[new] = torch.tensor([-2 - zlib.crc32(captions[i].encode()) for i in new], device=ids.device)
        text = {"text_tokens": tokens[:, self.positions], "text_pooled": pooled, "text_mask": mask[:, self.positions]}
        return {name: self._here(tensor) for name, tensor in text.items()}, ids

    def _bank(self, rows: Sequence[int], most: int) -> dict[str, Any]:
        one = self.captions.tokens(rows[:1], dtype=torch.float16)[:, self.positions].nbytes
        split = self.args.world_size if one * len(rows) > most and len(rows) >= self.args.world_size else 1
        rows = rows[self.args.process_index % split :: split]
        tokens = self.captions.tokens(rows, dtype=torch.float16)[:, self.positions]
        return {
            # A larger one stays where it is: the loss fetches it in parts.
            "bank": self._here(tokens) if tokens.nbytes <= most else tokens,
            "bank_pooled": self._here(self.captions.pooled(rows)),
            "bank_ids": torch.tensor(list(rows)),
            "bank_join": gather_rows if split > 1 else None,
        }

    def _here(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(self.args.device)


class Collator:
    """Batches of `data.collate` with the rows of captions in the cache.

    rows [B] is the caption's, -1 where it is not in the cache; right [B, most_captions] are those of all captions of
    the clip, -1 where there are fewer. In evaluation a clip that could not be read keeps its place, as a moment of
    silence without captions: every process must have batches of one size.
    """

    def __init__(self, captions: CaptionCache, *, training: bool, most_captions: int):
        self.captions, self.training, self.most = captions, training, most_captions

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = collate(items)
        if not self.training and len(batch["keys"]) < len(items):
            batch = self._with_gaps(batch, items)
        batch["rows"] = torch.tensor([self._row(caption) for caption in batch["caption"]], dtype=torch.int64)
        rows = [[self._row(caption) for caption in captions[: self.most]] for captions in batch["captions"]]
        full = [row + [-1] * (self.most - len(row)) for row in rows]
        batch["right"] = torch.tensor(full, dtype=torch.int64).reshape(len(rows), self.most)
        return batch

    def _row(self, caption: str) -> int:
        return self.captions.row(caption) if caption in self.captions else -1

    @staticmethod
    def _with_gaps(batch: dict[str, Any], items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        places = torch.tensor([i for i, item in enumerate(items) if item["length"]], dtype=torch.int64)
        size = batch["waveform"].shape[1]
        waveform = torch.zeros(len(items), max(size, MIN_SAMPLES))
        lengths = torch.full((len(items),), MIN_SAMPLES)
        waveform[places, :size], lengths[places] = batch["waveform"], batch["lengths"]
        texts = {"caption": "caption", "captions": "captions", "keys": "key"}
        texts = {name: [item[field] for item in items] for name, field in texts.items()}
        return {**batch, "waveform": waveform, "lengths": lengths, **texts}


def _gathered(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else gather_rows(tensor)
