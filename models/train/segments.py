"""Training rows: texts and chats become segments, segments are packed into rows of a fixed shape.

A segment is one canvas as the server would build it. Several share a row; attention stays inside
each and positions start at 0 in each, so that packing changes nothing but the speed.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy
import torch
from tokenizers import Tokenizer

BOS, EOS, MASK, HEADER_BEGIN, HEADER_END, EOT = range(6)
COUNTED_EOS = (8, 16)  # of the EOS behind an answer this many count for the loss
EPSILON = 1e-3

# Share of tokens of every form, and of every source within the plain text.
FORMS = {"plain": 0.46, "continue": 0.16, "chat": 0.27, "infill": 0.11}
SOURCES = {"stories": 0.64, "books": 0.10, "dialogues": 0.20, "own": 0.06}


@dataclass
class Segment:
    ids: list[int]
    begin: int          # positions from here to `end` may be masked
    end: int
    counted: int        # masked positions from here on are masked, but do not count for the loss
    spans: list[tuple[int, int]] | None = None  # infill: these are masked whole, nothing else


def read_records(path: Path) -> list[dict]:
    with path.open() as lines:
        return [json.loads(line) for line in lines]


def render_chat(tokenizer: Tokenizer, messages: list[dict]) -> list[int]:
    """The ids of LLaDA's chat template with the generation prompt; contents hold no special ids."""
    ids = [BOS]
    for role, content in [(m["role"], m["content"].strip()) for m in messages] + [("assistant",
                                                                                   None)]:
        ids += [HEADER_BEGIN, *encode(tokenizer, role), HEADER_END]
        ids += encode(tokenizer, "\n\n" + (content or ""))
        if content is not None:
            ids.append(EOT)
    return ids


@lru_cache(maxsize=4096)
def encode(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False).ids)


class Sampler:
    """Draws segments of every form in the given shares, from records made by make_data.py."""

    def __init__(self, records: list[dict], tokenizer: Tokenizer, seed: int, length: int,
                 forms: dict[str, float] = FORMS):
        self.random = random.Random(seed)
        self.tokenizer = tokenizer
        self.length = length
        self.texts: dict[str, list[tuple[int, ...]]] = defaultdict(list)
        self.chats: list[tuple[list[int], tuple[int, ...]]] = []
        for record in records:
            if "text" in record:
                self.texts[record["source"]].append(encode(tokenizer, record["text"]))
            else:
                *prompt, answer = record["messages"]
                self.chats.append((render_chat(tokenizer, prompt),
                                   encode(tokenizer, answer["content"].strip())))
        self.stops = {tokenizer.token_to_id(stop) for stop in (".", "!", "?", '."', '!"', "\u010a")}
        have = {"chat": bool(self.chats)}
        self.forms = {form: share for form, share in forms.items()
                      if have.get(form, bool(self.texts))}
        self.used = dict.fromkeys(self.forms, 0)
        self.decks: dict[str, list] = defaultdict(list)

    def deal(self, name: str, cards: list):
        """Every card once before any comes again."""
        deck = self.decks[name]
        if not deck:
            deck.extend(range(len(cards)))
            self.random.shuffle(deck)
        return cards[deck.pop()]

    def text(self) -> tuple[int, ...]:
        names = [name for name in SOURCES if self.texts[name]]
        name = self.random.choices(names, [SOURCES[name] for name in names])[0]
        return self.deal(name, self.texts[name])

    def piece(self, room: int) -> tuple[tuple[int, ...], bool]:
        """A text, or a part of one that begins with a sentence, and whether its end is in it."""
        ids = self.text()
        if len(ids) <= room:
            return ids, True
        starts = [0] + [i + 1 for i in range(len(ids) - 32) if ids[i] in self.stops]
        start = self.random.choice(starts) if self.random.random() < 0.6 else 0
        return ids[start:start + room], start + room >= len(ids)

    def padding(self) -> int:
        """EOS behind a whole text: few, for its canvas has the length of the text."""
        return self.random.randint(1, COUNTED_EOS[1])

    def make(self, form: str) -> Segment:
        pick = self.random
        if form == "chat":
            return self.make_chat()
        ids, whole = self.piece(self.length - 1 - COUNTED_EOS[1])
        ids = [BOS, *ids]
        if form == "continue":
            # What a user sends: a beginning, and a canvas that ends before the story does.
            begin = pick.randint(1, max(1, min(len(ids) - 8, 64)))
            window = pick.choice((16, 32, 32, 48, 64, 96, 128, 192))
            if begin + window < len(ids):
                return Segment(ids[:begin + window], begin, begin + window, begin + window)
            ids += [EOS] * (min(begin + window - len(ids), COUNTED_EOS[1]) if whole else 0)
            return Segment(ids, begin, len(ids), len(ids))
        if form == "infill":
            return self.make_infill(ids)
        if whole:
            ids += [EOS] * self.padding()
        if pick.random() < 0.35:
            ids = ids[:pick.randint(min(24, len(ids)), len(ids))]
        return Segment(ids, 1, len(ids), len(ids))

    def make_infill(self, ids: list[int]) -> Segment:
        pick = self.random
        ids = ids[:pick.randint(min(32, len(ids)), min(len(ids), 160))]
        spans = []
        for _ in range(pick.randint(1, 4)):
            width = pick.choice((1, 2, 3, 4, 6, 8, 12, 16, 24))
            start = pick.randint(1, max(1, len(ids) - width - 1))
            spans.append((start, min(start + width, len(ids))))
        return Segment(ids, 1, len(ids), len(ids), spans)

    def make_chat(self) -> Segment:
        """Most canvases are longer than the answer; what lies far behind it does not count."""
        pick = self.random
        prompt, answer = self.deal("chats", self.chats)
        room = self.length - len(prompt)
        answer = [*answer, EOT]
        if len(answer) > room:
            answer = answer[:room]
        elif len(answer) > 48 and pick.random() < 0.5:
            # A long answer on a short canvas is cut by it.
            answer = answer[:pick.choice((32, 48, 64, 96, 128))]
        counted = pick.randint(*COUNTED_EOS)
        extra = counted
        if pick.random() < 0.5:
            extra = max(counted, pick.choice((32, 64, 64, 96, 96, 128, 192)) - len(answer))
        if answer[-1] != EOT:
            extra = 0
        ids = (prompt + answer + [EOS] * extra)[:self.length]
        counted_end = min(len(ids), len(prompt) + len(answer) + counted)
        return Segment(ids, len(prompt), len(ids), counted_end)

    def next(self) -> Segment:
        """A segment of the form that lags most behind its share."""
        total = sum(self.used.values()) + 1
        form = max(self.forms, key=lambda name: self.forms[name] * total - self.used[name])
        segment = self.make(form)
        self.used[form] += len(segment.ids)
        return segment


