"""Real sound files, and damage that knows where their formats keep what matters."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.generated import noise, sine, write_audio, write_silence

Mutation = Callable[[random.Random, bytearray], str]
_ODD = (0, 1, 2, 3, 7, 8, 16, 63, 64, 127, 128, 255, 256, 999, 1000, 8191, 65_535, 65_536, 655_350, 1_536_001)
_ODD += (2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**36 - 1, 2**48, 2**63 - 1, 2**64 - 1)


def write_seeds(folder: Path) -> list[Path]:
    """Three seconds of sound in each format, and what there is of silence, films, odd rates and many channels."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []

    def add(name: str, channels: int, rate: int, codec: str | None = None, *, video: bool = False) -> None:
        path = folder / name
        if not path.exists():
            clip = torch.stack([noise(3.0, rate, seed=i) + 0.5 * sine(3.0, rate, 200.0 + i) for i in range(channels)])
            write_audio(path, clip.clamp(-1, 1), rate, codec, video=video)
        made.append(path)

    add("s16.wav", 1, 44_100)
    add("u8.wav", 1, 8_000, "pcm_u8")
    add("s24.wav", 2, 48_000, "pcm_s24le")
    add("f32.wav", 6, 16_000, "pcm_f32le")
    add("f64.wav", 2, 22_050, "pcm_f64le")
    add("adpcm.wav", 2, 22_050, "adpcm_ima_wav")
    add("mono.flac", 1, 44_100)
    add("six.flac", 6, 48_000)
    add("mono.mp3", 1, 44_100)
    add("low.mp3", 2, 22_050)
    add("stereo.ogg", 2, 44_100)
    add("flac.ogg", 1, 44_100, "flac")
    add("stereo.opus", 2, 48_000)
    add("eight.opus", 8, 48_000)
    add("eight.m4a", 8, 44_100)
    add("stereo.m4a", 2, 44_100)
    add("alac.m4a", 2, 44_100, "alac")
    add("film.mp4", 2, 44_100, video=True)
    add("mp3.mp4", 2, 44_100, "mp3")
    add("film.mkv", 1, 44_100, video=True)
    add("pcm.mkv", 2, 44_100, "pcm_s16le")
    add("film.webm", 2, 48_000, video=True)
    silence = folder / "hour.flac"
    made.append(silence if silence.exists() else write_silence(silence, 3600, 8000))
    return made


def mutated(rng: random.Random, seeds: list[Path]) -> tuple[bytes, str, str]:
    """A damaged file, the suffix it gets, and what was done to it."""
    path = rng.choice(seeds)
    data = bytearray(path.read_bytes())
    done = [path.name]
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        kind = path.suffix[1:]
        chosen = rng.choice(_BY_FORMAT.get(kind, [])) if rng.random() < 0.6 and kind in _BY_FORMAT else None
        if chosen is None:
            chosen = rng.choice(_ANYWHERE)
        if len(data) < 64:
            break
        done.append(chosen(rng, data))
    if rng.random() < 0.03:
        other = bytearray(rng.choice(seeds).read_bytes())
        place = rng.randrange(len(data) + 1)
        data[place:] = other[rng.randrange(len(other)) :]
        done.append("another file behind it")
    suffix = path.suffix if rng.random() < 0.95 else rng.choice([s.suffix for s in seeds])
    return bytes(data), suffix, ", ".join(done)


def _odd(rng: random.Random, size: int) -> int:
    value = rng.choice(_ODD) if rng.random() < 0.7 else rng.getrandbits(8 * size)
    return value & (2 ** (8 * size) - 1)


def _put(data: bytearray, place: int, value: int, size: int, order: str) -> None:
    data[place : place + size] = value.to_bytes(size, order)


# Damage of any file.


def _flip(rng: random.Random, data: bytearray) -> str:
    count = rng.choice((1, 1, 4, 32, 256))
    for _ in range(count):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return f"{count} bits flipped"


def _flip_head(rng: random.Random, data: bytearray) -> str:
    for _ in range(rng.choice((1, 2, 8))):
        data[rng.randrange(min(len(data), 512))] = rng.randrange(256)
    return "bytes of the head changed"


def _number(rng: random.Random, data: bytearray) -> str:
    size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
    place = rng.randrange(min(len(data), rng.choice((64, 512, 10**9))) - 8)
    _put(data, place, _odd(rng, size), size, order)
    return f"an odd number of {size} at {place}"


