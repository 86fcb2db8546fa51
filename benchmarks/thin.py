"""Take from a U-Net what it would miss least, so that it becomes so fast; it then learns on from there.

    python benchmarks/thin.py runs/grey/model.onnx thin.onnx --products 77 --pictures bsds500/train patterns

Takes channels inside residual blocks, 16 at a time, those whose loss changes the error least for the
products they save, until so many thousand products a pixel are left. How much the error changes is told by
its slope (Molchanov et al., CVPR 2019), on noisy pictures of all folders; each counts in dB. What photographs
hardly need, regular patterns and slow gradients may (docs/experiments): give it some (`patterns.py`).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

import release
from snowmelt import modelfile, models
from snowmelt.models import ROUND, UNet

PICTURES = 48  # of each folder


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__))
    parser.add_argument("model", type=Path)
    parser.add_argument("thinner", type=Path, help="where to write it")
    parser.add_argument("--products", type=float, required=True, help="thousands a pixel")
    parser.add_argument(
        "--pictures", type=Path, nargs="+", required=True, help="folders of clean ones"
    )
    options = parser.parse_args()
    found, network = modelfile.read(options.model), modelfile.load_network(options.model)
    assert isinstance(network, UNet)
    thin = thinned(network, options.products * 1000, options.pictures).eval()
    header = dataclasses.replace(
        found.header, config=thin.config, reach=thin.reach, scores=[], int8={}
    )
    modelfile.write(options.thinner, thin, header)
    for each in (network, thin):
        hidden = each.config.get("hidden", "nothing left out")
        print(f"{products(each) / 1000:.1f} thousand products a pixel: {hidden}")


def products(network: UNet) -> float:
    """Products of a weight and a number that the network forms for each pixel of a picture."""
    ends = models.count_parameters(network.head) + models.count_parameters(network.tail)
    total = ends / 4
    for level, (down, up) in enumerate(zip(network.downs, network.ups, strict=True)):
        pixels = 16 * 4**level  # of the picture, for one of the lower level
        total += (models.count_parameters(down) + models.count_parameters(up)) / pixels
    for block in models.residual_blocks(network):
        weights = models.count_parameters(network.get_submodule(block))
        total += weights / _side(network, block) ** 2
    return total


def thinned(network: UNet, most: float, folders: Sequence[Path]) -> UNet:
    """The network with so many products a pixel, or just below."""
    weights, thin = importance(network, folders), network
    while products(thin) > most:
        rates = {block: _rate(network, block, each) for block, each in weights.items() if any(each)}
        if not rates:
            sys.exit(
                f"{products(thin) / 1000:.1f} thousand products are outside its blocks; ask for more"
            )
        block = min(rates, key=lambda each: rates[each])
        weights[block][_weakest(weights[block])] = 0
        thin = models.pruned(network, weights)
    return thin


def importance(network: UNet, folders: Sequence[Path]) -> dict[str, Tensor]:
    """By block, how much (dB², summed over pictures) the error would change without each channel."""
    blocks = [
        block
        for block in models.residual_blocks(network)
        if models.count_parameters(network.get_submodule(block))
    ]
    seen: dict[str, Tensor] = {}

    def note(block: str, inputs: tuple[Tensor, ...]) -> None:
        inputs[0].retain_grad()
        seen[block] = inputs[0]

    hooks = [
        network.get_submodule(f"{block}.second").register_forward_pre_hook(
            lambda _, inputs, block=block: note(block, inputs)
        )
        for block in blocks
    ]
    total = dict.fromkeys(blocks, torch.zeros(()))
    channels = network.config["channels"]
    for batch in chain(*(release.noisy_pictures(channels, PICTURES, each) for each in folders)):
        error = (models.apply(network, batch.noisy, batch.level) - batch.target).square().mean()
        decibels: Tensor = 10 * error.clamp_min(1e-6).log10()
        torch.autograd.backward(decibels)
        for block, numbers in seen.items():
            assert numbers.grad is not None
            change = (numbers.grad * numbers).sum((0, 2, 3)).detach()
            total[block] = total[block] + change.square()
    for hook in hooks:
        hook.remove()
    return total


def _rate(network: UNet, block: str, weights: Tensor) -> float:
    """What the loss of a block's weakest channels changes for each product that it saves."""
    weakest = _weakest(weights)
    each = models.count_parameters(network.get_submodule(block)) / len(weights)
    saved = each * len(weakest) / _side(network, block) ** 2
    return float(weights[weakest].sum()) / saved


def _weakest(weights: Tensor) -> Tensor:
    """Places of the weakest channels that are still there, 16 or what is over a multiple of 16."""
    there = weights.nonzero()[:, 0]
    count = len(there) % ROUND or ROUND
    return there[weights[there].argsort()[:count]]


def _side(network: UNet, block: str) -> int:
    """Side of a block's pixel in the picture's."""
    level, place = block.split(".")[0], block.split(".")[1]
    return 2 * 2 ** (len(network.downs) if level == "middle" else int(place))


if __name__ == "__main__":
    main()
