"""Writes a model folder for the server: int8 rows with scales from a checkpoint of train.py."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from model import Denoiser, Shape, config_of


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint.pt of train.py")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of tokenizer.json")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--dtype", choices=("int8", "float32"), default="int8")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    return parser.parse_args()


def quantise_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(I8 [rows, columns], F32 [rows, 1]); of several clippings each row takes the one with the
    smallest squared error."""
    largest = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
    best_error = torch.full_like(largest, float("inf"))
    best_scale = largest / 127
    for share in (1.0, 0.97, 0.94, 0.9, 0.86, 0.82):
        scale = largest * share / 127
        error = ((weight / scale).round().clamp(-127, 127) * scale - weight).square().sum(1, True)
        best_scale = torch.where(error < best_error, scale, best_scale)
        best_error = torch.minimum(error, best_error)
    return (weight / best_scale).round().clamp(-127, 127).to(torch.int8), best_scale


def quantised(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices as int8 rows with X_scale beside X, norms in fp32."""
    stored = {}
    for name, value in tensors.items():
        value = value.float().contiguous()
        if value.dim() == 2:
            stored[name], stored[name + "_scale"] = quantise_rows(value)
        else:
            stored[name] = value
    return stored


def tokenizer_config(source: Path, length: int) -> dict:
    config = json.loads((source / "tokenizer_config.json").read_text())
    return config | {"model_max_length": length}


def write_folder(out: Path, model: Denoiser, tokenizer: Path, dtype: str,
                 max_new_tokens: int) -> None:
    """All files at once: a reader finds the old folder or the new one, never a half."""
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tensors = model.tensors()
    stored = quantised(tensors) if dtype == "int8" else {k: v.contiguous() for k,
                                                         v in tensors.items()}
    save_file(stored, fresh / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(tokenizer / "tokenizer.json", fresh / "tokenizer.json")
    (fresh / "model.safetensors").chmod(0o644)
    length = model.shape.max_sequence_length
    generation = {"bos_token_id": 0, "eos_token_id": [1, 5], "pad_token_id": 1,
                  "max_new_tokens": max_new_tokens, "block_length": 32, "threshold": 0.9,
                  # The best tokens alone repeat themselves.
                  "temperature": 0.3, "presence_penalty": 2.0}
    for name, content in (("config.json", config_of(model.shape, dtype)),
                          ("tokenizer_config.json", tokenizer_config(tokenizer, length)),
                          ("generation_config.json", generation)):
        (fresh / name).write_text(json.dumps(content, indent=2) + "\n")
    for page in out.glob("*.md"):
        shutil.copy(page, fresh / page.name)
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
    os.rename(fresh, out)
    shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    options = arguments()
    stored = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    model = Denoiser(Shape(**stored["shape"]))
    model.load_state_dict(stored["ema"])
    write_folder(options.out, model, options.tokenizer, options.dtype, options.max_new_tokens)
    size = (options.out / "model.safetensors").stat().st_size
    print(f"{options.out}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
          f"{size / 1e6:.1f} MB, {stored['tokens'] / 1e6:.1f} M tokens")


if __name__ == "__main__":
    main()
