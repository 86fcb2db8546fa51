"""The model file: one ONNX file whose metadata say everything about the denoiser, as one JSON header.

``read`` needs neither torch nor onnx, and loading executes nothing: no pickle, no code, no second file, no
operators but plain tensor arithmetic. What was validated is what is kept in memory (``ModelFile.raw``), so
that a file cannot change between check and use. The format is described in docs/modelfile.md.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snowmelt import __version__, footprint, noise, onnxfile, processor
from snowmelt.errors import UserError, nearest, printable
from snowmelt.files import replacing
from snowmelt.limits import MAX_BYTES, MAX_HEADER_CHARACTERS
from snowmelt.onnxfile import short

if TYPE_CHECKING:
    import torch
    from torch import nn

FORMAT = 4  # 2 brought the key "told", 3 weights in float16, 4 the key "int8"
HEADER_KEY = "snowmelt"
# The keys of models.MODELS, which cannot be asked without torch.
ARCHITECTURES = ("recipe-cnn", "unet")
CREATED_WITH = f"snowmelt {__version__}"
INPUTS = ("image", "noise_level")
OUTPUT = "denoised"
MAX_CHANNELS, MAX_REACH, MAX_MULTIPLE = 1024, 4096, 256
# What images are scaled by has to be a float32 with room to compute; of a range that is narrower than this
# part of its own values, float32 keeps fewer than 100 steps.
MAX_VALUE, NARROWEST = 1e30, 1e-5
MAX_SPAN, LEAST_SPAN = 1e6, 1e-6  # of numbers inside a network, for 8 bits
MAX_LEVEL = 10.0  # of noise, as a part of the range
# Of the network's arguments: entries of a list, and blocks in all levels together.
MAX_ENTRIES, MAX_BLOCKS = 1000, 1000
OPSETS = range(13, 27)
# Rounding in float32, in another order of summing, differs by about 1e-6 of the largest value.
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a model file says about itself, besides the graph and the weights.

    Attributes:
        architecture: Name of the network in ``models.MODELS``.
        config: The network's constructor arguments, so that training can go on from the file.
        channels: Channels of the image, in and out.
        reach: How many pixels away an input pixel can change an output pixel.
        multiple: What height and width must divide by.
        value_range: The values that stand for 0 and 1, where the image does not say; None: integers of 8 and
            16 bits span their type, of others the user has to say them.
        conditioned: Whether there is a second input: the noise's standard deviation at every pixel.
        told: What the second input is where the user says nothing, as `noise.parse` reads it, such as
            "gaussian:25"; None: it is measured on each image.
        int8: Layer by layer, lowest and highest of the numbers that go into it, for arithmetic in 8 bits;
            layers that are not named, and all of a model without, stay in floating point.
        name: What people call the model.
        noise: What it was trained for, in words.
        recipe: How it was trained.
        data: What it was trained on: rows with "name", "sha256" and what else is known.
        scores: Rows with "metric", "value", "protocol" and what else is known.
        licence: Of the weights.
        created_with: Program and version.
    """

    architecture: str
    config: dict[str, Any]
    channels: int = 1
    reach: int
    multiple: int
    value_range: tuple[float, float] | None = None
    conditioned: bool = False
    told: str | None = None
    int8: dict[str, list[float]] = field(default_factory=dict)
    name: str | None = None
    noise: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    data: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    licence: str | None = None
    created_with: str = CREATED_WITH

    def __post_init__(self) -> None:
        for name, (expected, fits) in _FIELDS.items():
            value = getattr(self, name)
            if not fits(value):
                raise UserError(f"the header's {name} is {short(value)}; expected {expected}")
        if self.config.get("channels", self.channels) != self.channels:
            raise UserError(
                f"the header's channels is {self.channels}, but its config says "
                f"{short(self.config['channels'])}"
            )
        if self.value_range is not None:
            low, high = self.value_range
            object.__setattr__(self, "value_range", (float(low), float(high)))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs."""
        return INPUTS if self.conditioned else INPUTS[:1]

    def to_json(self) -> str:
        """The text that stands in the file; raises UserError for what JSON cannot hold."""
        values = {"format": FORMAT} | dataclasses.asdict(self)
        try:
            text = json.dumps(values, allow_nan=False, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise UserError(f"the header cannot be written as JSON: {error}") from error
        if len(text) > MAX_HEADER_CHARACTERS:
            raise UserError(f"the header has {len(text):,} of {MAX_HEADER_CHARACTERS:,} characters")
        return text

    @classmethod
    def from_json(cls, text: str) -> Header:
        """Read and check what ``to_json`` wrote; raises UserError for anything else."""
        values = _json_object(text)
        _check_format(values.pop("format", None))
        known = {entry.name for entry in dataclasses.fields(cls)}
        for key in values.keys() - known:
            raise UserError(f"the header has an unknown key {short(key)}; {nearest(key, known)}")
        for key in ("architecture", "config", "channels", "reach", "multiple", "created_with"):
            if key not in values:
                raise UserError(f"the header has no {key!r}")
        if isinstance(values.get("value_range"), list):
            values["value_range"] = tuple(values["value_range"])
        return cls(**values)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and all(_is_object(row) for row in value)


def _is_between(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _is_pair(value: Any, largest: float) -> bool:
    """Whether it is two numbers, the lower one first, none further from 0 than ``largest``."""
    numbers = len(value) == 2 and all(type(number) in (int, float) for number in value)
    return numbers and value[0] < value[1] and all(abs(number) <= largest for number in value)


def _is_range(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, tuple) or not _is_pair(value, MAX_VALUE):
        return False
    low, high = value
    return high - low >= max(1 / MAX_VALUE, NARROWEST * max(abs(low), abs(high)))


def _is_ranges(value: Any) -> bool:
    return _is_object(value) and all(
        isinstance(each, list)
        and _is_pair(each, MAX_SPAN)
        and each[0] <= 0
        and each[1] > LEAST_SPAN
        for each in value.values()
    )


def _is_config(value: Any) -> bool:
    """Whether it can be a network's arguments; building a network takes a time for each block."""
    if not _is_object(value):
        return False
    lists = [each for each in value.values() if isinstance(each, list)]
    blocks = value.get("blocks", [])
    counts = [each for each in blocks if type(each) is int] if isinstance(blocks, list) else []
    return all(len(each) <= MAX_ENTRIES for each in lists) and sum(counts) <= MAX_BLOCKS


