"""What surrounds OpenVINO and torch: models are tried before use, errors name the file."""

import dataclasses

import numpy as np
import pytest

from snowmelt import engines, modelfile, onnxfile, zoo
from snowmelt.errors import UserError
from snowmelt.export import tensor
from snowmelt.models import RecipeCNN


@pytest.fixture
def path(tmp_path):
    target, network = tmp_path / "m.onnx", RecipeCNN([3, 2])
    modelfile.write(target, network, modelfile.make_header(network))
    return target


def alter(path, change):
    message = onnxfile.decode(path.read_bytes())
    change(message["graph"])
    path.write_bytes(onnxfile.encode(message))


def with_weights(number):
    """Every weight as large; each layer sums at least 9 products."""

    def change(graph):
        for weights in graph["initializer"]:
            weights["raw_data"] = np.full(weights["dims"], number, "<f4").tobytes()

    return change


def test_weights_that_overflow_are_refused_when_the_model_is_loaded(path):
    alter(path, with_weights(1e12))  # 1e36 after three layers, times at least 9 * 27 * 18
    model = modelfile.read(path)
    with pytest.raises(UserError, match=r"m.onnx: of 1,024 values .* are not finite: its weights"):
        engines.choose(model, device="cpu")
    alter(path, with_weights(1e6))
    engines.choose(modelfile.read(path), device="cpu")


def test_black_and_white_are_tried(path):
    """Of random numbers none is 0: a division by the image would seem to be sound."""

    def divide(graph):
        one = {"name": "value", "type": 4, "t": tensor("", np.float32([1]))}
        graph["node"] = [
            {"op_type": "Constant", "output": ["one"], "attribute": [one]},
            {"op_type": "Div", "input": ["one", "image"], "output": ["denoised"]},
        ]
        graph["initializer"] = []

    alter(path, divide)
    with pytest.raises(UserError, match="divides by what can be zero"):
        engines.choose(modelfile.read(path), device="cpu", precision="f32")


def test_a_result_of_another_shape_is_refused(path, monkeypatch):
    monkeypatch.setattr(engines.OpenVino, "__call__", lambda *_: np.zeros((1, 1, 32, 64)))
    with pytest.raises(UserError, match=r"of shape \(1, 1, 32, 32\) it makes .* 32, 64\)"):
        engines.choose(modelfile.read(path), device="cpu")


def test_bundled_models_are_not_tried(path, monkeypatch):
    tried = []
    monkeypatch.setattr(engines, "_try_out", lambda _, model: tried.append(model.path))
    bundled = zoo.shipped()["fast-grey"]
    for each in (path, bundled):
        engines.choose(modelfile.read(each), device="cpu")
    assert tried == [path]


def test_errors_of_the_runtime_name_the_file(path):
    """A graph that was never checked, so that OpenVINO itself finds the fault."""
    model = modelfile.read(path)
    torn = dataclasses.replace(model, raw=model.raw.replace(b"Conv", b"Gone"))
    with pytest.raises(UserError, match=r"m.onnx: it cannot be run: .*Gone") as caught:
        engines.choose(torn, device="cpu")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("error", [RuntimeError, ValueError, IndexError, OverflowError])
def test_control_characters_of_a_runtime_do_not_pass(path, error):
    model = modelfile.read(path)
    with (
        pytest.raises(UserError, match=r"m.onnx: it cannot be run: Check failed \\x1b\[31m"),
        engines.refused(model),
    ):
        raise error("Exception from src/core.cpp:97:\nCheck failed \x1b[31m\n")


def test_many_small_tensors_count_as_memory(path):
    """Twenty branches of 4 channels that wait for each other, where 4 times the largest would be 16."""

    def branch(graph):
        kernel = tensor("k", np.full((4, 1, 1, 1), 0.1, np.float32))
        last = tensor("l", np.full((1, 4, 1, 1), 0.1, np.float32))
        names = [str(index) for index in range(20)]
        graph["initializer"] = [kernel, last]
        nodes = [{"op_type": "Conv", "input": ["image", "k"], "output": [name]} for name in names]
        nodes += [{"op_type": "MaxPool", "input": [name], "output": [f"m{name}"],
                   "attribute": [{"name": "kernel_shape", "type": 7, "ints": [1, 1]}]}
                  for name in names]  # fmt: skip
        total = "m0"
        for name in names[1:]:
            nodes.append({"op_type": "Add", "input": [total, f"m{name}"], "output": [f"s{name}"]})
            total = f"s{name}"
        nodes.append({"op_type": "Conv", "input": [total, "l"], "output": ["denoised"]})
        graph["node"] = nodes

    alter(path, branch)
    engine = engines.choose(modelfile.read(path), device="cpu", precision="f32", threads=1)
    assert engine.pixel_bytes >= 20 * 4 * 4
