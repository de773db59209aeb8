"""The task of a training step: from a batch of clips to the parts of the loss."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from audio2img_core.encoder.config import AudioEncoderConfig

from ..data.augment import mask_features
from ..data.config import DataConfig
from ..data.dataset import seeded
from ..data.features import batch_features
from ..loss.alignment import AlignmentLoss
from ..loss.gather import gather_rows
from ..teacher.captions import CaptionCache


class AlignmentTask:
    """Encodes a batch, looks its captions up, joins the processes' batches and computes the loss.

    Args:
        config: Config of the encoder.
        args: Trainer's arguments: device, processes and seed.
        captions: Teacher's embeddings of every caption, with its teacher where clips are mixed.
        train_rows: Rows in `captions` of the training captions, for the negatives and the norms.
        loss: Loss, made with the encoder's logit_scale and logit_bias.
        data: Masks of the features in training.
        mask_padding: See `features.batch_features`.
        bank_bytes: Size of the negative captions kept on the training device. Larger banks are split over the
            processes, and each then has its own part in evaluations; what is still too large stays in CPU memory.
    """

    def __init__(
        self,
        config: AudioEncoderConfig,
        args: TrainingArguments,
        *,
        captions: CaptionCache,
        train_rows: Sequence[int],
        loss: AlignmentLoss,
        data: DataConfig,
        mask_padding: bool = True,
        bank_bytes: int = 2**31,
    ):
        self.window, self.positions, self.args = config.window, config.positions, args
        self.captions, self.loss, self.data, self.mask_padding = captions, loss, data, mask_padding
        self.token_norms = self._to_device(captions.token_norms(train_rows)[self.positions])
        self.bank = self._make_bank(train_rows, bank_bytes) if loss.config.bank else {}
        self._last_mask = (-1, 0)  # step, and number of the micro-batch that was masked last

    def __call__(self, model: Any, batch: Mapping[str, Any], *, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Compute the loss of a batch from a `Collator`.

        Args:
            model: Encoder, wrapped for many processes or not.
            batch: Waveforms with the rows of their captions.
            step: Number of the step, which with the seed determines the masks.

        Returns:
            The loss and its parts, as from `AlignmentLoss`; and the encoder's outputs. In evaluation the loss is 0
            where no clip of the batch could be read.

        Raises:
            ValueError: No clip of a training batch could be read.
        """
        training, rows, positives = model.training, batch["rows"], batch["positives"]
        if len(rows) == 0:
            raise ValueError("no clip of a whole batch could be read: see skipped.csv")
        features, mask = batch_features(
            batch["waveform"], batch["lengths"], self.window, mask_padding=self.mask_padding
        )
        if training:
            features = self._masked(features, mask, step)
        output = dict(model(input_features=features, attention_mask=mask))
        learned = {name: output.pop(name) for name in ("log_scale", "logit_bias") if name in output}
        audio = {"audio_tokens": output["tokens"], "audio_pooled": output.get("pooled")}
        good = rows >= 0
        if not training and not good.all():  # stand-ins for clips that could not be read
            if not good.any():
                return {"loss": output["tokens"].sum() * 0.0}, output
            audio = {name: None if tensor is None else tensor[good] for name, tensor in audio.items()}
            rows, positives = rows[good], positives[good]
        text, ids = self.text(rows, batch["caption"])
        ids = torch.cat([ids[:, None], positives], 1)
        bank = self.bank
        if not training:
            bank = {**bank, "bank_join": None} if bank else {}
        elif self.args.world_size > 1:
            audio, text = ({k: None if t is None else gather_rows(t) for k, t in x.items()} for x in (audio, text))
            ids = gather_rows(ids)
        parts = self.loss(**audio, **text, caption_ids=ids, token_norms=self.token_norms, **learned, **bank)
        return parts, output

    def _masked(self, features: Tensor, mask: Tensor | None, step: int) -> Tensor:
        data = self.data
        self._last_mask = (step, self._last_mask[1] + 1 if self._last_mask[0] == step else 0)
        return mask_features(
            features,
            mask,
            seeded(self.args.seed, *self._last_mask),
            time_masks=data.time_masks,
            time_width=data.time_width,
            freq_masks=data.freq_masks,
            freq_width=data.freq_width,
            first=self.args.process_index * len(features),
            of=self.args.world_size * len(features),
        )

    def text(self, rows: Tensor, captions: Sequence[str]) -> tuple[dict[str, Tensor | None], Tensor]:
        """Return the teacher's tokens, pooled embeddings and masks of captions, and ids that tell these apart.

        Joined captions of mixed clips are not in the cache (row -1): the teacher encodes them now.
        """
        known = rows.clamp(min=0).tolist()
        tokens, pooled, mask = self.captions.tokens(known), self.captions.pooled(known), self.captions.mask(known)
        ids, new = rows.clone(), (rows < 0).nonzero().flatten().tolist()
        if new:
            assert self.captions.teacher is not None
            texts = [str(captions[i]) for i in new]
            encoded = self.captions.teacher.to(self.args.device).encode(texts)
            tokens[new], mask[new] = encoded.tokens.cpu(), encoded.mask.cpu()
            if pooled is not None and encoded.pooled is not None:
                pooled[new] = encoded.pooled.cpu()
            # The same in every process, and below every row and the -1 for no caption.
            ids[new] = torch.tensor([-2 - zlib.crc32(text.encode()) for text in texts], device=ids.device)
        text = {"text_tokens": tokens[:, self.positions], "text_pooled": pooled, "text_mask": mask[:, self.positions]}
        return {name: self._to_device(tensor) for name, tensor in text.items()}, ids

    def _make_bank(self, rows: Sequence[int], most: int) -> dict[str, Any]:
        one = self.captions.tokens(rows[:1], dtype=torch.float16)[:, self.positions].nbytes
        split = self.args.world_size if one * len(rows) > most and len(rows) >= self.args.world_size else 1
        rows = rows[self.args.process_index % split :: split]
        tokens = self.captions.tokens(rows, dtype=torch.float16)[:, self.positions]
        return {
            # A larger one stays where it is: the loss fetches it in parts.
            "bank": self._to_device(tokens) if tokens.nbytes <= most else tokens,
            "bank_pooled": self._to_device(self.captions.pooled(rows)),
            "bank_ids": torch.tensor(list(rows)),
            "bank_join": gather_rows if split > 1 else None,
        }

    def _to_device(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(self.args.device)
