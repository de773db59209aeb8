"""Conditioning: filling, strength, windows, blending, and the shapes that diffusion models take."""

import pytest
import torch

from audio2img_core.conditioning.blend import blend
from audio2img_core.conditioning.comfy import from_comfy, to_comfy
from audio2img_core.conditioning.prompt import Conditioning, condition, null_conditioning, to_diffusers
from audio2img_core.encoder.embeddings import AudioEmbeddings, TokenSpace
from audio2img_core.targets import TARGETS, check_fits, get_target, target_of_width


def heard(n=47, clips=(0,), target="sd21", **space):
    width, pooled = TARGETS[target].width, TARGETS[target].pooled_width
    space = TokenSpace(
        target,
        null_tokens=torch.randn(77, width),
        null_pooled=None if pooled is None else torch.randn(pooled),
        **space,
    )
    rows = len(clips)
    return AudioEmbeddings(
        torch.randn(rows, n, width),
        None if pooled is None else torch.randn(rows, pooled),
        tuple(clips),
        tuple(float(i) for i in range(rows)),
        (1.0,) * (rows - 1) + (0.5,),
        space,
    )


def test_a_prompt_is_bos_tokens_and_the_rest_of_the_empty_prompt():
    e = heard()
    positive, negative = condition(e)
    null = e.space.null_tokens
    assert torch.equal(positive.tokens[0, 0], null[0])
    assert torch.equal(positive.tokens[0, 1:48], e.tokens[0])
    assert torch.equal(positive.tokens[0, 48:], null[48:])
    assert torch.equal(negative.tokens[0], null)


def test_without_bos_the_tokens_come_first():
    e = heard(77, prepend_bos=False)
    assert torch.equal(condition(e)[0].tokens, e.tokens)


@pytest.mark.parametrize(("n", "length"), [(1, 77), (76, 77), (77, 154), (125, 154), (154, 231)])
def test_prompts_are_filled_to_multiples_of_77(n, length):
    positive, negative = condition(heard(n))
    assert positive.tokens.shape == negative.tokens.shape == (1, length, 1024)


def test_strength_is_a_straight_line_from_the_empty_prompt():
    e = heard(target="sdxl")
    (zero, empty), (one, _), (two, _), (half, _) = (condition(e, sound_strength=s) for s in (0, 1, 2, 0.5))
    assert torch.equal(zero.tokens, empty.tokens) and torch.equal(zero.pooled, empty.pooled)
    torch.testing.assert_close(one.tokens[:, 1:48], e.tokens)
    torch.testing.assert_close(half.tokens, (empty.tokens + one.tokens) / 2)
    torch.testing.assert_close(two.tokens, 2 * one.tokens - empty.tokens)
    torch.testing.assert_close(two.pooled, 2 * one.pooled - empty.pooled)


def test_windows():
    e = heard(clips=(0, 0, 0, 1), target="sdxl")
    average, _ = condition(e)
    expected = e.tokens[:3].mean(0)
    torch.testing.assert_close(average.tokens[0, 1:48], expected)
    assert average.tokens.shape == (2, 77, 2048) and average.pooled.shape == (2, 1280)
    keep, _ = condition(e, windows="keep")
    assert keep.tokens.shape == (4, 77, 2048) and torch.equal(keep.pooled, e.pooled)
    join, negative = condition(e, windows="join")
    assert join.tokens.shape == negative.tokens.shape == (2, 231, 2048) and join.pooled.shape == (2, 1280)
    torch.testing.assert_close(join.tokens[0], keep.tokens[:3].flatten(0, 1))
    torch.testing.assert_close(join.tokens[1, :77], keep.tokens[3])
    torch.testing.assert_close(join.tokens[1, 77:154], e.space.null_tokens)  # a shorter clip: empty prompts behind
    last, _ = condition(e.rows(3, 4), windows="join")  # of the second clip alone
    torch.testing.assert_close(last.tokens[0], keep.tokens[3])


def test_a_target_with_pooled_takes_the_empty_one_where_the_encoder_gives_none():
    e = heard(target="sdxl")
    e = AudioEmbeddings(e.tokens, None, e.clips, e.starts, e.durations, e.space)
    for windows in ("average", "join", "keep"):
        assert torch.equal(condition(e, windows=windows)[0].pooled[0], e.space.null_pooled)


