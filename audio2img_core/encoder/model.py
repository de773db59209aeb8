"""The audio encoder: Wav2Vec2-BERT and a head that speaks a text encoder's language."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertModel, Wav2Vec2BertPreTrainedModel
from transformers.utils.generic import ModelOutput

from ..audio.mel import MIN_SAMPLES, fold_features, num_frames
from ..audio.waveform import Waveform, read_clips
from ..targets import PROMPT_TOKENS
from .backbone import adapt
from .checkpoint import load_encoder
from .config import AudioEncoderConfig
from .embeddings import AudioEmbeddings, TokenSpace
from .heads import INITIAL_LOGIT_SCALE, QueryHead, make_head
from .inference import cut_windows, encode_windows
from .windows import WindowConfig, plan_windows

logger = logging.getLogger(__name__)

OnStep = Callable[[int, int], None]


@dataclass
class AudioEncoderOutput(ModelOutput):
    """tokens [B, N, D]; pooled [B, P] or None."""

    tokens: Tensor | None = None
    pooled: Tensor | None = None


class AudioEncoder(Wav2Vec2BertPreTrainedModel):
    """Wav2Vec2-BERT with a token head, trained so that its tokens stand in for a CLIP text encoder's.

    A `transformers.PreTrainedModel`: `save_pretrained`, `push_to_hub`, `device_map` and `Trainer` work as usual.
    `from_pretrained` loads every form of checkpoint that `checkpoint.py` describes.
    """

    config: AudioEncoderConfig
    config_class = AudioEncoderConfig
    base_model_prefix = "audio_encoder"
    # What is known of the teacher is exact in every dtype: its empty prompt stands beside that of the text encoder.
    _keep_in_fp32_modules_strict = ["null_tokens", "null_pooled", "token_norms"]
    _no_split_modules = ["Wav2Vec2BertEncoderLayer", "Wav2Vec2BertAdapterLayer", "QueryLayer"]

    def __init__(self, config: AudioEncoderConfig):
        super().__init__(config)
        self.backbone = adapt(Wav2Vec2BertModel(config.backbone))
        self.head = make_head(config.head, config.backbone, config.token_dim, config.pooled_dim)
        # How sharply cosines tell captions apart: learned with the encoder as CLIP's, used to name what is heard.
        # A training whose loss uses them unfreezes them: DDP waits for the gradient of every parameter that is not.
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE), requires_grad=False)
        self.logit_bias = nn.Parameter(torch.tensor(0.0), requires_grad=False)
        if config.null_prompt:
            self.register_buffer("null_tokens", torch.zeros(PROMPT_TOKENS, config.token_dim))
            self.register_buffer("token_norms", torch.zeros(PROMPT_TOKENS))
            if config.pooled_dim is not None:
                self.register_buffer("null_pooled", torch.zeros(config.pooled_dim))
        self.post_init()

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Self:
        """Load a folder, a single `.safetensors` file, a hub id, or a Wav2Vec2-BERT folder of kardSIM.

        Keyword arguments are those of `PreTrainedModel.from_pretrained` (`dtype`, `device_map`, `revision`, ...);
        a single file takes `dtype` only. `dtype="int8"` keeps the weights of the backbone's linear layers in 8 bits,
        half of bfloat16's memory, for encoding alone; it needs torchao.

        Raises:
            FileNotFoundError: nothing there. ValueError: a pickle, missing or unexpected weights, wrong config.
        """
        return load_encoder(cls, super().from_pretrained, name_or_path, *args, **kwargs)

    def forward(self, input_features: Tensor, attention_mask: Tensor | None = None) -> AudioEncoderOutput:
        """Tokens of windows: input_features [B, F, 160], best in float32, attention_mask [B, F] -> tokens, pooled."""
        features, attention_mask = fold_features(input_features, attention_mask, self.config.fold)
        frames = self.backbone(features, attention_mask=attention_mask).last_hidden_state
        tokens, pooled = self.head(frames.to(self.dtype), attention_mask)
        return AudioEncoderOutput(tokens=tokens, pooled=pooled)

    @torch.no_grad()
    def encode(
        self,
        waveform: Waveform,
        sample_rate: int,
        *,
        window: float | None = None,
        hop: float | None = None,
        batch_size: int | None = None,
        names: Sequence[str] | None = None,
        on_step: OnStep | None = None,
    ) -> AudioEmbeddings:
        """Tokens of whole clips. Long ones are cut in windows, which are encoded in batches.

        Args:
            waveform: [T] or [C, T] one clip, [B, C, T] a batch, or a list of clips ([T] or [C, T]) of any lengths;
                float in -1..1. Channels are mixed to mono and resampled to 16 kHz.
            sample_rate: of all clips, in Hz.
            window: seconds of one window; None = the checkpoint's.
            hop: seconds between window starts; None = the checkpoint's, or `window` where that is given.
            batch_size: windows encoded at once; None = 8 on a GPU and 1 elsewhere, where more is no faster. Halved,
                with a warning, where a GPU's memory does not suffice.
            names: of the clips, for warnings about them.
            on_step: called as on_step(windows done, windows in all) once for each window, after its batch. What it
                raises stops the work.

        Returns:
            AudioEmbeddings on the encoder's device in float32; the same input always gives the same output.

        Raises:
            ValueError: impossible waveform, sample rate, window, hop or batch size.
        """
        batch_size = self._batch_size(batch_size)
        config = self._window_config(window, hop)
        clips = read_clips((waveform, sample_rate))
        for number, clip in enumerate(clips):
            if not clip.any():
                name = names[number] if names is not None and len(names) == len(clips) else f"clip {number}"
                logger.warning("silence: every sample of %s is zero", name)
        if not clips:
            raise ValueError("no clip to encode: waveform is an empty list")
        total = sum(
            len(plan_windows(num_frames(max(len(clip), MIN_SAMPLES)), config.size_frames, config.hop_frames))
            for clip in clips
        )
        windows = (w for number, clip in enumerate(clips) for w in cut_windows([clip], config, number, self.device))
        return encode_windows(self, windows, config, batch_size, on_step and (lambda done: on_step(done, total)))

    @torch.no_grad()
    def encode_stream(
        self,
        blocks: Iterable[Tensor],
        *,
        window: float | None = None,
        hop: float | None = None,
        batch_size: int | None = None,
        name: str = "the sound",
    ) -> AudioEmbeddings:
        """`encode` of one clip that comes in blocks, such as `stream_mono` gives: the same numbers, in little memory.

        Checkpoints that normalise over the whole clip (kardSIM's) need all of its mel frames, 32 kB a second.

        Args:
            blocks: mono, 16 kHz, [T] float each, of any lengths. name: of the clip, for warnings about it.
            window, hop, batch_size: as of `encode`.

        Raises:
            ValueError: impossible window, hop or batch size, or no sound at all; and what the blocks raise.
        """
        config = self._window_config(window, hop)
        batch_size = self._batch_size(batch_size)
        silent = True

        def heard() -> Iterator[Tensor]:
            nonlocal silent
            for block in blocks:
                silent = silent and not block.any()
                yield block

        embeddings = encode_windows(self, cut_windows(heard(), config, 0, self.device), config, batch_size)
        if silent:
            logger.warning("silence: every sample of %s is zero", name)
        return embeddings

    @property
    def space(self) -> TokenSpace:
        """The token space of this checkpoint, in float32."""
        null, pooled = (getattr(self, name, None) for name in ("null_tokens", "null_pooled"))
        return TokenSpace(
            target=self.config.target,
            prepend_bos=self.config.prepend_bos,
            null_tokens=None if null is None else null.float(),
            null_pooled=None if pooled is None else pooled.float(),
            scale=self.logit_scale.exp().item(),
        )

    @property
    def bos_token(self) -> Tensor | None:
        """[D] the teacher's BOS token: a CLIP text encoder is causal, so it is the same in every prompt."""
        null = getattr(self, "null_tokens", None)
        return None if null is None else null[0]

    def set_teacher(
        self, null_tokens: Tensor, *, null_pooled: Tensor | None = None, token_norms: Tensor | None = None
    ) -> None:
        """Store what inference needs of the teacher.

        Args:
            null_tokens: [77, D] its embedding of the empty prompt.
            null_pooled: [P] the pooled embedding of the empty prompt, for targets that have one.
            token_norms: [77] mean norm of its tokens by position; None = the empty prompt's.

        Raises:
            ValueError: a shape does not fit the target.
        """
        expected = (PROMPT_TOKENS, self.config.token_dim)
        if tuple(null_tokens.shape) != expected:
            raise ValueError(f"null_tokens must have shape {list(expected)}, not {list(null_tokens.shape)}")
        pooled_shape = None if null_pooled is None else tuple(null_pooled.shape)
        if pooled_shape != (None if self.config.pooled_dim is None else (self.config.pooled_dim,)):
            raise ValueError(f"null_pooled of target {self.config.target!r} cannot have shape {pooled_shape}")
        norms = null_tokens.float().norm(dim=-1) if token_norms is None else token_norms
        if tuple(norms.shape) != (PROMPT_TOKENS,):
            raise ValueError(f"token_norms must have shape [{PROMPT_TOKENS}], not {list(norms.shape)}")
        like = next(self.parameters())
        for name, value in (("null_tokens", null_tokens), ("null_pooled", null_pooled), ("token_norms", norms)):
            if value is not None:
                self.register_buffer(name, value.detach().to(like.device, torch.float32, copy=True))
        self.config.null_prompt = True

    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            nn.init.constant_(self.logit_scale, INITIAL_LOGIT_SCALE)
            nn.init.zeros_(self.logit_bias)
        elif isinstance(module, QueryHead):
            nn.init.normal_(module.queries, std=module.queries.shape[1] ** -0.5)
        else:
            super()._init_weights(module)

    def _window_config(self, window: float | None, hop: float | None) -> WindowConfig:
        config = self.config.window
        if window is not None:
            config = replace(config, seconds=float(window), hop_seconds=None)
        return config if hop is None else replace(config, hop_seconds=float(hop))

    def _batch_size(self, batch_size: int | None) -> int:
        if batch_size is None:
            return 1 if self.device.type == "cpu" else 8
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        return batch_size
