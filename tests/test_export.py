import dataclasses

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from torch import nn
from torch.nn import functional

from snowmelt import footprint, onnxfile, processor
from snowmelt.errors import UserError
from snowmelt.export import to_onnx

NEAREST = {
    "mode": "nearest",
    "nearest_mode": "floor",
    "coordinate_transformation_mode": "asymmetric",
}
CHANNELS = {"image": 3, "noise_level": 1, "denoised": 3}


class Everything(nn.Module):
    """Every module and function that can be exported, and skips round them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(13, 16, 3, padding=1, padding_mode="reflect")
        self.down = nn.Conv2d(8, 16, 3, padding=1, groups=2, bias=False, stride=2)
        self.wide = nn.Conv2d(16, 16, (3, 1), padding="same", dilation=2, padding_mode="replicate")
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.up3 = nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1)
        self.last = nn.Conv2d(24, 12, 1)
        self.beta = nn.Parameter(torch.rand(1, 12, 1, 1))
        self.shuffle, self.upsample = nn.PixelShuffle(2), nn.Upsample(scale_factor=2)
        self.activations = nn.Sequential(
            nn.GELU(), nn.Sigmoid(), nn.Tanh(), nn.Identity(), nn.SiLU()
        )
        self.leaky, self.relu = nn.LeakyReLU(0.2), nn.ReLU(inplace=True)
        self.pool, self.average = nn.MaxPool2d(2), nn.AvgPool2d(2)

    def forward(self, image, noise_level=None):
        x = functional.pixel_unshuffle(image, 2)
        if noise_level is not None:
            x = torch.cat([x, functional.avg_pool2d(noise_level, 2)], 1)
        x = self.first(x)
        p, q = x.chunk(2, dim=1)
        x = p * torch.sigmoid(q)
        low = self.wide(self.activations(self.down(x)))
        y = self.up(low) + self.upsample(self.pool(functional.silu(x))) * 0.5
        y = torch.cat((self.leaky(x), y, functional.leaky_relu(self.up3(low), 0.3)), dim=1)
        y = self.last(self.relu(y)) * self.beta
        y = y + functional.gelu(y)
        small = functional.interpolate(functional.max_pool2d(image, 2), scale_factor=2)
        return image - self.shuffle(y) + small / 3 + (1 - image) * 0.1 + torch.tanh(image).relu()


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "float16"])
def everything(request):
    """The network, and the file of it; weights are numbers that float16 holds."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Everything().eval()
    for weights in network.parameters():
        weights.data = weights.data.half().float()
    examples = {"image": torch.zeros(1, 3, 8, 8), "noise_level": torch.zeros(1, 1, 8, 8)}
    return network, to_onnx(network, examples, "denoised", {"key": "words"}, half=request.param)