def test_condition_refuses():
    e = heard()
    with pytest.raises(ValueError, match="windows must be one of average, join, keep"):
        condition(e, windows="first")
    for strength in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="sound_strength"):
            condition(e, sound_strength=strength)
    bare = AudioEmbeddings(e.tokens, None, e.clips, e.starts, e.durations, TokenSpace("sd21"))
    with pytest.raises(ValueError, match="no empty prompt.*convert"):
        condition(bare)
    with pytest.raises(ValueError, match="width 1024 and of width 768"):
        condition(bare, null=Conditioning(torch.zeros(1, 77, 768)))
    assert condition(bare, null=null_conditioning(e.space))[0].tokens.shape == (1, 77, 1024)


@pytest.mark.parametrize("mode", ["linear", "spherical"])
def test_blends_stay_between_their_ends(mode):
    a, b = (Conditioning(torch.randn(2, 77, 8), torch.randn(2, 4)) for _ in range(2))
    torch.testing.assert_close(blend(a, b, 0, mode=mode).tokens, a.tokens)
    torch.testing.assert_close(blend(a, b, 1, mode=mode).tokens, b.tokens)
    torch.testing.assert_close(blend(a, b, 1, mode=mode).pooled, b.pooled)
    middle = blend(a, b, 0.5, mode=mode).tokens
    for end in (a, b):
        assert ((middle - end.tokens).norm(dim=-1) <= (a.tokens - b.tokens).norm(dim=-1) + 1e-5).all()


def test_spherical_keeps_the_norm_and_linear_does_not():
    a = Conditioning(torch.tensor([[[1.0, 0.0]]]))
    b = Conditioning(torch.tensor([[[0.0, 3.0]]]))
    torch.testing.assert_close(blend(a, b, 0.5, mode="spherical").tokens, torch.tensor([[[1.0, 1.0]]]) * 2 / 2**0.5)
    torch.testing.assert_close(blend(a, b, 0.5).tokens, torch.tensor([[[0.5, 1.5]]]))


def test_spherical_of_parallel_opposite_and_zero_vectors_is_finite():
    a = Conditioning(torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]]))
    b = Conditioning(torch.tensor([[[2.0, 0.0], [-1.0, 0.0], [1.0, 1.0]]]))
    torch.testing.assert_close(
        blend(a, b, 0.5, mode="spherical").tokens, torch.tensor([[[1.5, 0.0], [0.0, 0.0], [0.5, 0.5]]])
    )


@pytest.mark.parametrize(("weight", "end"), [(0, 0), (1, 1)])
def test_join_ends_at_its_ends(weight, end):
    sides = [Conditioning(torch.randn(1, 77, 8), torch.randn(1, 4)) for _ in range(2)]
    joined = blend(*sides, weight, mode="join")
    assert torch.equal(joined.tokens, sides[end].tokens) and torch.equal(joined.pooled, sides[end].pooled)


def test_a_fading_side_of_join_goes_to_the_empty_prompt():
    a, b = (Conditioning(torch.randn(1, 77, 8)) for _ in range(2))
    null = Conditioning(torch.randn(1, 77, 8))
    joined = blend(a, b, 0.25, mode="join", null=null).tokens
    assert torch.equal(joined[:, :77], a.tokens)
    torch.testing.assert_close(joined[:, 77:], (b.tokens + null.tokens) / 2)


def test_join_puts_both_in_one_prompt():
    a, b = Conditioning(torch.ones(1, 77, 8)), Conditioning(torch.full((3, 77, 8), 2.0))
    joined = blend(a, b, 0.5, mode="join").tokens
    assert joined.shape == (3, 154, 8)
    assert (joined[:, :77] == 1).all() and (joined[:, 77:] == 2).all()
    quarter = blend(a, b, 0.25, mode="join").tokens
    assert (quarter[:, :77] == 1).all() and (quarter[:, 77:] == 1).all()


def test_blending_prompts_of_different_length_changes_nothing_for_attention():
    a, b = Conditioning(torch.randn(1, 77, 8)), Conditioning(torch.randn(1, 154, 8))
    assert blend(a, b, 0.3).tokens.shape == (1, 154, 8)
    query = torch.randn(1, 5, 8)

    def attend(c):
        return torch.nn.functional.scaled_dot_product_attention(query, c.tokens, c.tokens)

    torch.testing.assert_close(attend(blend(a, b, 0.0)), attend(a))


