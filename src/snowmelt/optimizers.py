"""How weights change: the optimizers, their learning rate, and the running mean of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from snowmelt.recipe import Optimizer

# Quintic whose iteration drives singular values towards 1 (Jordan et al., Muon, 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Steps of momentum made orthogonal (Jordan et al., 2024), for kernels of convolutions.

    A kernel (out, in, k, k) counts as a matrix (out, in * k * k). Each step is scaled to the size of a step
    of Adam, so that both take one learning rate (Liu et al., 2025).

    Args:
        parameters: Tensors of two axes or more.
        lr: Learning rate.
        momentum: Part of the running mean of gradients that stays from step to step.
        weight_decay: Times the rate, the part of the weights that each step takes away beforehand. All
            directions of a kernel grow alike by orthogonal steps, so that without it a deep network comes to
            amplify some pictures beyond all bounds.
        bf16: Whether to make steps orthogonal in bfloat16, which is exact enough; weights stay as they are.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        bf16: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)
        self.dtype = torch.bfloat16 if bf16 else torch.float32

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change the weights by their gradients."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for weights in group["params"]:
                if weights.grad is not None:
                    by_shape.setdefault(weights.shape, []).append(weights)
            for alike in by_shape.values():
                if group["weight_decay"]:
                    torch._foreach_mul_([*alike], 1 - group["lr"] * group["weight_decay"])
                self._step(alike, group["lr"], group["momentum"])

    def _step(self, alike: list[nn.Parameter], lr: float | Tensor, momentum: float) -> None:
        """Step weights of one shape together."""
        gradients = [weights.grad for weights in alike if weights.grad is not None]
        means = [self._mean(weights) for weights in alike]
        torch._foreach_lerp_(means, gradients, 1 - momentum)
        ahead: Any = torch._foreach_lerp(gradients, means, momentum)  # Nesterov's look ahead
        matrices = torch.stack([step.flatten(1) for step in ahead])  # (N, out, in * k * k)
        size = 0.2 * math.sqrt(max(matrices.shape[1:]))
        steps = orthogonal(matrices.to(self.dtype)).float()
        for weights, step in zip(alike, steps * (lr * size), strict=True):
            weights.sub_(step.view(weights.shape))

    def _mean(self, weights: nn.Parameter) -> Tensor:
        state = self.state[weights]
        if not state:
            state["momentum"] = torch.zeros_like(weights)
        mean: Tensor = state["momentum"]
        return mean


def orthogonal(matrices: Tensor) -> Tensor:
    """(N, rows, columns) with all singular values brought near 1 (0.7 to 1.2), by Newton-Schulz steps."""
    a, b, c = _QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-12)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def make(
    network: nn.Module, optimizer: Optimizer, *, bf16: bool = False
) -> list[torch.optim.Optimizer]:
    """The optimizers, each for its part of the weights; Adam's epsilon is Keras's 1e-7, as in the tutorial.

    Muon takes the kernels inside; AdamW, as its authors advise, the first and last layer and all else: also
    the kernels of single channels, which mix nothing, so that there is nothing to be orthogonal.
    """
    parameters = list(network.parameters())
    if optimizer.name == "sgd":
        return [torch.optim.SGD(parameters, optimizer.lr, momentum=0.9, fused=True)]
    if optimizer.name == "muon":
        kernels = [each for each in parameters if each.ndim == 4]
        inner = [each for each in kernels[1:-1] if each.shape[1] > 1]
        chosen = {id(each) for each in inner}
        rest = [each for each in parameters if id(each) not in chosen]
        outer = torch.optim.AdamW(
            rest, optimizer.lr, betas=(0.9, 0.99), eps=1e-7, weight_decay=0, fused=True
        )
        if not inner:
            return [outer]
        return [outer, Muon(inner, optimizer.lr, weight_decay=optimizer.weight_decay, bf16=bf16)]
    if optimizer.name == "adamw":
        decay = optimizer.weight_decay
        return [
            torch.optim.AdamW(parameters, optimizer.lr, eps=1e-7, weight_decay=decay, fused=True)
        ]
    return [torch.optim.Adam(parameters, optimizer.lr, eps=1e-7, fused=True)]


def learning_rate(optimizer: Optimizer, progress: float) -> float:
    """The rate at a part ``progress`` (0 to 1) of all steps."""
    if progress < optimizer.warmup:
        return optimizer.lr * progress / optimizer.warmup
    if optimizer.schedule == "constant":
        return optimizer.lr
    if optimizer.schedule == "trapezoid":
        return optimizer.lr * min(1.0, (1 - progress) / optimizer.decay)
    fallen = (progress - optimizer.warmup) / (1 - optimizer.warmup)
    return optimizer.lr * (1 + math.cos(math.pi * fallen)) / 2


def averaged(network: nn.Module, keep: float) -> AveragedModel:
    """The running mean of a network's weights; each update keeps a part ``keep`` of it, at first less."""

    @torch.no_grad()
    def update(means: Any, weights: Any, _: Tensor | int) -> None:
        count = int(mean.n_averaged)  # the one given lies on a GPU, which would be waited for
        kept = min(keep, (1 + count) / (10 + count))
        torch._foreach_lerp_(means, weights, 1 - kept)

    mean = AveragedModel(network, multi_avg_fn=update)
    return mean
