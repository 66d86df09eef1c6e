"""Trains the masked-diffusion model: LLaDA's objective, Muon and AdamW, warm-up-stable-decay by
wall clock, EMA. Stop it with Ctrl-C and start it again: it goes on from its checkpoint."""

from __future__ import annotations

import argparse
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional

from model import SIZES, Denoiser, Shape, load_model
from muon import Optimiser
from segments import FORMS, Batch, Packer, Sampler, read_records


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="what make_data.py wrote")
    parser.add_argument("--tokenizer", type=Path, required=True,
                        help="a folder with tokenizer.json")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint.pt and log.txt go here")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--init", type=Path, help="start from the model in this folder")
    parser.add_argument("--minutes", type=float, default=80,
                        help="the whole schedule, resumed or not")
    parser.add_argument("--decay-from", type=float, default=0.3,
                        help="share of the time at full rate")
    parser.add_argument("--rows", type=int, default=16, help="rows of full length in a batch")
    parser.add_argument("--compile", action="store_true", help="needs a C++ compiler; 5 % faster")
    parser.add_argument("--matrix-rate", type=float, default=3e-3, help="Muon")
    parser.add_argument("--other-rate", type=float, default=1.2e-3, help="AdamW: embedding, norms")
    parser.add_argument("--chat-share", type=float, default=FORMS["chat"],
                        help="of the tokens; the other forms share the rest as before")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--checkpoint-minutes", type=float, default=4)
    return parser.parse_args()


def schedule(share: float, decay_from: float) -> float:
    """Factor on the rates after this share of the time: up, level, down to nearly nothing."""
    if share < 0.015:
        return 0.05 + 0.95 * share / 0.015
    if share < decay_from:
        return 1.0
    return max(0.01, (1 - share) / (1 - decay_from))


def product_dtype(device: str) -> torch.dtype:
    """bf16 where the hardware multiplies it."""
    fast = device != "cpu" or getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if fast else torch.float32


def batch_loss(model: Denoiser, batch: Batch, device: str, dtype: torch.dtype) -> torch.Tensor:
    """Sum over masked positions of cross-entropy / p, over the positions that may be masked."""
    with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        hidden = model.hidden(batch.ids.to(device), batch.positions.to(device),
                              batch.attend.to(device))
        logits = model.head(hidden.flatten(0, 1)[batch.where.to(device)])
    losses = functional.cross_entropy(logits.float(), batch.targets.to(device), reduction="none")
    return (losses * batch.weights.to(device)).sum() / max(batch.maskable, 1)


class Trainer:
    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = product_dtype(self.device)
        tokenizer = Tokenizer.from_file(str(options.tokenizer / "tokenizer.json"))
        shape = Shape(**asdict(SIZES[options.size]))
        shape.vocab_size = tokenizer.get_vocab_size()
        self.length = shape.max_sequence_length
        self.model = Denoiser(shape)
        self.model.initialise(options.seed)
        if options.init is not None:
            self.model = load_model(options.init, self.length)
            if self.model.shape != shape:
                raise SystemExit(f"--init {options.init}: its shape is not that of --size "
                                 f"{options.size} with this tokenizer: {self.model.shape}, {shape}")
        self.model.to(self.device)
        self.ema = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.optimiser = Optimiser(self.model, options.matrix_rate, options.other_rate, 0.02,
                                   self.dtype)
        self.elapsed, self.steps, self.tokens = 0.0, 0, 0
        self.path = options.out / "checkpoint.pt"
        if self.path.exists():
            self.resume()
        if options.compile:
            self.model.hidden = torch.compile(self.model.hidden, dynamic=False)
        records = read_records(options.data / "train.jsonl")
        stream = options.seed * 1000 + self.steps
        others = (1 - options.chat_share) / (1 - FORMS["chat"])
        forms = {form: share * others for form, share in FORMS.items()}
        forms["chat"] = options.chat_share
        self.packer = Packer(Sampler(records, tokenizer, stream, self.length, forms), stream)
        held = read_records(options.data / "held.jsonl")
        held = [r for r in held if r.get("source") == "stories"] or held
        fixed = Packer(Sampler(held, tokenizer, 7, self.length, {"plain": 1.0}), 7)
        self.held = [fixed.batch(options.rows, self.length) for _ in range(2)]

    def resume(self) -> None:
        stored = torch.load(self.path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(stored["model"])
        self.ema = stored["ema"]
        self.optimiser.load(stored["optimiser"])
        self.elapsed, self.steps, self.tokens = (
            stored["elapsed"], stored["steps"], stored["tokens"])

    def save(self) -> None:
        fresh = self.path.with_suffix(".new")
        torch.save({"model": self.model.state_dict(), "ema": self.ema, "steps": self.steps,
                    "optimiser": self.optimiser.state(), "elapsed": self.elapsed,
                    "tokens": self.tokens, "shape": asdict(self.model.shape)}, fresh)
        os.replace(fresh, self.path)

    def report(self, line: str) -> None:
        print(line, flush=True)
        with (self.options.out / "log.txt").open("a") as log:
            log.write(line + "\n")

    @torch.no_grad()
    def held_loss(self) -> float:
        """The objective on held-out text, with the averaged weights; the same masks every time."""
        own = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.ema)
        losses = [batch_loss(self.model, batch, self.device, self.dtype).item()
                  for batch in self.held]
        self.model.load_state_dict(own)
        return sum(losses) / len(losses)

    def step(self) -> float:
        """One update; its loss."""
        begin = time.monotonic()
        self.model.zero_grad(set_to_none=True)
        batch = self.packer.next(self.options.rows, self.length)
        loss = batch_loss(self.model, batch, self.device, self.dtype)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        factor = schedule(self.elapsed / (60 * self.options.minutes), self.options.decay_from)
        self.optimiser.step(factor)
        keep = min(0.99, 1 - 1 / (self.steps + 10))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.ema[name].lerp_(value, 1 - keep)
        value = loss.item()
        self.steps += 1
        self.tokens += batch.ids.numel()
        self.elapsed += time.monotonic() - begin
        return value


def run(options: argparse.Namespace) -> None:
    stopping: list[int] = []
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, frame: stopping.append(number))
    trainer = Trainer(options)
    smooth, last_line, last_save = None, 0.0, trainer.elapsed
    done = False
    while not done:
        loss = trainer.step()
        done = bool(stopping) or trainer.elapsed >= 60 * options.minutes
        smooth = loss if smooth is None else 0.97 * smooth + 0.03 * loss
        saving = done or trainer.elapsed - last_save > 60 * options.checkpoint_minutes
        if saving:
            last_save = trainer.elapsed
            trainer.save()
        if saving or time.monotonic() - last_line > 30:
            last_line = time.monotonic()
            held = f", held out {trainer.held_loss():.4f}" if saving else ""
            trainer.report(
                f"{trainer.elapsed / 60:6.1f} of {options.minutes:g} min, step {trainer.steps}, "
                f"{trainer.tokens / 1e6:.2f} M tokens, "
                f"{trainer.tokens / max(trainer.elapsed, 1e-9):.0f} tokens/s, "
                f"loss {smooth:.3f}{held}")


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    run(options)


if __name__ == "__main__":
    main()
