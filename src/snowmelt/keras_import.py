"""Keras models of the tutorial's kind become model files: plain chains of Conv2D in an HDF5 (.h5) file.

Keras is not needed. Its file holds the layers as JSON in the attribute ``model_config`` and the numbers in
datasets, kernels as (height, width, in, out). Keras 2 and Keras 3 write it a little differently; both are
read. What is not such a chain is refused, naming the layer, since a half-converted model is worse than none.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snowmelt import children, hdf5file, limits, modelfile
from snowmelt.errors import UserError, printable
from snowmelt.limits import MAX_WEIGHTS

if TYPE_CHECKING:
    from torch import nn

ACTIVATIONS = ("relu", "sigmoid", "linear")
MAX_FILTERS, MAX_KERNEL = 4096, 101
_EXPECTED = "expected a plain chain of Conv2D layers with relu, sigmoid or linear activations"


@dataclass(frozen=True)
class Convolution:
    """One Conv2D with what follows it; kernel (height, width, in, out), bias (out,)."""

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    activation: str


@dataclass(frozen=True)
class KerasChain:
    """What a Keras file of the tutorial's kind holds."""

    layers: tuple[Convolution, ...]
    keras_version: str
    sha256: str

    @property
    def config(self) -> dict[str, Any]:
        """Arguments of ``models.RecipeCNN``."""
        *hidden, last = self.layers
        return {
            "widths": [layer.kernel.shape[3] for layer in hidden],
            "kernel_size": _one_or_all([layer.kernel.shape[0] for layer in self.layers]),
            "activation": _one_or_all([layer.activation for layer in hidden]),
            "output_activation": last.activation,
            "channels": last.kernel.shape[3],
        }

    @property
    def reach(self) -> int:
        """How many pixels away an input pixel can change an output pixel."""
        return sum(layer.kernel.shape[0] // 2 for layer in self.layers)

    @property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        """The state of ``models.RecipeCNN``: kernels (out, in, height, width)."""
        state: dict[str, NDArray[np.float32]] = {}
        for index, layer in enumerate(self.layers):
            kernel = np.ascontiguousarray(layer.kernel.transpose(3, 2, 0, 1))
            state |= {f"layers.{index}.weight": kernel, f"layers.{index}.bias": layer.bias}
        return state


def _one_or_all(values: list[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else values


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> float:
    """Turn a Keras .h5 file into a model file; returns ``modelfile.write``'s difference.

    Raises UserError for anything but a plain chain of Conv2D layers, and when torch is missing.
    """
    modelfile.need_torch()
    source = Path(source)
    chain = read_keras(source)
    network = _network(source, chain)
    header = modelfile.make_header(
        network,
        name=source.stem,
        recipe={
            "converted_from": source.name,
            "sha256": chain.sha256,
            "keras_version": chain.keras_version,
        },
    )
    return modelfile.write(target, network, header)


def convert_keras(source: str | os.PathLike[str]) -> nn.Module:
    """The network of a Keras .h5 file as a ``models.RecipeCNN`` with its weights, in eval mode."""
    modelfile.need_torch()
    return _network(Path(source), read_keras(source))


def _network(source: Path, chain: KerasChain) -> nn.Module:
    config = chain.config
    header = modelfile.Header(
        architecture="recipe-cnn",
        config=config,
        channels=config["channels"],
        reach=chain.reach,
        multiple=1,
    )
    try:
        return modelfile.assemble(header, chain.weights)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def read_keras(source: str | os.PathLike[str]) -> KerasChain:
    """Read a Keras .h5 file; without Keras, without torch. Raises UserError, which names the file.

    A child process reads it (see `hdf5file`), bounded in time and memory, and nothing outside of the file.
    """
    source = Path(source)
    try:
        with source.open("rb") as stream:
            _check_kind(stream.read(8))
            stream.seek(0)
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        size = source.stat().st_size
        found, data = children.call(
            _read,
            str(source.resolve()),
            memory=2**28 + 4 * size,
            seconds=limits.KERAS_SECONDS + size / limits.CHILD_BYTES_PER_SECOND,
        )
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: damaged, cannot be read as HDF5: {error}") from error
    layers = _layers(found["layers"], np.frombuffer(data, np.float32))
    return KerasChain(layers, found["version"], sha256)


def _layers(described: list[Any], numbers: NDArray[np.float32]) -> tuple[Convolution, ...]:
    """Layers out of all their numbers: each one's kernel, then its bias."""
    layers, place = [], 0
    for shape, activation in described:
        middle = place + math.prod(shape)
        end = middle + shape[3]
        layers.append(
            Convolution(numbers[place:middle].reshape(shape), numbers[middle:end], activation)
        )
        place = end
    return tuple(layers)


@children.served
def _read(path: str, _: Any) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Shapes and activations of the layers, and all their numbers one after another, in the child."""
    with hdf5file.opened(path) as file:
        version = printable(_text(hdf5file.attribute(file, "keras_version") or "unknown"))
        config = hdf5file.attribute(file, "model_config", most=limits.KERAS_CONFIG_BYTES)
        reader = _Weights(file, Path(path).stat().st_size)
        layers = tuple(reader.layer(*each) for each in _chain(_model(config)))
    _check_channels(layers)
    numbers = [part.ravel() for layer in layers for part in (layer.kernel, layer.bias)]
    shapes = [(layer.kernel.shape, layer.activation) for layer in layers]
    return {"layers": shapes, "version": version}, np.concatenate(numbers)


def _check_kind(start: bytes) -> None:
    if start[:4] == b"PK\x03\x04":
        raise UserError(
            "a zip file, perhaps a .keras model; expected HDF5. Save it again from Keras: "
            'keras.models.load_model("model.keras").save("model.h5")'
        )
    if start != b"\x89HDF\r\n\x1a\n":
        raise UserError("not an HDF5 file; expected a model that Keras saved as .h5")


def _model(config: Any) -> dict[str, Any]:
    if config is None:
        raise UserError(
            "it has no model_config, so no layers: perhaps weights alone (save_weights); "
            'expected a whole model, saved from Keras with model.save("model.h5")'
        )
    try:
        model = json.loads(_text(config))
        if model["class_name"] not in ("Functional", "Model", "Sequential"):
            raise UserError(f"a model of class {model['class_name']!r}; {_EXPECTED}")
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise UserError(f"damaged: its model_config cannot be understood: {error!r}") from error
    return model


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _chain(model: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """Name, config and activation of every Conv2D, from the input to the output."""
    try:
        config = model["config"]
        layers = (
            config["layers"] if isinstance(config, dict) else config
        )  # a list before Keras 2.2.3
        if model["class_name"] != "Sequential":
            layers = _in_order(layers, config)
        return _fold([(layer["class_name"], layer["config"]) for layer in layers])
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"damaged: its model_config cannot be understood: {error!r}") from error


def _in_order(layers: list[dict[str, Any]], config: dict[str, Any]) -> list[dict[str, Any]]:
    """Follow the connections from the output back to the input; anything beside the path is an error."""
    named = {layer["name"]: layer for layer in layers}
    first, last = (_only(config[key], key) for key in ("input_layers", "output_layers"))
    path = [named[last]]
    while path[-1]["name"] != first:
        path.append(named[_source(path[-1])])
        if len(path) > len(layers):
            raise UserError("damaged: its layers form a circle")
    for layer in layers:
        if layer not in path:
            raise UserError(f"the layer {_name(layer)} is a branch; {_EXPECTED}")
    return path[::-1]


def _only(ends: list[Any], what: str) -> str:
    """Keras 3 writes the only one as [name, 0, 0], Keras 2 as [[name, 0, 0]]."""
    if isinstance(ends[0], str):
        return ends[0]
    if len(ends) != 1:
        raise UserError(f"it has {len(ends)} {what}; {_EXPECTED}")
    return str(ends[0][0])


def _source(layer: dict[str, Any]) -> str:
    """The layer that this one takes its input from."""
    nodes = layer["inbound_nodes"]
    if len(nodes) != 1:
        raise UserError(f"the layer {_name(layer)} is used {len(nodes)} times; {_EXPECTED}")
    tensors = nodes[0]["args"] if isinstance(nodes[0], dict) else nodes[0]
    nested = isinstance(tensors[0], list) and not isinstance(tensors[0][0], str)
    if len(tensors) != 1 or nested:
        raise UserError(f"the layer {_name(layer)} has several inputs; {_EXPECTED}")
    tensor = tensors[0]
    history = tensor["config"]["keras_history"] if isinstance(tensor, dict) else tensor
    return str(history[0])


def _name(layer: dict[str, Any]) -> str:
    return f"{layer['config'].get('name', layer.get('name'))!r} ({printable(layer['class_name'])})"


def _fold(layers: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any], str]]:
    """Put layers that are activations to the Conv2D before them."""
    chain: list[tuple[str, dict[str, Any], str]] = []
    for index, (kind, config) in enumerate(layers):
        name = config["name"]
        if kind == "InputLayer" and index == 0:
            continue
        if kind == "Conv2D":
            _check_convolution(name, config)
            chain.append((name, config, _activation(name, kind, config)))
        elif kind in ("Activation", "ReLU") and chain and chain[-1][2] == "linear":
            chain[-1] = (*chain[-1][:2], _activation(name, kind, config))
        else:
            raise UserError(
                f"the layer {name!r} is a {printable(kind)} in place {index}; {_EXPECTED}"
            )
    if len(chain) < 2:
        raise UserError(f"it has {len(chain)} Conv2D layers; expected two or more")
    return chain


def _activation(name: str, kind: str, config: dict[str, Any]) -> str:
    if kind == "ReLU":
        changed = {"max_value": None, "negative_slope": 0, "threshold": 0}
        _check_settings(name, kind, config, changed)
        return "relu"
    activation = config.get("activation") or "linear"
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise UserError(
            f"the layer {name!r} ({kind}) has the activation {activation!r}; "
            f"expected {', '.join(ACTIVATIONS)}"
        )
    return activation


def _check_convolution(name: str, config: dict[str, Any]) -> None:
    plain = {"padding": "same", "data_format": "channels_last", "groups": 1}
    _check_settings(name, "Conv2D", config, plain)
    _check_settings(name, "Conv2D", config, {"strides": [1, 1], "dilation_rate": [1, 1]})
    height, width = config["kernel_size"]
    filters = config["filters"]
    if height != width or height % 2 == 0 or not 1 <= height <= MAX_KERNEL:
        raise UserError(
            f"the layer {name!r} (Conv2D) has a kernel of {height}x{width}; expected a square with "
            f"an odd side, at most {MAX_KERNEL}"
        )
    if not 1 <= filters <= MAX_FILTERS:
        raise UserError(f"the layer {name!r} (Conv2D) has {filters} filters; at most {MAX_FILTERS}")


def _check_settings(name: str, kind: str, config: dict[str, Any], expected: dict[str, Any]) -> None:
    for key, value in expected.items():
        found = config.get(key, value)
        if found != value:
            raise UserError(
                f"the layer {name!r} ({kind}) has {key} {found!r}; expected {value!r}: only a plain "
                "chain of convolutions can be converted"
            )


class _Weights:
    """The numbers of the layers in a file of ``size`` bytes."""

    def __init__(self, file: Any, size: int) -> None:
        self._size, self._claimed = size, 0
        within = "model_weights" in list(file)  # to ask the file itself would follow a link
        self._group = _find(file, "model_weights") if within else file

    def layer(self, name: str, config: dict[str, Any], activation: str) -> Convolution:
        layer = _find(self._group, name)
        side, filters = config["kernel_size"][0], config["filters"]
        names = hdf5file.attribute(layer, "weight_names")
        paths = {_text(path).split("/")[-1].split(":")[0]: _text(path) for path in names}
        if "kernel" not in paths:
            raise UserError(f"the layer {name!r} (Conv2D) has no kernel")
        kernel = self._array(layer, paths["kernel"], (side, side, None, filters))
        bias = np.zeros(filters, np.float32)
        if config.get("use_bias", True):
            if "bias" not in paths:
                raise UserError(f"the layer {name!r} (Conv2D) has no bias")
            bias = self._array(layer, paths["bias"], (filters,))
        return Convolution(kernel, bias, activation)

    def _array(self, group: Any, path: str, shape: tuple[int | None, ...]) -> NDArray[np.float32]:
        """Read a dataset after its shape was found to be right: a file can claim any size."""
        import h5py

        data = _find(group, path)
        if isinstance(data, h5py.Dataset):
            hdf5file.check(data, path)
        fits = isinstance(data, h5py.Dataset) and len(data.shape) == len(shape)
        if not fits or any(b not in (None, a) for a, b in zip(data.shape, shape, strict=True)):
            found = getattr(data, "shape", "a group")
            raise UserError(f"{path!r} has the shape {found}; expected {shape}")
        if math.prod(data.shape) > MAX_WEIGHTS or data.dtype.kind != "f":
            raise UserError(f"{path!r} has shape {data.shape} of {data.dtype}; expected floats")
        self._claimed += 4 * math.prod(data.shape)
        hdf5file.check_claim(self._claimed, self._size, limits.KERAS_BYTES)
        values: NDArray[np.float32] = data[()].astype(np.float32)
        if not np.isfinite(values).all():
            raise UserError(f"{path!r} has numbers that are not finite")
        return values


def _find(group: Any, path: str) -> Any:
    """What lies at a path, if it lies in this very file."""
    try:
        return hdf5file.find(group, path)[1]
    except KeyError:
        raise UserError(f"damaged: it has no {path!r}") from None


def _check_channels(layers: tuple[Convolution, ...]) -> None:
    sizes = [layer.kernel.shape[2:] for layer in layers]
    for (_, made), (taken, _) in pairwise(sizes):
        if made != taken:
            raise UserError(f"damaged: a layer takes {taken} channels, the one before makes {made}")
    if sizes[0][0] != sizes[-1][1]:
        raise UserError(
            f"it makes {sizes[-1][1]} channels from {sizes[0][0]}; expected as many as it takes"
        )
