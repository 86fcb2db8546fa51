"""The networks. Each promises two integers: ``reach`` and ``multiple``.

``reach`` is how many pixels away an input pixel can change an output pixel; ``multiple`` is what height and
width must divide by. From these two a large image is cut into tiles whose results, stitched, equal the
result on the whole; hence no global pooling and no batch or instance norm here.

Shapes: B batch, C channels, H height, W width; float32 in [0, 1] unless a header says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

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
    conditioned: ClassVar[bool] = False
    layers_in_8_bits: ClassVar[tuple[str, ...]] = ()  # too narrow to gain by it

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


class Block(nn.Module):
    """A residual block: what two 3x3 convolutions with a ReLU between them add to their input."""

    reach: ClassVar[int] = 2  # in pixels of its level

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        return features + self.second(functional.relu(self.first(features)))


class SeparableBlock(nn.Module):
    """A residual block of a 3x3 convolution of each channel alone, between two of 1x1 that mix channels.

    That is MobileNetV2's (Sandler et al., CVPR 2018) with one ReLU and without its norm. Of two networks that
    take the same time, the one of such blocks denoises better: docs/log.md.
    """

    reach: ClassVar[int] = 1

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 2 * width
        self.first = nn.Conv2d(width, wide, 1, bias=False)
        self.around = nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False)
        self.second = nn.Conv2d(wide, width, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        return features + self.second(functional.relu(self.around(self.first(features))))


BLOCKS: dict[str, type[Block | SeparableBlock]] = {"plain": Block, "separable": SeparableBlock}


class UNet(nn.Module):
    """A small U-Net of residual blocks at 1/2, 1/4, 1/8 ... of the picture's size; it subtracts the noise.

    The noise's standard deviation at every pixel is a second input (FFDNet: Zhang et al., 2018). No layer has
    a bias, so that a picture and its noise level of half the size give half the result (Mohan et al., ICLR
    2020; DRUNet: Zhang et al., 2021).

    Args:
        widths: Channels at 1/2, 1/4 ... of the size, two levels or more.
        blocks: Residual blocks of each level, before and after what is below it.
        channels: Channels of the picture.
        block: What a residual block is: "plain", two 3x3 convolutions, or "separable", a cheaper one.
    """

    architecture: ClassVar[str] = "unet"
    conditioned: ClassVar[bool] = True

    @property
    def layers_in_8_bits(self) -> list[str]:
        """Layers that may be computed in 8 bits; of separable blocks none, which would gain no speed."""
        if self.config["block"] != "plain":
            return []
        kinds = nn.Conv2d | nn.ConvTranspose2d
        layers = [name for name, each in self.named_modules() if isinstance(each, kinds)]
        return [name for name in layers if name not in ("head", "tail")]

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128),
        blocks: Sequence[int] = (2, 2, 2),
        channels: int = 1,
        block: str = "plain",
    ) -> None:
        super().__init__()
        if block not in BLOCKS:
            raise UserError(f"a U-Net of {block!r} blocks is unknown; {nearest(block, BLOCKS)}")
        if len(widths) < 2 or len(blocks) != len(widths) or min(*widths, *blocks, channels) < 1:
            raise UserError(
                f"a U-Net of widths {list(widths)} and blocks {list(blocks)} with {channels} channels: "
                "expected as many of each, two or more, none of them zero; such as 32 64 128 and 2 2 2"
            )
        self.config: dict[str, Any] = {
            "widths": list(widths), "blocks": list(blocks), "channels": channels, "block": block
        }  # fmt: skip
        self.multiple = 2 ** len(widths)
        self.reach = _unet_reach(blocks, BLOCKS[block].reach)
        *upper, (bottom, middle) = zip(widths, blocks, strict=True)
        steps = list(pairwise(widths))
        self.head = nn.Conv2d(4 * (channels + 1), widths[0], 3, padding=1, bias=False)
        self.encoders = nn.ModuleList(_level(block, width, count) for width, count in upper)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2, bias=False) for a, b in steps)
        self.middle = _level(block, bottom, middle)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, stride=2, bias=False) for a, b in steps
        )
        self.decoders = nn.ModuleList(_level(block, width, count) for width, count in upper)
        self.tail = nn.Conv2d(widths[0], 4 * channels, 3, padding=1, bias=False)
        self._begin()

    def _begin(self) -> None:
        """First weights: every block gives back its input, and the whole network nearly the picture."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight)
        for module in self.modules():
            if isinstance(module, Block | SeparableBlock):
                nn.init.zeros_(module.second.weight)
            if isinstance(module, SeparableBlock):
                nn.init.normal_(module.around.weight, std=0.1)
                with torch.no_grad():
                    module.around.weight[:, :, 1, 1] += 1
        nn.init.normal_(self.tail.weight, std=0.01)

    def forward(self, image: Tensor, noise_level: Tensor) -> Tensor:
        """(B, C, H, W) and (B, 1, H, W), both in [0, 1], to the denoised picture (B, C, H, W)."""
        features = torch.cat((image, noise_level), 1)
        features = self.head(
            functional.pixel_unshuffle(features, 2)
        )  # (B, widths[0], H / 2, W / 2)
        skipped = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            features = encoder(features)
            skipped.append(features)
            features = down(features)
        features = self.middle(features)
        for level in reversed(range(len(skipped))):
            features = self.decoders[level](self.ups[level](features) + skipped[level])
        return image - functional.pixel_shuffle(self.tail(features), 2)


