import copy
import dataclasses
import hashlib
import json
import os
import random
import subprocess
import sys
import textwrap

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snowmelt import __version__, footprint, modelfile, models, onnxfile
from snowmelt.errors import UserError
from snowmelt.modelfile import Header
from snowmelt.models import RecipeCNN

FUZZ = int(os.environ.get("SNOWMELT_FUZZ", "300"))


def network(**config) -> RecipeCNN:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return RecipeCNN(**({"widths": [3, 2], "kernel_size": [3, 5, 1]} | config))


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "model.onnx"
    made = network()
    modelfile.write(target, made, modelfile.make_header(made))
    return target


def alter(path, change) -> None:
    """Change the decoded ONNX message of a file."""
    message = onnxfile.decode(path.read_bytes())
    change(message)
    path.write_bytes(onnxfile.encode(message))


def alter_header(path, **fields) -> None:
    def change(message):
        (entry,) = message["metadata_props"]
        values = json.loads(entry["value"]) | fields
        entry["value"] = json.dumps({k: v for k, v in values.items() if v is not ...})

    alter(path, change)


def refused(path, words=None) -> None:
    with pytest.raises(UserError, match=words) as caught:
        modelfile.read(path)
    assert str(caught.value).startswith(f"{path}: ")


# What goes in comes out


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"channels": 3, "activation": "sigmoid"},
        {"widths": [4], "kernel_size": [7, 1], "output_activation": "relu"},
        {"activation": ["linear", "relu"], "output_activation": "sigmoid"},
    ],
)
def test_network_comes_back_bit_for_bit(tmp_path, config):
    made = network(**config)
    difference = modelfile.write(tmp_path / "m.onnx", made, modelfile.make_header(made))
    again = modelfile.load_network(tmp_path / "m.onnx")
    assert type(again) is RecipeCNN
    assert (again.config, again.reach, again.multiple) == (made.config, made.reach, made.multiple)
    assert again.state_dict().keys() == made.state_dict().keys()
    for name, value in made.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    # 3 layers of at most 98 products each: about a hundred roundings of 6e-8 of numbers near 1.
    assert 0 <= difference < 1e-5


class Conditioned(torch.nn.Module):
    """A network that is told the noise level and works at half the resolution."""

    architecture, reach, multiple, conditioned = "conditioned", 3, 2, True

    def __init__(self, channels=3):
        super().__init__()
        self.config = {"channels": channels}
        self.convolution = torch.nn.Conv2d(4 * channels + 4, 4 * channels, 3, padding=1)

    def forward(self, image, noise_level):
        both = torch.cat([image, noise_level], dim=1)
        packed = torch.nn.functional.pixel_unshuffle(both, 2)
        return image + torch.nn.functional.pixel_shuffle(self.convolution(packed), 2)


def test_a_network_that_is_told_the_noise_level(tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "conditioned", Conditioned)
    monkeypatch.setattr(modelfile, "ARCHITECTURES", ("recipe-cnn", "conditioned"))
    with torch.random.fork_rng():
        made = Conditioned()
    assert modelfile.write(tmp_path / "m.onnx", made, modelfile.make_header(made)) < 1e-5
    header = modelfile.read(tmp_path / "m.onnx").header
    assert header.inputs == ("image", "noise_level")
    assert (header.conditioned, header.multiple) == (True, 2)
    again = modelfile.load_network(tmp_path / "m.onnx")
    assert torch.equal(again.convolution.weight, made.convolution.weight)


def test_an_input_that_nothing_uses(tmp_path, monkeypatch):
    """A runtime drops it, and is given it all the same."""
    monkeypatch.setitem(models.MODELS, "conditioned", Conditioned)
    monkeypatch.setattr(modelfile, "ARCHITECTURES", ("recipe-cnn", "conditioned"))
    with torch.random.fork_rng():
        made = Conditioned()
    modelfile.write(tmp_path / "m.onnx", made, modelfile.make_header(made))

    def unused(message):
        message["graph"]["node"] = [
            {"op_type": "Identity", "input": ["image"], "output": ["denoised"]}
        ]
        message["graph"]["initializer"] = []

    alter(tmp_path / "m.onnx", unused)
    refused(tmp_path / "m.onnx", "its input 'noise_level' takes no part in the result")