@dataclass
class Batch:
    ids: torch.Tensor        # [rows, length] what the model sees
    positions: torch.Tensor  # [rows, length]
    attend: torch.Tensor     # [rows, 1, length, length] additive
    where: torch.Tensor      # [masked] flat places that count
    targets: torch.Tensor    # [masked]
    weights: torch.Tensor    # [masked] 1 / p
    maskable: int            # positions that could have counted: the divisor of the loss


def mask_segment(segment: Segment, t: float, draw: numpy.random.Generator):
    """(ids seen, masked and counted, 1 / p): LLaDA's forward process on the maskable part."""
    ids = numpy.array(segment.ids, dtype=numpy.int64)
    masked = numpy.zeros(len(ids), dtype=bool)
    if segment.spans is not None:
        p = 1.0
        for begin, end in segment.spans:
            masked[begin:end] = True
        maskable = int(masked.sum())
    else:
        p = (1 - EPSILON) * t + EPSILON
        masked[segment.begin:segment.end] = draw.random(segment.end - segment.begin) < p
        maskable = segment.counted - segment.begin
    seen = numpy.where(masked, MASK, ids)
    masked[segment.counted:] = False
    return ids, seen, masked, 1.0 / p, maskable


class Packer:
    """Fills rows of a fixed shape; keeps a few segments at hand to fill the gaps."""

    def __init__(self, sampler: Sampler, seed: int, at_hand: int = 48):
        self.sampler = sampler
        self.draw = numpy.random.default_rng(seed)
        self.waiting: list[Segment] = []
        self.at_hand = at_hand

    def fill_row(self, length: int) -> list[Segment]:
        row, room = [], length
        while True:
            while len(self.waiting) < self.at_hand:
                self.waiting.append(self.sampler.next())
            # The oldest goes first, so that a long one does not wait for ever; then best fit.
            fitting = [i for i, s in enumerate(self.waiting) if len(s.ids) <= room]
            if not fitting:
                return row
            best = fitting[0] if not row else max(fitting, key=lambda i: len(self.waiting[i].ids))
            segment = self.waiting.pop(best)
            row.append(segment)
            room -= len(segment.ids)

    def next(self, rows: int, length: int) -> Batch:
        """A batch of rows * length positions. Rows half as long, twice as many, where enough is at
        hand that fits them: attention costs less there, and most texts do."""
        long = sum(len(segment.ids) > length // 2 for segment in self.waiting)
        if long > self.at_hand // 3:
            return self.batch(rows, length)
        return self.batch(2 * rows, length // 2)

    def batch(self, rows: int, length: int) -> Batch:
        packed = [self.fill_row(length) for _ in range(rows)]
        count = sum(len(row) for row in packed)
        # Stratified: one t in each of `count` equal parts of (0, 1), dealt out at random.
        levels = (numpy.arange(count) + self.draw.random(count)) / count
        levels = iter(self.draw.permutation(levels))
        ids = numpy.full((rows, length), EOS, dtype=numpy.int64)
        targets = ids.copy()
        weights = numpy.zeros((rows, length), dtype=numpy.float32)
        positions = numpy.zeros((rows, length), dtype=numpy.int64)
        owner = numpy.full((rows, length), -1, dtype=numpy.int64)
        maskable = 0
        for r, row in enumerate(packed):
            at = 0
            for k, segment in enumerate(row):
                true, seen, masked, weight, open_count = mask_segment(
                    segment, float(next(levels)), self.draw)
                here = slice(at, at + len(true))
                targets[r, here], ids[r, here] = true, seen
                weights[r, here] = masked * weight
                positions[r, here] = numpy.arange(len(true))
                owner[r, here] = k
                maskable += open_count
                at += len(true)
        where = numpy.flatnonzero(weights)
        attend = torch.zeros(rows, 1, length, length)
        owners = torch.from_numpy(owner)
        attend.masked_fill_((owners[:, None, :, None] != owners[:, None, None, :]), float("-inf"))
        return Batch(torch.from_numpy(ids), torch.from_numpy(positions), attend,
                     torch.from_numpy(where), torch.from_numpy(targets.ravel()[where]),
                     torch.from_numpy(weights.ravel()[where]), maskable)
