"""Model files changed in their structure run and give finite numbers, or are a UserError; nothing else.

Some seconds (40 files) in the suite; SNOWMELT_FUZZ=100000 asks for that many examples (``make fuzz``).
"""

import contextlib
import copy
import functools
import json
import os
import random
import resource
import struct
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from snowmelt import denoiser, modelfile, models, onnxfile
from snowmelt.errors import UserError
from snowmelt.export import tensor, to_onnx

EXAMPLES = int(os.environ.get("SNOWMELT_FUZZ", "0"))
SECONDS, MEGABYTES = 60, 1000  # that one file may take; the machine may be busy
IMAGE = np.random.default_rng(0).integers(0, 256, (24, 20), np.uint8)


class Mixed(nn.Module):
    """Most operators, at full and at half the size."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect")
        self.down = nn.Conv2d(4, 4, 2, stride=2, groups=2)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.last = nn.Conv2d(8, 4, 1)
        self.scale = nn.Parameter(torch.full((1, 4, 1, 1), 0.5))

    def forward(self, image):
        x = functional.leaky_relu(self.first(image), 0.2)
        low = functional.gelu(self.down(x)) + functional.avg_pool2d(x, 2)
        low = torch.tanh(low) / 2 + functional.silu(functional.max_pool2d(x, 2))
        fine = self.up(low) - functional.interpolate(low, scale_factor=2)
        p, q = (self.last(torch.cat([x, fine], 1)) * self.scale).chunk(2, dim=1)
        both = functional.max_pool2d(torch.cat([p, q], 1), 2)
        y = functional.pixel_shuffle(both + functional.pixel_unshuffle(image, 2), 2)
        return image - y * 0.1


@functools.cache
def samples():
    """Bytes of small models: the tutorial's kind, a U-Net calibrated for 8 bits, all operators."""
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        plain, unet = models.RecipeCNN([3, 2]), models.UNet([4, 8], [1, 1])
        ranges = {"encoders.0.0.first": [-1.0, 1.5], "downs.0": [-1.0, 1.5]}
        path = Path(folder) / "m.onnx"
        found = []
        for network, half, fields in (
            (plain, False, {"value_range": (0, 255), "recipe": {"epochs": 3}}),
            (unet, True, {"told": "gaussian:25", "int8": ranges}),
        ):
            modelfile.write(path, network, modelfile.make_header(network, **fields), half=half)
            found.append(path.read_bytes())
        header = modelfile.make_header(plain, reach=8, multiple=2)
        text = {"snowmelt": header.to_json()}
        mixed = to_onnx(Mixed().eval(), {"image": torch.zeros(1, 1, 8, 8)}, "denoised", text)
        return [*found, mixed]


