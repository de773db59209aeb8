"""Short phrases for the instruments of General MIDI, and the MIDI files that hold them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

TICKS_PER_SECOND = 960  # 480 a quarter at 120 quarters a minute
DRUM_CHANNEL = 9
END_OF_TRACK = bytes([0xFF, 0x2F, 0])
_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 7, 10))
_CHORDS = ((0, 4, 7), (0, 3, 7), (0, 4, 7, 12), (0, 3, 7, 12), (0, 4, 7, 11), (0, 3, 7, 10))


@dataclass(frozen=True)
class Note:
    """One note: start and length in seconds, MIDI key 0..127, velocity 1..127."""

    start: float
    length: float
    key: int
    velocity: int


def phrase(play: str, keys: tuple[int, int], seconds: float, rng: np.random.Generator) -> list[Note]:
    """A random phrase of one instrument.

    Args:
        play: one of `PLAYS`.
        keys: lowest and highest key.
        seconds: about how long it sounds.

    Raises:
        ValueError: no such way of playing.
    """
    if play not in PLAYS:
        raise ValueError(f"no way of playing is called {play!r}; allowed: {', '.join(PLAYS)}")
    return [note for note in PLAYS[play](keys, seconds, rng) if note.start < seconds]


def _velocity(rng: np.random.Generator, loudness: float) -> int:
    return int(np.clip(rng.normal(loudness, 8), 30, 127))


def _melody(keys: tuple[int, int], seconds: float, rng: np.random.Generator) -> list[Note]:
    low, high = keys
    scale, root = _SCALES[rng.integers(len(_SCALES))], int(rng.integers(12))
    tones = [key for key in range(low, high + 1) if (key - root) % 12 in scale]
    at, beat = int(rng.integers(len(tones))), float(rng.uniform(0.14, 0.6))
    loudness, legato, notes, time = rng.uniform(60, 115), rng.uniform(0.6, 1.05), [], 0.0
    while time < seconds:
        length = beat * float(rng.choice([0.5, 1, 1, 1, 2, 3]))
        if rng.random() > 0.08:
            notes.append(Note(time, length * legato, tones[at], _velocity(rng, loudness)))
        at = int(np.clip(at + rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 3, 5]), 0, len(tones) - 1))
        time += length
    return notes


def _chords(keys: tuple[int, int], seconds: float, rng: np.random.Generator, strum: float = 0.0) -> list[Note]:
    low, high = keys
    beat, loudness, notes, time = float(rng.uniform(0.3, 1.4)), rng.uniform(60, 115), [], 0.0
    root = int(rng.integers(low, max(high - 16, low + 1)))
    while time < seconds:
        chord = _CHORDS[rng.integers(len(_CHORDS))]
        for index, step in enumerate(chord):
            if root + step <= high:
                notes.append(Note(time + index * strum, beat * 0.95, root + step, _velocity(rng, loudness)))
        root = int(np.clip(root + rng.choice([-7, -5, -2, 0, 2, 5, 7]), low, max(high - 12, low)))
        time += beat
    return notes


def _arpeggio(keys: tuple[int, int], seconds: float, rng: np.random.Generator) -> list[Note]:
    low, high = keys
    step, loudness, notes, time = float(rng.uniform(0.1, 0.3)), rng.uniform(60, 115), [], 0.0
    while time < seconds:
        root, chord = int(rng.integers(low, max(high - 12, low + 1))), _CHORDS[rng.integers(len(_CHORDS))]
        tones = [root + tone for tone in (*chord, *chord[-2:0:-1])] * int(rng.integers(1, 3))
        for key in tones:
            if key <= high:
                notes.append(Note(time, step * float(rng.uniform(1, 3)), key, _velocity(rng, loudness)))
            time += step
    return notes


def _long_notes(keys: tuple[int, int], seconds: float, rng: np.random.Generator) -> list[Note]:
    count = int(rng.integers(1, 4))
    return [
        Note(i * seconds / count, 0.92 * seconds / count, int(rng.integers(keys[0], keys[1] + 1)), _velocity(rng, 90))
        for i in range(count)
    ]


def _keys(keys: tuple[int, int], seconds: float, rng: np.random.Generator) -> list[Note]:
    ways = (_melody, _chords, _arpeggio, _both)
    return ways[rng.integers(len(ways))](keys, seconds, rng)


def _both(keys: tuple[int, int], seconds: float, rng: np.random.Generator) -> list[Note]:
    middle = (keys[0] + keys[1]) // 2
    return _chords((keys[0], middle), seconds, rng) + _melody((middle, keys[1]), seconds, rng)


def _strum(keys: tuple[int, int], seconds: float, rng: np.random.Generator) -> list[Note]:
    ways: tuple[Callable, ...] = (
        _melody,
        _arpeggio,
        lambda *given: _chords(*given, strum=float(rng.uniform(0.008, 0.04))),
    )
    return ways[rng.integers(len(ways))](keys, seconds, rng)


def _lead(keys: tuple[int, int], seconds: float, rng: np.random.Generator) -> list[Note]:
    return (_long_notes if rng.random() < 0.2 else _melody)(keys, seconds, rng)


def _bells(keys: tuple[int, int], seconds: float, rng: np.random.Generator) -> list[Note]:
    every, key = float(rng.uniform(0.4, 1.6)), int(rng.integers(keys[0], keys[1] + 1))
    melodic = rng.random() < 0.4
    return [
        Note(time, 3.0, int(rng.integers(keys[0], keys[1] + 1)) if melodic else key, _velocity(rng, 95))
        for time in np.arange(0, seconds, every).tolist()
    ]


def _pad(keys: tuple[int, int], seconds: float, rng: np.random.Generator) -> list[Note]:
    low, high = keys
    notes, length = [], float(rng.uniform(1.2, 3.0))
    for time in np.arange(0, seconds, length).tolist():
        root = int(rng.integers(low, high - 11))
        chord = _CHORDS[rng.integers(len(_CHORDS))] if rng.random() < 0.8 else (0,)
        notes += [Note(time, length, root + step, _velocity(rng, 90)) for step in chord]
    return notes


def _beat(keys: tuple[int, int], seconds: float, rng: np.random.Generator) -> list[Note]:
    """A drum pattern: kick, snare, closed or open hat, crash at times, a fill of toms; or a roll of one drum."""
    if rng.random() < 0.25:
        drum, every = int(rng.choice([38, 40, 41, 45, 47, 50, 36])), float(rng.uniform(0.06, 0.4))
        return [Note(time, 0.1, drum, _velocity(rng, 95)) for time in np.arange(0, seconds, every).tolist()]
    step = float(rng.uniform(0.1, 0.22))
    kick, snare = rng.choice([35, 36]), rng.choice([38, 40])
    hat = rng.choice([42, 46, 51, 0])
    kicks = [0, 8] + rng.choice([3, 6, 10, 11, 14], 2).tolist()
    notes = []
    for index, time in enumerate(np.arange(0, seconds, step).tolist()):
        place = index % 16
        hits = ([kick] if place in kicks else []) + ([snare] if place in (4, 12) else [])
        hits += [hat] if hat and place % 2 == 0 else []
        hits += [49] if index == 0 and rng.random() < 0.4 else []
        hits += [int(rng.choice([41, 45, 47, 50]))] if place > 12 and rng.random() < 0.4 else []
        notes += [Note(time, 0.1, int(key), _velocity(rng, 100)) for key in hits]
    return notes


def _shake(keys: tuple[int, int], seconds: float, rng: np.random.Generator) -> list[Note]:
    every = float(rng.uniform(0.1, 0.35))
    return [
        Note(time, every, keys[0], _velocity(rng, 115 if index % 2 == 0 else 90))
        for index, time in enumerate(np.arange(0, seconds, every).tolist())
    ]


def _effect(keys: tuple[int, int], seconds: float, rng: np.random.Generator) -> list[Note]:
    return [Note(0.0, seconds, int(rng.integers(keys[0], keys[1] + 1)), 120)]


PLAYS: dict[str, Callable[[tuple[int, int], float, np.random.Generator], list[Note]]] = {
    "keys": _keys,
    "strum": _strum,
    "melody": _lead,
    "bells": _bells,
    "pad": _pad,
    "beat": _beat,
    "shake": _shake,
    "effect": _effect,
}


def midi_file(parts: Sequence[tuple[float, int | None, Iterable[Note]]]) -> bytes:
    """A Standard MIDI File, format 0, of phrases that follow each other.

    Args:
        parts: for each phrase its start in seconds, its program 0..127 (None = percussion), and its notes.
    """
    events: list[tuple[int, int, bytes]] = []
    for start, program, notes in parts:
        channel = DRUM_CHANNEL if program is None else 0
        at = round(start * TICKS_PER_SECOND)
        events.append((at, 0, bytes([0xB0 | channel, 120, 0])))  # all sound off: nothing rings into the next phrase
        events.append((at, 1, bytes([0xC0 | channel, program or 0])))
        for note in notes:
            on = round((start + 0.02 + note.start) * TICKS_PER_SECOND)
            off = max(on + 1, round((start + 0.02 + note.start + note.length) * TICKS_PER_SECOND))
            events.append((on, 3, bytes([0x90 | channel, note.key, note.velocity])))
            events.append((off, 2, bytes([0x80 | channel, note.key, 0])))
    ordered = [(at, message) for at, _, message in sorted(events, key=lambda event: event[:2])]
    return standard_midi_file([*ordered, (ordered[-1][0] if ordered else 0, END_OF_TRACK)])


def standard_midi_file(events: Sequence[tuple[int, bytes]]) -> bytes:
    """A Standard MIDI File, format 0, of messages at their ticks, in order; the last one is `END_OF_TRACK`."""
    track, now = bytearray(), 0
    for at, message in events:
        track += _variable(at - now) + message
        now = at
    header = struct.pack(">IHHH", 6, 0, 1, TICKS_PER_SECOND // 2)
    return b"MThd" + header + b"MTrk" + struct.pack(">I", len(track)) + bytes(track)


def _variable(value: int) -> bytes:
    """MIDI's variable-length number: seven bits a byte, the highest first, the top bit on all but the last."""
    parts = [value & 0x7F]
    while value := value >> 7:
        parts.append(value & 0x7F | 0x80)
    return bytes(reversed(parts))
