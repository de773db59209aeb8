"""Backbones of 25 frames a second: features are joined before the backbone."""

from __future__ import annotations

import pytest
import torch

from audio2img_core import AudioEncoder, AudioEncoderConfig
from audio2img_core.audio.mel import fold_features

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "left_max_position_embeddings": 8,
    "right_max_position_embeddings": 8,
}


def test_features_are_joined_and_the_last_is_repeated():
    features, mask = fold_features(torch.arange(5.0).view(1, 5, 1), torch.tensor([[1, 1, 1, 1, 0]]), 2)
    assert features.tolist() == [[[0, 1], [2, 3], [4, 4]]]
    assert mask.tolist() == [[1, 1, 0]]


def test_one_feature_a_frame_changes_nothing():
    features = torch.rand(2, 3, 160)
    assert fold_features(features, None, 1) == (features, None)


@pytest.mark.parametrize(("size", "frames"), [(160, 200), (320, 100), (480, 67)])
def test_the_backbone_sees_fewer_frames(size, frames):
    config = AudioEncoderConfig(
        backbone={**TINY, "feature_projection_input_dim": size},
        head={"num_tokens": 4, "width": 16, "num_layers": 1, "num_heads": 2},
        window={"seconds": 4.0, "padding": "repeat"},
        target="mini",
    )
    encoder = AudioEncoder(config).eval()
    seen = []
    encoder.backbone.register_forward_hook(lambda module, args, output: seen.append(output.last_hidden_state.shape))
    assert encoder.encode(torch.rand(64_400), 16_000).tokens.shape == (1, 4, 256)
    assert seen == [(1, frames, 32)]


def test_a_size_that_is_no_multiple_is_refused():
    with pytest.raises(ValueError, match="multiple of 160"):
        AudioEncoderConfig(backbone={**TINY, "feature_projection_input_dim": 200})