def test_every_operation_equals_torch(everything):
    network, data = everything
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    random = np.random.default_rng(0)
    image = random.random((2, 3, 20, 12), np.float32)
    level = random.random((2, 1, 20, 12), np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(image), torch.from_numpy(level)).numpy()
    inputs = {"image": image, "noise_level": level}
    (by_onnx,) = onnx.reference.ReferenceEvaluator(model).run(None, inputs)
    core = processor.core()
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    by_openvino = core.compile_model(core.read_model(data), "CPU", hint)([image, level])[0]
    # Ten layers of at most 150 float32 products near 1.
    np.testing.assert_allclose(by_onnx, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(by_openvino, expected, rtol=0, atol=1e-5)


def test_initializers_are_the_state(everything, request):
    network, data = everything
    model = onnxfile.parse(data)
    assert model.metadata == {"key": "words"}
    assert model.initializers.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(model.initializers[name], value.numpy())
    half = "float16" in request.node.name
    assert {str(array.dtype) for array in model.initializers.values()} == {
        "float16" if half else "float32"
    }
    used = {node.op_type for node in model.nodes}
    # Nothing is allowed that is not needed, and tested here.
    assert used == footprint.RULES.keys() - (set() if half else {"Cast"})


def test_footprint_equals_what_gradients_show(everything):
    data = everything[1]
    multiple = 4
    model = onnxfile.parse(data)
    level = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    double = Everything().double()
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    reaches = []
    for axis in (0, 1):
        found = footprint._follow(model, CHANNELS, axis, multiple)["denoised"]
        reaches.append(found.reach)
        for row in range(32, 32 + multiple):
            line = double(image, level).select(2 + axis, row).sum()
            (gradient,) = torch.autograd.grad(line, image)
            axes = [other for other in range(4) if other != 2 + axis]
            rows = gradient.abs().sum(axes).nonzero().flatten()
            low, high = 32 + found.low[row - 32], 32 + found.high[row - 32]
            # Max pooling passes some gradients only: the ends may lie a pixel or two inside.
            assert low <= rows.min() <= low + 2
            assert high - 2 <= rows.max() <= high
    assert reaches == [15, 7]  # A kernel of 3 x 1 makes the difference.
    footprint.check(model, CHANNELS, 15, multiple)
    with pytest.raises(UserError, match=r"pixels 15 away .* promises a reach of 14"):
        footprint.check(model, CHANNELS, 14, multiple)
    with pytest.raises(UserError, match=r"1/4 of the resolution, .* multiple 6 does not allow"):
        footprint.check(model, CHANNELS, 100, 6)
    with pytest.raises(UserError, match="'denoised' has 3 channels; expected 1"):
        footprint.check(model, CHANNELS | {"denoised": 1}, 100, multiple)


def test_an_argument_that_is_not_given_is_none():
    class Optional(nn.Module):
        def forward(self, image, noise_level=None):
            return image if noise_level is None else image * noise_level

    data = to_onnx(Optional(), {"image": torch.zeros(1, 3, 4, 4)}, "denoised", {})
    assert [value.name for value in onnxfile.parse(data).inputs] == ["image"]


class Wrapped(nn.Module):
    """A function of an image and of one module."""

    def __init__(self, function, module):
        super().__init__()
        self.function, self.module = function, module

    def forward(self, image):
        return self.function(image) if self.module is None else self.function(image, self.module)


@pytest.mark.parametrize(
    ("function", "module", "words"),
    [
        (lambda x: torch.fft.fft2(x).real, None, "no ONNX form here"),
        (lambda x: x.flip(2), None, "the operation flip has no ONNX form here"),
        (lambda x, norm: norm(x), nn.BatchNorm2d(3), "BatchNorm2d has no ONNX form here"),
        (lambda x: x * x.shape[2], None, "no ONNX form here"),
        (lambda x, _: x, nn.Conv2d(3, 3, 1), "module.bias, module.weight take no part"),
        (
            lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"),
            None,
            "interpolate.* no ONNX form here",
        ),
        (lambda x: functional.gelu(x, approximate="tanh"), None, "approximate='tanh'"),
        (lambda x: x.chunk(2, dim=1)[0], None, "even parts of dim 1"),
        (
            lambda x, conv: conv(x),
            nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"),
            "'circular' has no ONNX form here",
        ),
    ],
)
def test_other_operations_are_named(function, module, words):
    with pytest.raises(UserError, match=words):
        to_onnx(Wrapped(function, module), {"image": torch.zeros(1, 3, 8, 8)}, "denoised", {})


# Graphs that a hostile file could hold


def graph(*nodes, weights=None, opset=17):
    """A parsed model of nodes (operator, inputs, settings); each makes "1", "2" ... , the last "denoised"."""
    names = [str(index + 1) for index in range(len(nodes) - 1)] + ["denoised"]
    made = [
        onnxfile.Node(op_type, "", tuple(inputs), (name,), settings)
        for (op_type, inputs, settings), name in zip(nodes, names, strict=True)
    ]
    value = onnxfile.Value("image", 1, ("", 3, "", "")), onnxfile.Value("denoised", 1, ("",))
    return onnxfile.Model({}, weights or {}, tuple(made), value[:1], value[1:], {"": opset}, "")


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([("MaxPool", ["image"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})], None),
        ([("MaxPool", ["image"], {"kernel_shape": [3, 3]})], "nothing is left"),
        ([("MaxPool", ["image"], {"kernel_shape": [3, 3], "pads": [2] * 4})], "not the size"),
        ([("MaxPool", ["image"], {"kernel_shape": [10**9] * 2})], "kernel_shape is 1000000000"),
        ([("MaxPool", ["image"], {"kernel_shape": [3]})], "kernel_shape is"),
        (
            [("MaxPool", ["image"], {"kernel_shape": [1, 1], "auto_pad": "SAME_UPPER"})],
            r"unexpected settings \['auto_pad'\]",
        ),
        ([("DepthToSpace", ["image"], {"blocksize": 2})], "do not divide into 2 x 2"),
        ([("SpaceToDepth", ["image"], {"blocksize": 0})], "blocksize is 0"),
        ([("SpaceToDepth", ["image"], {"blocksize": 4})], "multiple 2 does not allow"),
        ([("SpaceToDepth", ["image"], {"blocksize": 2})], "not the size"),
        ([("Concat", ["image", "image"], {"axis": 2})], "side by side"),
        ([("Concat", ["image", "image"], {"axis": 1})], "6 channels; expected 3"),
        (
            [("Concat", ["image"] * 2, {"axis": 1})]
            + [("Concat", [str(i)] * 2, {"axis": 1}) for i in range(1, 20)],
            "98304 channels; expected 1 to 65536",
        ),
        ([("Add", ["image"], {})], "it has 1 inputs, which ONNX does not allow"),
        ([("Add", ["image", ""], {})], "expected two pictures"),
        ([("Relu", [], {})], "it has 0 inputs, which ONNX does not allow"),
        ([("Relu", ["w"], {})], "its input 0 is not a picture"),
        ([("Add", ["image", "w"], {})], "numbers of shape"),
        ([("Conv", ["image", "image"], {})], "is not given in the file"),
        ([("Conv", ["image", "w"], {})], "not a kernel"),
        ([("Conv", ["image", "half"], {})], "its weights are not float32"),
        ([("Conv", ["image", "kernel", "bias"], {})], "its weights are not float32"),
        ([("Cast", ["image"], {"to": 1})], "is not given in the file"),
        ([("Cast", ["w"], {"to": 1})], "it makes other than float32 of float32; expected float16"),
        ([("Cast", ["half"], {"to": 10})], "it makes other than float32 of float16"),
        ([("Cast", ["half"], {})], "it makes other than float32"),
        ([("Cast", ["half"], {"to": 1, "round_mode": b"up"})], "unexpected settings"),
        ([("Cast", ["half"], {"to": 1}), ("Conv", ["image", "1"], {})], None),
        ([("Cast", ["half"], {"to": 1}), ("Add", ["image", "1"], {})], "numbers of shape"),
        ([("Split", ["image"], {"axis": 2})], "even parts"),
        ([("Pad", ["image", "pads"], {"mode": "reflect"})], "mirrors more than the 2 rows"),
        ([("Pad", ["image", "pads"], {"mode": "constant"})], "expected reflect or edge"),
        ([("Pad", ["image", "w"], {"mode": "edge"})], "height and width alone"),
        ([("Resize", ["image", "", "w"], {"mode": "linear"})], "expected nearest"),
        ([("Constant", [], {"value": np.float32(1)})], "not the size|value is"),
        ([("Constant", [], {}), ("Relu", ["image"], {})], "it has no value"),
        ([("Relu", ["image", "image"], {})], "it has 2 inputs, which ONNX does not allow"),
        ([("Conv", ["image", "kernel", "", ""], {})], "it has 4 inputs"),
        ([("Add", ["image", "deep"], {})], r"numbers of shape \(1, 1, 1, 1, 1\) do not fit"),
        ([("Div", ["image", "zero"], {})], "it divides by zero"),
        ([("Div", ["zero", "image"], {})], None),
        ([("Cast", ["half"], {"to": 1})] * 2 + [("Relu", ["image"], {})], "cast more than once"),
        ([("AveragePool", ["image"], {})], "it has no kernel_shape"),
        (
            [("AveragePool", ["image"], {"kernel_shape": [3, 3], "dilations": [1, 1]})],
            "dilations, which ONNX allows from operator set 19 on",
        ),
        (
            [("MaxPool", ["image"], {"kernel_shape": [1, 1], "dilations": [2, 2]})],
            "its dilations are not 1",
        ),
        (
            [("MaxPool", ["image"], {"kernel_shape": [2, 2], "pads": [2, 2, 0, 0]})],
            r"pads \[2, 0\]; expected less than the window's 2",
        ),
        (
            [("ConvTranspose", ["image", "kernel"], {"output_padding": [1, 1]})],
            "output_padding is 1; expected less than stride or dilation",
        ),
        (
            [("Resize", ["image"], {})],
            "it has 1 inputs",
        ),
        ([("Resize", ["image", "", "whole"], NEAREST)], "factors of int64"),
        ([("Resize", ["image", "w", "factors"], NEAREST)], "or a region"),
        ([("SpaceToDepth", ["image"], {})], "blocksize is 0"),
        (
            [("Relu", ["image"], {})] + [("Relu", [str(i)], {}) for i in range(1, 101)],
            "100 pointwise",
        ),
    ],
)
def test_hostile_graphs_are_refused(nodes, words):
    weights = {
        "w": np.zeros((2, 2), np.float32),
        "deep": np.zeros((1, 1, 1, 1, 1), np.float32),
        "zero": np.zeros(1, np.float32),
        "whole": np.int64([1, 1, 1, 1]),
        "factors": np.float32([1, 1, 1, 1]),
        "half": np.zeros((3, 3, 1, 1), np.float16),
        "kernel": np.zeros((3, 3, 1, 1), np.float32),
        "bias": np.zeros(3, np.float16),
        "channels": np.int64([0, 3]),
        "pads": np.int64([0, 0, 2, 2, 0, 0, 2, 2]),
    }
    model = graph(*nodes, weights=weights)
    if words is None:
        footprint.check(model, CHANNELS, 1, 2)
        return
    with pytest.raises(UserError, match=words):
        footprint.check(model, CHANNELS, 4000, 2)


