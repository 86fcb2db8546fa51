"""What a graph does to channels, sizes and neighbourhoods, found without running it.

A model file promises ``channels``, ``reach`` and ``multiple``, and tiles are cut by that promise. Here the
promise is checked against the graph: every operator has a rule that says which rows of its input a row of
its output takes. It also follows that weights fit their operators and that a picture of n pixels never needs
more than so many numbers inside. Height and width are gone through one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError
from snowmelt.onnxfile import Model, Node, short

MAX_NODES = 10_000
MAX_CHANNELS = 65_536
MAX_SIDE = 256  # Of a kernel, in pixels; of strides, dilations and pads too.
_NOWHERE = 2**40  # Further away than any row: the first row of a picture that depends on nothing.


@dataclass(frozen=True)
class Picture:
    """A tensor (B, channels, H / scale + extra, W / scale + extra) along one axis.

    Its row j takes the image's rows ``low[j]`` to ``high[j]``; the pattern repeats every ``len(low)`` rows,
    which are ``multiple`` rows of the image.
    """

    channels: int
    scale: int
    extra: int
    low: NDArray[np.int64]
    high: NDArray[np.int64]

    def taking(
        self, rows: NDArray[np.int64], taken: NDArray[np.bool_] | bool, scale: int, extra: int
    ) -> Picture:
        """The picture whose row j takes this one's ``rows[j]``, those that are ``taken``."""
        periods, phases = np.divmod(rows, len(self.low))
        shift = periods * len(self.low) * self.scale
        low = np.where(taken, self.low[phases] + shift, _NOWHERE).min(axis=1)
        high = np.where(taken, self.high[phases] + shift, -_NOWHERE).max(axis=1)
        return Picture(self.channels, scale, extra, low, high)

    @property
    def smallest(self) -> int:
        """Rows when the image has the fewest, ``multiple``."""
        return len(self.low) + self.extra

    @property
    def reach(self) -> int:
        """How many rows away a row of the image can change a row of this, at full size."""
        rows = np.arange(len(self.low))
        return int(max(0, (rows - self.low).max(), (self.high - rows).max()))


Operand = Picture | NDArray[Any] | None


