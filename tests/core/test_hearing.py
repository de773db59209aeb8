"""What was heard, in words."""

import pytest
import torch

from audio2img_core import AudioToImagePipeline
from audio2img_core.conditioning.zero_shot import caption_scores, check_captions, nearest_captions
from audio2img_core.encoder.embeddings import AudioEmbeddings, TokenSpace


def embeddings(tokens, clips=None):
    rows = len(tokens)
    clips = tuple(range(rows)) if clips is None else clips
    return AudioEmbeddings(tokens, None, clips, (0.0,) * rows, (1.0,) * rows, TokenSpace("mini", scale=20.0))


def test_scores_are_the_softmax_of_the_mean_cosine():
    captions, audio = torch.randn(5, 77, 8), torch.randn(2, 76, 8)
    cosines = torch.cosine_similarity(audio[:, None], captions[None, :, 1:], dim=-1).mean(-1)
    scores = caption_scores(embeddings(audio), captions)
    torch.testing.assert_close(scores, (20 * cosines).softmax(-1))
    # 47 tokens, as the convolutional head gives them: compared at their own positions.
    short = caption_scores(embeddings(audio[:, :47]), captions)
    cosines = torch.cosine_similarity(audio[:, None, :47], captions[None, :, 1:48], dim=-1).mean(-1)
    torch.testing.assert_close(short, (20 * cosines).softmax(-1))


def test_windows_of_a_clip_are_one_sound():
    captions = torch.randn(3, 77, 8)
    clip = captions[2:, 1:].repeat(2, 1, 1)
    scores = caption_scores(embeddings(clip, clips=(0, 0)), captions)
    assert scores.shape == (1, 3) and scores.argmax() == 2
    (named,) = nearest_captions(scores, ["a", "b", "c"], top=2)
    assert [heard.caption for heard in named][0] == "c" and len(named) == 2
    assert named[0].score == pytest.approx(scores.max().item())
    assert len(nearest_captions(scores, ["a", "b", "c"], top=9)[0]) == 3


@pytest.mark.parametrize("captions", [torch.randn(2, 77, 9), torch.randn(0, 77, 8), torch.randn(77, 8)])
def test_captions_that_do_not_fit(captions):
    with pytest.raises(ValueError, match=r"captions must be \[M, 77, 8\]"):
        caption_scores(embeddings(torch.randn(1, 76, 8)), captions)


def test_a_pipeline_names_what_it_is_asked_for(tiny_pipelines):
    pipe = tiny_pipelines("sd15")
    sound = (torch.randn(16000) * 0.1, 16000)
    (heard,) = pipe.hear(sound, ["a dog", "a cat", "a bell"], top=3)
    assert {h.caption for h in heard} == {"a dog", "a cat", "a bell"}
    assert sum(h.score for h in heard) == pytest.approx(1, abs=1e-5)
    again = pipe.hear(pipe.encode(sound), ["a bell", "a cat", "a dog"])[0]
    assert [h.caption for h in again] == [h.caption for h in heard]
    with pytest.raises(ValueError, match="only the mini model has some of its own"):
        pipe.hear(sound)


def test_prompts_of_captions_are_kept_and_no_more_than_a_bound_of_them(tiny_pipelines, monkeypatch):
    from audio2img_core.generation import pipeline

    monkeypatch.setattr(pipeline, "CACHED_CAPTIONS", 4)
    asked = []
    real = pipeline.encode_text
    monkeypatch.setattr(pipeline, "encode_text", lambda model, text: (asked.append(text), real(model, text))[1])
    pipe = AudioToImagePipeline(tiny_pipelines("sd15").encoder, tiny_pipelines("sd15").diffusion)
    heard = pipe.encode((torch.randn(16000) * 0.1, 16000))
    many = [f"thing {i}" for i in range(6)]
    first = pipe.hear(heard, many, top=6)
    assert asked == many and pipe._prompt_of.cache_info().currsize == 4
    pipe.hear(heard, many[4:])
    assert asked == many  # kept: the latest
    assert pipe.hear(heard, many, top=6) == first
    for i in range(50):
        pipe.hear(heard, [f"a {i}", f"b {i}"])
    assert pipe._prompt_of.cache_info().currsize == 4


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ([], "^name the captions to choose from"),
        (["a"] * 1001, "^captions: at most 1000 are compared at once, not 1001$"),
        (["a dog", "b" * 501], "^captions: 'bbbbbbbbbbbbbbbbbbbb'... has 501 characters; at most 500$"),
    ],
)
def test_captions_have_limits(captions, message):
    with pytest.raises(ValueError, match=message):
        check_captions(captions)
