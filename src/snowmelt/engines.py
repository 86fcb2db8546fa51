"""What runs a model file's network: OpenVINO on processors, torch on CUDA and MPS.

An engine takes and gives float32 (B, C, H, W) in the network's units and may be called from several threads.
Compiling a network for a tile's shape takes 0.05 to 0.2 s and is remembered; OpenVINO's cache on disk was
measured and saves nothing of that.

A model file that is not bundled is run on a small image before it is used: what OpenVINO or torch cannot do
with it, and results that are not finite, are errors that name the file.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import math
import platform
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from snowmelt import processor, tiles, zoo
from snowmelt.errors import UserError, nearest
from snowmelt.modelfile import ModelFile, assemble, need_torch

Tensor = NDArray[np.float32]

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "int8", "bf16", "f32")
# Each compiled shape keeps the memory it ran in.
SHAPES_KEPT, SHAPES_BYTES = 8, 2**30
CORES_PER_STREAM = 8
# Measured: 2 of the largest tensors are alive at a time in a chain of convolutions, 3.4 in a U-Net.
TENSORS_ALIVE = 4
TRIAL_SIDE = 32  # pixels, or what the network's multiple asks for
OUTPUT_AXES = {"Convolution": 0, "ConvolutionBackpropData": 1}  # of a kernel's axes


class Engine(Protocol):
    """Runs one network. ``workers`` threads keep it busy; a tile's pixel takes ``pixel_bytes`` of memory."""

    precision: str
    workers: int
    pixel_bytes: int

    @property
    def deep(self) -> Engine:
        """The engine for images of more than 8 bits; itself, unless it computes in 8 bits."""
        ...

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """Run the network on the image and, where it asks for it, the noise level."""
        ...


def choose(
    model: ModelFile, *, device: str = "auto", precision: str = "auto", threads: int | None = None
) -> Engine:
    """The engine for a device ("auto": a GPU that torch can use, else the processor) and a precision.

    ``precision`` "auto" is bf16 where the hardware has it; "int8" is 8 bits where the processor computes
    them exactly and the model is calibrated for them, else as "auto". ``threads`` limits the processor's
    cores.

    Raises:
        UserError: The device is not there, or the model does not run on it, or gives what is not finite.
    """
    for value, known in ((device, DEVICES), (precision, PRECISIONS)):
        if value not in known:
            what = "device" if known is DEVICES else "precision"
            raise UserError(f"{what} {value!r} is unknown; {nearest(value, known)}")
    if threads is not None and threads < 1:
        raise UserError(f"threads {threads}: expected 1 or more")
    if device == "auto":
        device = _found_gpu() or "cpu"
    elif device != "cpu":
        _check_gpu(device)
    with refused(model):
        if device == "cpu":
            engine: Engine = OpenVino(model, precision, threads)
        else:
            engine = Torch(model, device, precision)
    if model.path not in zoo.shipped().values():
        _try_out(engine, model)
    return engine


@contextlib.contextmanager
def refused(model: ModelFile) -> Iterator[None]:
    """Errors of OpenVINO, torch and numpy as a UserError with the file's name."""
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, ValueError, IndexError, OverflowError) as error:
        raise UserError(f"{model.path}: it cannot be run: {processor.in_words(error)}") from error


def _try_out(engine: Engine, model: ModelFile) -> None:
    """Run the model on a small image with black, white and all between; an error if that fails."""
    header = model.header
    side = tiles.round_up(TRIAL_SIDE, header.multiple)
    random = np.random.default_rng(0)
    image = random.uniform(-0.5, 1.5, (1, header.channels, side, side)).clip(0, 1)
    level = np.full((1, 1, side, side), 0.1)
    inputs = [image.astype(np.float32), level.astype(np.float32)][: len(header.inputs)]
    result = engine(inputs)
    if result.shape != image.shape:
        raise UserError(
            f"{model.path}: of an image of shape {image.shape} it makes one of {result.shape}"
        )
    bad = result.size - int(np.isfinite(result).sum())
    if bad:
        raise UserError(
            f"{model.path}: of {result.size:,} values of its result on a small image {bad:,} are not "
            "finite: its weights are too large, or it divides by what can be zero"
        )


def _found_gpu() -> str | None:
    """ "cuda" or "mps" where torch can use it. Importing torch takes 1.5 s: first the cheap signs."""
    if importlib.util.find_spec("torch") is None:
        return None
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    if not apple and (metadata.version("torch").endswith("+cpu") or not _has_cuda_driver()):
        return None
    device = "mps" if apple else "cuda"
    return device if _torch_has(device) else None


