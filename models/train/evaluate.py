"""Measures a model folder and prints a report in Markdown: likelihoods, loss of quantising,
stories, chats and infills as they come, tokens per round, repetition."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer

import prompts
from decode import Outcome, Writer
from measure import (LEVELS, bits_per_character, by_source, cross_entropies, pieces_of, repetition)
from model import Denoiser, Shape, load_model
from segments import read_records


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="what make_data.py wrote")
    parser.add_argument("--against", type=Path, help="another model folder, measured alike")
    parser.add_argument("--checkpoint", type=Path, help="its unquantised weights")
    parser.add_argument("--documents", type=int, default=150, help="of every source, held out")
    parser.add_argument("--draws", type=int, default=8, help="of t for every piece")
    parser.add_argument("--window", type=int, action="append", help="cut texts to this many tokens")
    parser.add_argument("--max-tokens", type=int, default=128, help="of the ten stories")
    parser.add_argument("--prompts", type=int, default=10, help="stories, chats, infills")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("likelihood", "samples"))
    return parser.parse_args()


def say(line: str = "") -> None:
    print(line, flush=True)


def tokenizer_of(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def say_bits(name: str, window: int, documents: int, bits: list[float]) -> None:
    change = f"{100 * (bits[0] / bits[-1] - 1):+.1f} %" if len(bits) > 1 else ""
    say(f"| {name} | {window} | {documents} | " + " | ".join(f"{b:.4f}" for b in bits)
        + f" | {change} |")


def report_likelihoods(options: argparse.Namespace, model: Denoiser) -> None:
    held = by_source(read_records(options.data / "held.jsonl"))
    held = {name: texts[:options.documents] for name, texts in held.items()}
    models = [(options.model, model)]
    if options.against is not None:
        models.append((options.against, load_model(options.against, 4096).eval()))

    say("### Bits per character (upper bound), held-out text\n")
    say("| text | cut to tokens | documents | " + " | ".join(f.name for f,
                                                             _ in models) + " | change |")
    say("| --- " * (len(models) + 4) + "|")
    for window in options.window or [192]:
        characters, sums = 0, [0.0] * len(models)
        for name, texts in held.items():
            bits = [bits_per_character(network, pieces_of(tokenizer_of(folder), texts, window),
                                       options.draws) for folder, network in models]
            length = sum(len(text) for text in texts)
            characters += length
            sums = [total + length * b for total, b in zip(sums, bits)]
            say_bits(name, window, len(texts), bits)
        say_bits("all, by length", window, sum(len(texts) for texts in held.values()),
                 [total / characters for total in sums])

    name = "stories" if "stories" in held else next(iter(held))
    say(f"\n### Masked cross-entropy on held-out {name}, nats per masked token\n")
    say("| share masked | " + " | ".join(f"{level:g}" for level in LEVELS) + " | mean |")
    say("| --- " * (len(LEVELS) + 2) + "|")
    rows = [(folder.name, folder, network) for folder, network in models]
    if options.checkpoint is not None:
        stored = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
        whole = Denoiser(Shape(**stored["shape"])).eval()
        whole.load_state_dict(stored["ema"])
        rows.append((f"{options.model.name}, not quantised", options.model, whole))
    for label, folder, network in rows:
        losses = cross_entropies(network, pieces_of(tokenizer_of(folder), held[name], 192))
        say(f"| {label} | " + " | ".join(f"{losses[level]:.4f}" for level in LEVELS)
            + f" | {sum(losses.values()) / len(losses):.4f} |")


def report_stories(options: argparse.Namespace, writer: Writer) -> list[tuple[str, Outcome]]:
    say(f"\n### Stories, at most {options.max_tokens} tokens, unpicked\n")
    told = []
    for prompt in prompts.STORIES[:options.prompts]:
        text, outcome = writer.continue_text(prompt, max_tokens=options.max_tokens)
        told.append((text, outcome))
        say(f"1. **{prompt}**{text}".replace("\n", " / "))
    return told


def report_chats(options: argparse.Namespace, writer: Writer) -> None:
    say("\n### Chats, unpicked\n")
    for turns in prompts.CHATS[:options.prompts]:
        text, _ = writer.answer(prompts.messages(turns))
        asked = " / ".join(content for _, content in turns)
        say(f"1. **{asked}** {text}".replace("\n", " / "))


def report_infills(options: argparse.Namespace, writer: Writer) -> None:
    say("\n### Infills with fixed words, unpicked\n")
    kept = 0
    infills = prompts.INFILLS[:options.prompts]
    for parts in infills:
        text, outcome = writer.fill(parts)
        fixed = [part for part in parts[1:] if isinstance(part, str)]
        at, whole = 0, True
        for part in fixed:
            found = text.find(part, at)
            whole, at = whole and found >= 0, found + len(part)
        kept += whole
        shown = "".join(part if isinstance(part, str) else f"[{part}]" for part in parts)
        say(f"1. {shown} → {parts[0]}{text}".replace("\n", " / "))
    say(f"\nFixed words kept in {kept} of {len(infills)}.")


def report_rounds(options: argparse.Namespace, writer: Writer) -> None:
    """At temperature 0 and without penalties, so that the two ways can be compared."""
    plain = {"block_length": 32, "threshold": 0.9, "temperature": 0.0, "presence_penalty": 0.0,
             "frequency_penalty": 0.0}
    say("\n### Rounds at threshold 0.9, block 32, temperature 0\n")
    stories = [writer.continue_text(prompt, **plain)[1]
               for prompt in prompts.STORIES[:options.prompts]]
    chats = [writer.answer(prompts.messages(turns), **plain)[1]
             for turns in prompts.CHATS[:options.prompts]]
    for name, outcomes in (("stories", stories), ("chats", chats)):
        tokens = sum(len(o.kept()) for o in outcomes)
        rounds = sum(o.forward_passes for o in outcomes)
        say(f"- {name}: {tokens} tokens in {rounds} rounds, {tokens / rounds:.2f} per round")
    same = total = 0
    for prompt in prompts.STORIES[:options.prompts]:
        wide = writer.continue_text(prompt, max_tokens=64, early_stop=False, **plain)[1].answer
        slow = writer.continue_text(prompt, max_tokens=64, early_stop=False,
                                    **plain | {"selection": "steps", "steps": 64})[1].answer
        same += sum(a == b for a, b in zip(wide, slow))
        total += len(wide)
    say(f"- agreement with one token per round: {100 * same / total:.0f} % of {total} positions")


def report_repetition(options: argparse.Namespace, stories: list[tuple[str, Outcome]]) -> None:
    """The training text is cut like the stories: as many texts, as many words in each."""
    told = [text.split() for text, _ in stories]
    records = [r for r in read_records(options.data / "train.jsonl") if "text" in r]
    records = [r for r in records if r["source"] == "stories"] or records
    draw = random.Random(1)
    distinct, repeated = 0.0, 0.0
    for _ in range(20):
        texts = [draw.choice(records)["text"].split()[:len(own)] for own in told]
        one = repetition(texts)
        distinct, repeated = distinct + one[0] / 20, repeated + one[1] / 20
    own = repetition(told)
    say("\n### Repetition\n")
    say("| | distinct-2 | repeated 4-grams |\n| --- | --- | --- |")
    say(f"| these stories | {own[0]:.3f} | {own[1]:.4f} |")
    say(f"| training stories, same lengths | {distinct:.3f} | {repeated:.4f} |")


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    model = load_model(options.model, 4096).eval()
    if options.only != "samples":
        report_likelihoods(options, model)
    if options.only != "likelihood":
        writer = Writer(options.model, model)
        stories = report_stories(options, writer)
        report_chats(options, writer)
        report_infills(options, writer)
        report_rounds(options, writer)
        report_repetition(options, stories)


if __name__ == "__main__":
    sys.exit(main())