def _cut(rng: random.Random, data: bytearray) -> str:
    keep = rng.randrange(1, min(len(data), rng.choice((100, 4000, 10**9))))
    del data[keep:]
    return f"cut at {keep}"


def _hole(rng: random.Random, data: bytearray) -> str:
    begin = rng.randrange(len(data))
    end = min(len(data), begin + rng.randrange(1, 5000))
    del data[begin:end]
    return f"{end - begin} bytes left out"


def _repeat(rng: random.Random, data: bytearray) -> str:
    begin = rng.randrange(len(data))
    part = data[begin : begin + rng.randrange(1, 3000)]
    data[begin:begin] = part * rng.choice((1, 2, 50))
    return "a part repeated"


def _blank(rng: random.Random, data: bytearray) -> str:
    begin = rng.randrange(len(data))
    end = min(len(data), begin + rng.randrange(1, 3000))
    data[begin:end] = bytes([rng.choice((0, 255))]) * (end - begin)
    return "a part blanked"


def _swap(rng: random.Random, data: bytearray) -> str:
    size = rng.randrange(1, 2000)
    a, b = (rng.randrange(max(1, len(data) - size)) for _ in range(2))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return "two parts swapped"


def _prefix(rng: random.Random, data: bytearray) -> str:
    junk = rng.choice(
        (b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f", b"\0" * 700, b"RIFF\xff\xff\xff\xffWAVE", rng.randbytes(300))
    )
    data[0:0] = junk
    return "something put in front"


# Fields of the formats.


def _wav(rng: random.Random, data: bytearray) -> str:
    place = data.find(b"fmt ")
    fields = {
        "format": (8, 2),
        "channels": (10, 2),
        "rate": (12, 4),
        "bytes": (16, 4),
        "block": (20, 2),
        "bits": (22, 2),
    }
    name = rng.choice([*fields, "size", "riff", "data"])
    if name in ("riff", "data", "size") or place < 0:
        at = {"riff": 4, "size": place + 4}.get(name, data.find(b"data") + 4)
        _put(data, max(at, 0), _odd(rng, 4), 4, "little")
    else:
        offset, size = fields[name]
        kinds = (1, 2, 3, 6, 7, 0x11, 0x50, 0x55, 0xFF, 0x161, 0x2000, 0xFFFE, 0x566F)
        value = rng.choice(kinds) if name == "format" else _odd(rng, size)
        _put(data, place + offset, value, size, "little")
        if name == "channels" and rng.random() < 0.5:  # the fields that follow from it agree
            bits = int.from_bytes(data[place + 22 : place + 24], "little")
            _put(data, place + 20, (value * bits // 8) & 0xFFFF, 2, "little")
    return f"wav {name}"


def _flac(rng: random.Random, data: bytearray) -> str:
    info = int.from_bytes(data[18:26], "big")  # rate 20, channels 3, bits 5, samples 36
    name = rng.choice(("rate", "channels", "bits", "samples", "blocks", "length", "frame"))
    if name in ("rate", "channels", "bits", "samples"):
        shift, width = {"rate": (44, 20), "channels": (41, 3), "bits": (36, 5), "samples": (0, 36)}[name]
        mask = ((1 << width) - 1) << shift
        info = (info & ~mask) | ((_odd(rng, 8) << shift) & mask)
        data[18:26] = info.to_bytes(8, "big")
    elif name == "blocks":
        _put(data, 8, _odd(rng, 4), 4, "big")
    elif name == "length":
        _put(data, 4, _odd(rng, 4), 4, "big")
    else:
        places = [m.start() for m in re.finditer(rb"\xff[\xf8\xf9]", bytes(data))][:200] or [0]
        data[(rng.choice(places) + rng.randrange(2, 9)) % len(data)] = rng.randrange(256)
    return f"flac {name}"


def _mp3(rng: random.Random, data: bytearray) -> str:
    tag = max(data.find(b"Xing"), data.find(b"Info"))
    if tag >= 0 and rng.random() < 0.4:
        _put(data, tag + rng.choice((4, 8, 12, 116)), _odd(rng, 4), 4, "big")
        return "mp3 tag"
    places = [m.start() for m in re.finditer(rb"\xff[\xe2-\xff]", bytes(data))][:300] or [0]
    for _ in range(rng.choice((1, 5, 40))):
        place = rng.choice(places)
        data[place + rng.randrange(1, 4) if place + 4 < len(data) else place] = rng.randrange(256)
    return "mp3 frame heads"


def _ogg(rng: random.Random, data: bytearray) -> str:
    """A field of a page, or of the codec's head in the first ones; the page's checksum is made to fit again."""
    pages = [m.start() for m in re.finditer(b"OggS", bytes(data))]
    if not pages:
        return _number(rng, data)
    page = rng.choice(pages if rng.random() < 0.5 else pages[:3])
    name, offset, size = rng.choice(
        (
            *(("version", 4, 1), ("flags", 5, 1), ("granule", 6, 8), ("serial", 14, 4), ("number", 18, 4)),
            *(("segments", 26, 1), ("lacing", 27, 1), ("head", 28 + rng.randrange(60), rng.choice((1, 2, 4)))),
        )
    )
    if page + offset + size < len(data):
        _put(data, page + offset, _odd(rng, size), size, "little")
    _fix_page(data, page)
    return f"ogg {name}"


def _fix_page(data: bytearray, page: int) -> None:
    count = data[page + 26] if page + 27 < len(data) else 0
    end = page + 27 + count + sum(data[page + 27 : page + 27 + count])
    if end > len(data):
        return
    data[page + 22 : page + 26] = bytes(4)
    value = 0
    for byte in data[page:end]:
        value = ((value << 8) & 0xFFFFFFFF) ^ _OGG_TABLE[(value >> 24) ^ byte]
    struct.pack_into("<I", data, page + 22, value)


def _ogg_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = ((value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
        table.append(value)
    return table


_OGG_TABLE = _ogg_table()
_ATOMS = (
    b"ftyp|moov|mvhd|trak|tkhd|edts|elst|mdia|mdhd|hdlr|minf|stbl|stsd|mp4a|alac|esds|stts|stsc|stsz|stco|co64|mdat"
)


def _mp4(rng: random.Random, data: bytearray) -> str:
    places = [m.start() for m in re.finditer(_ATOMS, bytes(data))]
    if not places:
        return _number(rng, data)
    place = rng.choice(places)
    name = bytes(data[place : place + 4]).decode("latin1")
    if rng.random() < 0.35:
        _put(data, max(place - 4, 0), _odd(rng, 4), 4, "big")
        return f"mp4 size of {name}"
    # Version and flags, then what each holds: times, counts, sizes, offsets, channels, rates.
    offset = 4 + rng.choice((0, 4, 8, 12, 16, 20, 24, 28)) + rng.choice((0, 0, 2))
    size = rng.choice((2, 4, 8))
    if place + offset + size < len(data):
        _put(data, place + offset, _odd(rng, size), size, "big")
    return f"mp4 field of {name}"


def _matroska(rng: random.Random, data: bytearray) -> str:
    """The size or the value behind an element's name."""
    names = {
        "segment": b"\x18\x53\x80\x67", "info": b"\x15\x49\xa9\x66", "scale": b"\x2a\xd7\xb1", "duration": b"\x44\x89",
        "tracks": b"\x16\x54\xae\x6b", "audio": b"\xe1", "rate": b"\xb5", "channels": b"\x9f", "private": b"\x63\xa2",
        "bits": b"\x62\x64", "cluster": b"\x1f\x43\xb6\x75", "time": b"\xe7", "block": b"\xa3",
        "cues": b"\x1c\x53\xbb\x6b", "seek": b"\x11\x4d\x9b\x74", "delay": b"\x56\xaa", "preroll": b"\x56\xbb",
    }  # fmt: skip
    name = rng.choice(list(names))
    places = [m.end() for m in re.finditer(re.escape(names[name]), bytes(data))][:50]
    if not places:
        return _number(rng, data)
    place = rng.choice(places)
    size = rng.choice((1, 2, 4, 8))
    if place + 9 < len(data):
        _put(data, place + rng.choice((0, 0, 1, 2)), _odd(rng, size), size, "big")
    return f"matroska {name}"


_ANYWHERE: list[Mutation] = [_flip, _flip_head, _number, _cut, _hole, _repeat, _blank, _swap, _prefix]
_BY_FORMAT: dict[str, list[Mutation]] = {
    "wav": [_wav],
    "flac": [_flac],
    "mp3": [_mp3],
    **dict.fromkeys(("ogg", "opus"), [_ogg]),
    **dict.fromkeys(("m4a", "mp4"), [_mp4]),
    **dict.fromkeys(("mkv", "webm"), [_matroska]),
}
