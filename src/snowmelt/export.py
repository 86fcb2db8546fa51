"""A network as an ONNX model: torch.fx lists the steps, each becomes one ONNX node or a few.

torch's own exporter does the same in 4 s with onnx and onnxscript installed, log lines and warnings; this
takes milliseconds and keeps the initializers exactly the network's state, under its names. A network that
uses an operation which is not listed here is refused by name; to allow it, add its line to ``FUNCTIONS`` or
``MODULES`` (what is written is run and compared with torch before it is kept) and a rule to ``footprint``
for operators that have none.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

from snowmelt import onnxfile
from snowmelt.errors import UserError

OPSET = 17  # Read by ONNX Runtime from 1.12 on (2022), by OpenVINO from 2022.2 on.
IR_VERSION = 8
FLOAT, INT64, FLOAT16 = 1, 7, 10


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its name and its shape in the trial run."""

    name: str
    shape: tuple[int, ...]


class Graph:
    """ONNX nodes in the making."""

    def __init__(self) -> None:
        self.nodes: list[onnxfile.Message] = []
        self.step = ""

    def add(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Append a node; return the name of its (first) output. The others end in :1, :2 ..."""
        name = f"{self.step}/{op_type}_{len(self.nodes)}"
        self.nodes.append(
            {
                "input": list(inputs),
                "output": [name] + [f"{name}:{index}" for index in range(1, outputs)],
                "name": name,
                "op_type": op_type,
                "attribute": [_attribute(key, value) for key, value in attributes.items()],
            }
        )
        return name

    def constant(self, values: Any) -> str:
        """A constant tensor: int64 for whole numbers, else float32."""
        array = np.asarray(values)
        return self.add("Constant", value=tensor("", array.astype(_constant_type(array))))

    def operand(self, value: Any) -> str:
        """The name of a value, or a number as a constant."""
        return value.name if isinstance(value, Value) else self.constant(float(value))


def _constant_type(array: NDArray[Any]) -> str:
    return "int64" if array.dtype.kind in "iu" else "float32"


def tensor(name: str, array: NDArray[Any]) -> onnxfile.Message:
    """A TensorProto of a float32, float16 or int64 array."""
    return {
        "name": name,
        "dims": list(array.shape),
        "data_type": {"float32": FLOAT, "int64": INT64, "float16": FLOAT16}[array.dtype.name],
        "raw_data": array.astype(array.dtype.newbyteorder("<")).tobytes(),
    }


def _attribute(name: str, value: Any) -> onnxfile.Message:
    if isinstance(value, dict):
        return {"name": name, "type": 4, "t": value}
    if isinstance(value, str):
        return {"name": name, "type": 3, "s": value.encode()}
    if isinstance(value, float):
        return {"name": name, "type": 1, "f": value}
    if isinstance(value, int):
        return {"name": name, "type": 2, "i": value}
    return {"name": name, "type": 7, "ints": [int(number) for number in value]}


def _simple(op_type: str) -> Callable[..., str]:
    """An operation of tensors and numbers without settings."""

    def emit(graph: Graph, *values: Any) -> str:
        return graph.add(op_type, *(graph.operand(value) for value in values))

    return emit


def _identity(graph: Graph, image: Value) -> str:
    return graph.add("Identity", image.name)


def _leaky_relu(graph: Graph, image: Value, negative_slope: float = 0.01) -> str:
    return graph.add("LeakyRelu", image.name, alpha=float(negative_slope))


def _silu(graph: Graph, image: Value) -> str:
    return graph.add("Mul", image.name, graph.add("Sigmoid", image.name))


def _gelu(graph: Graph, image: Value, approximate: str = "none") -> str:
    if approximate != "none":
        raise UserError(f"gelu with approximate={approximate!r} has no ONNX form here; use 'none'")
    erf = graph.add("Erf", graph.add("Mul", image.name, graph.constant(0.5**0.5)))
    gate = graph.add("Add", erf, graph.constant(1.0))
    return graph.add("Mul", graph.add("Mul", image.name, gate), graph.constant(0.5))


def _concat(graph: Graph, images: Sequence[Value], dim: int = 0) -> str:
    return graph.add("Concat", *(image.name for image in images), axis=dim)


def _chunk(graph: Graph, image: Value, chunks: int, dim: int = 0) -> str:
    if dim != 1 or image.shape[1] % chunks:
        raise UserError(
            f"chunk({chunks}, dim={dim}) of {image.shape}: expected even parts of dim 1"
        )
    return graph.add("Split", image.name, outputs=chunks, axis=dim)


def _pixel_shuffle(graph: Graph, image: Value, upscale_factor: int) -> str:
    return graph.add("DepthToSpace", image.name, blocksize=upscale_factor, mode="CRD")


def _pixel_unshuffle(graph: Graph, image: Value, downscale_factor: int) -> str:
    channels = image.shape[1]
    if channels == 1:
        return graph.add("SpaceToDepth", image.name, blocksize=downscale_factor)
    # ONNX puts all channels of the first pixel first, torch all pixels of the first channel. To put them in
    # order by Gather is shorter, but OpenVINO 2026.4 forgets the order where a convolution comes next.
    first = graph.add("Split", image.name, outputs=channels, axis=1)
    parts = [first, *(f"{first}:{index}" for index in range(1, channels))]
    packed = [graph.add("SpaceToDepth", part, blocksize=downscale_factor) for part in parts]
    return graph.add("Concat", *packed, axis=1)


def _max_pool(graph: Graph, image: Value, kernel_size: int, stride: int | None = None) -> str:
    return graph.add("MaxPool", image.name, **_pool(kernel_size, stride))


def _average_pool(graph: Graph, image: Value, kernel_size: int, stride: int | None = None) -> str:
    return graph.add("AveragePool", image.name, **_pool(kernel_size, stride))


def _pool(kernel_size: int, stride: int | None) -> dict[str, Any]:
    return {"kernel_shape": [kernel_size] * 2, "strides": [stride or kernel_size] * 2}


def _resize(graph: Graph, image: Value, scale_factor: float) -> str:
    """To the nearest pixel."""
    scales = graph.constant([1.0, 1.0, float(scale_factor), float(scale_factor)])
    return graph.add(
        "Resize",
        image.name,
        "",
        scales,
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )


FUNCTIONS: dict[Any, Callable[..., str]] = {
    **dict.fromkeys([operator.add, operator.iadd, torch.add, "add"], _simple("Add")),
    **dict.fromkeys([operator.sub, operator.isub, torch.sub, "sub"], _simple("Sub")),
    **dict.fromkeys([operator.mul, operator.imul, torch.mul, "mul"], _simple("Mul")),
    **dict.fromkeys([operator.truediv, torch.div, "div"], _simple("Div")),
    **dict.fromkeys([functional.relu, torch.relu, "relu"], _simple("Relu")),
    **dict.fromkeys([functional.sigmoid, torch.sigmoid, "sigmoid"], _simple("Sigmoid")),
    **dict.fromkeys([functional.tanh, torch.tanh, "tanh"], _simple("Tanh")),
    functional.leaky_relu: _leaky_relu,
    functional.silu: _silu,
    functional.gelu: _gelu,
    **dict.fromkeys([torch.cat, torch.concat], _concat),
    **dict.fromkeys([torch.chunk, "chunk"], _chunk),
    functional.pixel_shuffle: _pixel_shuffle,
    functional.pixel_unshuffle: _pixel_unshuffle,
    functional.max_pool2d: _max_pool,
    functional.avg_pool2d: _average_pool,
    functional.interpolate: _resize,
}


# Settings that may be left out where they have these values; working in place makes no difference.
_USUAL: dict[str, tuple[Any, ...]] = {
    "inplace": (False, True),
    "padding": (0,),
    "dilation": (1,),
    "ceil_mode": (False,),
    "return_indices": (False,),
    "count_include_pad": (True, False),
    "divisor_override": (None,),
    "size": (None,),
    "mode": ("nearest",),
    "align_corners": (None,),
    "recompute_scale_factor": (None,),
    "antialias": (False,),
}


def _convolution(graph: Graph, module: Any, weights: Sequence[str], image: Value) -> str:
    pads = _pads(module)
    name = image.name
    if module.padding_mode != "zeros":
        mode = {"reflect": "reflect", "replicate": "edge"}.get(module.padding_mode)
        if mode is None:
            raise UserError(f"padding mode {module.padding_mode!r} has no ONNX form here")
        amounts = graph.constant([0, 0, *pads[:2], 0, 0, *pads[2:]])
        name, pads = graph.add("Pad", name, amounts, mode=mode), [0, 0, 0, 0]
    return graph.add("Conv", name, *weights, pads=pads, **_kernel(module))


def _transposed(graph: Graph, module: Any, weights: Sequence[str], image: Value) -> str:
    extra = {"output_padding": module.output_padding} if any(module.output_padding) else {}
    settings = {**_kernel(module), **extra}
    return graph.add("ConvTranspose", image.name, *weights, pads=_pads(module), **settings)


def _kernel(module: Any) -> dict[str, Any]:
    return {
        "kernel_shape": module.kernel_size,
        "strides": module.stride,
        "dilations": module.dilation,
        "group": module.groups,
    }


def _pads(module: Any) -> list[int]:
    """Top, left, bottom, right."""
    if module.padding == "valid":
        return [0, 0, 0, 0]
    if module.padding == "same":
        both = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return [total // 2 for total in both] + [total - total // 2 for total in both]
    return [*module.padding, *module.padding]


def _settings(function: Any, *names: str) -> Callable[..., str]:
    """A module that is a function with settings, which lie in the module's attributes."""

    def emit(graph: Graph, module: Any, weights: Sequence[str], image: Value) -> str:  # noqa: ARG001
        return _call(function, graph, [image], {name: getattr(module, name) for name in names})

    return emit


def _no_operation(graph: Graph, module: Any, weights: Sequence[str], image: Value) -> str:  # noqa: ARG001
    return _identity(graph, image)


def _call(function: Any, graph: Graph, args: Sequence[Any], settings: Mapping[str, Any]) -> str:
    if function not in FUNCTIONS:
        raise UserError(f"the operation {function} has no ONNX form here")
    changed = {key: value for key, value in settings.items() if value not in _USUAL.get(key, ())}
    try:
        return FUNCTIONS[function](graph, *args, **changed)
    except TypeError as error:
        raise UserError(f"the operation {function} has no ONNX form here: {error}") from error


_POOL = ("kernel_size", "stride", "padding", "ceil_mode")
MODULES: dict[type[nn.Module], Callable[[Graph, Any, Sequence[str], Value], str]] = {
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _transposed,
    nn.Identity: _no_operation,
    nn.ReLU: _settings(functional.relu),
    nn.Sigmoid: _settings(functional.sigmoid),
    nn.Tanh: _settings(functional.tanh),
    nn.LeakyReLU: _settings(functional.leaky_relu, "negative_slope"),
    nn.SiLU: _settings(functional.silu),
    nn.GELU: _settings(functional.gelu, "approximate"),
    nn.PixelShuffle: _settings(functional.pixel_shuffle, "upscale_factor"),
    nn.PixelUnshuffle: _settings(functional.pixel_unshuffle, "downscale_factor"),
    nn.MaxPool2d: _settings(functional.max_pool2d, *_POOL),
    nn.AvgPool2d: _settings(functional.avg_pool2d, *_POOL),
    nn.Upsample: _settings(functional.interpolate, "size", "scale_factor", "mode"),
}


class _Trial(fx.Interpreter):
    """Runs the traced network once, for the shapes, and notes every step in ONNX."""

    def __init__(self, network: nn.Module, traced: fx.Graph, inputs: Sequence[str]) -> None:
        super().__init__(fx.GraphModule(network, traced))
        self.extra_traceback = False
        self.inputs = iter(inputs)
        self.onnx = Graph()
        self.values: dict[fx.Node, Any] = {}
        self.state = set(network.state_dict())

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.users and isinstance(result, Tensor | tuple | list):
            shape = tuple(result.shape) if isinstance(result, Tensor) else ()
            self.values[n] = self.note(n, shape)
        return result

    def note(self, node: fx.Node, shape: tuple[int, ...]) -> Any:
        if node.op == "placeholder":
            return Value(next(self.inputs), shape)
        if node.op == "get_attr":
            return Value(self.parameter(str(node.target)), shape)
        args: Any = fx.map_arg(node.args, self.value)
        kwargs: Any = fx.map_arg(node.kwargs, self.value)
        if node.target is operator.getitem and isinstance(args[0], Value) and args[0].shape == ():
            part = f":{args[1]}" if args[1] else ""
            return Value(args[0].name + part, shape)
        self.onnx.step = f"/{node.name}"
        return Value(self.emit(node, args, kwargs), shape)

    def value(self, node: fx.Node) -> Any:
        if node not in self.values:
            raise UserError(f"{node.format_node()} has no ONNX form here")
        return self.values[node]

    def emit(self, node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        if node.op != "call_module":
            return _call(node.target, self.onnx, args, kwargs)
        module = self.module.get_submodule(str(node.target))
        if type(module) not in MODULES:
            raise UserError(f"the module {type(module).__name__} has no ONNX form here")
        self.onnx.step = f"/{node.target}"
        names = [f"{node.target}.{name}" for name, _ in module.named_parameters()]
        return MODULES[type(module)](self.onnx, module, names, *args)

    def parameter(self, name: str) -> str:
        if name not in self.state:
            raise UserError(f"{name!r} is not in the network's state")
        return name


def to_onnx(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    output: str,
    metadata: Mapping[str, str],
    *,
    half: bool = False,
) -> bytes:
    """Write a network as the bytes of an ONNX file.

    Args:
        network: On the CPU, float32; left as it is.
        inputs: Names and examples (B, C, H, W); the graph leaves B, H and W free.
        output: The name of the output, of the shape of the first input.
        metadata: Written into the file as it is.
        half: Whether to store weights in float16, rounded; the graph makes them float32 at its start.

    Raises UserError for a network with operations that this module does not know.
    """
    traced = fx.Tracer().trace(network, _left_out(network, len(inputs)))
    trial = _Trial(network, traced, list(inputs))
    with torch.no_grad():
        trial.run(*inputs.values())
    last = next(node for node in reversed(traced.nodes) if node.op == "output").args[0]
    assert isinstance(last, fx.Node)
    trial.onnx.nodes.append(
        {
            "input": [trial.values[last].name],
            "output": [output],
            "name": output,
            "op_type": "Identity",
        }
    )
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    _check_used(trial.onnx, state)
    nodes = trial.onnx.nodes
    if half:
        state = {name: array.astype(np.float16) for name, array in state.items()}
        nodes = _widened(nodes, state)
    first = next(iter(inputs.values()))
    graph = {
        "node": nodes,
        "name": type(network).__name__,
        "initializer": [tensor(name, array) for name, array in state.items()],
        "input": [_value(name, example.shape[1]) for name, example in inputs.items()],
        "output": [_value(output, first.shape[1])],
    }
    return onnxfile.encode(
        {
            "ir_version": IR_VERSION,
            "producer_name": "snowmelt",
            "graph": graph,
            "opset_import": [{"domain": "", "version": OPSET}],
            "metadata_props": [{"key": key, "value": text} for key, text in metadata.items()],
        }
    )


def _widened(nodes: list[onnxfile.Message], names: Iterable[str]) -> list[onnxfile.Message]:
    """The same nodes with float32 of these weights, which nodes before them make."""
    graph = Graph()
    wide = {name: graph.add("Cast", name, to=FLOAT) for name in names}
    changed = [node | {"input": [wide.get(name, name) for name in node["input"]]} for node in nodes]
    return [*graph.nodes, *changed]


def _left_out(network: nn.Module, given: int) -> dict[str, None]:
    """Arguments of ``forward`` after those given are None, such as the noise level."""
    return dict.fromkeys(list(inspect.signature(network.forward).parameters)[given:])


def _check_used(graph: Graph, state: Mapping[str, NDArray[Any]]) -> None:
    used = {name for node in graph.nodes for name in node["input"]}
    unused = sorted(set(state) - used)
    if unused:
        raise UserError(f"the network's {', '.join(unused)} take no part in its result")


def _value(name: str, channels: int) -> onnxfile.Message:
    free = {"dim_param": "batch"}, {"dim_value": channels}, {"dim_param": "H"}, {"dim_param": "W"}
    shape = {"dim": list(free)}
    return {"name": name, "type": {"tensor_type": {"elem_type": FLOAT, "shape": shape}}}
