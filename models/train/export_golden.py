"""Writes golden data of a model folder: logits.safetensors and traces.json, made in fp32
from the dequantised weights. Tests of the server compare with them token for token."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from decode import Outcome, Settings, Writer, decode
from model import load_model
from segments import EOS, MASK, render_chat

LOGIT_ROWS = 25

TEXTS = ["Once upon a time, there was a little", "The cat was sad because",
         "Tom had a red ball. He",
         "One day, a boy named Tim went to the park. He saw", "Grandma made a big cake. Lily",
         "The old bear lived in the forest. He", "Mia and Ben went to the beach.",
         "It was raining, and", "A small bird sat on a branch. It", "Sara and her mom went to the shop.",
         "Ben wanted to build a house for"]
CHATS = ["Who are you?", "What is a cat?", "Hi", "What do you like to do?", "What is a star?",
         "Do you like cake?"]
RUNS = [
    ("steps-none-b8", Settings(16, 8, "steps", steps=8)),
    ("steps-one-token-a-round", Settings(16, 16, "steps", steps=16)),
    ("threshold-none-b32", Settings(64, 32)),
    ("threshold-prefix-b16", Settings(64, 16, threshold=0.8, cache="prefix")),
    ("threshold-dual-b32", Settings(64, 32, cache="dual")),
    ("threshold-dual-b16", Settings(64, 16, threshold=0.7, cache="dual")),
    ("factor-dual-b8", Settings(24, 8, "factor", factor=1.0, cache="dual")),
    ("chat-threshold-dual-b32", Settings(64, 32, cache="dual")),
]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--margin", type=float, default=1e-5,
                        help="a run that comes closer to a tie than this is no golden run")
    return parser.parse_args()


def described(settings: Settings) -> dict:
    """The settings under the names of the server's requests."""
    fields = {"selection": settings.selection, "max_tokens": settings.max_tokens,
              "block_length": settings.block_length, "cache": settings.cache, "temperature": 0}
    own = {"steps": settings.steps, "threshold": settings.threshold, "factor": settings.factor}
    return fields | {settings.selection: own[settings.selection]}


def golden_run(name: str, settings: Settings, prompts: list[tuple[str, list[int]]],
               writer: Writer, smallest_margin: float) -> tuple[dict, Outcome]:
    """The run of the first prompt whose decisions are all clear."""
    for text, prompt in prompts:
        outcome = decode(writer.model, prompt, settings)
        if outcome.margin >= smallest_margin:
            break
    else:
        raise SystemExit(f"{name}: every prompt comes closer than {smallest_margin} to a tie; "
                         "add prompts to export_golden.py")
    answer = outcome.answer
    run = {"name": name, "prompt": prompt,
           "published": {"function": "models/train/decode.py decode", "temperature": 0.0},
           "denoised": described(settings), "final": outcome.canvas, "answer": answer,
           "forward_passes": outcome.forward_passes, "published_calls": outcome.forward_passes}
    if EOS in answer:
        early = decode(writer.model, prompt, replace(settings, early_stop=True, stop_ids=(EOS,)))
        run |= {"eos_at": answer.index(EOS), "rounds_with_eos_early_stop": early.forward_passes}
    text_ids = answer[:answer.index(EOS)] if EOS in answer else answer
    run |= {"prompt_text": text, "eos_token_id": EOS, "margin": float(f"{outcome.margin:.2g}"),
            "answer_text": writer.tokenizer.decode(text_ids)}
    return run, outcome


def write_traces(path: Path, model: str, runs: list[tuple[dict, Outcome]]) -> None:
    """One round a line, so that a difference is easy to find."""
    head = {"family": "llada", "model": model, "mask_token_id": MASK, "eos_token_id": EOS,
            "shift": False}
    lines = ["{"] + [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    lines.append(' "runs": [')
    for i, (run, outcome) in enumerate(runs):
        lines += ["  " + json.dumps(run)[:-1] + ",", '   "rounds": [']
        lines.append(",\n".join("    " + json.dumps(one) for one in outcome.rounds))
        lines.append("   ]}" + ("," if i + 1 < len(runs) else ""))
    lines += [" ]", "}"]
    path.write_text("\n".join(lines) + "\n")


@torch.no_grad()
def write_logits(path: Path, writer: Writer, prompts: list[list[int]]) -> None:
    """Of every prompt followed by masks: ids, rows after the final norm, the last logits."""
    stored = {}
    for k, prompt in enumerate(prompts):
        ids = prompt + [MASK] * 24
        hidden = writer.model.hidden(torch.tensor([ids]))[0]
        stored[f"input_{k}"] = torch.tensor(ids, dtype=torch.int32)
        stored[f"hidden_{k}"] = hidden.contiguous()
        stored[f"logits_{k}"] = writer.model.head(hidden[-LOGIT_ROWS:]).contiguous()
    save_file(stored, path)
    path.chmod(0o644)


def main() -> None:
    options = arguments()
    model = load_model(options.model).eval()
    writer = Writer(options.model, model)
    texts = [(text, writer.tokenizer.encode(text).ids) for text in TEXTS]
    chats = [(text,
              render_chat(writer.tokenizer, [{"role": "user", "content": text}])) for text in CHATS]
    runs = []
    for i, (name, settings) in enumerate(RUNS):
        turned = texts[i % len(texts):] + texts[:i % len(texts)]
        prompts = chats if name.startswith("chat") else turned
        runs.append(golden_run(name, settings, prompts, writer, options.margin))
    options.out.mkdir(parents=True, exist_ok=True)
    write_logits(options.out / "logits.safetensors", writer,
                 [texts[0][1], texts[3][1], chats[0][1]])
    write_traces(options.out / "traces.json", os.path.relpath(options.model, options.out), runs)
    print(f"{options.out}: {len(runs)} traces, {sum(len(o.rounds) for _, o in runs)} rounds, "
          f"smallest margin {min(o.margin for _, o in runs):.1e}")


if __name__ == "__main__":
    main()