def test_layers_in_8_bits_are_convolutions_of_their_own_weights(tmp_path):
    made = models.UNet([4, 8], [1, 1]).eval()
    target = tmp_path / "m.onnx"
    for half in (False, True):
        header = modelfile.make_header(made, int8={"downs.0": [-1.0, 1.0]})
        modelfile.write(target, made, header, half=half)
        alter_header(target, int8={"downs.1": [-1.0, 1.0]})
        refused(target, "'downs.1', a layer without weights")
    modelfile.write(target, made, header)

    def rename(message):
        for node in message["graph"]["node"]:
            node["input"] = [name.replace("/downs.0/", "/x/") for name in node["input"]]
            node["output"] = [name.replace("/downs.0/", "/x/") for name in node["output"]]

    alter(target, rename)
    refused(target, "'downs.0', which is no convolution")


def test_weights_beyond_float16_are_not_halved(tmp_path):
    made = network()
    with torch.no_grad():
        made.layers[1].bias[0] = 70_000
    with pytest.raises(UserError, match=r"layers.1.bias reaches 7e\+04; float16 ends at 65504"):
        modelfile.write(tmp_path / "m.onnx", made, modelfile.make_header(made), half=True)
    assert list(tmp_path.iterdir()) == []


def test_weights_in_float16(tmp_path):
    """They come back rounded, in float32, in half the room; what is written is compared with these."""
    made = network(widths=[32, 32])
    header = modelfile.make_header(made)
    sizes = []
    for half in (False, True):
        assert modelfile.write(tmp_path / "m.onnx", made, header, half=half) < 1e-5
        sizes.append((tmp_path / "m.onnx").stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
    again = modelfile.load_network(tmp_path / "m.onnx").state_dict()
    for name, value in made.state_dict().items():
        assert again[name].dtype == torch.float32
        assert torch.equal(again[name], value.half().float())
        assert not torch.equal(again[name], value) or name.endswith("bias")  # these are zeros


def test_training_goes_on_from_a_loaded_network(path):
    again = modelfile.load_network(path).train()
    again(torch.ones(1, 1, 8, 8)).sum().backward()
    assert all(p.requires_grad and p.grad is not None for p in again.parameters())


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 5, 17), (1, 1, 31, 2)])
def test_the_graph_equals_torch(path, shape):
    image = np.random.default_rng(0).random(shape, np.float32)
    model = modelfile.read(path)
    onnx.checker.check_model(onnx.load_from_string(model.raw), full_check=True)
    evaluator = onnx.reference.ReferenceEvaluator(onnx.load_from_string(model.raw))
    (by_onnx,) = evaluator.run(None, {"image": image})
    by_openvino = modelfile._run(model, [image])
    with torch.no_grad():
        by_torch = network()(torch.from_numpy(image)).numpy()
    # About a hundred float32 roundings (6e-8 each) of numbers below 1.
    np.testing.assert_allclose(by_onnx, by_torch, rtol=0, atol=1e-5)
    np.testing.assert_allclose(by_openvino, by_torch, rtol=0, atol=1e-5)
    assert np.ptp(by_torch) > 1e-3 or image.size == 1


def test_header_comes_back(tmp_path):
    made = network(channels=3)
    header = modelfile.make_header(
        made,
        value_range=(-0.5, 4095),
        name="snow ☃",
        noise="Gaussian, sigma 25 of 255",
        recipe={"epochs": 200, "nested": {"lr": 1e-3, "widths": [8, 16]}, "none": None},
        data=[{"name": "shapes", "sha256": "ab" * 32, "images": 2000}],
        scores=[{"metric": "psnr", "value": 31.0, "protocol": "8 bits, not clipped"}],
        licence="CC0-1.0",
    )
    modelfile.write(tmp_path / "m.onnx", made, header)
    assert modelfile.read(tmp_path / "m.onnx").header == header
    assert header.created_with == f"snowmelt {__version__}"
    assert (header.channels, header.reach, header.value_range) == (3, 3, (-0.5, 4095.0))


