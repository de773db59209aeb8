"""The pure parts of the mini recipe's data: tables, patterns, archives, MIDI, sampler, clips, fingerprints."""

from __future__ import annotations

import gzip
import struct
import zipfile

import numpy as np
import pytest
import torch

from audio2img_core.audio.waveform import read_clips
from tests.helpers.audio import noise, sine, write_audio
from training.data.flac import write_flac
from training.data.sources import open_source
from training.recipes.mini import (
    archives,
    clips,
    fingerprint,
    midi,
    pictures,
    sampler,
    series,
    summary,
    synthesis,
    table,
)
from training.recipes.mini.data import settled
from training.recipes.mini.heldout import write_subset
from training.recipes.mini.packages import matching, safe_name
from training.recipes.mini.sampled import SAMPLED
from training.recipes.mini.soundfonts import SOUNDFONTS, Part, SoundFont, parts_for
from training.recipes.mini.sounds import SoundWriter, licence_of, read_jsonl, write_jsonl

RATE = 16_000


def sources_of(concept):
    named = {name for name, entry in table.recordings().items() if concept in entry["sounds"]}
    entry = table.concepts()[concept]
    if "gm" in entry:
        named |= {font.package for font in SOUNDFONTS} | {safe_name(source.package) for source in SAMPLED}
    return named


def test_table_has_enough_concepts_and_every_one_holds_a_source_out():
    concepts = table.concepts()
    assert len(concepts) >= 24
    for concept, entry in concepts.items():
        known = sources_of(concept)
        held = set(entry["test"]) | set(entry.get("valid", ()))
        assert entry["test"] and held <= known, concept
        assert not set(entry["test"]) & set(entry.get("valid", ())), concept
        assert known - held or "extra" in entry, f"{concept}: nothing to train on"
        assert entry.get("gm", {}).get("play", "keys") in midi.PLAYS
        assert entry.get("extra", "rain") in {*synthesis.KINDS, "speech"}


def test_captions_start_with_the_name_and_never_repeat():
    for concept, entry in table.concepts().items():
        made = table.captions(concept, entry)
        assert made[0] == entry.get("name", concept)
        assert len(made) == len(set(made)) >= 6
    assert table.captions("owl", {}) == ["owl", "an owl", "the sound of an owl", "an owl can be heard"]


def test_licences_come_from_the_file_before_the_package():
    entry = {"root": "usr/x/", "licence": "GPL-2.0", "licences": {"CC0-1.0": "birds/*.ogg"}}
    assert licence_of(entry, "usr/x/birds/lark.ogg") == "CC0-1.0"
    assert licence_of(entry, "usr/x/dog.ogg") == "GPL-2.0"


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a/*.ogg", ["a/x.ogg"]),
        ("**/*.ogg", ["a/b/z.ogg", "a/x.ogg"]),
        ("a/**/z.ogg", ["a/b/z.ogg"]),
        ("a/[xy].*", ["a/x.ogg", "a/y.wav"]),
        ("*.ogg", []),
    ],
)
def test_patterns_do_not_cross_folders_unless_told(pattern, found):
    assert matching(["a/x.ogg", "a/b/z.ogg", "a/y.wav"], pattern) == found


def test_safe_names():
    assert safe_name("usr/a.zip!sounds/Mangoré (1).ogg") == "Mangor-1"
    assert safe_name("@audio-samples/piano.ogg") == "piano"


def test_rows_get_captions_split_and_licence_from_the_tables():
    concepts = {"dog": {"says": ["barking"], "test": ["far"], "valid": ["near"]}}
    listed = {"far": {"root": "", "licence": "CC0-1.0", "sounds": {}}}
    row = {"audio": "a", "concept": "dog", "file": "f", "synthesised": False}
    rows = settled(
        [row | {"source": "far"}, row | {"source": "near"}, row | {"concept": "gone", "source": "far"}],
        concepts,
        listed,
    )
    assert [(row["split"], row.get("licence")) for row in rows] == [("test", "CC0-1.0"), ("valid", None)]
    assert "barking" in rows[0]["caption"]