def _has_cuda_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _torch_has(device: str) -> bool:
    import torch

    backend: Any = torch.cuda if device == "cuda" else torch.backends.mps
    return bool(backend.is_available())


def _check_gpu(device: str) -> None:
    need_torch()
    if not _torch_has(device):
        raise UserError(
            f"device {device!r}: the torch that is installed finds none here; use device 'cpu'"
        )


class OpenVino:
    """OpenVINO on the processor, compiled for each shape of tile that comes."""

    def __init__(self, model: ModelFile, precision: str, threads: int | None) -> None:
        self._core = processor.core()
        self._model = model
        has_bf16 = processor.has_bf16()
        if precision == "bf16" and not has_bf16:
            raise UserError("precision 'bf16': this processor has no bf16; use 'f32'")
        floats = "bf16" if has_bf16 and precision != "f32" else "f32"
        self._graph = self._core.read_model(model.raw)
        in_8_bits = precision == "int8" and bool(model.header.int8) and processor.has_int8()
        if in_8_bits:
            round_to_8_bits(self._graph, model.header.int8, model.weights)
        self.precision = "int8" if in_8_bits else floats
        self._deep = partial(choose, model, device="cpu", threads=threads) if in_8_bits else None
        self._shapes: OrderedDict[tuple[int, ...], SimpleQueue[Any]] = OrderedDict()
        self._lock = threading.Lock()
        threads = threads or processor.usable_cores()
        # All cores of a stream share one tile; beyond 8 they wait for each other.
        streams = math.ceil(threads / CORES_PER_STREAM)
        self.workers = streams + math.ceil(
            threads / 4
        )  # The latter scale while the others compute.
        self._options = {
            "INFERENCE_PRECISION_HINT": floats,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
        }
        self.pixel_bytes = streams * self._pixel_bytes(model) * (2 if floats == "bf16" else 4)

    @cached_property
    def deep(self) -> Engine:
        """The engine for images of more than 8 bits."""
        return self._deep() if self._deep else self

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """Run the network on the image and, where it asks for it, the noise level."""
        with refused(self._model):
            requests = self._requests([array.shape for array in inputs])
            request = requests.get()
            try:
                found = request.infer(
                    dict(enumerate(inputs)), share_inputs=True, share_outputs=True
                )
                return np.array(found[0])
            finally:
                requests.put(request)

    def _requests(self, shapes: Sequence[tuple[int, ...]]) -> SimpleQueue[Any]:
        with self._lock:
            if shapes[0] not in self._shapes:
                self._shapes[shapes[0]] = self._compiled(shapes)
            self._shapes.move_to_end(shapes[0])
            while len(self._shapes) > 1 and self._keeps_too_much():
                self._shapes.popitem(last=False)
            return self._shapes[shapes[0]]

    def _keeps_too_much(self) -> bool:
        pixels = sum(math.prod(shape[-2:]) for shape in self._shapes)
        return len(self._shapes) > SHAPES_KEPT or pixels * self.pixel_bytes > SHAPES_BYTES

    def _compiled(self, shapes: Sequence[tuple[int, ...]]) -> SimpleQueue[Any]:
        compiled = self._core.compile_model(self._reshaped(shapes), "CPU", self._options)
        requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self.workers):
            requests.put(compiled.create_infer_request())
        return requests

    def _reshaped(self, shapes: Sequence[tuple[int, ...]]) -> Any:
        graph = self._graph.clone()
        graph.reshape({place: list(shape) for place, shape in enumerate(shapes)})
        return graph

    def _pixel_bytes(self, model: ModelFile) -> int:
        """Bytes for a pixel, were each number one byte."""
        header = model.header
        side = max(tiles.smallest_tile(header.reach, header.multiple), 4 * header.multiple)
        channels = [header.channels, 1][: len(header.inputs)]
        graph = self._reshaped([(1, count, side, side) for count in channels])
        largest = max(math.prod(shape) for shape in _shapes(graph) if len(shape) == 4)
        return max(largest * TENSORS_ALIVE // side**2, _numbers_alive(model))


def _shapes(graph: Any) -> Iterator[tuple[int, ...]]:
    """Of all that depends on the image; not of weights and what is made of them."""
    moving: set[str] = set()
    for node in graph.get_ordered_ops():
        sources = {each.get_node().get_friendly_name() for each in node.input_values()}
        if node.get_type_name() == "Parameter" or sources & moving:
            moving.add(node.get_friendly_name())
            yield from (tuple(output.get_shape()) for output in node.outputs())


def _numbers_alive(model: ModelFile) -> int:
    """For a pixel of the smallest tile, by the graph: many small tensors may take more than four large."""
    side = tiles.smallest_tile(model.header.reach, model.header.multiple)
    return math.ceil(model.needs.bytes(side, side) / 4 / side**2)


def round_to_8_bits(
    graph: Any, ranges: Mapping[str, Sequence[float]], weights: Mapping[str, Tensor]
) -> None:
    """Have layers take 256 steps of their range, and 255 of weights; OpenVINO then computes in integers.

    Args:
        graph: OpenVINO's, as `export.to_onnx` writes it: nodes are called after the layers. It is changed.
        ranges: Of what goes into a layer, from `calibration.ranges`; other layers stay as they are.
        weights: Of the network, by name.
    """
    from openvino import opset13

    def rounded(values: Any, low: Any, high: Any, steps: int) -> Any:
        bounds = [opset13.constant(np.asarray(each, np.float32)) for each in (low, high)]
        return opset13.fake_quantize(values, *bounds, *bounds, steps).output(0)

    for node in graph.get_ordered_ops():
        layer = node.get_friendly_name().split("/")[1:2]
        if node.get_type_name() not in OUTPUT_AXES or not layer or layer[0] not in ranges:
            continue
        low, high = ranges[layer[0]]
        kernel = np.asarray(weights[f"{layer[0]}.weight"], np.float32)
        others = tuple({0, 1, 2, 3} - {OUTPUT_AXES[node.get_type_name()]})
        largest = np.maximum(np.abs(kernel).max(others, keepdims=True), np.finfo(np.float32).tiny)
        node.input(0).replace_source_output(rounded(node.input_value(0), low, high, 256))
        kernel = rounded(opset13.constant(kernel), -largest, largest, 255)
        node.input(1).replace_source_output(kernel)
    graph.validate_nodes_and_infer_types()


class Torch:
    """Torch on a device of its own, tile by tile."""

    def __init__(self, model: ModelFile, device: str, precision: str) -> None:
        import torch

        if precision == "int8":
            raise UserError(
                f"precision 'int8' is for the processor; on {device} use 'bf16' or 'f32'"
            )
        self._device = torch.device(device)
        has_bf16 = device != "cuda" or torch.cuda.is_bf16_supported()
        if precision == "bf16" and not has_bf16:
            raise UserError("precision 'bf16': this GPU has no bf16; use 'f32'")
        # Autocasting to bf16 on MPS is young and not faster.
        wants_bf16 = precision == "bf16" or (precision == "auto" and device == "cuda")
        self.precision = "bf16" if wants_bf16 and has_bf16 else "f32"
        network: Any = assemble(model.header, model.weights)
        self._network = network.to(self._device, memory_format=torch.channels_last)
        self.workers = 2  # One scales while the other waits for the GPU.
        widest = max(max(array.shape[:2]) for array in model.weights.values() if array.ndim == 4)
        self.pixel_bytes = 4 * max(widest * TENSORS_ALIVE, _numbers_alive(model))
        self._model = model

    @property
    def deep(self) -> Engine:
        """Itself."""
        return self

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """Run the network on the image and, where it asks for it, the noise level."""
        import torch

        half = self.precision == "bf16"
        # cudnn's own choice, TF32, keeps 10 bits: no float32.
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=half)
        cast = torch.autocast(self._device.type, torch.bfloat16, enabled=half)
        with refused(self._model), torch.inference_mode(), exact, cast:
            tensors = [torch.from_numpy(array).to(self._device) for array in inputs]
            result: Tensor = self._network(*tensors).float().cpu().numpy()
        return result


def available_memory() -> int:
    """Bytes that this process may still take, as far as the system says; else 4 GiB."""
    found = [_from_meminfo(), _from_cgroup()]
    return min((size for size in found if size is not None), default=2**32)


def _from_meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = (line.split() for line in lines)
    return next((int(words[1]) * 1024 for words in sizes if words[0] == "MemAvailable:"), None)


def _from_cgroup() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        limit = int((folder / "memory.max").read_text())
        return max(0, limit - int((folder / "memory.current").read_text()))
    except (OSError, ValueError):  # no cgroup, or "max": no limit
        return None