def test_read_gives_the_bytes_that_were_checked(path):
    model = modelfile.read(path)
    assert model.raw == path.read_bytes()
    assert model.sha256 == hashlib.sha256(model.raw).hexdigest()
    for name, value in network().state_dict().items():
        np.testing.assert_array_equal(model.weights[name], value.numpy())


def test_writing_leaves_the_network_as_it_is(tmp_path):
    made = network(widths=[8, 8]).to(memory_format=torch.channels_last).train()
    made.activations[0].eval()
    before = copy.deepcopy(made.state_dict())
    strides = [p.stride() for p in made.parameters()]
    modes = [m.training for m in made.modules()]
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    generators = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    threads = torch.get_num_threads()
    with torch.autocast("cpu", torch.bfloat16):
        difference = modelfile.write(tmp_path / "m.onnx", made, modelfile.make_header(made))
    modelfile.load_network(tmp_path / "m.onnx")
    assert difference < 1e-5  # bf16 would differ by 1e-3
    assert torch.equal(generators[0], torch.get_rng_state())
    assert generators[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    assert torch.get_num_threads() == threads
    assert [p.stride() for p in made.parameters()] == strides
    assert [m.training for m in made.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert all(p.dtype == torch.float32 and p.requires_grad for p in made.parameters())


def test_writing_prints_nothing(tmp_path, capfd):
    made = network()
    modelfile.write(tmp_path / "m.onnx", made, modelfile.make_header(made))
    assert capfd.readouterr() == ("", "")


def test_same_network_same_bytes(path, tmp_path):
    made = network()
    modelfile.write(tmp_path / "again.onnx", made, modelfile.make_header(made))
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_inspect_says_what_the_header_says(tmp_path):
    made = network()
    header = modelfile.make_header(
        made,
        value_range=(0, 4095),
        data=[{"name": "shapes", "sha256": "abcd"}, {"name": "\x1b[31mred", "sha256": "ef"}],
        scores=[{"metric": "psnr", "value": 31.02, "protocol": "8 bits"}],
        recipe={"epochs": 200},
        licence="CC0-1.0",
        noise="Gaussian",
    )
    modelfile.write(tmp_path / "m.onnx", made, header)
    text = modelfile.inspect_text(tmp_path / "m.onnx")
    for words in (
        "recipe-cnn",
        "widths [3, 2], kernel_size [3, 5, 1]",
        "parameters    185",  # 3*9+3 + 2*3*25+2 + 2+1
        "reach         3 pixels",
        "0 to 4095",
        "name shapes, sha256 abcd",
        "epochs 200",
        "metric psnr, value 31.02, protocol 8 bits",
        "CC0-1.0",
        f"snowmelt {__version__}",
        hashlib.sha256((tmp_path / "m.onnx").read_bytes()).hexdigest(),
    ):
        assert words in text
    assert "\x1b" not in text
    assert r"\x1b[31mred" in text


# Torch and onnx stay out of it


WITHOUT = """
import sys
for name in ("torch", "onnx", "onnxscript"):
    sys.modules[name] = None
from snowmelt import modelfile
from snowmelt.errors import UserError
model = modelfile.read(sys.argv[1])
assert model.header.reach == 3 and len(model.weights) == 6
assert "openvino" not in sys.modules
modelfile.inspect_text(sys.argv[1])
for call in (
    lambda: modelfile.load_network(sys.argv[1]),
    lambda: modelfile.write("never.onnx", None, model.header),
):
    try:
        call()
    except UserError as error:
        assert 'pip install "snowmelt[train]"' in str(error), error
    else:
        raise AssertionError
"""


def test_reads_without_torch_and_onnx(path, tmp_path):
    code = textwrap.dedent(WITHOUT)
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=tmp_path)


def test_known_architectures_are_those_of_models():
    assert set(modelfile.ARCHITECTURES) == set(models.MODELS)


# Whole or not at all


def test_a_failure_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    zeros = np.zeros((2, 1, 13, 21), np.float32)
    monkeypatch.setattr(modelfile, "_run", lambda *_: zeros)
    made = network()
    with pytest.raises(UserError, match=r"not written: .* differ by .* at most"):
        modelfile.write(path, made, modelfile.make_header(made))
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["model.onnx"]


def test_a_small_difference_is_refused_too(path, monkeypatch):
    run = modelfile._run
    monkeypatch.setattr(modelfile, "_run", lambda model, inputs: run(model, inputs) * 1.001)
    made = network()
    with pytest.raises(UserError, match="differ by"):
        modelfile.write(path, made, modelfile.make_header(made))


def test_ctrl_c_while_writing_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(modelfile, "_run", stop)
    made = network()
    with pytest.raises(KeyboardInterrupt):
        modelfile.write(path, made, modelfile.make_header(made))
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["model.onnx"]


def test_places_that_cannot_be_written(tmp_path):
    made = network()
    for target in (tmp_path, tmp_path / "absent" / "m.onnx"):
        with pytest.raises(UserError, match="a file name in a folder that exists"):
            modelfile.write(target, made, modelfile.make_header(made))


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    made = network()
    with torch.no_grad():
        made.layers[1].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match=r"1 of 150 numbers of the weights 'layers.1.weight'"):
        modelfile.write(tmp_path / "m.onnx", made, modelfile.make_header(made))
    assert list(tmp_path.iterdir()) == []