def test_parts_are_counted_from_operator_set_18_on():
    for opset, settings, words in (
        (17, {}, None),
        (18, {"num_outputs": 1}, None),
        (18, {}, "expected 1 even parts"),
        (18, {"num_outputs": 3}, "expected 1 even parts"),
        (17, {"num_outputs": 1}, "unexpected settings"),
    ):
        model = graph(("Split", ["image"], {"axis": 1, **settings}), opset=opset)
        if words is None:
            footprint.check(model, CHANNELS, 0, 1)
            continue
        with pytest.raises(UserError, match=words):
            footprint.check(model, CHANNELS, 0, 1)


def test_dilations_of_an_average_from_operator_set_19_on():
    model = graph(
        ("AveragePool", ["image"], {"kernel_shape": [1, 1], "dilations": [1, 1]}), opset=19
    )
    footprint.check(model, CHANNELS, 0, 1)


def test_what_a_file_says_of_tensors_inside_has_to_be_so():
    model = graph(("Relu", ["image"], {}), ("Relu", ["1"], {}))
    for value, words in (
        (onnxfile.Value("1", 1, ("N", 3, "H", "W")), None),
        (onnxfile.Value("1", 1, ("N", 4, "H", "W")), r"it is 1 and \('batch', 3, 'H', 'W'\)"),
        (onnxfile.Value("1", 1, ("N", 3, "H")), "is said to be"),
        (onnxfile.Value("1", 10, ("N", 3, "H", "W")), "data type 10"),
        (onnxfile.Value("2", 1, ("N", 3, "H", "W")), "which nothing makes"),
    ):
        stated = dataclasses.replace(model, stated=(value,))
        if words is None:
            footprint.check(stated, CHANNELS, 0, 1)
            continue
        with pytest.raises(UserError, match=words):
            footprint.check(stated, CHANNELS, 0, 1)


