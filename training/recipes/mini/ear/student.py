"""The student: mini's `AudioEncoder`, and the throw-away layers through which it learns from the teacher."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio2img_core import AudioEncoder, AudioEncoderConfig
from audio2img_core.audio.mel import mel_frames, normalize_level, stack_frames

from .teacher import EMBEDDING_DIM, Heard, Teacher

DYNAMIC_RANGE = 10.0  # nats
FOLD = 2  # input features in one frame of the backbone: 25 frames a second
_FEATURES = 160
WIDTH, LAYERS = 256, 6
STUDENT_WINDOW = 64_000  # samples, 4 s at 16 kHz


def encoder_config(*, width: int = WIDTH, layers: int = LAYERS) -> AudioEncoderConfig:
    """The config of mini's encoder: 6 layers x 256 at 25 frames a second, a query head of 76 tokens."""
    backbone = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": 4 * width,
        "feature_projection_input_dim": FOLD * _FEATURES,
        "conv_depthwise_kernel_size": 15,
        "left_max_position_embeddings": 64,
        "right_max_position_embeddings": 64,
        "initializer_range": 0.05,
        "apply_spec_augment": False,
        "mask_time_prob": 0.0,
        "layerdrop": 0.0,
        **dict.fromkeys(("hidden_dropout", "conformer_conv_dropout", "attention_dropout", "feat_proj_dropout"), 0.0),
    }
    head = {"kind": "query", "num_tokens": 76, "width": 192, "num_layers": 1, "num_heads": 6}
    window = {"seconds": 4.0, "padding": "repeat", "dynamic_range": DYNAMIC_RANGE}
    return AudioEncoderConfig(backbone=backbone, head=head, window=window, target="mini")


@torch.no_grad()
def features(waveform: Tensor) -> Tensor:
    """Input features as the encoder is served them: [B, T] at 16 kHz -> [B, F, 160] float32."""
    mel = mel_frames(waveform)
    counts = torch.full((len(mel),), mel.shape[1], device=mel.device)
    return stack_frames(normalize_level(mel, counts, DYNAMIC_RANGE), counts)[0]


def masked(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """SpecAugment (arXiv:1904.08779): in half of the clips each, a band of 2..12 mel bins and up to 0.5 s are hidden.

    Args:
        inputs: [B, F, 160]. generator: on the CPU.
    """
    batch, frames, _ = inputs.shape
    mel = inputs.view(batch, frames, 2, 80)

    def span(most: int, size: int) -> Tensor:
        """[B, size] bool: a random run of up to `most` in half of the rows."""
        length = torch.randint(2, most + 1, (batch, 1), generator=generator)
        length = torch.where(torch.rand(batch, 1, generator=generator) < 0.5, length, 0)
        start = (torch.rand(batch, 1, generator=generator) * (size - length)).long()
        place = torch.arange(size)
        return ((place >= start) & (place < start + length)).to(inputs.device)

    hidden = span(12, 80)[:, None, None, :] | span(25, frames)[:, :, None, None]
    return mel.masked_fill(hidden, 0.0).view_as(inputs)


class Student(nn.Module):
    """The encoder with a projection to the teacher's embedding, and the teacher's classifier behind it.

    Args:
        config: of the encoder.
        teacher: its classifier is where the student's starts. None = random, to load a checkpoint into.
    """

    mean: Tensor  # [384] of the teacher's frames
    std: Tensor  # [384]

    def __init__(self, config: AudioEncoderConfig, teacher: Teacher | None = None) -> None:
        super().__init__()
        self.encoder = AudioEncoder(config)
        self.project = nn.Linear(config.backbone.hidden_size, EMBEDDING_DIM)
        self.hidden, self.out = nn.Linear(EMBEDDING_DIM, 512), nn.Linear(512, 527)
        if teacher is not None:
            self.hidden.load_state_dict(teacher.hidden.state_dict())
            self.out.load_state_dict(teacher.out.state_dict())
        # Of the teacher's frames, so that all channels count alike.
        self.register_buffer("mean", torch.zeros(EMBEDDING_DIM))
        self.register_buffer("std", torch.ones(EMBEDDING_DIM))

    def frames(self, inputs: Tensor) -> Tensor:
        """[B, F, 160] -> what the backbone makes of it, [B, F // 2, width] float32."""
        folded = inputs[:, : inputs.shape[1] // FOLD * FOLD].reshape(len(inputs), -1, FOLD * inputs.shape[2])
        return self.encoder.backbone(folded).last_hidden_state.float()

    def forward(self, inputs: Tensor, cells: int) -> tuple[Tensor, Tensor]:
        """Logits [B, 527] and the teacher's frames in standard units, [B, cells, 384]."""
        return self.guess(self.frames(inputs), cells)

    def guess(self, frames: Tensor, cells: int) -> tuple[Tensor, Tensor]:
        """`forward` from the backbone's frames on."""
        pooled = F.adaptive_avg_pool1d(frames.transpose(1, 2), cells).transpose(1, 2)
        guessed = self.project(pooled).float()
        return self.classify(guessed.mean(1)), guessed

    def classify(self, embedding: Tensor) -> Tensor:
        """Logits of an embedding in standard units, [B, 384] -> [B, 527]."""
        with torch.autocast(embedding.device.type, enabled=False):
            return self.out(F.hardswish(self.hidden(embedding.float() * self.std + self.mean)))

    def hear(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, 527], and the mean frame of the backbone and the guessed embedding, [B, width + 384]."""
        frames = self.frames(inputs).mean(1)
        guessed = self.project(frames).float()
        return self.classify(guessed), torch.cat([frames, guessed], 1)


def distillation_loss(
    logits: Tensor, guessed: Tensor, heard: Heard, mean: Tensor, std: Tensor, *, embedding_weight: float = 5.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """How far the student is from the teacher.

    The binary cross-entropy of the classes with the teacher's probabilities, summed over classes and less the least
    that it can be (so it is a Kullback-Leibler divergence in nats), and one minus the cosine of the embeddings in
    standard units, of the whole view and of each stretch of 0.32 s.

    Args:
        logits: [B, 527], guessed: [B, n, 384] of the student. heard: the teacher's. mean, std: [384].

    Returns:
        the loss, and its parts `kl`, `cosine` and `frame_cosine` (the cosines themselves), detached.
    """
    target = heard.logits.sigmoid()
    least = F.binary_cross_entropy_with_logits(heard.logits, target, reduction="none")
    kl = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") - least).sum(1).mean()
    wanted = (heard.frames - mean) / std
    frame_cosine = F.cosine_similarity(guessed, wanted, dim=2).mean()
    cosine = F.cosine_similarity(guessed.mean(1), wanted.mean(1), dim=1).mean()
    loss = kl + embedding_weight * (1 - 0.5 * (cosine + frame_cosine))
    return loss, {"kl": kl.detach(), "cosine": cosine.detach(), "frame_cosine": frame_cosine.detach()}


@functools.lru_cache(maxsize=4)
def autocast(device: str) -> torch.autocast:
    """bfloat16 for matrix products on a device."""
    return torch.autocast(device, torch.bfloat16)
