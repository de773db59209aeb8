"""transformers' Trainer with our loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from audio2img_core.encoder import AudioEncoder

from .alignment import AlignmentLoss, LossConfig
from .augment import mask_features
from .captions import CaptionCache
from .data import collate, seeded
from .data_config import DataConfig
from .features import batch_features
from .gather import gather_ids, gather_with_gradients
from .gradcache import chunked
from .skiplog import SkipLog


class AlignmentTrainer(Trainer):
    """Trains an `AudioEncoder` so that its tokens stand in for the teacher's.

    Everything but the loss is Trainer's: precision, accumulation, checkpoints, evaluation, many processes.

    Args:
        model: the encoder. args, train_dataset, eval_dataset, ...: as of `transformers.Trainer`; the datasets are
            those of `data.clip_items`.
        captions: the teacher's embeddings of every caption of both datasets.
        loss: what is added up.
        data: for the masks on features while training.
        skipped: takes the clips that cannot be used.
        chunk_size: clips encoded at once; the batch may then be larger than memory (GradCache). 0 = all.
        mask_padding: see `features.batch_features`.
    """

    def __init__(
        self,
        model: AudioEncoder,
        args: Any,
        *,
        captions: CaptionCache,
        loss: LossConfig,
        data: DataConfig,
        skipped: SkipLog,
        chunk_size: int = 0,
        mask_padding: bool = True,
        **options: Any,
    ):
        args.remove_unused_columns = False
        args.label_names = ["rows"]
        # The bank's and the batch's captions are found by row; what the workers send along is text and tensors.
        super().__init__(model, args, data_collator=Collator(captions), **options)
        self.captions, self.skipped, self.data_config = captions, skipped, data
        self.chunk_size, self.mask_padding = chunk_size, mask_padding
        self.alignment = AlignmentLoss(loss, log_scale=model.logit_scale, logit_bias=model.logit_bias)
        self.model_accepts_loss_kwargs = False  # the loss is a mean already: Trainer divides it for accumulation
        first = int(model.config.prepend_bos)
        self.positions = slice(first, first + model.config.num_tokens)
        self.token_norms = captions.token_norms()[self.positions]
        self.bank = self._bank() if loss.bank else None
        self.window = model.config.window

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The alignment loss of a batch; with its parts in the log while training."""
        inputs = self.skipped.update(dict(inputs))
        device, training = inputs["waveform"].device, model.training
        features, mask = batch_features(
            inputs["waveform"], inputs["lengths"], self.window, mask_padding=self.mask_padding
        )
        if training:
            generator = seeded(self.args.seed, self.state.global_step, self.args.process_index)
            features = self._masked(features, mask, generator)
        batch = {"input_features": features, "attention_mask": mask}

        def encode(**chunk: Tensor) -> Any:
            return model(**chunk)

        if training and 0 < self.chunk_size < len(features):
            heard = chunked(encode, batch, self.chunk_size)
        else:
            heard = encode(**batch)
        rows = inputs["rows"].tolist()
        text = {
            "text_tokens": self.captions.tokens(rows)[:, self.positions].to(device),
            "text_pooled": self._to(self.captions.pooled(rows), device),
            "text_mask": self.captions.mask(rows)[:, self.positions].to(device),
        }
        audio = {"audio_tokens": heard.tokens, "audio_pooled": heard.pooled}
        ids = inputs["rows"]
        if training and self.args.world_size > 1:
            audio = {name: self._gathered(tensor) for name, tensor in audio.items()}
            text = {name: self._gathered(tensor) for name, tensor in text.items()}
            ids = gather_ids(ids)
        bank = {} if self.bank is None else {name: self._to(tensor, device) for name, tensor in self.bank.items()}
        parts = self.alignment(**audio, **text, caption_ids=ids, token_norms=self.token_norms.to(device), **bank)
        loss = parts["loss"]
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; clips: {', '.join(inputs['keys'])}"
            )
        return (loss, {"tokens": heard.tokens}) if return_outputs else loss

    def _masked(self, features: Tensor, mask: Tensor | None, generator: torch.Generator) -> Tensor:
        data = self.data_config
        return mask_features(
            features,
            mask,
            generator,
            time_masks=data.time_masks,
            time_width=data.time_width,
            freq_masks=data.freq_masks,
            freq_width=data.freq_width,
        )

    def _bank(self) -> dict[str, Tensor | None]:
        rows = range(len(self.captions))
        return {
            "bank": self.captions.tokens(rows, dtype=torch.float16)[:, self.positions],
            "bank_pooled": self.captions.pooled(rows),
            "bank_ids": torch.arange(len(self.captions)),
        }

    @staticmethod
    def _to(tensor: Tensor | None, device: torch.device) -> Tensor | None:
        return None if tensor is None else tensor.to(device)

    @staticmethod
    def _gathered(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else gather_with_gradients(tensor)


class Collator:
    """Batches of `data.collate` with the row of each caption in the cache."""

    def __init__(self, captions: CaptionCache):
        self.captions = captions

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = collate(items)
        batch["rows"] = torch.tensor([self.captions.row(caption) for caption in batch["caption"]])
        return batch
