"""Likelihoods: masked cross-entropy at several t, and an upper bound on the bits per character."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from model import Denoiser
from segments import BOS, EPSILON, MASK

LEVELS = (0.05, 0.15, 0.3, 0.5, 0.7, 0.9)


def pieces_of(tokenizer: Tokenizer, texts: list[str], length: int) -> list[tuple[list[int], int]]:
    """(ids with BOS, characters) of every text, cut where it is longer than `length`."""
    pieces = []
    for text in texts:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        for begin in range(0, len(encoding.ids), length - 1):
            end = min(begin + length - 1, len(encoding.ids))
            if end - begin < 8 and begin > 0:
                continue
            characters = encoding.offsets[end - 1][1] - encoding.offsets[begin][0]
            pieces.append(([BOS, *encoding.ids[begin:end]], characters))
    return pieces


@torch.no_grad()
def masked_losses(model: Denoiser, pieces: list[tuple[list[int], int]], levels: list[float],
                  seed: int, rows: int = 8) -> tuple[float, int]:
    """(sum of cross-entropy over masked positions, their number) with piece i masked at level i.
    Masks depend on the seed and the piece alone, so that models are compared on the same ones."""
    total, count = 0.0, 0
    order = sorted(range(len(pieces)), key=lambda i: len(pieces[i][0]))
    for start in range(0, len(order), rows):
        group = order[start:start + rows]
        length = max(len(pieces[i][0]) for i in group)
        ids = torch.full((len(group), length), BOS)
        masked = torch.zeros(len(group), length, dtype=torch.bool)
        attend = torch.zeros(len(group), 1, 1, length)
        for row, i in enumerate(group):
            piece = pieces[i][0]
            draw = numpy.random.default_rng([seed, i])
            hit = draw.random(len(piece)) < levels[i]
            hit[0] = False
            ids[row, :len(piece)] = torch.tensor(piece)
            masked[row, :len(piece)] = torch.from_numpy(hit)
            attend[row, ..., len(piece):] = float("-inf")
        hidden = model.hidden(torch.where(masked, MASK, ids), attend=attend)
        losses = functional.cross_entropy(model.head(hidden[masked]), ids[masked], reduction="none")
        weights = torch.tensor([1 / levels[i] for i in group])[:, None].expand(-1, length)[masked]
        total += float((losses * weights).sum())
        count += int(masked.sum())
    return total, count


def cross_entropies(model: Denoiser, pieces, seed: int = 11) -> dict[float, float]:
    """Nats per masked token at each level."""
    result = {}
    for level in LEVELS:
        total, count = masked_losses(model, pieces, [level] * len(pieces), seed)
        result[level] = total * level / max(count, 1)
    return result


def bits_per_character(model: Denoiser, pieces, draws: int = 8, seed: int = 5) -> float:
    """Monte Carlo of the bound: sum of cross-entropy / p at t stratified over the draws of every
    piece, per character. The same seeds mask the same positions for every model."""
    characters = sum(count for _, count in pieces)
    total = 0.0
    for draw in range(draws):
        shifts = numpy.random.default_rng(seed).random(len(pieces))
        levels = [(1 - EPSILON) * ((draw + shift) / draws) + EPSILON for shift in shifts]
        total += masked_losses(model, pieces, levels, seed + 100 * draw)[0]
    return total / draws / characters / math.log(2)


def by_source(records: list[dict]) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = defaultdict(list)
    for record in records:
        if "text" in record:
            texts[record["source"]].append(record["text"])
    return texts


def repetition(texts: list[list[str]]) -> tuple[float, float]:
    """(distinct-2, repeated-4-gram rate) over lists of words: the share of different pairs among
    all pairs, and the share of 4-grams that already stood in the same text."""
    pairs, seen_pairs, fours, repeated = 0, set(), 0, 0
    for tokens in texts:
        pairs += max(0, len(tokens) - 1)
        seen_pairs.update(zip(tokens, tokens[1:]))
        own = list(zip(tokens, tokens[1:], tokens[2:], tokens[3:]))
        fours += len(own)
        repeated += len(own) - len(set(own))
    return len(seen_pairs) / max(pairs, 1), repeated / max(fours, 1)
