"""The weighted sum of losses that a run trains with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from .common import full_precision
from .contrastive import INITIAL_LOGIT_BIAS, pooled_contrastive, sequence_contrastive, siglip
from .temperature import LogitScale
from .tokens import pool_tokens, token_cosine, token_regression

_CHUNK_ELEMENTS = 2**24  # of the part of a bank that is pooled at once: 64 MB in float32


@dataclass(frozen=True)
class LossConfig:
    """Parts and weights of `AlignmentLoss`. The defaults are the original project's loss.

    Attributes:
        sequence: Weight of sequence_contrastive; 0 = off, as for the four weights that follow.
        pooled: Weight of pooled_contrastive.
        siglip: Weight of siglip.
        regression: Weight of token_regression.
        cosine: Weight of token_cosine.
        temperature: Temperature of the cosines in all contrastive parts; the initial one if it is learned.
        learned_temperature: The temperature is learned, between 0.01 and 1.
        symmetric: The sequence and pooled losses also compare from text to audio.
        bank: The sequence and pooled losses take all distinct captions as negatives, not only those of the batch.
        mask_repeated: Other captions that are correct for a clip are not its negatives (in siglip: they are positives).
        padding_weight: Weight of a position that pads the caption; a word's weight is 1.
        norm_weight: Weight of the squared log ratio of norms within the regression.
    """

    sequence: float = 1.0
    pooled: float = 0.0
    siglip: float = 0.0
    regression: float = 0.0
    cosine: float = 0.0
    temperature: float = 0.15
    learned_temperature: bool = False
    symmetric: bool = False
    bank: bool = False
    mask_repeated: bool = False
    padding_weight: float = 1.0
    norm_weight: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool):
                if not isinstance(value, bool):
                    raise ValueError(f"loss {field.name} must be true or false, not {value!r}")
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"loss {field.name} must be a finite number of at least 0, not {value!r}")
        if not any((self.sequence, self.pooled, self.siglip, self.regression, self.cosine)):
            raise ValueError("all loss weights are 0: set sequence, pooled, siglip, regression or cosine")
        if self.temperature == 0:
            raise ValueError("loss temperature must be above 0")
        if self.learned_temperature:
            if not any((self.sequence, self.pooled, self.siglip)):
                raise ValueError("loss learned_temperature needs sequence, pooled or siglip above 0")
            LogitScale(self.temperature)
        if self.bank and not any((self.sequence, self.pooled)):
            raise ValueError("loss bank needs sequence or pooled above 0")


class AlignmentLoss(nn.Module):
    """The weighted sum of the losses that a `LossConfig` names; holds the learned temperature and SigLIP's bias."""

    def __init__(
        self, config: LossConfig, *, log_scale: nn.Parameter | None = None, logit_bias: nn.Parameter | None = None
    ):
        """Make what the config needs to learn, or learn 0-d parameters of the encoder, whose checkpoint keeps them.

        Parameters that are given keep their values, and have `requires_grad` set where they are used.

        Args:
            config: what is added up.
            log_scale: logarithm of the inverse temperature, used where the temperature is learned; None = own.
            logit_bias: used where siglip is on; None = own, from `INITIAL_LOGIT_BIAS`.
        """
        super().__init__()
        self.config = config
        if config.learned_temperature:
            self.logit_scale = LogitScale(config.temperature, log_scale=log_scale)
        if config.siglip:
            start = nn.Parameter(torch.tensor(INITIAL_LOGIT_BIAS)) if logit_bias is None else logit_bias
            self.logit_bias = start.requires_grad_()

    def forward(
        self,
        audio_tokens: Tensor,
        text_tokens: Tensor,
        *,
        audio_pooled: Tensor | None = None,
        text_pooled: Tensor | None = None,
        text_mask: Tensor | None = None,
        caption_ids: Tensor | None = None,
        bank: Tensor | None = None,
        bank_ids: Tensor | None = None,
        bank_pooled: Tensor | None = None,
        bank_join: Callable[[Tensor], Tensor] | None = None,
        token_norms: Tensor | None = None,
        log_scale: Tensor | None = None,
        logit_bias: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The loss of a batch and its parts.

        Args:
            audio_tokens: [B, T, D].
            text_tokens: [B, T, D].
            audio_pooled: [B, P]; None = the pooled losses take the mean of the tokens. It is weighted by the mean of
                the batch's position weights: a clip's own mask would tell the length of its caption.
            text_pooled: [B, P], given or left out with audio_pooled.
            text_mask: [B, T] 1 = a word, 0 = padding of the caption; needed where padding_weight is not 1.
            caption_ids: [B] or [B, K], as of `sequence_contrastive`; needed where mask_repeated is set.
            bank: [M, T, D] tokens of all distinct captions; needed where the config's bank is set, else not used.
            bank_ids: [M] caption ids of the bank; needed where both are set.
            bank_pooled: [M, P] pooled embeddings of the bank; where audio_pooled is given without them, the pooled
                loss has the batch's negatives only.
            bank_join: of a bank that is split over processes, as of `sequence_contrastive`.
            token_norms: [T] the teacher's mean norms, for the regression.
            log_scale, logit_bias: [] the parameters that are learned, as the wrapped encoder's forward gives them;
                None = the parameters themselves.

        Returns:
            "loss" [] with the gradient; "temperature" [] and, by the names of the config's weights, each part that is
            on: [] unweighted and detached, for the log.

        Raises:
            ValueError: something that the config needs is missing, or shapes do not fit.
        """
        config = self.config
        needed = {
            "text_mask": (config.padding_weight != 1, text_mask),
            "caption_ids": (config.mask_repeated, caption_ids),
            "bank": (config.bank, bank),
            "bank_ids": (config.bank and config.mask_repeated, bank_ids),
        }
        for name, (is_needed, value) in needed.items():
            if is_needed and value is None:
                raise ValueError(f"the loss needs {name} with {config}")
        if (audio_pooled is None) != (text_pooled is None):
            raise ValueError("audio_pooled and text_pooled go together: give both or neither")

        if text_mask is not None and text_mask.shape != audio_tokens.shape[:2]:
            raise ValueError(f"text_mask must be {list(audio_tokens.shape[:2])}, not {list(text_mask.shape)}")

        temperature = self.logit_scale(log_scale) if config.learned_temperature else config.temperature
        weights = None
        if config.padding_weight != 1 and text_mask is not None:
            weights = torch.where(text_mask.to(audio_tokens.device).bool(), 1.0, config.padding_weight)
        ids = caption_ids if config.mask_repeated else None
        negatives = {}
        if config.bank:
            ids_of_bank = bank_ids if config.mask_repeated else None
            negatives = {"bank": bank, "bank_ids": ids_of_bank, "bank_join": bank_join}
        contrastive = {"temperature": temperature, "symmetric": config.symmetric, "caption_ids": ids}

        parts: dict[str, Tensor] = {}
        if config.sequence:
            parts["sequence"] = sequence_contrastive(
                audio_tokens, text_tokens, position_weights=weights, **contrastive, **negatives
            )
        if config.pooled or config.siglip:
            if audio_pooled is None:
                shared = None if weights is None else weights.mean(0)
                audio_pooled, text_pooled = pool_tokens(audio_tokens, shared), pool_tokens(text_tokens, shared)
                if config.pooled and config.bank and bank is not None and bank_pooled is None:
                    bank_pooled = _pool_bank(bank, shared)
            assert audio_pooled is not None and text_pooled is not None
            if config.pooled:
                negatives = {**negatives, "bank": bank_pooled} if config.bank and bank_pooled is not None else {}
                parts["pooled"] = pooled_contrastive(audio_pooled, text_pooled, **contrastive, **negatives)
            if config.siglip:
                parts["siglip"] = siglip(
                    audio_pooled,
                    text_pooled,
                    logit_scale=1 / temperature,
                    logit_bias=full_precision(self.logit_bias if logit_bias is None else logit_bias),
                    caption_ids=ids,
                )
        if config.regression:
            parts["regression"] = token_regression(
                audio_tokens,
                text_tokens,
                token_norms=token_norms,
                position_weights=weights,
                norm_weight=config.norm_weight,
            )
        if config.cosine:
            parts["cosine"] = token_cosine(audio_tokens, text_tokens, position_weights=weights)

        loss = torch.stack([getattr(config, name) * part for name, part in parts.items()]).sum()
        logged = {name: part.detach() for name, part in parts.items()}
        return {"loss": loss, **logged, "temperature": torch.as_tensor(temperature, device=loss.device).detach()}


@torch.no_grad()
def _pool_bank(bank: Tensor, position_weights: Tensor | None) -> Tensor:
    """`pool_tokens` of a bank [M, T, D] that may be large and in half precision -> [M, D]."""
    size = max(1, _CHUNK_ELEMENTS // bank[0].numel()) if len(bank) else 1
    return torch.cat([pool_tokens(chunk, position_weights) for chunk in bank.split(size)])