WHOLE = [0, 1, 2, 3, 4, 5, 7, 8, 13, 18, 19, 25, 255, 256, 257, -1, 2**31, 2**62]
NUMBERS = [0.0, 1.0, -1.0, 0.5, 1e-45, 1e30, -3e38, float("nan"), float("inf")]
OPERATORS = ["Conv", "ConvTranspose", "Relu", "LeakyRelu", "Erf", "Identity", "Add", "Sub", "Mul"]
OPERATORS += [
    "Div",
    "MaxPool",
    "AveragePool",
    "Pad",
    "Resize",
    "Split",
    "Concat",
    "Constant",
    "Cast",
]
OPERATORS += [
    "SpaceToDepth",
    "DepthToSpace",
    "Sigmoid",
    "Tanh",
    "If",
    "Gather",
    "BatchNormalization",
]
CHAINS = [["Relu"], ["Pad", "MaxPool"], ["Pad"], ["Erf", "Neg"], ["Twice"], ["Double"]]
CHAINS += [["SpaceToDepth", "DepthToSpace"], ["Resize", "MaxPool"]]
NEAREST = {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
HEADER = {
    "architecture": ["unet", "recipe-cnn", "\x1b[31m", 5],
    "config": [{}, {"channels": 3}, {"blocks": [10**9, 1], "widths": [4, 8]}, {"widths": [1] * 9999}],
    "channels": [0, 1, 2, 3, 1024, True],
    "reach": [0, 1, 8, 100, 4096, 4097, -1, 1.5],
    "multiple": [1, 2, 3, 4, 16, 256, 0],
    "value_range": [None, [0, 1], [0, 1e-40], [-9e299, 9e299], [1e30, 1.0000001e30], [5, 5]],
    "conditioned": [True, False, 1],
    "told": [None, "gaussian:0", "gaussian:1e300", "poisson:1e-300", "poisson:inf", "camera:1", "x"],
    "int8": [{}, {"layers.0": [0, 1]}, {"head": [-1, 1]}, {"downs.0": [0, 1e-45]}, {"ups.0": [-1, 1e38]}],
    "name": ["\x1b]0;x\x07", "\ud800", "\u202e", 7],
    "scores": [[{"value": 1e999}], [{}], 5],
    "format": [1, 4, 5, "4"],
}  # fmt: skip


def change_tensor(rng, message):
    """Other numbers, another shape or another type."""
    kind = rng.choice(["number", "all", "dims", "type", "half"])
    width = {1: 4, 7: 8, 10: 2}.get(message["data_type"], 4)
    raw = bytes(message.get("raw_data", b""))
    form = {1: "<f", 7: "<q", 10: "<e"}.get(message["data_type"], "<f")
    number = rng.choice(WHOLE if form == "<q" else NUMBERS)
    number = min(max(number, -65504.0), 65504.0) if form == "<e" else number
    count = len(raw) // width
    if kind == "number" and count:
        at = rng.randint(0, count - 1) * width
        message["raw_data"] = raw[:at] + struct.pack(form, number) + raw[at + width :]
    elif kind == "all":
        message["raw_data"] = struct.pack(form, number) * count
    elif kind == "dims":
        dims = message.get("dims", [])
        other = [rng.choice(WHOLE) for _ in range(rng.randint(0, 9))]
        message["dims"] = rng.choice([rng.sample(dims, len(dims)), [*dims, 1], [1, *dims], other])
    elif kind == "half" and form == "<f":
        message["data_type"] = 10
        with np.errstate(all="ignore"):
            message["raw_data"] = np.frombuffer(raw[: 4 * count], "<f4").astype("<f2").tobytes()
    else:
        message["data_type"] = rng.choice([0, 1, 7, 10, 11])


def change_attribute(rng, graph):
    """Another value, a new one, or one less, of some node."""
    node = rng.choice(graph["node"])
    attributes = node.setdefault("attribute", [])
    if not attributes or rng.randint(0, 3) == 0:
        names = ["pads", "strides", "dilations", "kernel_shape", "group", "axis", "num_outputs"]
        name = rng.choice([*names, "ceil_mode", "auto_pad", "alpha", "output_padding"])
        several = [rng.choice(WHOLE) for _ in range(rng.randint(2, 4))]
        value = rng.choice([rng.choice(WHOLE), several])
        kind = {"type": 7, "ints": value} if isinstance(value, list) else {"type": 2, "i": value}
        attributes.append({"name": name, **kind})
        return
    attribute = rng.choice(attributes)
    if rng.randint(0, 4) == 0:
        attributes.remove(attribute)
    elif "ints" in attribute:
        at = rng.randint(0, max(0, len(attribute["ints"]) - 1))
        attribute["ints"][at : at + 1] = rng.choice([[rng.choice(WHOLE)], []])
    elif "i" in attribute:
        attribute["i"] = rng.choice(WHOLE)
    elif "f" in attribute:
        attribute["f"] = rng.choice(NUMBERS)
    elif "t" in attribute:
        change_tensor(rng, attribute["t"])
    else:
        attribute["s"] = rng.choice([b"", b"reflect", b"edge", b"CRD", b"linear"])


def names(graph):
    made = [name for node in graph["node"] for name in node.get("output", [])]
    kept = [value["name"] for value in graph["initializer"] + graph["input"]]
    return [*made, *kept, "", "nothing"]


def change_node(rng, graph):
    """One node less, more, doubled, of another kind or with other inputs."""
    nodes = graph["node"]
    at = rng.randint(0, len(nodes) - 1)
    node, kind = nodes[at], rng.choice(["drop", "insert", "op", "input", "swap", "more"])
    inputs = node.setdefault("input", [])
    if kind == "drop" and inputs:
        del nodes[at]
        for other in nodes:
            other["input"] = [
                inputs[0] if x in node["output"] else x for x in other.get("input", [])
            ]
    elif kind == "insert":
        insert(rng, graph, at)
    elif kind == "op":
        node["op_type"] = rng.choice(OPERATORS)
    elif kind == "input" and inputs:
        inputs[rng.randint(0, len(inputs) - 1)] = rng.choice(names(graph))
    elif kind == "swap":
        other = rng.randint(0, len(nodes) - 1)
        nodes[at], nodes[other] = nodes[other], nodes[at]
    else:
        place = rng.choice(["input", "output"])
        node[place] = [*node.get(place, []), rng.choice(names(graph))]


def insert(rng, graph, at):
    """A chain of new nodes before an input of a node; some keep the size, some make it larger."""
    node = graph["node"][at]
    if not node["input"]:
        return
    name, times = node["input"][0], rng.choice([1, 1, 1, 3, 30, 150])
    kinds = rng.choice(CHAINS)
    block, new = rng.choice([1, 2, 16]), []
    pads = [0, 0, block, block, 0, 0, block, block]
    for step in range(times):
        for kind in kinds:
            made = f"/new_{at}_{step}_{kind}_{rng.randint(0, 10**6)}"
            new += made_nodes(kind, name, made, block, pads)
            name = made
    node["input"][0] = name
    graph["node"][at:at] = new


def made_nodes(kind, name, made, block, pads):
    def attribute(key, value):
        if isinstance(value, list):
            return {"name": key, "type": 7, "ints": value}
        if isinstance(value, int):
            return {"name": key, "type": 2, "i": value}
        return {"name": key, "type": 3, "s": value.encode()}

    def one(op_type, inputs, **settings):
        keys = [attribute(*item) for item in settings.items()]
        return {"op_type": op_type, "input": inputs, "output": [made], "attribute": keys}

    def constant(array):
        value = {"name": "value", "type": 4, "t": tensor("", array)}
        return {"op_type": "Constant", "output": [f"{made}_c"], "attribute": [value]}

    if kind == "Pad":
        return [constant(np.int64(pads)), one("Pad", [name, f"{made}_c"], mode="edge")]
    if kind == "Neg":
        return [constant(np.float32([[[[-1.0]]]])), one("Mul", [name, f"{made}_c"])]
    if kind == "Twice":
        return [one("Concat", [name, name], axis=1)]
    if kind == "Double":
        return [one("Add", [name, name])]
    if kind == "MaxPool":
        side = [2 * block + 1] * 2 if block < 16 else [block] * 2
        return [one("MaxPool", [name], kernel_shape=side)]
    if kind == "Resize":
        factors = constant(np.float32([1, 1, block, block]))
        return [factors, one("Resize", [name, "", f"{made}_c"], mode="nearest", **NEAREST)]
    if kind in ("SpaceToDepth", "DepthToSpace"):
        return [one(kind, [name], blocksize=block)]
    return [one(kind, [name])]


def change_header(rng, message):
    entry = message["metadata_props"][0]
    key = rng.choice(sorted(HEADER))
    value = rng.choice(HEADER[key])
    text = json.dumps(json.loads(entry["value"]) | {key: value})
    entry["value"] = text.replace("Infinity", "1e999")


def change_frame(rng, message):
    """What surrounds the nodes: versions, inputs, outputs, what is said of tensors inside."""
    graph = message["graph"]
    kind = rng.choice(["opset", "ir", "shape", "name", "stated", "unused"])
    value = rng.choice([*graph["input"], *graph["output"]])
    if kind == "opset":
        message["opset_import"][0]["version"] = rng.choice(WHOLE)
    elif kind == "ir":
        message["ir_version"] = rng.choice(WHOLE)
    elif kind == "shape":
        axes = value["type"]["tensor_type"]["shape"]["dim"]
        axes[rng.randint(0, 3)] = {"dim_value": rng.choice(WHOLE)}
    elif kind == "name":
        value["name"] = rng.choice(names(graph))
    elif kind == "stated":
        stated = copy.deepcopy(value) | {"name": rng.choice(names(graph))}
        graph.setdefault("value_info", []).append(stated)
    else:
        graph["input"].append(copy.deepcopy(value) | {"name": "noise_level"})


def change(rng, message):
    """One change somewhere."""
    graph = message["graph"]
    kind = rng.randint(0, 9)
    if kind < 2:
        change_tensor(rng, rng.choice(graph["initializer"]))
    elif kind < 5:
        change_attribute(rng, graph)
    elif kind < 7:
        change_node(rng, graph)
    elif kind < 9:
        change_header(rng, message)
    else:
        change_frame(rng, message)


def check(encoded, precision):
    """Read, load and denoise; what fails names the file, and nothing takes long or much memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(encoded)
        began, before = time.perf_counter(), peak()
        try:
            denoise = denoiser.load(path, device="cpu", precision=precision, threads=2)
            asked = denoise.header.conditioned
            result = denoise(IMAGE, sigma=12 if asked else "auto")
            scaled = (IMAGE / 255).astype(np.float32)
            finite = denoise(scaled, sigma=12 / 255 if asked else "auto", value_range=(0, 1))
        except UserError as error:
            message = str(error)
            assert message.isprintable(), message
            assert "Exception" not in message, message
            assert str(path) in message or "this model is for" in message, message
        else:
            assert result.shape == IMAGE.shape
            assert np.isfinite(finite).all()
            assert modelfile.inspect_text(path).replace("\n", "").isprintable()
        assert time.perf_counter() - began < SECONDS
        assert peak() - before < MEGABYTES
        if EXAMPLES:  # torch takes a time for each
            with contextlib.suppress(UserError):
                modelfile.load_network(path)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_unchanged_models_run():
    for encoded in samples():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.onnx"
            path.write_bytes(encoded)
            denoise = denoiser.load(path, device="cpu", precision="f32")
            sigma = 12 if denoise.header.conditioned else "auto"
            assert (denoise(IMAGE, sigma=sigma) != IMAGE).any()


def test_changed_models():
    for seed in range(EXAMPLES or 40):
        rng = random.Random(seed)
        message = onnxfile.decode(rng.choice(samples()))
        for _ in range(rng.randint(1, 3)):
            change(rng, message)
        with contextlib.suppress(struct.error, OverflowError):  # such a file cannot be
            encoded = onnxfile.encode(message)
            try:
                check(encoded, rng.choice(["f32", "auto", "int8"]))
            except Exception as error:
                raise AssertionError(f"seed {seed}") from error
