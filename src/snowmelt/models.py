"""The networks. Each promises two integers: ``reach`` and ``multiple``.

``reach`` is how many pixels away an input pixel can change an output pixel; ``multiple`` is what height and
width must divide by. From these two a large image is cut into tiles whose results, stitched, equal the
result on the whole; hence no global pooling and no batch or instance norm here.

Shapes: B batch, C channels, H height, W width; float32 in [0, 1] unless a header says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from snowmelt.errors import UserError, nearest

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "linear": nn.Identity}


class RecipeCNN(nn.Module):
    """The tutorial's network: a plain chain of same-padded convolutions, the last one linear.

    Args:
        widths: Channels of each hidden layer, at least one layer.
        kernel_size: Odd side length of every kernel, or one for each layer (the last one's too).
        activation: "relu", "sigmoid" or "linear" after every hidden layer, or one name for each.
        output_activation: The same after the last layer; the tutorial has none ("linear").
        channels: Channels of the input and of the output.

    The defaults have 2,737 parameters.
    """

    architecture: ClassVar[str] = "recipe-cnn"
    multiple: ClassVar[int] = 1

    def __init__(
        self,
        widths: Sequence[int] = (8, 16, 8, 4),
        kernel_size: int | Sequence[int] = 3,
        activation: str | Sequence[str] = "relu",
        output_activation: str = "linear",
        channels: int = 1,
    ) -> None:
        super().__init__()
        layers = len(widths) + 1
        kernels = [kernel_size] * layers if isinstance(kernel_size, int) else list(kernel_size)
        names = [activation] * len(widths) if isinstance(activation, str) else list(activation)
        _check_chain(widths, kernels, [*names, output_activation], channels)
        self.config: dict[str, Any] = {
            "widths": list(widths),
            "kernel_size": kernel_size if isinstance(kernel_size, int) else kernels,
            "activation": activation if isinstance(activation, str) else names,
            "output_activation": output_activation,
            "channels": channels,
        }
        self.reach = sum(kernel // 2 for kernel in kernels)
        sizes = [channels, *widths, channels]
        convolutions = [
            nn.Conv2d(sizes[i], sizes[i + 1], kernels[i], padding="same") for i in range(layers)
        ]
        for convolution in convolutions:  # as Keras begins, and so the tutorial
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(cast(Tensor, convolution.bias))
        self.layers = nn.ModuleList(convolutions)
        self.activations = nn.ModuleList(
            ACTIVATIONS[name](inplace=True) if name == "relu" else ACTIVATIONS[name]()
            for name in [*names, output_activation]
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        for convolution, activation in zip(self.layers, self.activations, strict=True):
            image = activation(convolution(image))
        return image


def _check_chain(
    widths: Sequence[int], kernels: Sequence[int], activations: Sequence[str], channels: int
) -> None:
    if not widths or any(width < 1 for width in widths) or channels < 1:
        raise UserError(
            f"widths {list(widths)} with {channels} channels: expected one or more layers, each of 1 "
            "channel or more; for example --widths 8 16 8 4"
        )
    if len(kernels) != len(widths) + 1 or len(activations) != len(widths) + 1:
        raise UserError(
            f"{len(widths)} hidden layers need {len(widths) + 1} kernel sizes and {len(widths)} "
            f"activations; found {list(kernels)} and {list(activations)[:-1]}"
        )
    if any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
        raise UserError(f"kernel size {list(kernels)}: expected odd numbers, such as 3 or 5")
    for name in activations:
        if name not in ACTIVATIONS:
            raise UserError(f"activation {name!r} is unknown; {nearest(name, ACTIVATIONS)}")


MODELS: dict[str, type[RecipeCNN]] = {RecipeCNN.architecture: RecipeCNN}


def build(architecture: str, config: dict[str, Any]) -> RecipeCNN:
    """Make a network from what a model file's header or a recipe says of it."""
    if architecture not in MODELS:
        raise UserError(
            f"architecture {architecture!r} is unknown; {nearest(architecture, MODELS)}"
        )
    try:
        return MODELS[architecture](**config)
    except TypeError as error:
        raise UserError(f"{architecture} cannot be built from {config}: {error}") from error


def count_parameters(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in network.parameters())


def summary(network: RecipeCNN, height: int, width: int) -> str:
    """Table of layer, output shape (B, C, H, W) and parameters, with the total, as Keras prints it."""
    rows = [("input", f"(None, {network.config['channels']}, {height}, {width})", 0)]
    rows += [
        (
            f"conv{index} {layer.kernel_size[0]}x{layer.kernel_size[1]}",
            f"(None, {layer.out_channels}, {height}, {width})",
            count_parameters(layer),
        )
        for index, layer in enumerate(network.layers, 1)
        if isinstance(layer, nn.Conv2d)
    ]
    lines = [f"{'layer':<14}{'output shape':<26}{'parameters':>12}"]
    lines += [f"{name:<14}{shape:<26}{count:>12,}" for name, shape, count in rows]
    return "\n".join([*lines, f"{'total':<40}{count_parameters(network):>12,}"])


def is_finite(network: nn.Module) -> bool:
    """Whether every parameter is a finite number."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters())
