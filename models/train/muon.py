"""Muon for the matrices inside the blocks, AdamW for the rest."""

from __future__ import annotations

import torch
from torch import nn


def orthogonalise(matrices: torch.Tensor, dtype: torch.dtype, steps: int = 5) -> torch.Tensor:
    """The nearest semi-orthogonal matrices [count, rows, columns], by Newton-Schulz
    (Jordan et al., 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.to(dtype)
    transposed = x.shape[1] > x.shape[2]
    if transposed:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if transposed else x).float()


class Optimiser:
    """Step sizes are multiplied with the schedule's factor at every step; `dtype` is the one of the
    products inside Muon, for which bf16 is enough."""

    def __init__(self, model: nn.Module, matrix_rate: float, other_rate: float, decay: float,
                 dtype: torch.dtype):
        named = list(model.named_parameters())
        inside = {name for name, p in named if p.dim() == 2 and not name.startswith("wte")}
        self.matrices = [p for name, p in named if name in inside]
        self.momentum = [torch.zeros_like(p) for p in self.matrices]
        self.matrix_rate, self.other_rate, self.decay = matrix_rate, other_rate, decay
        self.dtype = dtype
        self.adam = torch.optim.AdamW([p for name, p in named if name not in inside],
                                      lr=other_rate, betas=(0.9, 0.98), weight_decay=0.0)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = self.other_rate * factor
        self.adam.step()
        rate = self.matrix_rate * factor
        same_shape: dict[tuple[int, ...], list[int]] = {}
        for i, (parameter, momentum) in enumerate(zip(self.matrices, self.momentum)):
            momentum.lerp_(parameter.grad, 0.05)
            same_shape.setdefault(tuple(parameter.shape), []).append(i)
        for shape, places in same_shape.items():
            directions = torch.stack([self.matrices[i].grad.lerp(self.momentum[i], 0.95)
                                      for i in places])
            # Every element moves by about 0.2 times the rate, whatever the shape (Moonlight).
            scale = 0.2 * max(shape) ** 0.5
            for i, update in zip(places, orthogonalise(directions, self.dtype)):
                self.matrices[i].mul_(1 - rate * self.decay).sub_(update, alpha=rate * scale)

    def state(self) -> dict:
        return {"momentum": self.momentum, "adam": self.adam.state_dict()}

    def load(self, state: dict) -> None:
        for own, stored in zip(self.momentum, state["momentum"]):
            own.copy_(stored)
        self.adam.load_state_dict(state["adam"])
