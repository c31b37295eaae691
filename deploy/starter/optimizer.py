"""Muon: momentum, made orthogonal before it is applied (Jordan et al., 2024), for the matrices."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def orthogonal(matrix: Tensor) -> Tensor:
    """Four Newton-Schulz turns with the published quintic: singular values end near 1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.bfloat16()
    if wide := x.shape[0] > x.shape[1]:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(4):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if wide else x


class Muon(torch.optim.Optimizer):  # type: ignore[misc]  # torch is untyped to mypy: pyproject.toml
    def __init__(self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                self._step(group)

    def _step(self, group: dict[str, Any]) -> None:
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if "velocity" not in state:
                state["velocity"] = torch.zeros_like(weight)
            velocity = state["velocity"]
            velocity.lerp_(weight.grad, 1 - group["momentum"])
            change = orthogonal(weight.grad.lerp(velocity, group["momentum"])).float()
            stretch = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
            weight.add_(change, alpha=-group["lr"] * stretch)
            # Updates of fixed size let weights grow until the blocks drown the embedding: bounded, they
            # add about as much as they are given.
            largest = 1.5 * weight.shape[1] ** -0.5
            weight.mul_((largest / weight.square().mean().sqrt()).clamp(max=1.0))
