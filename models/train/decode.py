"""The server's refinement in PyTorch: blocks, rounds, selections, fixed words, and sampling from
another source of random numbers.

Written for clearness; it makes the golden traces and the samples of the evaluation."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional

from model import Denoiser, rotate
from segments import BOS, EOS, EOT, MASK, render_chat

SPECIAL = range(6)


@dataclass
class Settings:
    max_tokens: int = 96
    block_length: int = 32
    selection: str = "threshold"  # or steps, factor
    threshold: float = 0.9
    factor: float = 1.0
    steps: int | None = None      # of the whole canvas, for selection steps
    cache: str = "none"           # or prefix, dual
    temperature: float = 0.0      # 0: the best token
    presence_penalty: float = 0.0   # subtracted from the logits of tokens in the answer
    frequency_penalty: float = 0.0  # the same, times how often they are there
    seed: int = 1
    early_stop: bool = False
    stop_ids: tuple[int, ...] = (EOS, EOT)


@dataclass
class Outcome:
    canvas: list[int]
    prompt_length: int
    rounds: list[dict] = field(default_factory=list)
    forward_passes: int = 0
    margin: float = 1.0           # the smallest distance of any decision to a tie

    @property
    def answer(self) -> list[int]:
        return self.canvas[self.prompt_length:]

    def kept(self, stop_ids=(EOS, EOT)) -> list[int]:
        """The answer up to the first stop id."""
        ends = [i for i, token in enumerate(self.answer) if token in stop_ids]
        return self.answer[:ends[0]] if ends else self.answer


class Window:
    """Keys and values of a canvas; a forward computes the rows of a window and stores its own."""

    def __init__(self, model: Denoiser):
        self.model = model
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    @torch.no_grad()
    def forward(self, canvas: list[int], begin: int, end: int) -> torch.Tensor:
        """Hidden rows [end - begin, d] after the final norm."""
        model = self.model
        cos, sin = model.cos[begin:end], model.sin[begin:end]
        x = model.wte(torch.tensor([canvas[begin:end]]))
        whole = end - begin == len(canvas)
        for i, block in enumerate(model.blocks):
            split = (1, end - begin, block.heads, x.shape[2] // block.heads)
            normed = block.attn_norm(x)
            q = rotate(block.q_proj(normed).view(split).transpose(1, 2), cos, sin)
            k = rotate(block.k_proj(normed).view(split).transpose(1, 2), cos, sin)
            v = block.v_proj(normed).view(split).transpose(1, 2)
            if whole:
                self.keys[i:i + 1], self.values[i:i + 1] = [k.clone()], [v.clone()]
            else:
                self.keys[i][:, :, begin:end] = k
                self.values[i][:, :, begin:end] = v
            mixed = functional.scaled_dot_product_attention(q, self.keys[i], self.values[i])
            x = x + block.attn_out(mixed.transpose(1, 2).reshape(x.shape))
            normed = block.ff_norm(x)
            x = x + block.ff_out(functional.silu(block.ff_proj(normed)) * block.up_proj(normed))
        return model.ln_f(x)[0]


@torch.no_grad()
def choose_tokens(logits: torch.Tensor, positions: list[int], banned_until: int,
                  temperature: float, generator: torch.Generator):
    """([position, token, confidence], gap to the second token) of every row; the mask is never
    chosen; below `banned_until` no special id is."""
    probabilities = logits.softmax(-1)
    choice = probabilities.clone()
    choice[:, MASK] = -1
    for row, position in enumerate(positions):
        if position < banned_until:
            choice[row, SPECIAL] = -1
            probabilities[row] = choice[row].clamp(min=0) / choice[row].clamp(min=0).sum()
    top = choice.topk(2, dim=-1)
    tokens, gaps = top.indices[:, 0], top.values[:, 0] - top.values[:, 1]
    if temperature > 0:
        tokens = torch.multinomial(choice.clamp(min=0) ** (1 / temperature), 1,
                                   generator=generator)[:, 0]
    return [((position, int(tokens[row]), float(probabilities[row, tokens[row]])), float(gaps[row]))
            for row, position in enumerate(positions)]


def penalties(settings: Settings, canvas: list[int], begin: int, vocabulary: int) -> torch.Tensor:
    """What the tokens that are in the answer lose."""
    committed = torch.tensor([token for token in canvas[begin:] if token != MASK], dtype=torch.long)
    counts = torch.bincount(committed, minlength=vocabulary)
    return settings.presence_penalty * (counts > 0) + settings.frequency_penalty * counts


def select(settings: Settings, ranked: list[tuple[int, int, float]], quota: int):
    """(how many of the ranked positions commit, distance of that decision to a tie)."""
    confidences = [confidence for _, _, confidence in ranked]
    if settings.selection == "steps":
        count = min(quota, len(ranked))
    elif settings.selection == "threshold":
        count = max(1, sum(confidence >= settings.threshold for confidence in confidences))
    else:
        fits = [n for n in range(2, len(ranked) + 1)
                if (n + 1) * (1 - confidences[n - 1]) <= settings.factor]
        count = max(fits, default=1)
        count = len(ranked) if count == len(ranked) - 1 else count
    margin = confidences[count - 1] - confidences[count] if count < len(ranked) else 1.0
    if settings.selection == "threshold":
        margin = min([margin] + [abs(one - settings.threshold) for one in confidences])
    elif settings.selection == "factor":
        margin = min([margin] + [abs((n + 1) * (1 - c) - settings.factor)
                                 for n, c in enumerate(confidences, 1)])
    return count, margin


@torch.no_grad()
def decode(model: Denoiser, prompt: list[int], settings: Settings,
           fixed: dict[int, int] | None = None, banned_until: int | None = None) -> Outcome:
    """Refines a canvas of prompt + max_tokens masks, block by block. `fixed` gives answer
    positions in advance; special ids are banned before `banned_until` (default: the
    last fixed word)."""
    begin = len(prompt)
    fixed = {begin + place: token for place, token in (fixed or {}).items()}
    canvas = list(prompt) + [fixed.get(begin + i, MASK) for i in range(settings.max_tokens)]
    banned_until = max(fixed, default=0) if banned_until is None else begin + banned_until
    outcome = Outcome(canvas, begin)
    window = Window(model)
    generator = torch.Generator().manual_seed(settings.seed)
    blocks = range(begin, len(canvas), settings.block_length)
    for block_begin in blocks:
        block_end = min(block_begin + settings.block_length, len(canvas))
        open_places = [i for i in range(block_begin, block_end) if canvas[i] == MASK]
        rounds = (settings.steps or settings.max_tokens) // len(blocks)
        split, rest = divmod(len(open_places), max(rounds, 1))
        number = 0
        while open_places:
            span = (0, len(canvas))
            if number > 0 and settings.cache != "none":
                span = (block_begin, len(canvas) if settings.cache == "prefix" else block_end)
            hidden = window.forward(canvas, *span)
            logits = model.head(hidden[[i - span[0] for i in open_places]])
            logits = logits.double() - penalties(settings, canvas, begin, logits.shape[1])
            best = choose_tokens(logits, open_places, banned_until, settings.temperature, generator)
            best.sort(key=lambda entry: -entry[0][2])
            ranked = [entry for entry, _ in best]
            count, margin = select(settings, ranked, split + (number < rest))
            gaps = [gap for _, gap in best]
            outcome.margin = min([outcome.margin, margin] + gaps)
            for position, token, _ in ranked[:count]:
                canvas[position] = token
            open_places = [i for i in open_places if canvas[i] == MASK]
            outcome.forward_passes += 1
            outcome.rounds.append({
                "forward": list(span),
                "commit": [[p, t, round(c, 8)] for p, t, c in ranked[:count]],
                "revise": [], "block": [block_begin, block_end]})
            number += 1
            if settings.early_stop and ended(outcome, settings):
                return outcome
    return outcome


def ended(outcome: Outcome, settings: Settings) -> bool:
    """Every position up to the first stop id is committed."""
    for token in outcome.answer:
        if token == MASK:
            return False
        if token in settings.stop_ids:
            return True
    return False


class Writer:
    """Text in, text out, with the tokenizer and the defaults of a model folder."""

    def __init__(self, directory: Path, model: Denoiser):
        self.model = model
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        path = directory / "generation_config.json"
        self.defaults = json.loads(path.read_text()) if path.exists() else {}

    def settings(self, **changes) -> Settings:
        values = {"max_tokens": self.defaults.get("max_new_tokens", 96), "early_stop": True}
        values |= {key: self.defaults[key] for key in ("block_length", "threshold", "temperature",
                   "presence_penalty", "frequency_penalty") if key in self.defaults}
        return Settings(**(values | changes))

    def continue_text(self, text: str, **changes) -> tuple[str, Outcome]:
        outcome = decode(self.model, self.tokenizer.encode(text).ids, self.settings(**changes))
        return self.text_of(outcome), outcome

    def answer(self, messages: list[dict[str, str]], **changes) -> tuple[str, Outcome]:
        outcome = decode(self.model, render_chat(self.tokenizer, messages),
                         self.settings(**changes))
        return self.text_of(outcome), outcome

    def fill(self, parts: list[str | int], **changes) -> tuple[str, Outcome]:
        """Texts stay, a number n is a hole of n tokens; the first text is the prompt."""
        ids: list[int | None] = []
        for part in parts[1:]:
            ids += [None] * part if isinstance(part, int) else self.tokenizer.encode(
                part, add_special_tokens=False).ids
        fixed = {i: token for i, token in enumerate(ids) if token is not None}
        outcome = decode(self.model, self.tokenizer.encode(str(parts[0])).ids,
                         self.settings(max_tokens=len(ids), early_stop=False, **changes),
                         fixed, banned_until=len(ids))
        return self.tokenizer.decode(outcome.answer), outcome

    def text_of(self, outcome: Outcome) -> str:
        return self.tokenizer.decode(outcome.kept())
