"""What the embedded mini hears and draws: held-out sounds, the examples, texts and blends, judged by the classifier.

`tests/mini/` holds a few sounds of sources that mini was not trained on for what they show, and the recipe's
classifier, which knows the pictures. `python -m training.recipes.mini.heldout` writes it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from audio2img_core.mini import names as mini
from training.recipes.mini.classifier import Classifier, name_pictures
from training.recipes.mini.sounds import read_jsonl
from training.recipes.mini.table import concepts, plain_name

HELD_OUT = Path(__file__).parents[1] / "mini"
EXAMPLES = {"piano": "piano", "bird": "bird", "rain": "rain", "choir": "choir", "drum": "drum"}


@pytest.fixture(scope="module")
def pipe(mini_pipeline):
    return mini_pipeline


@pytest.fixture(scope="module")
def names():
    """Concept -> what it is called, in the order of the captions."""
    table = concepts()
    by_name = {plain_name(concept, entry): concept for concept, entry in table.items()}
    return {by_name[caption]: caption for caption in mini.captions()}


@pytest.fixture(scope="module")
def shown():
    """Function images -> the concepts that the classifier sees."""
    with safe_open(HELD_OUT / "classifier.safetensors", "pt") as file:
        classes = json.loads(file.metadata()["concepts"])
    weights = load_file(HELD_OUT / "classifier.safetensors")
    model = Classifier(len(classes))
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    model.eval()
    return lambda images: [classes[i] for i in name_pictures(model, images)]


@pytest.fixture(scope="module")
def sounds(names):
    return [(row["concept"], HELD_OUT / row["audio"]) for row in read_jsonl(HELD_OUT / "sounds.jsonl")]


@pytest.fixture(scope="module")
def heard(pipe, sounds):
    """Concept -> for each of its held-out sounds, the captions from best to worst."""
    named = pipe.hear([str(path) for _, path in sounds], top=len(mini.captions()))
    ranked = defaultdict(list)
    for (concept, _), order in zip(sounds, named, strict=True):
        ranked[concept].append([each.caption for each in order])
    return ranked


def test_all_of_it_is_at_most_25_megabytes():
    files = [file for file in mini.FOLDER.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
    assert sum(file.stat().st_size for file in files) <= 25e6


def test_at_least_24_concepts_have_a_picture_and_a_name(names):
    assert len(names) >= 24


@pytest.mark.slow
def test_texts_are_drawn(pipe, names, shown):
    images = [pipe.diffusion(text, num_inference_steps=12, guidance_scale=5.0).images[0] for text in names.values()]
    right = [a == b for a, b in zip(shown(images), names, strict=True)]
    assert sum(right) / len(right) >= TEXTS_DRAWN


def test_held_out_sounds_are_heard(heard, names):
    top1 = [sum(order[0] == names[c] for order in orders) / len(orders) for c, orders in heard.items()]
    top5 = [sum(names[c] in order[:5] for order in orders) / len(orders) for c, orders in heard.items()]
    assert sum(top1) / len(top1) >= HEARD_TOP1 and sum(top5) / len(top5) >= HEARD_TOP5


@pytest.mark.slow
def test_held_out_sounds_are_drawn(pipe, sounds, shown):
    seen = shown([pipe(str(path), seed=number).images[0] for number, (_, path) in enumerate(sounds)])
    assert sum(a == concept for a, (concept, _) in zip(seen, sounds, strict=True)) / len(sounds) >= SOUNDS_DRAWN


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_heard_and_drawn(pipe, examples, names, shown, example):
    told = pipe.encode(str(examples / f"{example}.flac"))
    assert pipe.hear(told)[0][0].caption == names[EXAMPLES[example]]
    assert shown(pipe(told, seed=0).images) == [EXAMPLES[example]]


def test_a_text_mixed_into_a_sound_takes_over_with_its_weight(pipe, examples, shown):
    told = pipe.encode(str(examples / "piano.flac"))
    drawn = [pipe(told, prompt="a dog", prompt_weight=weight, seed=0).images[0] for weight in (0.1, 0.95)]
    assert shown(drawn) == ["piano", "dog"]


HEARD_TOP1, HEARD_TOP5, TEXTS_DRAWN, SOUNDS_DRAWN = 0.45, 0.78, 0.85, 0.5
"""A margin below what these few give (0.57, 0.89, 1.0, 0.61): a broken front end or encoder falls far below.

They are recordings only, two of a concept, which are harder than the whole held-out split.
"""