def test_zip_and_sound_cat_and_clonk_group(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pk3", "w") as pack:
        pack.writestr("sound/x.wav", b"one")
    pack = archives.open_archive(tmp_path / "a.pk3")
    assert pack.names() == ["sound/x.wav"] and pack.read("sound/x.wav") == b"one"

    name = b'"Horn"\0'
    body = bytes([len(name)]) + name + b"RIFFdata"
    (tmp_path / "b.cat").write_bytes(struct.pack("<II", 8 | 1 << 31, 8) + body)
    cat = archives.open_archive(tmp_path / "b.cat")
    assert cat.names() == ["00.wav"] and cat.read("00.wav") == b"RIFFdata"

    def group(*members):
        header = bytearray(204)
        header[36:40] = struct.pack("<i", len(members))
        header = bytearray(byte ^ 237 for byte in header)
        for at in range(0, 202, 3):
            header[at], header[at + 2] = header[at + 2], header[at]
        entries, data = b"", b""
        for member, content, is_group in members:
            entry = member.encode().ljust(260, b"\0") + struct.pack("<5i", 1, is_group, len(content), 0, len(data))
            entries, data = entries + entry.ljust(316, b"\0"), data + content
        return bytes(header) + entries + data

    inner = group(("drop.wav", b"plop", 0))
    (tmp_path / "c.ocg").write_bytes(
        b"\x1e\x8c" + gzip.compress(group(("Water.ocg", inner, 1), ("a.ogg", b"A", 0)))[2:]
    )
    clonk = archives.open_archive(tmp_path / "c.ocg")
    assert clonk.names() == ["Water.ocg/drop.wav", "a.ogg"] and clonk.read("Water.ocg/drop.wav") == b"plop"
    with pytest.raises(ValueError, match="no known archive"):
        archives.open_archive(tmp_path / "d.rar")


def test_qt_resources(tmp_path):
    names = b"".join(struct.pack(">HI", len(name), 0) + name.encode("utf-16-be") for name in ("s", "a.ogg"))
    tree = struct.pack(">IHII", 0, 2, 1, 1) + struct.pack(">IHII", 0, 2, 1, 2) + struct.pack(">IHHHI", 8, 0, 0, 0, 0)
    data = struct.pack(">I", 5) + b"hello"
    start = 20
    head = b"qres" + struct.pack(">4I", 1, start, start + len(tree), start + len(tree) + len(data))
    (tmp_path / "x.rcc").write_bytes(head + tree + data + names)
    rcc = archives.open_archive(tmp_path / "x.rcc")
    assert rcc.names() == ["/s/a.ogg"] and rcc.read("/s/a.ogg") == b"hello"


@pytest.mark.parametrize("play", midi.PLAYS)
def test_every_way_of_playing_stays_on_its_keys_and_is_the_same_again(play):
    first = midi.phrase(play, (48, 72), 4.0, np.random.default_rng(1))
    assert first and first == midi.phrase(play, (48, 72), 4.0, np.random.default_rng(1))
    assert all(0 <= note.start < 4.0 and note.length > 0 and 1 <= note.velocity <= 127 for note in first)
    if play != "beat":
        assert all(48 <= note.key <= 72 for note in first)


def test_midi_file_has_its_events_in_order():
    notes = [midi.Note(0.0, 1.0, 60, 100)]
    content = midi.midi_file([(0.0, 5, notes), (2.0, None, notes)])
    assert content[:14] == b"MThd" + struct.pack(">IHHH", 6, 0, 1, 480)
    assert struct.unpack(">I", content[18:22])[0] == len(content) - 22
    assert bytes([0xC0, 5]) in content and bytes([0x99, 60, 100]) in content
    assert content.index(bytes([0x90, 60, 100])) < content.index(bytes([0x80, 60, 0]))
    assert content.endswith(bytes([0xFF, 0x2F, 0]))


def test_soundfont_parts_skip_what_a_font_lacks_or_may_not_play():
    concepts = {
        "piano": {"gm": {"programs": [0, 1], "keys": [40, 80], "play": "keys"}},
        "drum": {"gm": {"drums": True, "keys": [35, 50], "play": "beat"}},
        "dog": {},
    }
    font = SoundFont("p", "f", "MIT", without=(1,))
    assert parts_for(font, concepts, 2, {(0, 0), (0, 1)}) == [Part("piano", n, 0, (40, 80), "keys") for n in (0, 1)]
    assert {part.program for part in parts_for(font, concepts, 2, {(0, 0), (128, 0)})} == {0, None}


def test_sampler_plays_the_key_and_the_length():
    sample = sampler.Sample(sine(1.0, RATE, 440.0), RATE, 69)
    sound = sampler.play([sample], [midi.Note(0.5, 0.3, 81, 127)], release=0.1)
    assert len(sound) == round(0.9 * RATE) and sound[: RATE // 2].abs().max() == 0
    spectrum = torch.fft.rfft(sound[RATE // 2 :], RATE).abs()
    assert int(spectrum.argmax()) == pytest.approx(880, abs=2)


def test_sampler_repeats_a_loop():
    sample = sampler.Sample(sine(0.1, RATE, 440.0), RATE, 69, loop=(400, 800))
    sound = sampler.play([sample], [midi.Note(0.0, 1.0, 69, 127)])
    assert sound[round(0.8 * RATE) : round(0.9 * RATE)].abs().max() > 0.4


def test_gus_patch(tmp_path):
    values = np.array([0, 16384, -16384, 0], "<i2").tobytes()
    head = bytearray(239)
    head[:8], head[198] = b"GF1PATCH", 1
    entry = bytearray(96)
    entry[8:20] = struct.pack("<3I", len(values), 2, 6)
    entry[20:22], entry[30:34], entry[55] = struct.pack("<H", 22050), struct.pack("<I", 440_000), 1 | 4
    (tmp_path / "a.pat").write_bytes(bytes(head) + bytes(entry) + values)
    (sample,) = sampler.read_patch(tmp_path / "a.pat")
    assert sample.waveform.tolist() == [0, 0.5, -0.5, 0] and sample.rate == 22050
    assert sample.key == pytest.approx(69) and sample.loop == (1, 3)
    (tmp_path / "b.pat").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="not a GUS patch"):
        sampler.read_patch(tmp_path / "b.pat")


@pytest.mark.parametrize(("name", "key"), [("A4", 69), ("C4v10", 60), ("Fs3", 54), ("Bb1", 34), ("index", None)])
def test_keys_in_file_names(name, key):
    assert sampler.key_of(name) == key


def test_clips_are_trimmed_cut_and_scaled():
    quiet = torch.zeros(RATE)
    ((start, clip),) = clips.clips_of(torch.cat([quiet, 0.1 * sine(1.0), quiet]))
    assert start == 0 and len(clip) / RATE == pytest.approx(1.12, abs=0.05)
    assert clip.abs().max() == pytest.approx(0.8, abs=1e-3)
    many = clips.clips_of(noise(30.0))
    assert [len(clip) / RATE for _, clip in many] == [5.0] * 6
    assert clips.clips_of(quiet) == [] == clips.clips_of(torch.zeros(0))


def test_written_clips_read_as_a_manifest(tmp_path):
    writer = SoundWriter(tmp_path, {"bell": {"test": ["held"], "piece": 1}})
    fields = {"file": "b.wav", "synthesised": False}
    assert writer.add("bell", "held", "b", sine(3.0), **fields) == 3
    assert writer.add("bell", "held", "b", torch.zeros(RATE), **fields) == 0
    rows = settled(writer.rows, {"bell": {"test": ["held"]}}, {})
    write_jsonl(tmp_path / "test.jsonl", rows)
    assert read_jsonl(tmp_path / "test.jsonl") == rows
    source = open_source(tmp_path / "test.jsonl")
    assert len(source) == 3 and "the sound of a bell" in source[0].captions
    assert clips.load(tmp_path / rows[0]["audio"]).shape == (RATE,)


def test_fingerprint_finds_a_cut_and_re_encoded_copy_but_not_another_recording(tmp_path):
    generator = torch.Generator().manual_seed(0)

    def recording():
        gain = torch.nn.functional.interpolate(torch.rand(1, 1, 40, generator=generator), 2 * RATE, mode="linear")[0, 0]
        return gain.square() * 0.3 * torch.randn(2 * RATE, generator=generator)

    one, other = recording(), recording()
    copy = clips.load(write_audio(tmp_path / "a.mp3", 0.4 * one[RATE // 2 :], RATE))
    scores = fingerprint.likeness(
        fingerprint.fingerprint(one), [fingerprint.fingerprint(copy), fingerprint.fingerprint(other)]
    )
    assert scores[0] > fingerprint.SAME > 0.5 > scores[1]


def test_leaks_are_dropped_from_the_training_side_with_all_their_clips(tmp_path):
    generator = torch.Generator().manual_seed(0)
    sounds = [torch.randn(RATE, generator=generator) * torch.linspace(0.1, 1, RATE) for _ in range(3)]
    rows = []
    for name, split, file, sound in (
        ("a", "train", "f", 0),
        ("b", "train", "f", 1),
        ("c", "train", "g", 2),
        ("d", "test", "h", 0),
    ):
        write_flac(tmp_path / f"{name}.flac", clips.finished(sounds[sound]))
        rows.append(
            {
                "audio": f"{name}.flac",
                "concept": "x",
                "source": split,
                "file": file,
                "split": split,
                "synthesised": False,
            }
        )
    kept = fingerprint.without_leaks(tmp_path, rows)
    assert [row["audio"] for row in kept] == ["c.flac", "d.flac"]
    assert "a.flac = d.flac" in (tmp_path / "leaks.txt").read_text()


@pytest.mark.parametrize("kind", synthesis.KINDS)
def test_synthesis_is_the_same_again(kind):
    sound = synthesis.make(kind, 3)
    assert torch.equal(sound, synthesis.make(kind, 3)) and not torch.equal(sound[:RATE], synthesis.make(kind, 4)[:RATE])
    assert sound.isfinite().all() and sound.abs().max() == pytest.approx(0.8, abs=1e-3) and len(sound) >= 3 * RATE
    with pytest.raises(ValueError, match="no synthesis"):
        synthesis.make("snow", 0)


def test_icons_follow_aliases_and_sizes():
    icons = {
        "width": 36,
        "height": 36,
        "icons": {"bell": {"body": "<path d='M0 0h9v9z'/>"}, "dog": {"body": "<g/>", "width": 20}},
        "aliases": {"ring": {"parent": "bell"}},
    }
    assert pictures.find_icon(icons, ["gong", "ring", "bell"]) == "ring" and pictures.find_icon(icons, ["gong"]) is None
    assert 'viewBox="0 0 36 36"' in pictures.svg_of(icons, "ring") and "M0 0h9v9z" in pictures.svg_of(icons, "ring")
    assert 'viewBox="0 0 20 36"' in pictures.svg_of(icons, "dog")


def test_pictures_are_centred_on_white():
    pytest.importorskip("resvg_py")
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><path fill="#f00" d="M0 0h2v4h-2z"/></svg>'
    picture = np.asarray(pictures.draw(svg, size=64, margin=0.125))
    assert picture.shape == (64, 64, 3) and (picture[0, 0] == 255).all()
    assert picture[32, 32].tolist() == [255, 0, 0]
    red = (picture[..., 1] < 128).nonzero()
    assert red[0].min() == 8 and red[0].max() in (54, 55) and red[1].min() == 20 and red[1].max() in (42, 43, 44)


def test_summary_counts_recordings_not_clips():
    row = {"concept": "dog", "seconds": 1.0, "synthesised": False}
    rows = [row | {"split": "train", "source": "a", "file": name} for name in ("x", "x", "y")]
    rows.append(row | {"split": "test", "source": "b", "file": "z"})
    line = summary.table(rows, [{"concept": "dog"}]).splitlines()[1].split()
    assert line == ["dog", "1", "2", "3", "3", "0", "1", "1", "1", "1"]


def test_series_are_made_of_short_sounds_of_packages_that_are_trained_on(tmp_path):
    write_flac(tmp_path / "step.flac", clips.finished(sine(0.1)))
    row = {"audio": "step.flac", "concept": "walk", "source": "a", "seconds": 0.1, "synthesised": False}
    entry = {"test": ["b"], "series": {"of": ["a"], "every": [0.3, 0.5]}}
    made = series.series([row], "walk", entry, tmp_path, 2)
    assert [name for _, name, _ in made] == ["series-000", "series-001"]
    loud = clips.levels(made[0][2]) > 0.05
    assert 3 <= int((loud[1:] & ~loud[:-1]).sum()) + int(loud[0]) <= 18
    with pytest.raises(ValueError, match="held out"):
        series.series([row], "walk", entry | {"test": ["a"]}, tmp_path, 2)
    with pytest.raises(ValueError, match="no short recording"):
        series.series([row | {"seconds": 3.0}], "walk", entry, tmp_path, 2)


def test_the_subset_for_the_tests_is_of_several_sources_and_free_licences(tmp_path):
    rows = []
    for concept, source, licence, more in (
        ("dog", "game", "GPL-3.0-or-later", {}),
        ("dog", "game", "CC0-1.0", {}),
        ("dog", "toy", "GPL-2.0-or-later", {}),
        ("dog", "closed", "GFDL-1.3", {}),
        ("cat", "game", "CC0-1.0", {}),
        ("cat", "font", "CC0-1.0", {"synthesised": True}),
        ("cat", "game", "CC0-1.0", {"offset": 5.0}),
        ("horse", "game", "CC0-1.0", {}),
        ("horse", "toy", "CC0-1.0", {}),
    ):
        audio = f"{len(rows)}.wav"
        write_audio(tmp_path / audio, sine(5.0), RATE)
        row = {"audio": audio, "concept": concept, "source": source, "licence": licence, "offset": 0.0}
        rows.append(row | {"package": source, "version": "1", "file": "f", "synthesised": False} | more)
    write_jsonl(tmp_path / "test.jsonl", rows)
    written = write_subset(tmp_path, tmp_path / "subset", ["dog", "cat"], each=2)
    assert [(row["concept"], row["package"], row["licence"]) for row in written] == [
        ("dog", "game", "CC0-1.0"),
        ("dog", "toy", "GPL-2.0-or-later"),
    ]
    assert read_jsonl(tmp_path / "subset" / "sounds.jsonl") == written
    (kept,) = read_clips(tmp_path / "subset" / "dog-0.opus")
    assert len(kept) == pytest.approx(4 * RATE, abs=RATE // 10)
    assert torch.fft.rfft(kept).abs().argmax() * RATE / len(kept) == pytest.approx(440, abs=1)
