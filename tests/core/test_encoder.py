"""The audio encoder against transformers' model and against the seed project's recipe."""

import numpy as np
import pytest
import torch
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

from audio2img_core import AudioEncoder, log_mel
from audio2img_core.audio.waveform import read_clips, to_mono
from audio2img_core.conditioning.prompt import condition
from audio2img_core.conditioning.text import encode_text
from audio2img_core.encoder.config import AudioEncoderConfig
from audio2img_core.random_init import make_diffusion, make_encoder
from tests.helpers.audio import noise, sine


def small(target="sd15", head="query", **window):
    encoder = make_encoder(target, head=head)
    encoder.config.window = type(encoder.config.window)(**{"seconds": 1.0, **window})
    return encoder


@pytest.mark.parametrize("seconds", [0.5, 3.75, 7.0])
@pytest.mark.parametrize("masked", [False, True])
def test_frames_and_tokens_equal_the_plain_model(seed_folder, seconds, masked):
    reference = Wav2Vec2BertModel.from_pretrained(seed_folder).eval()
    encoder = AudioEncoder.from_pretrained(seed_folder)
    waveform = torch.stack([noise(seconds, seed=1), noise(seconds, seed=2)])
    lengths = torch.tensor([waveform.shape[1], waveform.shape[1] // 2])
    features, mask = log_mel(waveform, lengths)
    mask = mask if masked else None
    with torch.no_grad():
        expected = reference(features, attention_mask=mask).last_hidden_state
        tokens = encoder(features, mask).tokens
    assert tokens.shape == expected.shape
    assert (tokens - expected).abs().max() < 1e-4


@pytest.mark.parametrize("seconds", [1.3, 3.75, 9.2])
def test_the_seeds_recipe_token_for_token(seed_folder, seconds):
    """Its pipeline.py: extractor with max_length 375 and no mask, BOS of the text encoder's empty prompt in front."""
    waveform = noise(seconds, seed=3)
    diffusion = make_diffusion("sd21")
    extractor = SeamlessM4TFeatureExtractor.from_pretrained(seed_folder, stride=2)
    with torch.no_grad():
        features = extractor(
            waveform[None].numpy(),
            sampling_rate=16000,
            return_tensors="pt",
            truncation=True,
            padding="max_length",
            max_length=375,
        ).input_features
        expected = Wav2Vec2BertModel.from_pretrained(seed_folder).eval()(features).last_hidden_state
        empty = diffusion.tokenizer("", return_tensors="pt", truncation=True, padding="max_length", max_length=48)
        bos = diffusion.text_encoder(empty.input_ids).last_hidden_state[:, :1]
        expected = torch.cat([bos, expected], 1)
    assert expected.shape == (1, 48, 1024)

    encoder = AudioEncoder.from_pretrained(seed_folder)
    heard = encoder.encode(waveform, 16000)
    positive, _ = condition(heard, windows="keep", null=encode_text(diffusion, ""))
    assert heard.tokens.shape[1:] == (47, 1024)
    assert positive.tokens.shape[1:] == (77, 1024)
    assert (positive.tokens[:1, :48] - expected).abs().max() < 1e-4


def test_the_conv_head_gives_47_tokens_for_any_clip():
    encoder = make_encoder("sd21", head="conv")
    assert encoder.config.num_tokens == 47
    for seconds in (0.05, 1.0, 3.75):
        assert encoder.encode(noise(seconds), 16000).tokens.shape == (1, 47, 1024)


@pytest.mark.parametrize("num_tokens", [1, 16, 77])
def test_the_query_head_gives_exactly_its_tokens(num_tokens):
    config = make_encoder("sd15").config.to_dict()
    encoder = AudioEncoder(
        AudioEncoderConfig(**{**config, "head": {**config["head"], "num_tokens": num_tokens}})
    ).eval()
    for seconds in (0.05, 0.7, 9.0):
        assert encoder.encode(noise(seconds), 16000).tokens.shape == (1, num_tokens, 768)


def test_only_xl_has_a_pooled_embedding():
    assert make_encoder("sd21").encode(noise(1), 16000).pooled is None
    for head in ("query", "conv"):
        heard = make_encoder("sdxl", head=head).encode(noise(1), 16000)
        assert heard.pooled.shape == (1, 1280) and heard.tokens.shape[-1] == 2048


@pytest.mark.parametrize("head", ["query", "conv"])
@pytest.mark.parametrize("padding", ["mask", "repeat", "constant"])
def test_a_clip_in_a_batch_equals_the_clip_alone(head, padding):
    encoder = small(head=head, padding=padding)
    clips = [noise(0.6, seed=1), noise(2.3, seed=2), noise(1.0, seed=3), sine(0.3)]
    together = encoder.encode(clips, 16000, batch_size=3)
    assert together.clips == (0, 1, 1, 1, 2, 3)
    for i, clip in enumerate(clips):
        alone = encoder.encode(clip, 16000, batch_size=1).tokens
        rows = [row for row, of in enumerate(together.clips) if of == i]
        torch.testing.assert_close(together.tokens[rows], alone, atol=1e-5, rtol=0)


def test_the_same_sound_gives_the_same_tokens_bit_for_bit():
    encoder = small()
    encoder.train()  # a caller's forgotten train() must not switch dropout on
    clip = noise(2.5)
    assert torch.equal(encoder.encode(clip, 16000).tokens, encoder.encode(clip, 16000).tokens)
    assert encoder.training
    encoder.backbone.eval()  # frozen by a training: it stays so
    encoder.encode(clip, 16000)
    assert encoder.training and not encoder.backbone.training


def test_different_sounds_give_different_tokens():
    encoder = small()
    a, b = (encoder.encode(clip, 16000).tokens for clip in (noise(1.0), sine(1.0)))
    assert (a - b).abs().max() > 1e-3


def test_long_clips_are_cut_in_windows():
    heard = small().encode(noise(2.5), 16000, batch_size=2)
    assert heard.starts == (0.0, 1.0, 2.0)
    assert heard.durations == pytest.approx((1.0, 1.0, 0.48), abs=0.02)
    assert heard.num_clips == 1 and heard.averaged().tokens.shape == (1, 76, 768)
    half = small().encode(noise(2.5), 16000, hop=0.5)
    assert half.starts == (0.0, 0.5, 1.0, 1.5)
    whole = small().encode(noise(2.5), 16000, window=30)
    assert whole.starts == (0.0,)


@pytest.mark.parametrize("normalize", ["window", "clip"])
@pytest.mark.parametrize("hop", [None, 0.5, 3.0])
def test_a_stream_gives_what_the_whole_gives(monkeypatch, normalize, hop):
    monkeypatch.setattr("audio2img_core.encoder.inference._MEL_CHUNK", 170)  # more than one in so short a sound
    encoder = small(normalize=normalize, hop_seconds=hop)
    for seconds in (0.01, 0.4, 1.0, 3.03, 6.2):
        sound = noise(seconds)
        heard = encoder.encode_stream(iter(sound.split(1234)))
        whole = encoder.encode(sound, 16000)
        assert torch.equal(heard.tokens, whole.tokens)
        assert (heard.starts, heard.durations, heard.clips) == (whole.starts, whole.durations, whole.clips)


def test_a_stream_is_encoded_as_it_comes():
    encoder, taken, before = small(), [], []
    encoder.register_forward_pre_hook(lambda *_: before.append(len(taken)))
    encoder.encode_stream(taken.append(i) or noise(60.0, seed=i) for i in range(3))
    assert before[0] <= 2 and before[-1] == 3


def test_a_silent_stream_warns_and_an_empty_one_is_refused(caplog):
    small().encode_stream([torch.zeros(9000)], name="silent.wav")
    assert [record.message for record in caplog.records] == ["silence: every sample of silent.wav is zero"]
    with pytest.raises(ValueError, match="no sound to encode"):
        small().encode_stream([])


def test_a_window_of_a_long_clip_equals_that_piece_alone():
    encoder, clip = small(), noise(3.0)
    heard = encoder.encode(clip, 16000)
    piece = encoder.encode(clip[16000 : 16000 + 400 + 99 * 160], 16000)  # the samples of mel frames 100 to 199
    torch.testing.assert_close(heard.tokens[1:2], piece.tokens, atol=1e-5, rtol=0)


def test_averaging_weighs_windows_by_their_sound():
    heard = small().encode([noise(1.5), noise(1.0)], 16000)
    a, b = heard.durations[:2]
    expected = (heard.tokens[0] * a + heard.tokens[1] * b) / (a + b)
    averaged = heard.averaged()
    torch.testing.assert_close(averaged.tokens[0], expected)
    torch.testing.assert_close(averaged.tokens[1], heard.tokens[2])
    assert averaged.clips == (0, 1)


def test_rows_can_be_averaged():
    heard = small("sdxl").encode([noise(1.0), noise(1.5), noise(1.0)], 16000)
    part = heard.rows(1, 4)
    averaged = part.averaged()
    assert part.num_clips == 2 and part.clips == (1, 1, 2)
    assert averaged.clips == (1, 2) and averaged.starts == (0.0, 0.0) and averaged.num_clips == 2
    assert averaged.durations == pytest.approx((sum(heard.durations[1:3]), heard.durations[3]))
    torch.testing.assert_close(averaged.tokens, heard.averaged().tokens[1:])
    torch.testing.assert_close(averaged.pooled, heard.averaged().pooled[1:])
    assert torch.equal(heard.rows(2, 3).averaged().tokens, heard.tokens[2:3])


def test_on_step_is_called_once_a_window():
    steps = []
    small().encode(noise(4.5), 16000, batch_size=2, on_step=lambda done, total: steps.append((done, total)))
    assert steps == [(i, 5) for i in range(1, 6)]


def test_a_stop_waits_for_one_window_at_most_on_a_cpu():
    encoder, calls = small(), []
    forward = encoder.forward
    encoder.forward = lambda features, mask: (calls.append(len(features)), forward(features, mask))[1]

    def stop(done, total):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        encoder.encode(noise(4.5), 16000, on_step=stop)
    assert calls == [1]


@pytest.mark.parametrize("find_unused", [True, False])
def test_distributed_training_takes_the_encoder(tmp_path, find_unused):
    """DDP as Trainer wraps the model, one process: a parameter without gradient would stop it."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        model = torch.nn.parallel.DistributedDataParallel(small().train(), find_unused_parameters=find_unused)
        features, mask = log_mel(noise(1.0)[None])
        for _ in range(2):
            model(features, mask).tokens.square().mean().backward()
    finally:
        dist.destroy_process_group()
    assert model.module.head.out.weight.grad.abs().max() > 0


def test_a_callers_backbone_config_stays_as_it_is():
    backbone = Wav2Vec2BertConfig(hidden_size=32, num_attention_heads=4, add_adapter=True)
    AudioEncoderConfig(backbone=backbone, target="sdxl")
    assert backbone.add_adapter and backbone.output_hidden_size == 32


def test_on_step_can_stop_the_work():
    class Stop(Exception):
        pass

    def stop(done, total):
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        small().encode(noise(4.5), 16000, batch_size=1, on_step=stop)


def test_channels_and_rates_are_brought_together():
    encoder = small()
    mono = sine(1.0)
    stereo = torch.stack([mono, mono])
    torch.testing.assert_close(encoder.encode(stereo, 16000).tokens, encoder.encode(mono, 16000).tokens)
    torch.testing.assert_close(encoder.encode(stereo[None], 16000).tokens, encoder.encode(mono, 16000).tokens)
    at_48k = encoder.encode(sine(1.0, rate=48000), 48000).tokens
    cosine = torch.cosine_similarity(at_48k, encoder.encode(mono, 16000).tokens, dim=-1)
    assert cosine.min() > 0.99
    assert torch.equal(to_mono(stereo), mono)


def test_clips_that_were_read_before_are_encoded_as_they_are():
    encoder, batch = small(), torch.stack([noise(1.0, 44_100, seed) for seed in range(4)]).reshape(2, 2, -1)
    clips = read_clips((batch, 44_100))
    once = encoder.encode(batch, 44_100)
    assert once.clips == encoder.encode(clips, 16_000).clips == (0, 1)
    assert torch.equal(encoder.encode(clips, 16_000).tokens, once.tokens)


def test_silence_works_with_one_warning_that_names_the_clip(caplog):
    heard = small().encode([noise(0.5), torch.zeros(8000)], 16000, names=["rain.wav", "gap.wav"])
    assert heard.tokens.isfinite().all()
    assert [r.message for r in caplog.records] == ["silence: every sample of gap.wav is zero"]
    small().encode(torch.zeros(8000), 16000)
    assert "clip 0" in caplog.records[-1].message


def test_very_short_clips_work():
    encoder = small()
    assert encoder.encode(torch.full((1,), 0.5), 16000).tokens.isfinite().all()


@pytest.mark.parametrize(
    ("waveform", "options", "message"),
    [
        (torch.zeros(0), {}, "must not be empty"),
        (torch.full((16000,), float("nan")), {}, "holds NaN or infinite samples"),
        (torch.full((16000,), float("inf")), {}, "holds NaN or infinite samples"),
        (torch.zeros(1, 1, 1, 100), {}, r"must be a float tensor \[T\], \[C, T\] or \[B, C, T\]"),
        ([], {}, "an empty list"),
        (torch.zeros(16000), {"sample_rate": 0}, "sample_rate must be an integer >= 1, not 0"),
        (torch.zeros(16000), {"window": 0.001}, "window seconds must be .*, not 0.001"),
        (torch.zeros(16000), {"hop": float("nan")}, "window hop_seconds must be .*, not nan"),
        (torch.zeros(16000), {"batch_size": 0}, "batch_size must be at least 1, not 0"),
    ],
)
def test_bad_input(waveform, options, message):
    options = {"sample_rate": 16000, **options}
    with pytest.raises(ValueError, match=message) as error:
        small().encode(waveform, **options)
    assert "\n" not in str(error.value)


def test_gradients_reach_backbone_and_head():
    encoder = small("sdxl").train()
    features, mask = log_mel(noise(1.0)[None])
    out = encoder(features, mask)
    (out.tokens.square().mean() + out.pooled.square().mean()).backward()
    missing = [n for n, p in encoder.named_parameters() if p.grad is None and p.requires_grad]
    missing = [n for n in missing if "masked_spec_embed" not in n]
    assert missing == []


@pytest.mark.parametrize("kind", ["query", "conv"])
def test_gradient_checkpointing_gives_the_same_loss(kind):
    encoder = small(head=kind)
    features, mask = log_mel(noise(1.0)[None])
    encoder.config.backbone.conformer_conv_dropout = 0.0
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    def gradients():
        encoder.train().zero_grad()
        loss = encoder(features, mask).tokens.square().mean()
        loss.backward()
        return loss, [p.grad.clone() for p in encoder.parameters() if p.grad is not None]

    plain, expected = gradients()
    encoder.gradient_checkpointing_enable()
    assert encoder.backbone.encoder.layers[0].gradient_checkpointing
    loss, found = gradients()
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(found, expected)


def test_bfloat16_stays_close():
    encoder, clip = small(), noise(1.0)
    expected = encoder.encode(clip, 16000).tokens
    tokens = encoder.to(torch.bfloat16).encode(clip, 16000).tokens
    assert tokens.dtype == torch.float32
    assert torch.cosine_similarity(tokens, expected, dim=-1).min() > 0.99


def test_unknown_config_values_are_refused():
    with pytest.raises(ValueError, match="unknown target 'sd99'"):
        AudioEncoderConfig(target="sd99")
    with pytest.raises(ValueError, match="unknown HeadConfig fields \\['size'\\]"):
        AudioEncoderConfig(head={"size": 3})
    with pytest.raises(ValueError, match="head kind"):
        AudioEncoderConfig(head={"kind": "linear"})
    with pytest.raises(ValueError, match="multiple of num_heads"):
        AudioEncoderConfig(head={"width": 30, "num_heads": 8})


def test_backbone_weights_start_as_the_plain_models():
    """Initialised like transformers' own: kaiming for the convolutions, not zeros, not copies."""
    encoder = make_encoder("sd15", head="conv")
    plain = Wav2Vec2BertModel(Wav2Vec2BertConfig(**encoder.config.backbone.to_dict()))
    ours = encoder.backbone.encoder.layers[0].conv_module.pointwise_conv1.weight.std()
    assert np.isclose(ours.item(), plain.encoder.layers[0].conv_module.pointwise_conv1.weight.std().item(), rtol=0.2)
    assert encoder.head.adapter.layers[0].residual_conv.weight.std() > 0.01


def test_where_memory_does_not_suffice_fewer_windows_are_encoded_at_once(caplog):
    encoder, sound = small(), noise(8.0)
    expected = encoder.encode(sound, 16000, batch_size=8)
    sizes, steps = [], []

    def fits_two(module, arguments):
        sizes.append(len(arguments[0]))
        if sizes[-1] > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    hook = encoder.register_forward_pre_hook(fits_two)
    heard = encoder.encode(sound, 16000, batch_size=8, on_step=lambda *step: steps.append(step))
    assert sizes == [8, 4, 2, 2, 2, 2] and steps == [(i, 8) for i in range(1, 9)]
    assert [record.message for record in caplog.records] == [
        "out of memory: 4 windows at once instead of 8",
        "out of memory: 2 windows at once instead of 4",
    ]
    torch.testing.assert_close(heard.tokens, expected.tokens)
    hook.remove()
    encoder.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("full")))
    with pytest.raises(torch.cuda.OutOfMemoryError, match="full"):
        encoder.encode(sound, 16000, batch_size=2)


def test_a_compiled_encoder_gives_the_same():
    encoder = small()
    sound = noise(2.5)
    expected = encoder.encode(sound, 16_000, batch_size=2)
    encoder.compile(backend="eager")
    compiled = encoder.encode(sound, 16_000, batch_size=2)
    assert compiled.starts == expected.starts
    torch.testing.assert_close(compiled.tokens, expected.tokens, atol=1e-5, rtol=1e-5)