def test_a_network_in_another_dtype_is_not_written(tmp_path):
    made = network().to(torch.bfloat16)
    with pytest.raises(UserError, match=r"layers.0.weight is torch.bfloat16; expected"):
        modelfile.write(tmp_path / "m.onnx", made, modelfile.make_header(made))


def test_header_and_network_must_agree(tmp_path):
    made = network()
    with pytest.raises(UserError, match="the header's reach is 2; the network's is 3"):
        modelfile.write(tmp_path / "m.onnx", made, modelfile.make_header(made, reach=2))


def test_a_network_that_breaks_its_promise_is_not_written(tmp_path):
    made = network()
    made.reach = 2
    with pytest.raises(UserError, match="pixels 3 away change the result"):
        modelfile.write(tmp_path / "m.onnx", made, modelfile.make_header(made))
    assert list(tmp_path.iterdir()) == []


# Refusals


def test_files_that_are_none(tmp_path):
    refused(tmp_path / "absent.onnx", "No such file")
    refused(tmp_path, "cannot be read|not a file")
    (tmp_path / "empty.onnx").touch()
    refused(tmp_path / "empty.onnx", "empty")
    (tmp_path / "text.onnx").write_text("a letter to a friend")
    refused(tmp_path / "text.onnx", "not ONNX|cut off")


def test_a_device_is_refused():
    refused("/dev/zero", "not a file")


def test_a_file_that_is_too_large(path, monkeypatch):
    monkeypatch.setattr(modelfile, "MAX_BYTES", 1000)
    refused(path, "a model file has at most 1,000")


def test_every_truncated_file_is_refused(path):
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        refused(path)


def test_a_foreign_onnx_file(path):
    alter(path, lambda message: message.pop("metadata_props"))
    refused(path, "it is an ONNX file .made by 'snowmelt'., but not Snowmelt's")


def test_the_older_format_has_no_level_that_is_told(path):
    alter_header(path, format=1, told=...)
    header = modelfile.read(path).header
    assert (header.told, header.channels) == (None, 1)