class _Step:
    """A node on its way through its rule."""

    def __init__(self, node: Node, operands: list[Operand], axis: int, multiple: int) -> None:
        self.node, self.operands, self.axis, self.multiple = node, operands, axis, multiple
        self.settings = dict(node.attributes)

    def fail(self, what: str) -> UserError:
        name = self.node.outputs[0] if self.node.outputs else ""
        return UserError(f"{self.node.op_type} {short(name)}: {what}")

    def picture(self, index: int = 0) -> Picture:
        operand = self.operands[index] if index < len(self.operands) else None
        if not isinstance(operand, Picture):
            raise self.fail(f"its input {index} is not a picture")
        return operand

    def array(self, index: int) -> NDArray[Any]:
        operand = self.operands[index] if index < len(self.operands) else None
        if not isinstance(operand, np.ndarray):
            raise self.fail(f"its input {index} is not given in the file")
        return operand

    def take(self, name: str, default: Any) -> Any:
        """A setting; ``default`` gives its type, and its length where it is a list."""
        value = self.settings.pop(name, default)
        fits = type(value) is type(default)
        if isinstance(default, list):
            fits = fits and len(value) == len(default) and all(type(item) is int for item in value)
        if not fits:
            raise self.fail(f"{name} is {short(value)}; expected such as {default}")
        return value

    def number(self, name: str, low: int, default: int) -> int:
        return self.within(name, self.take(name, default), low)

    def within(self, name: str, value: int, low: int) -> int:
        if not low <= value <= MAX_SIDE:
            raise self.fail(f"{name} is {value}; expected {low} to {MAX_SIDE}")
        return value

    def side(self, name: str, default: list[int], low: int = 1) -> int:
        """The setting along the axis that is looked at."""
        return self.within(name, self.take(name, default)[self.axis], low)

    def pads(self) -> tuple[int, int]:
        pads = self.take("pads", [0, 0, 0, 0])
        first, last = pads[self.axis], pads[self.axis + 2]
        return self.within("pads", first, 0), self.within("pads", last, 0)

    def rows(self, scale: int) -> NDArray[np.int64]:
        """The rows, as a column, after which everything repeats."""
        if scale < 1 or self.multiple % scale:
            raise self.fail(
                f"it works at 1/{scale} of the resolution, which the promised multiple "
                f"{self.multiple} does not allow"
            )
        return np.arange(self.multiple // scale)[:, None]


def _same(step: _Step) -> list[Operand]:
    return [step.picture()]


def _leaky(step: _Step) -> list[Operand]:
    step.take("alpha", 0.01)
    return [step.picture()]


def _constant(step: _Step) -> list[Operand]:
    return [step.take("value", np.zeros(0))]


def _cast(step: _Step) -> list[Operand]:
    weights = step.array(0)
    if weights.dtype != np.float16 or step.take("to", 0) != 1:
        raise step.fail(f"it makes other than float32 of {weights.dtype}; expected float16")
    return [weights.astype(np.float32)]


def _combine(step: _Step) -> list[Operand]:
    """Add and the like, of two pictures or of a picture and numbers."""
    pictures = [operand for operand in step.operands if isinstance(operand, Picture)]
    arrays = [operand for operand in step.operands if isinstance(operand, np.ndarray)]
    if len(step.operands) != 2 or not pictures or len(pictures) + len(arrays) != 2:
        raise step.fail("expected two pictures, or a picture and numbers")
    for array in arrays:
        wide = array.shape[-3] if array.ndim in (3, 4) else 1
        if array.size != wide or wide not in (1, pictures[0].channels) or array.dtype != np.float32:
            raise step.fail(f"numbers of shape {array.shape} do not fit the picture's channels")
    channels = {picture.channels for picture in pictures} - {1}
    return [_merge(step, pictures, max(channels, default=1), len(channels) <= 1)]


def _concat(step: _Step) -> list[Operand]:
    pictures = [step.picture(index) for index in range(len(step.operands))]
    if step.take("axis", 0) != 1 or not pictures:
        raise step.fail("expected pictures side by side as channels (axis 1)")
    return [_merge(step, pictures, sum(picture.channels for picture in pictures), True)]


def _merge(step: _Step, pictures: list[Picture], channels: int, fit: bool) -> Picture:
    sizes = {(picture.scale, picture.extra) for picture in pictures}
    if not fit or len(sizes) != 1:
        raise step.fail("its pictures have different sizes or channels")
    low = np.minimum.reduce([picture.low for picture in pictures])
    high = np.maximum.reduce([picture.high for picture in pictures])
    return replace(pictures[0], channels=channels, low=low, high=high)


def _split(step: _Step) -> list[Operand]:
    picture, parts = step.picture(), len(step.node.outputs)
    if step.take("axis", 0) != 1 or len(step.operands) != 1 or picture.channels % parts:
        raise step.fail(f"expected {parts} even parts of {picture.channels} channels (axis 1)")
    return [replace(picture, channels=picture.channels // parts)] * parts


def _window(step: _Step, picture: Picture, side: int) -> Picture:
    """Every ``stride`` rows, ``side`` rows that lie ``dilation`` apart."""
    stride, dilation = step.side("strides", [1, 1]), step.side("dilations", [1, 1])
    first, last = step.pads()
    scale = picture.scale * stride
    rows = step.rows(scale) * stride - first + dilation * np.arange(side)
    extra = (picture.extra + first + last - dilation * (side - 1) - 1) // stride + 1
    return picture.taking(rows, True, scale, extra)


def _convolution(step: _Step) -> list[Operand]:
    picture, side, channels = _weights(step, taken=1, made=0)
    return [replace(_window(step, picture, side), channels=channels)]


def _weights(step: _Step, *, taken: int, made: int) -> tuple[Picture, int, int]:
    """The picture, the kernel's side and the channels made; ``taken``, ``made``: the weights' axes."""
    picture, weights = step.picture(), step.array(1)
    group = step.settings.pop("group", 1)
    if any(array.dtype != np.float32 for array in map(step.array, range(1, len(step.operands)))):
        raise step.fail("its weights are not float32")
    if weights.ndim != 4 or type(group) is not int or not 1 <= group <= MAX_CHANNELS:
        raise step.fail(f"weights of shape {weights.shape} in {group} groups are not a kernel")
    sides = [weights.shape[2], weights.shape[3]]
    # Of the two axes, ONNX divides the second by the number of groups.
    channels = [weights.shape[0], weights.shape[1] * group]
    even = channels[0] % group == 0
    if step.take("kernel_shape", sides) != sides or channels[taken] != picture.channels or not even:
        raise step.fail(
            f"weights of shape {weights.shape} in {group} groups do not fit the picture's "
            f"{picture.channels} channels"
        )
    if len(step.operands) > 2 and step.array(2).shape != (channels[made],):
        raise step.fail(f"a bias of shape {step.array(2).shape}; expected ({channels[made]},)")
    return picture, step.within("kernel_shape", sides[step.axis], 1), channels[made]


def _transposed(step: _Step) -> list[Operand]:
    picture, side, channels = _weights(step, taken=0, made=1)
    stride, dilation = step.side("strides", [1, 1]), step.side("dilations", [1, 1])
    first, last = step.pads()
    more = step.side("output_padding", [0, 0], 0)
    scale = _finer(step, picture, stride)
    places = step.rows(scale) + first - dilation * np.arange(side)
    extra = (picture.extra - 1) * stride - first - last + dilation * (side - 1) + 1 + more
    result = picture.taking(places // stride, places % stride == 0, scale, extra)
    return [replace(result, channels=channels)]


def _finer(step: _Step, picture: Picture, times: int) -> int:
    if picture.scale % times:
        raise step.fail("it works at a finer resolution than the image's")
    return picture.scale // times


def _pool(step: _Step) -> list[Operand]:
    side = step.side("kernel_shape", [1, 1])
    return [_window(step, step.picture(), side)]


def _space_to_depth(step: _Step) -> list[Operand]:
    picture, block = step.picture(), step.number("blocksize", 1, 1)
    scale = picture.scale * block
    if picture.extra % block:
        raise step.fail(f"its picture does not divide by {block}")
    rows = step.rows(scale) * block + np.arange(block)
    result = picture.taking(rows, True, scale, picture.extra // block)
    return [replace(result, channels=picture.channels * block**2)]


def _depth_to_space(step: _Step) -> list[Operand]:
    picture, block = step.picture(), step.number("blocksize", 1, 1)
    if step.take("mode", "DCR") not in ("DCR", "CRD") or picture.channels % block**2:
        raise step.fail(f"{picture.channels} channels do not divide into {block} x {block}")
    result = _repeated(step, picture, block)
    return [replace(result, channels=picture.channels // block**2)]


def _repeated(step: _Step, picture: Picture, times: int) -> Picture:
    scale = _finer(step, picture, times)
    return picture.taking(step.rows(scale) // times, True, scale, picture.extra * times)


def _resize(step: _Step) -> list[Operand]:
    how = ("nearest", "floor", "asymmetric")
    keys = ("mode", "nearest_mode", "coordinate_transformation_mode")
    scales = step.array(2)
    if tuple(step.take(key, "") for key in keys) != how or scales.shape != (4,):
        raise step.fail(f"expected {', '.join(how)} by four factors")
    times = float(scales[2 + step.axis])
    if list(scales[:2]) != [1, 1] or times not in range(1, MAX_SIDE) or len(step.operands) != 3:
        raise step.fail(
            f"factors {list(scales)}; expected whole ones, and 1 for batch and channels"
        )
    return [_repeated(step, step.picture(), int(times))]


def _pad(step: _Step) -> list[Operand]:
    picture, pads = step.picture(), step.array(1)
    mode = step.take("mode", "constant")
    if pads.shape != (8,) or pads.dtype != np.int64 or any(pads[[0, 1, 4, 5]]):
        raise step.fail(f"pads {short(pads.tolist())}; expected height and width alone")
    if mode not in ("reflect", "edge") or len(step.operands) != 2:
        raise step.fail(f"mode {short(mode)}; expected reflect or edge")
    first, last = (step.within("pads", int(pads[at + step.axis]), 0) for at in (2, 6))
    if mode == "reflect" and max(first, last) >= picture.smallest:
        raise step.fail(f"it mirrors more than the {picture.smallest} rows of a small image")
    rows = step.rows(picture.scale) - first
    return [picture.taking(rows, True, picture.scale, picture.extra + first + last)]


RULES: dict[str, Callable[[_Step], list[Operand]]] = {
    **dict.fromkeys(["Identity", "Relu", "Sigmoid", "Tanh", "Erf"], _same),
    **dict.fromkeys(["Add", "Sub", "Mul", "Div"], _combine),
    **dict.fromkeys(["MaxPool", "AveragePool"], _pool),
    "LeakyRelu": _leaky,
    "Constant": _constant,
    "Cast": _cast,
    "Concat": _concat,
    "Split": _split,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "SpaceToDepth": _space_to_depth,
    "DepthToSpace": _depth_to_space,
    "Resize": _resize,
    "Pad": _pad,
}


def check(model: Model, channels: Mapping[str, int], reach: int, multiple: int) -> None:
    """Raise UserError where the graph does not keep what the header promises.

    Args:
        model: With operators that have rules only.
        channels: Of the inputs and of the output, by name.
        reach: Promised; the graph's may be smaller.
        multiple: Promised; what height and width divide by.
    """
    if len(model.nodes) > MAX_NODES:
        raise UserError(f"it has {len(model.nodes)} operators; at most {MAX_NODES}")
    for axis in (0, 1):
        for name, picture in _follow(model, channels, axis, multiple).items():
            _check_output(name, picture, channels[name], reach)


def _check_output(name: str, picture: Operand, channels: int, reach: int) -> None:
    if not isinstance(picture, Picture) or (picture.scale, picture.extra) != (1, 0):
        raise UserError(f"{name!r} has not the size of the image")
    if picture.channels != channels:
        raise UserError(f"{name!r} has {picture.channels} channels; expected {channels}")
    if picture.reach > reach:
        raise UserError(
            f"pixels {picture.reach} away change the result, but its header promises a reach of "
            f"{reach}; tiles would show"
        )


def _follow(
    model: Model, channels: Mapping[str, int], axis: int, multiple: int
) -> dict[str, Operand]:
    rows = np.arange(multiple)
    known: dict[str, Operand] = {"": None, **model.initializers}
    known |= {value.name: Picture(channels[value.name], 1, 0, rows, rows) for value in model.inputs}
    for node in model.nodes:
        step = _Step(node, [known[name] for name in node.inputs], axis, multiple)
        results = RULES[node.op_type](step)
        if step.settings or len(results) != len(node.outputs):
            raise step.fail(f"unexpected settings {short(sorted(step.settings))} or outputs")
        for name, result in zip(node.outputs, results, strict=True):
            if isinstance(result, Picture) and not 1 <= result.channels <= MAX_CHANNELS:
                raise step.fail(f"{result.channels} channels; expected 1 to {MAX_CHANNELS}")
            if isinstance(result, Picture) and result.smallest < 1:
                raise step.fail("nothing is left of a small image")
            known[name] = result
    return {value.name: known[value.name] for value in model.outputs}
