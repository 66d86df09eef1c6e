"""LLaDA's network in PyTorch: a pre-norm stack with full attention, read and written in the
Hugging Face directory form (config.json, model.safetensors) that the server loads."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

PREFIX = "model.transformer."


@dataclass
class Shape:
    """The keys of config.json that decide the network; names as on the hub."""

    d_model: int = 256
    n_layers: int = 6
    n_heads: int = 4
    mlp_hidden_size: int = 704
    vocab_size: int = 4096
    max_sequence_length: int = 512
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5


SIZES = {
    "toy": Shape(d_model=64, n_layers=2, n_heads=2, mlp_hidden_size=160),
    "tiny": Shape(),
    "small": Shape(d_model=384, n_layers=9, n_heads=6, mlp_hidden_size=1024),
}


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE over the two halves of each head; x [batch, heads, positions, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attention(q, k, v, attend) -> torch.Tensor:
    """Attention under the additive mask `attend`, which may be None. On CPUs the plain form: in
    training it takes half the time of PyTorch's fused one, which there has no bf16 products."""
    if q.device.type != "cpu":
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=attend)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if attend is not None:
        scores = scores + attend.to(scores.dtype)
    return functional.softmax(scores, dim=-1) @ v


class Block(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        width, ffn = shape.d_model, shape.mlp_hidden_size
        self.heads = shape.n_heads
        self.attn_norm = RMSNorm(width, shape.rms_norm_eps)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ff_norm = RMSNorm(width, shape.rms_norm_eps)
        self.ff_proj = nn.Linear(width, ffn, bias=False)
        self.up_proj = nn.Linear(width, ffn, bias=False)
        self.ff_out = nn.Linear(ffn, width, bias=False)

    def forward(self, x, cos, sin, attend):
        batch, positions, width = x.shape
        split = (batch, positions, self.heads, width // self.heads)
        normed = self.attn_norm(x)
        q = rotate(self.q_proj(normed).view(split).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(normed).view(split).transpose(1, 2), cos, sin)
        v = self.v_proj(normed).view(split).transpose(1, 2)
        mixed = attention(q, k, v, attend)
        x = x + self.attn_out(mixed.transpose(1, 2).reshape(batch, positions, width))
        normed = self.ff_norm(x)
        return x + self.ff_out(functional.silu(self.ff_proj(normed)) * self.up_proj(normed))


class Denoiser(nn.Module):
    """Logits for every asked position of a partly masked canvas; the head is the embedding."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.wte = nn.Embedding(shape.vocab_size, shape.d_model)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_layers))
        self.ln_f = RMSNorm(shape.d_model, shape.rms_norm_eps)
        half = shape.d_model // shape.n_heads // 2
        inverse = shape.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.outer(torch.arange(shape.max_sequence_length, dtype=torch.float64), inverse)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def initialise(self, seed: int) -> None:
        """Normal weights of 0.02; what writes to the residual stream shrinks with the depth."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                deep = name.endswith(("attn_out.weight", "ff_out.weight"))
                std = 0.02 / math.sqrt(2 * self.shape.n_layers) if deep else 0.02
                nn.init.normal_(parameter, std=std, generator=generator)

    def hidden(self, ids, positions=None, attend=None) -> torch.Tensor:
        """ids [batch, n] to [batch, n, d] after the final norm. `positions` [batch, n] restart in
        every packed segment; `attend` is an additive mask [batch, 1, n, n]."""
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        x = self.wte(ids)
        for block in self.blocks:
            x = block(x, cos, sin, attend)
        return self.ln_f(x)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.linear(hidden, self.wte.weight)

    def forward(self, ids, positions=None, attend=None) -> torch.Tensor:
        return self.head(self.hidden(ids, positions, attend))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights under LLaDA's names."""
        return {PREFIX + name: value.detach() for name, value in self.state_dict().items()}


def read_shape(directory: Path) -> Shape:
    config = json.loads((directory / "config.json").read_text())
    if config.get("model_type") != "llada" or not config.get("weight_tying"):
        raise SystemExit(f"{directory}/config.json: not a LLaDA model with tied embeddings")
    return Shape(**{key: config[key] for key in asdict(Shape()) if key in config})


def load_model(directory: Path, max_sequence_length: int | None = None) -> Denoiser:
    """The model of a directory in fp32; int8 tensors are multiplied with their scales."""
    shape = read_shape(directory)
    if max_sequence_length is not None:
        shape.max_sequence_length = max_sequence_length
    model = Denoiser(shape)
    stored = load_file(directory / "model.safetensors")
    state = {}
    for name, value in stored.items():
        if name.endswith("_scale"):
            continue
        scale = stored.get(name + "_scale")
        state[name.removeprefix(PREFIX)] = value.float() if scale is None else value.float() * scale
    model.load_state_dict(state)
    return model


def config_of(shape: Shape, torch_dtype: str) -> dict:
    """config.json of this shape."""
    return {
        "architectures": ["LLaDAModelLM"], "model_type": "llada", "block_type": "llama",
        "d_model": shape.d_model, "n_layers": shape.n_layers, "n_heads": shape.n_heads,
        "n_kv_heads": shape.n_heads, "mlp_hidden_size": shape.mlp_hidden_size,
        "vocab_size": shape.vocab_size, "embedding_size": shape.vocab_size,
        "max_sequence_length": shape.max_sequence_length, "rope": True,
        "rope_theta": shape.rope_theta, "rms_norm_eps": shape.rms_norm_eps,
        "layer_norm_type": "rms", "activation_type": "silu", "include_bias": False,
        "include_qkv_bias": False, "weight_tying": True, "bos_token_id": 0, "eos_token_id": 1,
        "pad_token_id": 1, "mask_token_id": 2, "torch_dtype": torch_dtype,
    }
