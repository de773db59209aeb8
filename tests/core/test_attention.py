"""The fast attention against transformers' own, which stays the reference."""

import copy

import pytest
import torch
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

from audio2img_core.encoder import attention
from audio2img_core.encoder.attention import RelativeKeyAttention, relative_key_bias, use_fast_attention
from audio2img_core.encoder.backbone import adapt


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


def test_bfloat16_with_wide_sums_stays_near_float32(models):
    eager = models[0]
    features = torch.randn(1, 188, 160)
    with torch.no_grad():
        whole = eager(features).last_hidden_state
        plain = copy.deepcopy(eager).bfloat16()(features.bfloat16()).last_hidden_state.float()
        ours = adapt(copy.deepcopy(eager)).bfloat16()(features).last_hidden_state
    assert ours.dtype == torch.float32
    errors = [1 - torch.cosine_similarity(half, whole, dim=-1).mean() for half in (ours, plain)]
    assert errors[0] < 0.7 * errors[1]
    assert torch.cosine_similarity(ours, whole, dim=-1).min() > 0.998


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


@pytest.mark.parametrize(("length", "at_once"), [(188, 2000), (500, 7000), (73, 10**9)])
def test_blocks_of_heads_and_queries_change_nothing(models, monkeypatch, length, at_once):
    eager, fast = models
    features, mask = torch.randn(2, length, 160), torch.ones(2, length, dtype=torch.long)
    mask[1, length // 2 :] = 0
    monkeypatch.setattr(attention, "_SCORES_CPU", at_once)
    with torch.no_grad():
        ours, theirs = (model(features, attention_mask=mask).last_hidden_state for model in (fast, eager))
    torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("length", [1, 16, 17, 188])
@pytest.mark.parametrize("number", [1, 32, 100])
def test_what_gpus_look_up_is_what_cpus_lay_out(length, number):
    query, distances = torch.randn(2, 3, length, 8, dtype=torch.float64), torch.randn(73, 8, dtype=torch.float64)
    for first in range(0, length, number):
        some = query[:, :, first : first + number]
        expected = relative_key_bias(some, distances, 64, first, length)
        looked_up = attention._gathered(some @ distances.T, 64, 8, first, length)
        torch.testing.assert_close(looked_up, expected)
        assert all(step % 16 == 0 for step in looked_up.stride()[:-1])


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [1, 9, 60, 188, 400, 512])
@pytest.mark.parametrize("masked", [False, True])
def test_a_gpu_gives_the_numbers_of_the_eager_model(models, dtype, length, masked):
    eager = models[0]
    fast = adapt(copy.deepcopy(eager)).to("cuda", dtype)
    features, mask = torch.randn(2, length, 160), torch.ones(2, length, dtype=torch.long)
    if masked:
        mask[1, max(length // 3, 1) :] = 0
    with torch.no_grad():
        theirs = eager(features, attention_mask=mask).last_hidden_state[mask.bool()]
        ours = fast(features.cuda(), attention_mask=mask.cuda()).last_hidden_state.float().cpu()[mask.bool()]
    assert torch.cosine_similarity(ours, theirs, dim=-1).min() > (0.99999 if dtype == torch.float32 else 0.998)


@needs_gpu
def test_a_gpu_in_float32_is_exact_where_asked(models):
    eager, fast = models[0], adapt(copy.deepcopy(models[0])).cuda()
    features = torch.randn(2, 188, 160)
    with torch.no_grad():
        torch.testing.assert_close(
            fast(features.cuda()).last_hidden_state.cpu(), eager(features).last_hidden_state, atol=1e-3, rtol=1e-3
        )
