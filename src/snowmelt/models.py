"""The networks. Each promises two integers: ``reach`` and ``multiple``.

``reach`` is how many pixels away an input pixel can change an output pixel; ``multiple`` is what height and
width must divide by. From these two a large image is cut into tiles whose results, stitched, equal the
result on the whole; hence no global pooling and no batch or instance norm here.

Shapes: B batch, C channels, H height, W width; float32 in [0, 1] unless a header says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice, pairwise
from operator import add
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from snowmelt.errors import UserError, nearest

ROUND = 16  # channels that a processor computes together
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
    wider: ClassVar[int] = 1  # channels between its layers, as a multiple of the width

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, hidden, 3, padding=1, bias=False)
        self.second = nn.Conv2d(hidden, width, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        return features + self.second(functional.relu(self.first(features)))


class SeparableBlock(nn.Module):
    """A residual block of a 3x3 convolution of each channel alone, between two of 1x1 that mix channels.

    That is MobileNetV2's (Sandler et al., CVPR 2018) with one ReLU and without its norm. Of two networks that
    take the same time, the one of such blocks denoises better: docs/experiments.
    """

    reach: ClassVar[int] = 1
    wider: ClassVar[int] = 2

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, hidden, 1, bias=False)
        self.around = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.second = nn.Conv2d(hidden, width, 1, bias=False)

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
        hidden: Channels inside each block, in the order of `residual_blocks`, of a network that was
            `pruned`; a block of 0 is left out. Empty: all that the kind of block has.
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
        hidden: Sequence[int] = (),
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
        *upper, lowest = zip(widths, blocks, strict=True)
        levels = [*upper, lowest, *upper]
        inside = _inside(levels, BLOCKS[block].wider, hidden)
        if hidden:
            self.config["hidden"] = list(hidden)
        before, middle, after = inside[: len(upper)], inside[len(upper)], inside[len(upper) + 1 :]
        self.multiple = 2 ** len(widths)
        self.reach = _unet_reach([*map(add, before, after), middle], BLOCKS[block].reach)
        steps = list(pairwise(widths))
        self.head = nn.Conv2d(4 * (channels + 1), widths[0], 3, padding=1, bias=False)
        self.encoders = nn.ModuleList(map(partial(_level, block), widths, before))
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2, bias=False) for a, b in steps)
        self.middle = _level(block, widths[-1], middle)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, stride=2, bias=False) for a, b in steps
        )
        self.decoders = nn.ModuleList(map(partial(_level, block), widths, after))
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


def _inside(
    levels: Sequence[tuple[int, int]], wider: int, hidden: Sequence[int]
) -> list[list[int]]:
    """For each level (width, count) the channels inside each of its blocks."""
    whole = [wider * width for width, count in levels for _ in range(count)]
    sizes = list(hidden) or whole
    if len(sizes) != len(whole) or any(not 0 <= a <= b for a, b in zip(sizes, whole, strict=True)):
        raise UserError(
            f"channels inside blocks {sizes}: expected as many as, and none over, {whole}"
        )
    following = iter(sizes)
    return [list(islice(following, count)) for _, count in levels]


def _level(block: str, width: int, hidden: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(
        *(BLOCKS[block](width, each) if each else nn.Identity() for each in hidden)
    )


def _unet_reach(hidden: Sequence[Sequence[int]], each: int) -> int:
    """Every block sees ``each`` pixels of its level further, every level a whole block of pixels."""
    sides = [2 * 2**level for level in range(len(hidden))]  # of a level's pixel, in the picture's
    blocks = sum(side * sum(map(bool, level)) for side, level in zip(sides, hidden, strict=True))
    return 2 * sides[0] + each * blocks + sides[-1] - 1  # head and tail, blocks, the bottom


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

    So it begins as good as it was (Chen et al., Net2Net, ICLR 2016), and learns on from there. What was
    `pruned` is there again, too, and begins by adding nothing.

    Raises:
        UserError: A plain chain of convolutions, which has no blocks; another number of levels; fewer blocks.
    """
    larger = _larger(network, "blocks", blocks)
    state = larger.state_dict()
    for name, known in network.state_dict().items():
        state[name][tuple(map(slice, known.shape))] = known
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


def residual_blocks(network: UNet) -> list[str]:
    """Names of its blocks, those left out too: down, at the bottom, and up, as its config counts them."""
    levels = [
        *(f"encoders.{level}" for level in range(len(network.encoders))),
        "middle",
        *(f"decoders.{level}" for level in range(len(network.decoders))),
    ]
    return [
        f"{level}.{place}"
        for level in levels
        for place, _ in network.get_submodule(level).named_children()
    ]


def pruned(network: UNet, largest: Mapping[str, Tensor]) -> UNet:
    """The same network without the channels inside blocks that are zero; it gives the same in less time.

    A ReLU whose input is never above zero learns no more; strong steps without weight decay leave many such.

    Args:
        network: Left as it is.
        largest: By block, how large each channel inside becomes, from `calibration.largest`. Those that stay
            zero go, but that in each block a multiple of 16 is kept, as processors like it.
    """
    state, hidden = network.state_dict(), []
    for block in residual_blocks(network):
        if block not in largest:  # left out before
            hidden.append(0)
            continue
        alive = int((largest[block] > 0).sum())
        strongest = largest[block].argsort(descending=True)
        kept = strongest[: ROUND * math.ceil(alive / ROUND)].sort().values
        hidden.append(len(kept))
        for name in ("first", "around", "second"):
            key = f"{block}.{name}.weight"
            if key in state:
                state[key] = state[key].index_select(int(name == "second"), kept)
    thinner = UNet(**(network.config | {"hidden": hidden}))
    thinner.load_state_dict({name: state[name] for name in thinner.state_dict()})
    return thinner if count_parameters(thinner) < count_parameters(network) else network


def _larger(network: Network, key: str, numbers: Sequence[int]) -> UNet:
    """A new U-Net as the network, nothing pruned, but for its ``key``: numbers that may not shrink."""
    found = network.config.get(key, [])
    if not isinstance(network, UNet) or len(numbers) != len(found):
        of_levels = found if isinstance(network, UNet) else "none"
        raise UserError(
            f"a network to go on from with {key} {list(numbers)}: expected a number for each level of a "
            f"U-Net, as in its {of_levels}"
        )
    if any(more < count for more, count in zip(numbers, found, strict=True)):
        raise UserError(f"{key} {list(numbers)}: expected no fewer than its {found} in any level")
    return UNet(**(network.config | {key: list(numbers), "hidden": ()}))


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