def test_a_newer_format(path):
    alter_header(path, format=modelfile.FORMAT + 1)
    refused(
        path,
        f"format {modelfile.FORMAT + 1}; this is snowmelt {__version__}.*Update snowmelt: pip install",
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"format": "1"}, "format is '1'; expected 4"),
        ({"format": ...}, "format is None; expected 4"),
        ({"format": True}, "format is True"),
        ({"architecture": "unet-9"}, "architecture 'unet-9' is unknown; .*recipe-cnn.*newer"),
        ({"architecture": 5}, "architecture is 5; expected a name"),
        ({"architecture": ...}, "no 'architecture'"),
        ({"config": []}, r"config is \[\]; expected an object"),
        ({"config": {"channels": 2}}, "channels is 1, but its config says 2"),
        ({"channels": 0}, "channels is 0; expected a whole number from 1 to 1024"),
        ({"channels": True}, "channels is True"),
        ({"channels": 3, "config": {"channels": 3}}, r"'image' has .*expected float32"),
        ({"reach": -1}, "reach is -1"),
        ({"reach": 10**9}, "reach is 1000000000"),
        ({"reach": 3.0}, "reach is 3.0"),
        ({"reach": 2}, "pixels 3 away change the result, .* promises a reach of 2"),
        ({"multiple": 0}, "multiple is 0"),
        ({"multiple": 10**6}, "multiple is 1000000"),
        ({"value_range": [1, 0]}, "value_range is .*the lower one first"),
        ({"value_range": [0, 1e308]}, "value_range"),
        ({"value_range": [0, 10**400]}, "value_range"),
        ({"value_range": [-9e299, 9e299]}, "value_range is .* neither over 1e"),
        ({"value_range": [1000, 1000.001]}, "too close to each other for float32"),
        ({"value_range": [0, 1e-35]}, "value_range"),
        ({"told": 25}, "told is 25; expected noise such as gaussian:25"),
        ({"told": "gaussian:1e300"}, "told is 'gaussian:1e300'"),
        ({"told": "gaussian:2551"}, "a level up to 10 times the range"),
        ({"told": "poisson:1e-300"}, "told is"),
        ({"told": "gaussian:0-55"}, "told is"),
        ({"told": "gaussian:\x1b[31m"}, r"told is 'gaussian:\\x1b"),
        ({"told": "camera:2000:1:0.5:2:95"}, "told is"),
        ({"int8": {"layers.0": [0, 1e30]}}, "int8 is"),
        ({"int8": {"layers.0": [0, 1e-40]}}, "int8 is"),
        ({"int8": {"layers.0": [1, 2]}}, "int8 is"),
        ({"int8": {"layers.9": [0, 1]}}, "'layers.9', a layer without weights"),
        ({"config": {"widths": [1] * 1001}}, "config is .* at most 1000 in a list"),
        ({"config": {"blocks": [10**9, 1]}}, "config is .* 1000 blocks"),
        ({"value_range": [0]}, "value_range"),
        ({"value_range": [False, True]}, "value_range"),
        ({"value_range": "01"}, "value_range"),
        ({"conditioned": 1}, "conditioned is 1; expected true or false"),
        ({"conditioned": True}, r"its inputs are \['image'\]; expected \['image', 'noise_level'\]"),
        ({"name": 7}, "name is 7; expected text"),
        ({"noise": []}, "noise"),
        ({"recipe": [1]}, "recipe"),
        ({"data": {"name": "x"}}, "data is .* expected a list of objects"),
        ({"scores": ["x"]}, "scores"),
        ({"licence": 1}, "licence"),
        ({"created_with": None}, "created_with"),
        ({"reech": 3}, "unknown key 'reech'; did you mean 'reach'"),
    ],
)
def test_headers_that_are_refused(path, fields, words):
    alter_header(path, **fields)
    refused(path, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[1]", "expected a JSON object"),
        ("null", "expected a JSON object"),
        ('{"format": 1, "format": 1}', "there twice"),
        ('{"format": NaN}', "NaN is not a JSON number"),
        ('{"format": 1, "reach": -Infinity}', "not a JSON number"),
        ('{"format": 1, "scores": [{"value": 1e999}]}', "the number '1e999' is too large"),
        ('{"format": 1, "name": "\\ud800"}', "surrogates not allowed"),
        ("[" * 100_000, "not JSON"),
        ("1" * 5000, "not JSON"),
        (" " * 1_000_001, "over 1,000,000"),
    ],
)
def test_headers_that_are_not_json(path, text, words):
    def change(message):
        message["metadata_props"][0]["value"] = text

    alter(path, change)
    refused(path, words)