def _level(block: str, width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(BLOCKS[block](width) for _ in range(count)))


def _unet_reach(blocks: Sequence[int], each: int) -> int:
    """Every block sees ``each`` pixels of its level further, every level a whole block of pixels."""
    *upper, middle = blocks
    sides = [2 * 2**level for level in range(len(blocks))]  # of a level's pixel, in the picture's
    seen = 2 * sides[0] + each * middle * sides[-1]  # head and tail, the bottom
    return (
        seen
        + sum(2 * each * count * side for count, side in zip(upper, sides, strict=False))
        + sides[-1]
        - 1
    )


Network = RecipeCNN | UNet
MODELS: dict[str, type[Network]] = {each.architecture: each for each in (RecipeCNN, UNet)}


def build(architecture: str, config: dict[str, Any]) -> Network:
    """Make a network from what a model file's header or a recipe says of it."""
    if architecture not in MODELS:
        raise UserError(
            f"architecture {architecture!r} is unknown; {nearest(architecture, MODELS)}"
        )
    try:
        return MODELS[architecture](**config)
    except TypeError as error:
        raise UserError(f"{architecture} cannot be built from {config}: {error}") from error


def apply(network: nn.Module, image: Tensor, noise_level: Tensor | None) -> Tensor:
    """Denoise (B, C, H, W); networks that are told the noise level (B, 1, H, W) are told it."""
    inner = getattr(network, "module", network)  # of a network that several ranks train together
    denoised: Tensor = network(image, noise_level) if inner.conditioned else network(image)
    return denoised


def with_channels(network: Network, channels: int) -> Network:
    """The network for pictures of another number of channels; it begins with each as the mean was.

    The mean of three channels has 1 / sqrt(3) of their noise, so its level is told as that much more.

    Raises:
        UserError: A plain chain of convolutions, which is made for its channels.
    """
    found = network.config["channels"]
    if found == channels:
        return network
    if not isinstance(network, UNet):
        raise UserError(
            f"the network to go on from takes pictures of {found} channels; these have {channels}"
        )
    other = UNet(**(network.config | {"channels": channels}))
    state = network.state_dict()
    head, tail = state["head.weight"], state["tail.weight"]
    image, level = head.split([4 * found, 4], dim=1)
    shared = image.unflatten(1, (found, 4)).sum(1) / channels  # (widths[0], 4, 3, 3)
    level = level * math.sqrt(found / channels)
    state["head.weight"] = torch.cat([shared.repeat(1, channels, 1, 1), level], 1)
    state["tail.weight"] = tail.unflatten(0, (found, 4)).mean(0).repeat(channels, 1, 1, 1)
    other.load_state_dict(state)
    return other


def with_blocks(network: Network, blocks: Sequence[int]) -> Network:
    """The network with so many residual blocks in each level; new ones begin by giving back their input.

    So it begins as good as it was (Chen et al., Net2Net, ICLR 2016), and learns on from there.

    Raises:
        UserError: A plain chain of convolutions, which has no blocks; another number of levels; fewer blocks.
    """
    larger = _larger(network, "blocks", blocks)
    larger.load_state_dict(larger.state_dict() | network.state_dict())
    return larger


def with_widths(network: Network, widths: Sequence[int]) -> Network:
    """The network with so many channels in each level; at first the others do not look at the new ones.

    So it begins as good as it was, to rounding. New channels begin as those of a new network do and look at
    all; what they are good for the others learn.

    Raises:
        UserError: A plain chain of convolutions; another number of levels; fewer channels.
    """
    larger = _larger(network, "widths", widths)
    state = larger.state_dict()
    for name, found in network.state_dict().items():
        kernel, known = state[name], found
        if name.startswith("ups."):  # transposed convolutions have their inputs first
            kernel, known = kernel.transpose(0, 1), known.transpose(0, 1)
        outputs, inputs = known.shape[:2]
        kernel[:outputs, :inputs] = known
        kernel[:outputs, inputs:] = 0
    return larger


def _larger(network: Network, key: str, numbers: Sequence[int]) -> UNet:
    """A new U-Net as the network, but for its numbers of ``key`` for each level, none of which may shrink."""
    found = network.config.get(key, [])
    if not isinstance(network, UNet) or len(numbers) != len(found):
        of_levels = found if isinstance(network, UNet) else "none"
        raise UserError(
            f"a network to go on from with {key} {list(numbers)}: expected a number for each level of a "
            f"U-Net, as in its {of_levels}"
        )
    if any(more < count for more, count in zip(numbers, found, strict=True)):
        raise UserError(f"{key} {list(numbers)}: expected no fewer than its {found} in any level")
    return UNet(**(network.config | {key: list(numbers)}))


def count_parameters(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in network.parameters())


def summary(network: Network, height: int, width: int) -> str:
    """Table of layer, output shape (B, C, H, W) and parameters, with the total, as Keras prints it."""
    if isinstance(network, UNet):
        return f"{network.architecture} {network.config}: {count_parameters(network):,} parameters"
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
