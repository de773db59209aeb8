"""The fast attention against transformers' own, which stays the reference."""

import copy

import pytest
import torch
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

from audio2img_core.attention import RelativeKeyAttention, relative_key_bias, use_fast_attention


@pytest.fixture(scope="module")
def models():
    """(transformers' eager model, the same with the fast attention)."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config = Wav2Vec2BertConfig(**sizes, layerdrop=0.0, attn_implementation="eager", initializer_range=0.1)
    eager = Wav2Vec2BertModel(config).eval()
    return eager, use_fast_attention(copy.deepcopy(eager))


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 10, 64, 65, 66, 73, 74, 188, 500])
def test_the_bias_is_the_clipped_term_by_its_definition(length):
    torch.manual_seed(length)
    query, distances = torch.randn(2, 3, length, 8, dtype=torch.float64), torch.randn(73, 8, dtype=torch.float64)
    steps = torch.arange(length)
    table = distances[(steps[None] - steps[:, None]).clamp(-64, 8) + 64]
    torch.testing.assert_close(relative_key_bias(query, distances, 64), torch.einsum("bhld,lrd->bhlr", query, table))


@pytest.mark.parametrize("length", [1, 9, 60, 188, 400])
@pytest.mark.parametrize("masked", [False, True])
def test_the_model_gives_the_same_numbers(models, length, masked):
    eager, fast = models
    features, mask = torch.randn(2, length, 160), None
    if masked:
        mask = torch.ones(2, length, dtype=torch.long)
        mask[1, max(length // 3, 1) :] = 0
    with torch.no_grad():
        ours, theirs = (model(features, attention_mask=mask).last_hidden_state for model in (fast, eager))
    kept = slice(None) if mask is None else mask.bool()
    torch.testing.assert_close(ours[kept], theirs[kept], atol=1e-4, rtol=1e-4)


def test_bfloat16_stays_near_float32(models):
    eager, fast = models
    features = torch.randn(1, 188, 160)
    with torch.no_grad():
        half = copy.deepcopy(fast).bfloat16()(features.bfloat16()).last_hidden_state.float()
        whole = eager(features).last_hidden_state
    assert torch.cosine_similarity(half, whole, dim=-1).min() > 0.998


def test_gradients_are_the_same(models):
    grads = []
    features = torch.randn(2, 90, 160)
    for model in map(copy.deepcopy, models):
        model(features).last_hidden_state.square().mean().backward()
        grads.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert grads[0].keys() == grads[1].keys() and any("distance_embedding" in name for name in grads[0])
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-5, rtol=1e-3)


def test_it_is_a_drop_in(models):
    eager, fast = models
    assert fast.state_dict().keys() == eager.state_dict().keys()
    kinds = [type(layer.self_attn) for layer in fast.encoder.layers]
    assert kinds == [RelativeKeyAttention] * 2
    config = Wav2Vec2BertConfig(**{**eager.config.to_dict(), "position_embeddings_type": "rotary"})
    other = use_fast_attention(Wav2Vec2BertModel(config))
    assert not any(isinstance(module, RelativeKeyAttention) for module in other.modules())