def test_a_header_that_json_cannot_hold():
    for value in (float("nan"), {1}, np.float32(1)):
        header = modelfile.make_header(network(), recipe={"x": value})
        with pytest.raises(UserError, match="cannot be written as JSON"):
            header.to_json()


def test_a_header_is_checked_when_it_is_made():
    with pytest.raises(UserError, match="reach is -3"):
        Header(architecture="recipe-cnn", config={}, reach=-3, multiple=1)
    fields = {entry.name for entry in dataclasses.fields(Header)}
    assert fields == modelfile._FIELDS.keys()


def test_a_config_without_arguments_that_came_later(path):
    alter_header(path, config={"widths": [3, 2], "kernel_size": [3, 5, 1]})
    assert modelfile.load_network(path).config == network().config


def _node(message, **fields):
    message["graph"]["node"][0] |= fields


def _weights(message, **fields):
    message["graph"]["initializer"][0] |= fields


def _spare(message):
    tensor = {"name": "spare", "dims": [1], "data_type": 1, "raw_data": b"1234"}
    message["graph"]["initializer"].append(tensor)


def _whole_numbers(message):
    _weights(message, data_type=7, raw_data=bytes(8 * 27))


def _fixed_size(message):
    message["graph"]["input"][0]["type"]["tensor_type"]["shape"]["dim"][2] = {"dim_value": 64}


def _other_input(message):
    message["graph"]["input"][0]["name"] = "x"
    _node(message, input=["x", *message["graph"]["node"][0]["input"][1:]])


def _two_outputs(message):
    message["graph"]["output"].append(
        message["graph"]["output"][0] | {"name": message["graph"]["node"][0]["output"][0]}
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: _node(m, op_type="LSTM"), "operator 'LSTM'; .*plain tensor arithmetic"),
        (lambda m: _node(m, op_type="If"), "operator 'If'"),
        (lambda m: _node(m, domain="ai.onnx"), "operator 'ai.onnx.Conv'"),
        (lambda m: m.update(ir_version=-1), "not an ONNX file"),
        (lambda m: m.update(ir_version=2), r"file version \(IR\) 2; expected 3 to 14"),
        (lambda m: m.update(ir_version=2**40), r"file version \(IR\) 1099511627776"),
        (lambda m: _node(m, domain="com.microsoft"), "operator 'com.microsoft.Conv'"),
        (lambda m: m["opset_import"].append({"domain": "x", "version": 1}), "operator set 'x'"),
        (lambda m: m.update(opset_import=[{"domain": "", "version": 99}]), "version 99"),
        (lambda m: m.pop("opset_import"), "which operator set"),
        (lambda m: _weights(m, data_location=1), "external data"),
        (_spare, "nothing uses the weights 'spare'"),
        (_whole_numbers, "are int64; expected float32"),
        (lambda m: _weights(m, raw_data=b"\xff" * 108), "27 of 27 numbers .* not finite"),
        (lambda m: _weights(m, dims=[3, 1, 1, 9]), "do not fit"),
        (lambda m: _weights(m, dims=[1, 3, 3, 3]), "do not fit"),
        (lambda m: m["graph"]["initializer"][1].update(dims=[1, 3]), "a bias of shape"),
        (_fixed_size, "with free batch, H and W"),
        (_other_input, r"inputs are \['x'\]"),
        (_two_outputs, "its outputs are"),
    ],
)
def test_graphs_that_are_refused(path, change, words):
    alter(path, change)
    refused(path, words)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"widths": [3, 3], "kernel_size": [3, 5, 1]}, r"'layers.1.bias' have shape \[2\];.*\[3\]"),
        ({"widths": [3], "kernel_size": [3, 1]}, "the header's reach is 3; the network's is 1"),
        (
            {"widths": [10**6, 2], "kernel_size": [3, 5, 1]},
            r"layers.0.bias' .* expects \[1000000\]",
        ),
        ({"widths": [10**9, 10**9], "kernel_size": [3, 5, 1]}, "cannot be built"),
        ({"widths": [10**30, 10**30], "kernel_size": [3, 5, 1]}, "cannot be built"),
        ({"widths": "ab"}, "cannot be built"),
        ({"widths": None}, "cannot be built"),
        ({"widths": [3, 2], "activation": {}}, "activations; found"),
        ({"depth": 3}, "unexpected keyword"),
    ],
)
def test_weights_that_are_not_the_architectures(path, config, words):
    alter_header(path, config=config)
    with pytest.raises(UserError, match=words) as caught:
        modelfile.load_network(path)
    assert str(caught.value).startswith(f"{path}: ")