def test_memory_and_work_follow_from_the_graph():
    kernels = {
        "wide": np.zeros((64, 3, 3, 3), np.float32), "narrow": np.zeros((3, 64, 3, 3), np.float32)
    }  # fmt: skip
    same = {"pads": [1] * 4}
    convolutions = ("Conv", ["image", "wide"], same), ("Conv", ["1", "narrow"], same)
    model = graph(*convolutions, weights=kernels)
    needs = footprint.check(model, CHANNELS, 2, 1)
    assert needs.bytes(30, 20) == 4 * 30 * 20 * (64 + 3)
    assert needs.work(30, 20) == 30 * 20 * 2 * 9 * 64 * 3
    down = {"strides": [2, 2], "kernel_shape": [2, 2]}
    pool = graph(("MaxPool", ["image"], down), ("Resize", ["1", "", "x"], NEAREST),
                 weights={"x": np.float32([1, 1, 2, 2])})  # fmt: skip
    needs = footprint.check(pool, CHANNELS, 1, 2)
    assert needs.bytes(30, 20) == 4 * 30 * 20 * 3 * 1.25
    assert needs.work(30, 20) == 30 * 20 * 3 * (1 + footprint.POOLING)


def padded(times):
    """A graph of a small image in wide borders, which are cut off at the end."""
    pads = ("Constant", [], {"value": np.int64([0, 0, 256, 256, 0, 0, 256, 256])})
    nodes = [pads, ("Pad", ["image", "1"], {"mode": "edge"})]
    nodes += [("Pad", [str(index), "1"], {"mode": "edge"}) for index in range(2, times + 1)]
    nodes += [("Conv", [str(times + 1), "kernel"], {"dilations": [256, 256]})]
    nodes += [("Conv", [str(index), "kernel"], {"dilations": [256, 256]})
              for index in range(times + 2, 2 * times + 1)]  # fmt: skip
    return graph(*nodes, weights={"kernel": np.ones((3, 3, 3, 3), np.float32)})


