"""What goes into each layer, so that it can be computed in 8 bits: `ranges` for a model file's header.

An input is rounded to 256 steps between a lowest and a highest number, the same for all channels. Few numbers
are the largest, so a narrower range that clips them has the smaller error; and a step of a range about zero
falls on zero, which most of a ReLU's results are. The first and the last layer stay in floating point: the
picture itself goes in there, and what is taken from it comes out.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from snowmelt import models
from snowmelt.models import Network
from snowmelt.samples import Batch

SAMPLE = 8192  # numbers of each layer's input and batch that are looked at
PARTS = np.linspace(0.15, 1, 18)  # of the largest number, that are tried as the highest


def ranges(network: Network, batches: Iterable[Batch]) -> dict[str, list[float]]:
    """Lowest and highest of what goes into each layer that can be computed in 8 bits.

    Args:
        network: On any device; left as it is.
        batches: Noisy pictures as the network will see them, of weak noise and strong.

    Returns:
        [low, high] by the layer's name: of those with the least squared error, each batch's as a part of its
        power; none for networks that gain nothing by it (see ``layers_in_8_bits``).
    """
    seen: dict[str, list[Tensor]] = {}
    random = torch.Generator().manual_seed(0)

    def noting(name: str) -> object:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            numbers = inputs[0].detach().float().flatten().cpu()
            seen.setdefault(name, []).append(
                numbers[torch.randint(len(numbers), (SAMPLE,), generator=random)]
            )

        return note

    hooks = [
        network.get_submodule(name).register_forward_pre_hook(noting(name))  # type: ignore[arg-type]
        for name in network.layers_in_8_bits
    ]
    device = next(network.parameters()).device
    try:
        with torch.inference_mode():
            for batch in batches:
                on_device = batch.to(device)
                models.apply(network, on_device.noisy, on_device.level)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _range(torch.stack(found)) for name, found in seen.items()}


def _range(numbers: Tensor) -> list[float]:
    """The best range for numbers (batches, samples)."""
    largest = float(numbers.abs().max()) or 1.0
    signed = bool(numbers.min() < 0)
    highest = min(
        (float(part * largest) for part in PARTS), key=lambda each: _error(numbers, each, signed)
    )
    return [-highest * 128 / 127 if signed else 0.0, highest]


def _error(numbers: Tensor, highest: float, signed: bool) -> float:
    """Squared error of 256 steps, the mean over the batches of what part of their power it is."""
    most, least = (127, -128) if signed else (255, 0)
    step = highest / most
    rounded = (numbers / step).round().clamp(least, most) * step
    power = numbers.square().mean(1).clamp_min(1e-12)
    return float(((rounded - numbers).square().mean(1) / power).mean())
