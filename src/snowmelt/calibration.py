"""What goes into each layer of a network, so that it can be computed in 8 bits, or pruned.

In 8 bits an input is rounded to 256 steps between a lowest and a highest number, the same for all channels.
Few numbers are the largest, so a narrower range that clips them has the smaller error; and a step of a range
about zero falls on zero, which most of a ReLU's results are. The first and the last layer stay in floating
point: the picture itself goes in there, and what is taken from it comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from snowmelt import models
from snowmelt.models import Network, UNet
from snowmelt.samples import Batch

SAMPLE = 8192  # numbers of each layer's input and batch that are looked at
RARELY = 0.95  # of pictures, in which a channel that counts as dead is zero
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
    random = torch.Generator().manual_seed(0)

    def sample(numbers: Tensor) -> Tensor:
        numbers = numbers.flatten()
        chosen = torch.randint(len(numbers), (SAMPLE,), generator=random)
        return numbers[chosen.to(numbers.device)]

    seen = _seen(network, network.layers_in_8_bits, batches, sample)
    return {name: _range(torch.stack(found)) for name, found in seen.items()}


def largest(network: UNet, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """How large each channel inside each residual block becomes, by block; see `models.pruned`.

    That is the largest number of a batch, and of the batches the one that 5 in 100 are above: a channel that
    is zero in nearly all pictures counts as zero.
    """
    blocks = [name for name in models.residual_blocks(network) if _is_there(network, name)]
    layers = [f"{name}.second" for name in blocks]
    seen = _seen(network, layers, batches, lambda numbers: numbers.amax((0, 2, 3)))
    return {name: torch.stack(seen[f"{name}.second"]).quantile(RARELY, 0) for name in blocks}


def _is_there(network: UNet, block: str) -> bool:
    return not isinstance(network.get_submodule(block), nn.Identity)


def _seen(
    network: Network,
    layers: Sequence[str],
    batches: Iterable[Batch],
    noted: Callable[[Tensor], Tensor],
) -> dict[str, list[Tensor]]:
    """What is ``noted`` of each layer's input, batch by batch; without layers nothing is computed."""
    seen: dict[str, list[Tensor]] = {}
    if not layers:
        return seen

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.setdefault(name, []).append(noted(inputs[0]).float().cpu())

        return note

    hooks = [network.get_submodule(name).register_forward_pre_hook(hook(name)) for name in layers]
    device = next(network.parameters()).device
    try:
        with torch.inference_mode():
            for batch in batches:
                moved = batch.to(device)
                models.apply(network, moved.noisy, moved.level)
    finally:
        for each in hooks:
            each.remove()
    return seen


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