def test_borders_count_as_memory():
    needs = footprint.check(padded(1), CHANNELS, 256, 1)
    assert needs.bytes(10, 20) == 4 * 3 * (10 * 20 + (10 + 512) * (20 + 512))
    with pytest.raises(UserError, match=r"smallest tile, 8193 x 8193 .* takes 6.* GB of memory"):
        footprint.check(padded(16), CHANNELS, 4096, 1)


def test_branches_that_wait_for_each_other_count_together():
    """Whether a file's order or the runtime's makes them wait."""
    kernels = {
        "wide": np.zeros((64, 3, 1, 1), np.float32), "narrow": np.zeros((3, 64, 1, 1), np.float32)
    }  # fmt: skip
    wide = [("Conv", ["image", "wide"], {})] * 20
    narrow = [("Conv", [str(index), "narrow"], {}) for index in range(1, 21)]
    last = [("Concat", [str(index) for index in range(21, 41)], {"axis": 1})]
    last += [("Conv", ["41", "last"], {})]
    weights = kernels | {"last": np.zeros((3, 60, 1, 1), np.float32)}
    needs = footprint.check(graph(*wide, *narrow, *last, weights=weights), CHANNELS, 0, 1)
    assert 20 * 64 <= needs.bytes(10, 10) / 400 <= 21 * 64


def test_too_much_work_is_refused():
    weights = {"kernel": np.zeros((3, 3, 1, 1), np.float32)}
    nodes = [("MaxPool", ["image"], {"kernel_shape": [255, 255], "pads": [127] * 4})]
    nodes += [("MaxPool", [str(index)], {"kernel_shape": [255, 255], "pads": [127] * 4})
              for index in range(1, 8)]  # fmt: skip
    with pytest.raises(
        UserError, match=r"takes 12 million products a pixel; .* at most 10 million"
    ):
        footprint.check(graph(*nodes, weights=weights), CHANNELS, 8 * 127, 1)


def test_residual_blocks_are_no_chain_of_pointwise_operators():
    """The sum of a block goes two ways, so that a network may have any number of them."""
    nodes = [("Conv", ["image", "kernel"], {}), ("Add", ["image", "1"], {})]
    for block in range(1, 150):
        nodes += [("Conv", [str(2 * block), "kernel"], {})]
        nodes += [("Add", [str(2 * block), str(2 * block + 1)], {})]
    weights = {"kernel": np.zeros((3, 3, 1, 1), np.float32)}
    footprint.check(graph(*nodes, weights=weights), CHANNELS, 0, 1)


def test_too_many_operators_are_refused(monkeypatch):
    monkeypatch.setattr(footprint, "MAX_NODES", 1)
    with pytest.raises(UserError, match=r"2 operators, .*; expected at most 1"):
        footprint.check(graph(("Relu", ["image"], {}), ("Relu", ["1"], {})), CHANNELS, 0, 1)


def test_a_resize_that_is_no_whole_number_is_refused():
    how = {
        "mode": "nearest",
        "nearest_mode": "floor",
        "coordinate_transformation_mode": "asymmetric",
    }
    for factors in (
        [1, 1, 1.5, 1.5],
        [1, 2, 1, 1],
        [1, 1, np.nan, 1],
        [1, 1, 1e9, 1],
        [1, 1, -1, 1],
    ):
        weights = {"factors": np.float32(factors)}
        model = graph(("Resize", ["image", "", "factors"], how), weights=weights)
        with pytest.raises(UserError, match="expected whole ones"):
            footprint.check(model, CHANNELS, 0, 1)
    weights = {"factors": np.float32([1, 1, 2, 2])}
    model = graph(("Resize", ["image", "", "factors"], how), weights=weights)
    with pytest.raises(UserError, match="finer resolution than the image"):
        footprint.check(model, CHANNELS, 0, 1)
