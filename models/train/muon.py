"""Muon for the matrices inside the blocks, AdamW for the rest, shared out over the processes."""

from __future__ import annotations

import torch
from torch import distributed, nn


def orthogonalise(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest semi-orthogonal matrices [count, rows, columns], by Newton-Schulz
    (Jordan et al., 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices
    transposed = x.shape[1] > x.shape[2]
    if transposed:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if transposed else x


class Optimiser:
    """Step sizes are multiplied with the schedule's factor at every step. Each process computes the
    Muon update of its share of the matrices; the sum over the processes is everybody's update."""

    def __init__(self, model: nn.Module, matrix_rate: float, other_rate: float, decay: float):
        inside = [(name, p) for name, p in model.named_parameters()
                  if p.dim() == 2 and not name.startswith("wte")]
        others = [p for name, p in model.named_parameters()
                  if p.dim() != 2 or name.startswith("wte")]
        self.matrices = [p for _, p in inside]
        self.momentum = [torch.zeros_like(p) for p in self.matrices]
        self.matrix_rate, self.other_rate, self.decay = matrix_rate, other_rate, decay
        self.adam = torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.98), weight_decay=0.0)
        self.world = distributed.get_world_size() if distributed.is_initialized() else 1
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0

    @torch.no_grad()
    def step(self, factor: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = self.other_rate * factor
        self.adam.step()
        mine = range(self.rank, len(self.matrices), self.world)
        updates = [torch.zeros_like(p) for p in self.matrices]
        directions = {}
        for i, (parameter, momentum) in enumerate(zip(self.matrices, self.momentum)):
            momentum.lerp_(parameter.grad, 0.05)
            if i in mine:
                directions.setdefault(tuple(parameter.shape), []).append(i)
        for shape, places in directions.items():
            stacked = torch.stack([self.matrices[i].grad.lerp(self.momentum[i], 0.95)
                                   for i in places])
            # Every element moves by about 0.2 times the rate, whatever the shape (Moonlight).
            scale = 0.2 * max(shape) ** 0.5
            for i, update in zip(places, orthogonalise(stacked)):
                updates[i].copy_(update * scale)
        if self.world > 1:
            flat = torch.cat([u.view(-1) for u in updates])
            distributed.all_reduce(flat)
            updates = [u.view_as(p) for u, p in zip(flat.split([p.numel() for p in self.matrices]),
                                                    self.matrices)]
        rate = self.matrix_rate * factor
        for parameter, update in zip(self.matrices, updates):
            parameter.mul_(1 - rate * self.decay).sub_(update, alpha=rate)

    def state(self) -> dict:
        return {"momentum": self.momentum, "adam": self.adam.state_dict()}

    def load(self, state: dict) -> None:
        for own, stored in zip(self.momentum, state["momentum"]):
            own.copy_(stored)
        self.adam.load_state_dict(state["adam"])
