"""What a graph does to channels, sizes and neighbourhoods, found without running it.

A model file promises ``channels``, ``reach`` and ``multiple``, and tiles are cut by that promise. Here the
promise is checked against the graph: every operator has a rule that says which rows of its input a row of
its output takes. It also follows that the graph is valid ONNX, that weights fit their operators, how much
memory the graph takes for an image of a given size, and how much it computes; both have limits. Height and
width are gone through one after the other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snowmelt import tiles
from snowmelt.errors import UserError
from snowmelt.onnxfile import DATA_TYPES, Model, Node, Value, short

# The largest bundled model has 360 operators, takes 0.1 GB for its smallest tile and computes 0.6 million
# products a pixel. OpenVINO compiles 2,000 convolutions in 3 to 5 s; a chain of pointwise operators takes it
# a time that grows with the square of its length (500: 4 to 10 s, 100: 0.3 s).
MAX_NODES = 2_000  # Operators, and tensors that they make; four times as many inputs.
MAX_CHAIN = 100  # Pointwise operators in a row, each result used by the next alone.
MAX_BYTES = 800_000_000  # Of memory for the smallest tile, in float32.
MAX_WORK = 10_000_000  # Products, sums and comparisons a pixel of the smallest tile.
POOLING = 8  # Times as long as a product, measured: 0.8 against 6 to 12 thousand million a second.
MAX_CHANNELS = 65_536
MAX_SIDE = 256  # Of a kernel, in pixels; of strides, dilations and pads too.
NUMBER_TYPES = {name: number for number, name in DATA_TYPES.items()}
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


@dataclass(frozen=True)
class Needs:
    """What a graph takes to run.

    Both are polynomials of the image's height h and width w, as factors of (h w, h, w, 1): what pads add
    grows with one side alone, or with none.

    Attributes:
        alive: Numbers in memory while each operator runs, (operators, 4).
        computed: Products, sums and comparisons, (4,).
    """

    alive: NDArray[np.float64]
    computed: NDArray[np.float64]

    def bytes(self, height: int, width: int) -> int:
        """Memory for an image of so many pixels, in float32; without the weights."""
        return 4 * math.ceil((self.alive @ _powers(height, width)).max(initial=0))

    def work(self, height: int, width: int) -> int:
        """Products, sums and comparisons for an image of so many pixels."""
        return math.ceil(self.computed @ _powers(height, width))


def _powers(height: int, width: int) -> NDArray[np.float64]:
    return np.array([height * width, height, width, 1], np.float64)


class _Step:
    """A node on its way through its rule."""

    def __init__(
        self, node: Node, operands: list[Operand], axis: int, multiple: int, opset: int
    ) -> None:
        self.node, self.operands, self.axis, self.multiple = node, operands, axis, multiple
        self.opset = opset
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

    def block(self) -> int:
        return self.within("blocksize", self.take("blocksize", 0), 1)

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
    if "value" not in step.settings:
        raise step.fail("it has no value; expected a tensor, the attribute 'value'")
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
        fits = array.size == wide and wide in (1, pictures[0].channels) and array.ndim <= 4
        if not fits or array.dtype != np.float32:
            raise step.fail(
                f"numbers of shape {short(array.shape)} do not fit the picture's channels"
            )
        if step.node.op_type == "Div" and array is step.operands[1] and not array.all():
            raise step.fail("it divides by zero")
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
    # From operator set 18 on the number of parts is said, too.
    said = step.take("num_outputs", 0) if step.opset >= 18 else parts
    if step.take("axis", 0) != 1 or said != parts or picture.channels % parts:
        raise step.fail(f"expected {parts} even parts of {picture.channels} channels (axis 1)")
    return [replace(picture, channels=picture.channels // parts)] * parts


def _window(
    step: _Step, picture: Picture, side: int, dilation: int, pads: tuple[int, int]
) -> Picture:
    """Every ``stride`` rows, ``side`` rows that lie ``dilation`` apart."""
    stride, (first, last) = step.side("strides", [1, 1]), pads
    scale = picture.scale * stride
    rows = step.rows(scale) * stride - first + dilation * np.arange(side)
    extra = (picture.extra + first + last - dilation * (side - 1) - 1) // stride + 1
    return picture.taking(rows, True, scale, extra)


def _convolution(step: _Step) -> list[Operand]:
    picture, side, channels = _weights(step, taken=1, made=0)
    dilation = step.side("dilations", [1, 1])
    return [replace(_window(step, picture, side, dilation, step.pads()), channels=channels)]


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
    if more >= max(stride, dilation):
        raise step.fail(f"output_padding is {more}; expected less than stride or dilation")
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
    if "kernel_shape" not in step.settings:
        raise step.fail("it has no kernel_shape")
    side = step.side("kernel_shape", [1, 1])
    average = step.node.op_type == "AveragePool"
    if "dilations" in step.settings and average and step.opset < 19:
        raise step.fail("it has dilations, which ONNX allows from operator set 19 on")
    if step.side("dilations", [1, 1]) != 1:
        raise step.fail("its dilations are not 1")
    pads = step.pads()
    if max(pads) >= side:  # Else some windows would hold nothing but padding.
        raise step.fail(f"pads {list(pads)}; expected less than the window's {side}")
    return [_window(step, step.picture(), side, 1, pads)]


def _space_to_depth(step: _Step) -> list[Operand]:
    picture, block = step.picture(), step.block()
    scale = picture.scale * block
    if picture.extra % block:
        raise step.fail(f"its picture does not divide by {block}")
    rows = step.rows(scale) * block + np.arange(block)
    result = picture.taking(rows, True, scale, picture.extra // block)
    return [replace(result, channels=picture.channels * block**2)]


def _depth_to_space(step: _Step) -> list[Operand]:
    picture, block = step.picture(), step.block()
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
    scales, region = step.array(2), step.operands[1]
    if tuple(step.take(key, "") for key in keys) != how or scales.shape != (4,):
        raise step.fail(f"expected {', '.join(how)} by four factors")
    if scales.dtype != np.float32 or not (region is None or step.array(1).size == 0):
        raise step.fail(f"factors of {scales.dtype}, or a region; expected float32 and no region")
    times = float(scales[2 + step.axis])
    if list(scales[:2]) != [1, 1] or times not in range(1, MAX_SIDE):
        raise step.fail(
            f"factors {scales.tolist()}; expected whole ones, and 1 for batch and channels"
        )
    return [_repeated(step, step.picture(), int(times))]


def _pad(step: _Step) -> list[Operand]:
    picture, pads = step.picture(), step.array(1)
    mode = step.take("mode", "constant")
    if pads.shape != (8,) or pads.dtype != np.int64 or any(pads[[0, 1, 4, 5]]):
        raise step.fail(f"pads {short(pads.tolist())}; expected height and width alone")
    if mode not in ("reflect", "edge"):
        raise step.fail(f"mode {short(mode)}; expected reflect or edge")
    first, last = (step.within("pads", int(pads[at + step.axis]), 0) for at in (2, 6))
    if mode == "reflect" and max(first, last) >= picture.smallest:
        raise step.fail(f"it mirrors more than the {picture.smallest} rows of a small image")
    rows = step.rows(picture.scale) - first
    return [picture.taking(rows, True, picture.scale, picture.extra + first + last)]


POINTWISE = ("Identity", "Relu", "Sigmoid", "Tanh", "Erf", "LeakyRelu", "Add", "Sub", "Mul", "Div")
RULES: dict[str, Callable[[_Step], list[Operand]]] = {
    **dict.fromkeys(POINTWISE[:5], _same),
    **dict.fromkeys(POINTWISE[6:], _combine),
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


# How many inputs an operator has, where it is not one.
INPUTS: dict[str, range] = {
    **dict.fromkeys(["Add", "Sub", "Mul", "Div", "Pad"], range(2, 3)),
    **dict.fromkeys(["Conv", "ConvTranspose"], range(2, 4)),
    "Concat": range(1, 4 * MAX_NODES),
    "Constant": range(1),
    "Resize": range(3, 4),
}


def check(model: Model, channels: Mapping[str, int], reach: int, multiple: int) -> Needs:
    """Raise UserError where the graph does not keep what the header promises, or asks for too much.

    Args:
        model: With operators that have rules only.
        channels: Of the inputs and of the output, by name.
        reach: Promised; the graph's may be smaller.
        multiple: Promised; what height and width divide by.

    Returns:
        What the graph takes to run, of memory and work: for the smallest tile no more than MAX_BYTES and
        MAX_WORK a pixel.
    """
    _check_size(model)
    along = [_follow(model, channels, axis, multiple) for axis in (0, 1)]
    for known in along:
        for value in model.outputs:
            _check_output(value.name, known[value.name], channels[value.name], reach)
    _check_used(model)
    _check_stated(model.stated, along[0])
    needs = _needs(model, *along)
    _check_needs(needs, tiles.smallest_tile(reach, multiple))
    return needs


def _check_size(model: Model) -> None:
    made = sum(len(node.outputs) for node in model.nodes)
    taken = sum(len(node.inputs) for node in model.nodes)
    if max(len(model.nodes), made) > MAX_NODES or taken > 4 * MAX_NODES:
        raise UserError(
            f"it has {len(model.nodes)} operators, which make {made} tensors of {taken}; expected at "
            f"most {MAX_NODES}, and {4 * MAX_NODES} inputs"
        )
    widened = [name for node in model.nodes if node.op_type == "Cast" for name in node.inputs]
    if len(set(widened)) < len(widened):
        raise UserError("weights are cast more than once")
    _check_chains(model)


def _check_chains(model: Model) -> None:
    """Chains of what OpenVINO tries to fuse: each result is used by the next operator alone."""
    uses = Counter(name for node in model.nodes for name in node.inputs)
    lengths: dict[str, int] = {}
    for node in model.nodes:
        if node.op_type in POINTWISE:
            before = [lengths.get(name, 0) for name in node.inputs if uses[name] == 1]
            length = 1 + max(before, default=0)
            lengths.update(dict.fromkeys(node.outputs, length))
            if length > MAX_CHAIN:
                raise UserError(f"more than {MAX_CHAIN} pointwise operators follow one another")


def _check_used(model: Model) -> None:
    """Every input has a part in the result; else a runtime drops it and then misses it."""
    used = {value.name for value in model.outputs}
    for node in reversed(model.nodes):
        if used & set(node.outputs):
            used |= set(node.inputs)
    for value in model.inputs:
        if value.name not in used:
            raise UserError(f"its input {short(value.name)} takes no part in the result")


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


def _check_stated(stated: Sequence[Value], known: Mapping[str, Operand]) -> None:
    """What a file says of the tensors inside has to be so."""
    for value in stated:
        found = known.get(value.name)
        if isinstance(found, Picture):
            data_type, shape = 1, ("batch", found.channels, "H", "W")
        elif isinstance(found, np.ndarray):
            data_type, shape = NUMBER_TYPES[found.dtype.name], found.shape
        else:
            raise UserError(f"damaged: it describes {short(value.name)}, which nothing makes")
        pairs = zip(value.shape, shape, strict=False)
        same = all(a == b or isinstance(a, str) for a, b in pairs) and len(value.shape) == len(
            shape
        )
        if value.data_type != data_type or not same:
            raise UserError(
                f"damaged: {short(value.name)} is said to be of ONNX data type {value.data_type} and "
                f"shape {short(value.shape)}; it is {data_type} and {short(shape)}"
            )


def _check_needs(needs: Needs, side: int) -> None:
    memory, work = needs.bytes(side, side), needs.work(side, side) / side**2
    tile = f"its smallest tile, {side} x {side} pixels (twice its reach and its multiple),"
    if memory > MAX_BYTES:
        raise UserError(
            f"{tile} takes {memory / 1e9:,.1f} GB of memory; expected at most {MAX_BYTES / 1e9} GB: a "
            "network of fewer channels, or of smaller reach"
        )
    if work > MAX_WORK:
        raise UserError(
            f"{tile} takes {work / 1e6:,.0f} million products a pixel; expected at most "
            f"{MAX_WORK / 1e6:.0f} million: a network of fewer channels or layers"
        )


def _follow(
    model: Model, channels: Mapping[str, int], axis: int, multiple: int
) -> dict[str, Operand]:
    rows, opset = np.arange(multiple), model.opsets[""]
    known: dict[str, Operand] = {"": None, **model.initializers}
    known |= {value.name: Picture(channels[value.name], 1, 0, rows, rows) for value in model.inputs}
    for node in model.nodes:
        step = _Step(node, [known[name] for name in node.inputs], axis, multiple, opset)
        if len(node.inputs) not in INPUTS.get(node.op_type, range(1, 2)):
            raise step.fail(f"it has {len(node.inputs)} inputs, which ONNX does not allow")
        results = RULES[node.op_type](step)
        if step.settings or len(results) != len(node.outputs):
            raise step.fail(f"unexpected settings {short(sorted(step.settings))} or outputs")
        for name, result in zip(node.outputs, results, strict=True):
            if isinstance(result, Picture) and not 1 <= result.channels <= MAX_CHANNELS:
                raise step.fail(f"{result.channels} channels; expected 1 to {MAX_CHANNELS}")
            if isinstance(result, Picture) and result.smallest < 1:
                raise step.fail("nothing is left of a small image")
            known[name] = result
    return known


def _needs(model: Model, down: Mapping[str, Operand], across: Mapping[str, Operand]) -> Needs:
    sizes = {name: _size(down[name], across[name]) for name in down}
    orders = [list(model.nodes), _depth_first(model)]
    alive = np.concatenate([_alive(model, order, sizes) for order in orders])
    computed = np.zeros(4)
    for node in model.nodes:
        computed += _work(node, down, sizes)
    return Needs(alive, computed)


def _size(down: Operand, across: Operand) -> NDArray[np.float64]:
    """Numbers of a tensor, as factors of (h w, h, w, 1); none of what does not depend on the image."""
    if not isinstance(down, Picture) or not isinstance(across, Picture):
        return np.zeros(4)
    rows, columns = (1 / down.scale, down.extra), (1 / across.scale, across.extra)
    return down.channels * np.outer(rows, columns).ravel()


def _work(
    node: Node, known: Mapping[str, Operand], sizes: Mapping[str, NDArray[np.float64]]
) -> NDArray[np.float64]:
    weights = known[node.inputs[1]] if len(node.inputs) > 1 else None
    result = sum((sizes[name] for name in node.outputs), np.zeros(4))
    if node.op_type == "Conv" and isinstance(weights, np.ndarray):
        return result * (weights.size / len(weights))
    if node.op_type == "ConvTranspose" and isinstance(weights, np.ndarray):
        return result + sizes[node.inputs[0]] * (weights.size / len(weights))
    if node.op_type in ("MaxPool", "AveragePool"):
        return result * POOLING * math.prod(node.attributes["kernel_shape"])
    return result


def _depth_first(model: Model) -> list[Node]:
    """The order in which OpenVINO runs the nodes: each branch as far as it goes, the last one first."""
    users: dict[str, list[int]] = {}
    for index, node in enumerate(model.nodes):
        for name in node.inputs:
            users.setdefault(name, []).append(index)
    finished: list[int] = []
    seen: set[int] = set()
    for value in model.inputs:
        stack: list[tuple[int, Iterator[int]]] = [(-1, iter(users.get(value.name, [])))]
        while stack:
            index, following = stack[-1]
            child = next((each for each in following if each not in seen), None)
            if child is not None:
                seen.add(child)
                names = model.nodes[child].outputs
                stack.append((child, iter([i for name in names for i in users.get(name, [])])))
            else:
                stack.pop()
                finished.append(index)
    return [model.nodes[index] for index in reversed(finished) if index >= 0]


def _alive(
    model: Model, order: Sequence[Node], sizes: Mapping[str, NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Numbers in memory at each step: of tensors that were made and are still to be used."""
    change = np.zeros((len(order) + 2, 4))
    last = {value.name: len(order) for value in model.outputs}
    for step, node in enumerate(order):
        for name in node.inputs:
            last[name] = max(step, last.get(name, 0))
    made = {value.name: 0 for value in model.inputs}
    made |= {name: step for step, node in enumerate(order) for name in node.outputs}
    for name, step in made.items():
        change[step] += sizes[name]
        change[last.get(name, step) + 1] -= sizes[name]
    return change.cumsum(axis=0)