# Abuse


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    target = tmp_path_factory.mktemp("fuzz") / "model.onnx"
    made = network()
    modelfile.write(target, made, modelfile.make_header(made, recipe={"epochs": 3}, name="x"))
    return target, target.read_bytes()


def survives(path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        model = modelfile.read(path)
    except UserError:
        return
    assert model.raw == data
    assert all(np.isfinite(array).all() for array in model.weights.values())
    assert all(node.op_type in footprint.RULES for node in onnxfile.parse(data).nodes)


edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "copy", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
        st.integers(1, 64),
    ),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=FUZZ, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(edits)
def test_mutated_bytes_are_read_or_refused(sample, edits):
    path, data = sample[0].with_name("bytes.onnx"), bytearray(sample[1])
    for kind, where, value, length in edits:
        at = int(where * len(data))
        if kind == "set":
            data[at : at + 1] = bytes([value])
        elif kind == "insert":
            data[at:at] = bytes([value]) * length
        elif kind == "delete":
            del data[at : at + length]
        elif kind == "copy":
            data[at:at] = data[: length * 4]
        elif length > 60:
            del data[at:]
    survives(path, bytes(data))


VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, 2, 3, 7, -1, 2**31, 2**62])
)
TEXTS = st.sampled_from(["", "image", "denoised", "Conv", "Pad", "Resize", "layers.0.weight", "☃"])


def change_one(data, message, schema):
    """Replace, drop or double something anywhere in a decoded message."""
    fields = [field for field in schema.values() if field.name in message]
    if not fields:
        return
    field = data.draw(st.sampled_from(fields))
    if data.draw(st.integers(0, 9)) == 0:
        del message[field.name]
    elif field.many and data.draw(st.integers(0, 4)) == 0:
        message[field.name] = message[field.name] + message[field.name][:1]
    elif field.kind == "message":
        children = message[field.name] if field.many else [message[field.name]]
        change_one(data, data.draw(st.sampled_from(children)), field.schema)
    elif field.kind == "int":
        message[field.name] = data.draw(VALUES)
    elif field.kind == "ints":
        message[field.name] = data.draw(st.lists(VALUES, max_size=9))
    elif field.kind == "text":
        text = data.draw(TEXTS)
        message[field.name] = [text] if field.many else text
    elif field.kind == "bytes" and not field.many:
        message[field.name] = data.draw(st.binary(max_size=40))


@settings(
    max_examples=FUZZ, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_mutated_messages_are_read_or_refused(sample, data):
    message = onnxfile.decode(sample[1])
    for _ in range(data.draw(st.integers(1, 3))):
        change_one(data, message, onnxfile.MODEL)
    survives(sample[0].with_name("message.onnx"), onnxfile.encode(message))