def _is_level(value: Any) -> bool:
    """Whether it is noise that a network can be told: its level is known, and not absurd."""
    if value is None:
        return True
    try:
        kind = noise.parse(value) if isinstance(value, str) else None
    except (UserError, OverflowError):
        return False
    known = isinstance(kind, noise.Gaussian | noise.Poisson | noise.PoissonGaussian)
    sigma, photons = getattr(kind, "sigma", 0.0), getattr(kind, "peak", math.inf)
    return known and sigma <= MAX_LEVEL and photons >= 1 / MAX_LEVEL**2


_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "architecture": ("a name", _is_text),
    "config": (
        f"an object of the network's arguments, at most {MAX_ENTRIES} in a list and {MAX_BLOCKS} blocks",
        _is_config,
    ),
    "channels": (f"a whole number from 1 to {MAX_CHANNELS}", _is_between(1, MAX_CHANNELS)),
    "reach": (f"a whole number from 0 to {MAX_REACH}", _is_between(0, MAX_REACH)),
    "multiple": (f"a whole number from 1 to {MAX_MULTIPLE}", _is_between(1, MAX_MULTIPLE)),
    "value_range": (
        f"two numbers, the lower one first, neither over {MAX_VALUE:g} nor too close to each other for "
        "float32, or null",
        _is_range,
    ),
    "conditioned": ("true or false", lambda value: isinstance(value, bool)),
    "told": (
        f"noise such as gaussian:25, gaussian, poisson or both, of a level up to {MAX_LEVEL:g} times the "
        "range, or null",
        _is_level,
    ),
    "int8": (
        f"an object of ranges [low, high] about 0 by layer, {LEAST_SPAN:g} to {MAX_SPAN:g}",
        _is_ranges,
    ),
    "name": ("text or null", _is_text_or_none),
    "noise": ("text or null", _is_text_or_none),
    "recipe": ("an object", _is_object),
    "data": ("a list of objects", _is_rows),
    "scores": ("a list of objects", _is_rows),
    "licence": ("text or null", _is_text_or_none),
    "created_with": ("text", _is_text),
}


def _json_object(text: str) -> dict[str, Any]:
    if len(text) > MAX_HEADER_CHARACTERS:
        raise UserError(f"the header has {len(text):,} characters, over {MAX_HEADER_CHARACTERS:,}")
    try:
        values = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
        # Half of a pair of surrogates is no character: it could be neither printed nor written again.
        json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UserError(f"the header is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"the header is {short(values)}; expected a JSON object")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError(f"a key is there twice among {short([key for key, _ in pairs])}")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {short(text)} is too large")
    return number