@pytest.mark.parametrize(
    ("b", "weight", "mode", "message"),
    [
        (torch.zeros(1, 77, 768), 0.5, "linear", "width 8 and of width 768"),
        (torch.zeros(1, 78, 8), 0.5, "linear", "77 and 78 tokens"),
        (torch.zeros(3, 77, 8), 0.5, "linear", "batches of 2 and 3"),
        (torch.zeros(2, 77, 8), 1.5, "linear", "between 0 and 1"),
        (torch.zeros(2, 77, 8), float("nan"), "linear", "between 0 and 1"),
        (torch.zeros(2, 77, 8), 0.5, "cubic", "linear, spherical, join"),
    ],
)
def test_blend_refuses(b, weight, mode, message):
    with pytest.raises(ValueError, match=message):
        blend(Conditioning(torch.zeros(2, 77, 8)), Conditioning(b), weight, mode=mode)
    with pytest.raises(ValueError, match="pooled"):
        blend(Conditioning(torch.zeros(1, 77, 8)), Conditioning(torch.zeros(1, 77, 8), torch.zeros(1, 4)), 0.5)


def test_diffusers_arguments_have_equal_lengths():
    a, b = (
        Conditioning(torch.randn(1, 154, 8), torch.randn(1, 4)),
        Conditioning(torch.randn(1, 77, 8), torch.randn(1, 4)),
    )
    arguments = to_diffusers(a, b)
    assert arguments["prompt_embeds"].shape == arguments["negative_prompt_embeds"].shape == (1, 154, 8)
    assert torch.equal(arguments["negative_prompt_embeds"][:, 77:], b.tokens)
    assert arguments["pooled_prompt_embeds"] is a.pooled
    assert set(to_diffusers(Conditioning(a.tokens), Conditioning(b.tokens))) == {
        "prompt_embeds",
        "negative_prompt_embeds",
    }


def test_comfy_form():
    c = Conditioning(torch.randn(1, 77, 2048), torch.randn(1, 1280))
    ((tokens, extra),) = to_comfy(c)
    assert tokens is c.tokens and extra == {"pooled_output": c.pooled}
    assert from_comfy(to_comfy(c)).pooled is c.pooled
    assert to_comfy(Conditioning(c.tokens))[0][1] == {}
    with pytest.raises(ValueError, match="no entry"):
        from_comfy([])


def test_conditioning_checks_its_shapes():
    with pytest.raises(ValueError, match="B, T, D"):
        Conditioning(torch.zeros(77, 8))
    with pytest.raises(ValueError, match="pooled"):
        Conditioning(torch.zeros(1, 77, 8), torch.zeros(2, 4))


@pytest.mark.parametrize(("target", "width"), [("sd15", 768), ("sd21", 1024), ("sdxl", 2048), ("mini", 256)])
def test_a_unet_of_each_width_takes_the_conditioning(target, width):
    from audio2img_core.random_init import make_diffusion

    unet = make_diffusion(target).unet
    e = heard(76, target=target)
    positive, negative = condition(e)
    extra = {}
    if target == "sdxl":
        extra = {"added_cond_kwargs": {"text_embeds": positive.pooled, "time_ids": torch.zeros(1, 6)}}
    with torch.no_grad():
        latents = torch.randn(1, 4, 16, 16)
        a, b = (unet(latents, 10, encoder_hidden_states=c.tokens, **extra).sample for c in (positive, negative))
    assert positive.tokens.shape[-1] == width and a.shape == (1, 4, 16, 16)
    assert (a - b).abs().max() > 0


def test_targets():
    assert get_target("sdxl").pooled_width == 1280
    with pytest.raises(ValueError, match="unknown target 'flux': choose one of sd15, sd21, sdxl, mini"):
        get_target("flux")
    assert target_of_width(768).name == "sd15" and target_of_width(2048) is None
    check_fits("sdxl", 2048, pooled=True)
    with pytest.raises(ValueError, match="'sd15'.*width 768.*width 1024: an encoder for 'sd21'"):
        check_fits("sd15", 1024, pooled=False)
    with pytest.raises(ValueError, match="none of the known targets"):
        check_fits("sd15", 640, pooled=False)