def _check_format(number: Any) -> None:
    if type(number) is not int or number < 1:
        raise UserError(f"the header's format is {short(number)}; expected {FORMAT}")
    if number > FORMAT:
        raise UserError(
            f"it has format {number}; this is {CREATED_WITH}, which reads up to format {FORMAT}. "
            "Update snowmelt: pip install --upgrade snowmelt"
        )


@dataclass(frozen=True)
class ModelFile:
    """A model file that was read and found good.

    Attributes:
        path: Where it lay.
        header: What it says about itself.
        weights: The network's state, float32, by name.
        raw: The bytes of the file; give these to a runtime, not the path.
        sha256: Of these bytes.
        needs: Memory and work that the graph takes, for an image of any size.
    """

    path: Path
    header: Header
    weights: dict[str, NDArray[np.float32]]
    raw: bytes = field(repr=False)
    sha256: str
    needs: footprint.Needs = field(repr=False)


def read(path: str | os.PathLike[str]) -> ModelFile:
    """Read and check a model file; without torch, without onnx.

    Raises UserError, which names the file, for anything but a sound model file of this or an older format.
    """
    path = Path(path)
    data = _read_bytes(path)
    try:
        return _checked(path, data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _read_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{path}: not a file; expected a model such as model.onnx")
            if status.st_size > MAX_BYTES:
                raise UserError(
                    f"{path}: {status.st_size:,} bytes; a model file has at most {MAX_BYTES:,}"
                )
            return file.read(MAX_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def _checked(path: Path, data: bytes) -> ModelFile:
    if not data:
        raise UserError("the file is empty; expected a Snowmelt model (.onnx)")
    model = onnxfile.parse(data)
    if HEADER_KEY not in model.metadata:
        made_by = f" (made by {short(model.producer.strip())})" if model.producer.strip() else ""
        raise UserError(
            f"it is an ONNX file{made_by}, but not Snowmelt's: its metadata have no {HEADER_KEY!r}. "
            "Expected a file that `snowmelt train` or `snowmelt convert` wrote"
        )
    header = Header.from_json(model.metadata[HEADER_KEY])
    if header.architecture not in ARCHITECTURES:
        raise UserError(
            f"the architecture {short(header.architecture)} is unknown; "
            f"{nearest(header.architecture, ARCHITECTURES)}. A newer snowmelt may know it"
        )
    _check_operators(model)
    _check_interface(model, header)
    _check_weights(model)
    _check_layers(model, header)
    channels = {"image": header.channels, "noise_level": 1, OUTPUT: header.channels}
    needs = footprint.check(model, channels, header.reach, header.multiple)
    weights = {
        name: array.astype(np.float32, copy=False) for name, array in model.initializers.items()
    }
    return ModelFile(path, header, weights, data, hashlib.sha256(data).hexdigest(), needs)


def _check_operators(model: onnxfile.Model) -> None:
    for domain, version in model.opsets.items():
        if domain or version not in OPSETS:
            raise UserError(
                f"it needs version {version} of the operator set {short(domain)}; expected ONNX's "
                f"own, version {OPSETS[0]} to {OPSETS[-1]}"
            )
    if not model.opsets:
        raise UserError("damaged: it does not say which operator set it uses")
    for node in model.nodes:
        if node.domain or node.op_type not in footprint.RULES:
            name = f"{node.domain}.{node.op_type}".lstrip(".")
            raise UserError(
                f"it uses the operator {short(name)}; a denoiser may use plain tensor arithmetic "
                f"only: {', '.join(sorted(footprint.RULES))}"
            )


def _check_interface(model: onnxfile.Model, header: Header) -> None:
    channels = [header.channels, 1]
    expected = dict(zip(header.inputs, channels, strict=False))
    _check_values("inputs", model.inputs, expected)
    _check_values("outputs", model.outputs, {OUTPUT: header.channels})


def _check_values(
    what: str, values: tuple[onnxfile.Value, ...], expected: Mapping[str, int]
) -> None:
    names = [value.name for value in values]
    if names != list(expected):
        raise UserError(f"its {what} are {short(names)}; expected {list(expected)}")
    for value in values:
        channels = expected[value.name]
        free = [isinstance(size, str) for size in value.shape] == [True, False, True, True]
        if value.data_type != 1 or not free or value.shape[1] != channels:
            raise UserError(
                f"{value.name!r} has ONNX data type {value.data_type} and shape "
                f"{short(list(value.shape))}; expected float32 (1) and "
                f"[batch, {channels}, H, W] with free batch, H and W"
            )


def _check_weights(model: onnxfile.Model) -> None:
    used = {name for node in model.nodes for name in node.inputs}
    for name, array in model.initializers.items():
        if name not in used:
            raise UserError(f"nothing uses the weights {short(name)}")
        if array.dtype.kind != "f":
            raise UserError(f"the weights {short(name)} are {array.dtype}; expected float32")


def _check_layers(model: onnxfile.Model, header: Header) -> None:
    """Layers that are to be computed in 8 bits are convolutions, and their weights are their own."""
    wide = {
        node.outputs[0]: node.inputs[0]
        for node in model.nodes
        if node.op_type == "Cast"
        if node.inputs
    }
    kernels = {
        wide.get(name, name): node.outputs[0].split("/")[1:2]
        for node in model.nodes
        if node.op_type in ("Conv", "ConvTranspose")
        for name in node.inputs[1:2]
    }
    for layer in header.int8:
        if f"{layer}.weight" not in model.initializers:
            raise UserError(f"the header's int8 names {short(layer)}, a layer without weights")
        if kernels.get(f"{layer}.weight") != [layer]:
            raise UserError(f"the header's int8 names {short(layer)}, which is no convolution")


def inspect_text(path: str | os.PathLike[str]) -> str:
    """What a model file says, for people: one line a fact, control characters made visible."""
    model = read(path)
    lines = [f"{key:<14}{printable(value)}".rstrip() for key, value in _facts(model)]
    return "\n".join([printable(str(path)), *lines])


def _facts(model: ModelFile) -> list[tuple[str, str]]:
    header = model.header
    parameters = sum(array.size for array in model.weights.values())
    low, high = header.value_range or (0, 1)
    return [
        ("name", header.name or "-"),
        ("architecture", header.architecture),
        *_rows("config", [header.config]),
        ("parameters", f"{parameters:,}"),
        ("channels", str(header.channels)),
        ("reach", f"{header.reach} pixels"),
        ("multiple", str(header.multiple)),
        ("value range", f"{low:g} to {high:g}" if header.value_range else "that of the image"),
        ("inputs", ", ".join(header.inputs)),
        *([("noise level", header.told or "measured on each image")] if header.conditioned else []),
        ("int8", f"calibrated, {len(header.int8)} layers" if header.int8 else "not calibrated"),
        ("trained for", header.noise or "not stated"),
        *_rows("trained on", header.data),
        *_rows("recipe", [header.recipe] if header.recipe else []),
        *_rows("scores", header.scores),
        ("licence", header.licence or "not stated"),
        ("created with", header.created_with),
        ("sha256", model.sha256),
    ]


def _rows(key: str, rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """One line a row, the key before the first: ``metric psnr, value 31.2, protocol ...``."""
    lines = [", ".join(f"{name} {_value(row[name])}" for name in row) for row in rows]
    lines = lines or ["not stated"]
    return [(key, lines[0])] + [("", line) for line in lines[1:]]


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def make_header(network: nn.Module, **fields: Any) -> Header:
    """A header with what the network says about itself and the given ``fields``."""
    promised: Any = network
    known = {
        "architecture": promised.architecture,
        "config": promised.config,
        "channels": promised.config["channels"],
        "reach": promised.reach,
        "multiple": promised.multiple,
        "conditioned": bool(getattr(network, "conditioned", False)),
    }
    return Header(**(known | fields))


def write(
    path: str | os.PathLike[str], network: nn.Module, header: Header, *, half: bool = False
) -> float:
    """Write a network and its header as a model file, whole or not at all.

    The file is read back and run on a small random image in OpenVINO; its result must equal torch's (in
    float64) to rounding before the file is kept. Returns the largest absolute difference found, in the
    network's units. The network is left as it is: a copy on the CPU is what is written, with ``half`` its
    weights rounded to float16, in which they take half the room; what is computed is float32 all the same.

    Raises UserError when torch is missing, weights are not finite, or header and network disagree.
    """
    need_torch()
    path = Path(path)
    if not path.parent.is_dir() or path.is_dir():
        raise UserError(f"{path}: cannot be written: expected a file name in a folder that exists")
    _check_header(network, header)
    still = _still_copy(network, half=half)
    data = _to_onnx(still, header, half=half)
    try:
        with replacing(path) as part:
            part.write_bytes(data)
            difference = _difference(_checked(path, part.read_bytes()), still)
    except (OSError, UserError) as error:
        raise UserError(f"{path}: not written: {error}") from error
    return difference


def need_torch() -> None:
    """Raise UserError with the remedy where torch is missing."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UserError(
            'torch is not installed, which this needs; install it: pip install "snowmelt[train]"'
        ) from error


def _check_header(network: nn.Module, header: Header) -> None:
    promised = make_header(network)
    # Not config: a file of an older version lacks the arguments that came later.
    for key in ("architecture", "channels", "reach", "multiple", "conditioned"):
        said, true = getattr(header, key), getattr(promised, key)
        if said != true:
            raise UserError(f"the header's {key} is {short(said)}; the network's is {short(true)}")


def _still_copy(network: nn.Module, *, half: bool) -> nn.Module:
    """A copy on the CPU in the usual memory order, ready to be run and written."""
    import torch

    still = copy.deepcopy(network).to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    for name, value in still.state_dict().items():
        if value.dtype != torch.float32:
            raise UserError(f"the network's {name} is {value.dtype}; expected torch.float32")
        if half:
            value.copy_(_halved(name, value))
    return still


def _halved(name: str, value: torch.Tensor) -> torch.Tensor:
    half = value.half()
    if half.isinf().any() and value.isfinite().all():
        raise UserError(
            f"the network's {name} reaches {float(value.abs().max()):.3g}; float16 ends at 65504: write it "
            "in float32"
        )
    return half


def _to_onnx(network: nn.Module, header: Header, *, half: bool) -> bytes:
    import torch

    from snowmelt.export import to_onnx

    shapes = {"image": header.channels, "noise_level": 1}
    side = 2 * header.multiple
    example = {name: torch.zeros(1, shapes[name], side, side) for name in header.inputs}
    with torch.autocast("cpu", enabled=False):
        return to_onnx(network, example, OUTPUT, {HEADER_KEY: header.to_json()}, half=half)


def _difference(model: ModelFile, network: nn.Module) -> float:
    """Largest difference between the file in OpenVINO and the network in torch; an error if it is large."""
    import torch

    header = model.header
    height, width = 13 * header.multiple, 21 * header.multiple
    random = np.random.default_rng(0)
    shapes = {"image": (2, header.channels, height, width), "noise_level": (2, 1, height, width)}
    inputs = [random.random(shapes[name], np.float32) for name in header.inputs]
    found = _run(model, inputs)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        expected = network.double()(*(torch.from_numpy(array).double() for array in inputs)).numpy()
    if found.shape != expected.shape or not np.isfinite(found).all():
        raise UserError(f"the file gives {found.shape}, with numbers that are not finite")
    difference = float(np.abs(found - expected).max())
    limit = TOLERANCE * float(np.abs(expected).max())
    if not math.isfinite(difference) or difference > limit:
        raise UserError(
            f"the file and the network differ by {difference:.2g} on a random image; expected at "
            f"most {limit:.2g}. This is a fault in snowmelt; please report it"
        )
    return difference


def _run(model: ModelFile, inputs: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    core = processor.core()
    try:
        graph = core.read_model(model.raw)
        result: NDArray[np.float32] = core.compile_model(
            graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )(inputs)[0]
    except RuntimeError as error:
        raise UserError(f"OpenVINO cannot run it: {processor.in_words(error)}") from error
    return result


def load_network(path: str | os.PathLike[str]) -> nn.Module:
    """Build the network of a model file and fill in its weights; for training on, or for torch on a GPU.

    The network is on the CPU, in float32, in eval mode. Raises UserError as ``read`` does, and when torch is
    missing or the weights are not those of the architecture.
    """
    need_torch()
    model = read(path)
    try:
        return assemble(model.header, model.weights)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def assemble(header: Header, weights: Mapping[str, NDArray[np.float32]]) -> nn.Module:
    """The network that a header describes, in eval mode, with exactly these weights (not copied)."""
    import torch

    network = _built(header)
    found = {name: list(array.shape) for name, array in weights.items()}
    expected = {name: list(value.shape) for name, value in network.state_dict().items()}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise UserError(
                f"the weights {short(name)} have shape {found.get(name, 'nothing')}; "
                f"{header.architecture} expects {expected.get(name, 'nothing')}"
            )
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    network.load_state_dict(tensors, assign=True)
    return network.eval()


def _built(header: Header) -> nn.Module:
    """The network without memory behind it, so that absurd sizes cost nothing; draws no random numbers."""
    import torch

    from snowmelt.models import build

    try:
        with torch.device("meta"):
            network = build(header.architecture, header.config)
        _check_header(network, header)
    except UserError:
        raise
    except Exception as error:  # The config is a stranger's: torch answers in many ways.
        raise UserError(
            f"{header.architecture} cannot be built from {short(header.config)}: "
            f"{printable(str(error))[:300]}"
        ) from error
    return network
