import json
import zipfile

import h5py
import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from snowmelt import modelfile
from snowmelt.errors import UserError
from snowmelt.keras_import import convert, convert_keras, read_keras

FLAVOURS = ["keras2", "keras3", "sequential2", "sequential3", "list"]


def conv(name, filters, side=3, activation="relu", **changes):
    config = {
        "name": name,
        "filters": filters,
        "kernel_size": [side, side],
        "strides": [1, 1],
        "padding": "same",
        "data_format": "channels_last",
        "dilation_rate": [1, 1],
        "groups": 1,
        "activation": activation,
        "use_bias": True,
    }
    return "Conv2D", config | changes


def activation(kind, name, **config):
    return kind, {"name": name, **config}


LAYERS = (
    conv("conv2d", 5),
    conv("b", 3, 5, "linear"),
    activation("Activation", "act", activation="sigmoid"),
    conv("c", 4, 1, "linear", use_bias=False),
    activation("ReLU", "re_lu", max_value=None, negative_slope=0.0, threshold=0.0),
    conv("last", 2, 3, "linear"),
)


def model_config(flavour, layers, channels):
    """The JSON that Keras writes, as far as it matters; after files of Keras 2.15 and 3.15."""
    shape = "batch_shape" if flavour.endswith("3") else "batch_input_shape"
    layers = [("InputLayer", {"name": "in", shape: [None, None, None, channels]}), *layers]
    entries = [{"class_name": kind, "config": config} for kind, config in layers]
    if flavour == "list":
        return {"class_name": "Sequential", "config": entries[1:]}
    if flavour.startswith("sequential"):
        return {"class_name": "Sequential", "config": {"name": "s", "layers": entries}}
    before = None
    for entry in entries:
        entry["name"] = entry["config"]["name"]
        entry["inbound_nodes"] = [connection(flavour, before)] if before else []
        before = entry["name"]
    ends = [["in", 0, 0], [before, 0, 0]]
    if flavour == "keras2":
        ends = [[end] for end in ends]
    config = {"layers": entries, "input_layers": ends[0], "output_layers": ends[1]}
    return {"class_name": "Functional", "config": config}


def connection(flavour, *sources):
    if flavour == "keras2":
        return [[source, 0, 0, {}] for source in sources]
    tensors = [
        {"class_name": "__keras_tensor__", "config": {"keras_history": [source, 0, 0]}}
        for source in sources
    ]
    return {"args": tensors if len(tensors) == 1 else [tensors], "kwargs": {}}


def kernels(layers, channels):
    """Random weights of every Conv2D: {name: (kernel, bias or None)}."""
    random = np.random.default_rng(2)
    result = {}
    for kind, config in layers:
        if kind != "Conv2D":
            continue
        shape = (*config["kernel_size"], channels, config["filters"])
        kernel = random.normal(size=shape).astype(np.float32) / np.sqrt(np.prod(shape[:3]))
        bias = random.normal(size=shape[3]).astype(np.float32) if config["use_bias"] else None
        result[config["name"]] = kernel, bias
        channels = config["filters"]
    return result


def write_keras(path, flavour="keras2", layers=LAYERS, channels=2, config=None, weights=None):
    """A file as Keras writes it; its attributes are bytes in old files, text in new ones."""
    config = config or model_config(flavour, layers, channels)
    new = flavour.endswith("3")
    with h5py.File(path, "w") as file:
        text = json.dumps(config)
        file.attrs["model_config"] = text if new else text.encode()
        file.attrs["keras_version"] = "3.15.1" if new else b"2.15.0"
        for name, arrays in (weights or kernels(layers, channels)).items():
            write_layer(file.create_group(f"model_weights/{name}"), name, flavour, arrays)
        file["model_weights"].create_group("top_level_model_weights")
    return path


def write_layer(group, name, flavour, arrays):
    inside = f"sequential_1/{name}" if flavour == "sequential3" else name
    end = "" if flavour.endswith("3") else ":0"
    names = []
    for key, array in zip(("kernel", "bias"), arrays, strict=True):
        if array is not None:
            names.append(f"{inside}/{key}{end}")
            group[names[-1]] = array
    group.attrs["weight_names"] = names if flavour.endswith("3") else [n.encode() for n in names]


def by_scipy(image, layers=LAYERS):
    """(H, W, C) through the chain, each layer as scipy's correlations in float64."""
    weights = kernels(layers, image.shape[2])
    functions = {"relu": lambda x: np.maximum(x, 0), "sigmoid": lambda x: 1 / (1 + np.exp(-x))}
    for kind, config in layers:
        if kind == "Conv2D":
            kernel, bias = weights[config["name"]]
            image = np.stack(
                [
                    sum(
                        correlate(image[..., i], kernel[..., i, o].astype(float), mode="constant")
                        for i in range(kernel.shape[2])
                    )
                    for o in range(kernel.shape[3])
                ],
                axis=-1,
            ) + (0 if bias is None else bias)
        name = "relu" if kind == "ReLU" else config["activation"]
        image = functions.get(name, lambda x: x)(image)
    return image


def run(network, image):
    with torch.no_grad():
        return network(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_equals_an_independent_convolution(tmp_path, flavour):
    source = write_keras(tmp_path / "m.h5", flavour)
    image = np.random.default_rng(0).random((13, 8, 2), np.float32)
    found = run(convert_keras(source), image)
    expected = by_scipy(image.astype(float))
    # Sums of at most 125 float32 products: about 1e-6. A transposed kernel would differ by 0.1.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.ptp(expected) > 0.1


def test_converts_to_a_model_file(tmp_path):
    source = write_keras(tmp_path / "dn-mdl.h5")
    difference = convert(source, tmp_path / "dn-mdl.onnx")
    model = modelfile.read(tmp_path / "dn-mdl.onnx")
    assert difference < 1e-5
    assert model.header.config == {
        "widths": [5, 3, 4],
        "kernel_size": [3, 5, 1, 3],
        "activation": ["relu", "sigmoid", "relu"],
        "output_activation": "linear",
        "channels": 2,
    }
    assert (model.header.reach, model.header.multiple) == (4, 1)
    assert model.header.name == "dn-mdl"
    assert model.header.recipe["converted_from"] == "dn-mdl.h5"
    assert model.header.recipe["keras_version"] == "2.15.0"
    image = np.random.default_rng(0).random((9, 9, 2), np.float32)
    again = modelfile.load_network(tmp_path / "dn-mdl.onnx")
    np.testing.assert_array_equal(run(again, image), run(convert_keras(source), image))


def test_one_kernel_size_and_activation_are_written_once(tmp_path):
    layers = [conv("a", 8), conv("b", 4), conv("c", 1, 3, "linear")]
    network = convert_keras(write_keras(tmp_path / "m.h5", "keras3", layers, 1))
    assert network.config["kernel_size"] == 3
    assert network.config["activation"] == "relu"


def test_reading_leaves_the_source_alone(tmp_path):
    source = write_keras(tmp_path / "m.h5")
    before = source.read_bytes(), source.stat().st_mtime_ns
    source.chmod(0o444)
    read_keras(source)
    assert (source.read_bytes(), source.stat().st_mtime_ns) == before


# Refusals


def refused(path, words):
    with pytest.raises(UserError, match=words) as caught:
        read_keras(path)
    assert str(caught.value).startswith(f"{path}: ")


OTHER_LAYERS = {
    "BatchNormalization": {"axis": [3]},
    "Dropout": {"rate": 0.5},
    "MaxPooling2D": {"pool_size": [2, 2]},
    "Conv2DTranspose": {},
    "LeakyReLU": {},
    "Lambda": {"function": ["code", None, None]},
}


@pytest.mark.parametrize("kind", OTHER_LAYERS)
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_other_layers_are_named(tmp_path, flavour, kind):
    layers = [LAYERS[0], activation(kind, "stranger", **OTHER_LAYERS[kind]), LAYERS[-1]]
    refused(write_keras(tmp_path / "m.h5", flavour, layers), f"'stranger' is a {kind}.*plain chain")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strides": [2, 2]}, r"'odd' \(Conv2D\) has strides \[2, 2\]; expected \[1, 1\]"),
        ({"dilation_rate": [2, 2]}, "dilation_rate"),
        ({"groups": 2}, "groups 2"),
        ({"padding": "valid"}, "padding 'valid'"),
        ({"data_format": "channels_first"}, "data_format"),
        ({"kernel_size": [3, 5]}, "kernel of 3x5"),
        ({"kernel_size": [2, 2]}, "kernel of 2x2"),
        ({"activation": "tanh"}, r"'odd' \(Conv2D\) has the activation 'tanh'; expected relu"),
        ({"activation": {"class_name": "function", "config": "mine"}}, "activation {"),
        ({"filters": 10**9}, "1000000000 filters"),
        ({"filters": "5"}, "cannot be understood"),
        ({"kernel_size": 3}, "cannot be understood"),
    ],
)
def test_other_convolutions_are_named(tmp_path, changes, words):
    layers = [LAYERS[0], conv("odd", **({"filters": 5} | changes)), LAYERS[-1]]
    refused(write_keras(tmp_path / "m.h5", layers=layers, weights=kernels(LAYERS, 2)), words)


def test_settings_of_activations_are_checked(tmp_path):
    layers = [conv("a", 4, 3, "linear"), activation("ReLU", "r", max_value=6.0), LAYERS[-1]]
    refused(write_keras(tmp_path / "m.h5", layers=layers), r"'r' \(ReLU\) has max_value 6.0")
    layers = [LAYERS[0], activation("Activation", "second", activation="sigmoid"), LAYERS[-1]]
    refused(write_keras(tmp_path / "m.h5", layers=layers), "'second' is a Activation in place 2")
    layers = [activation("Activation", "first", activation="relu"), *LAYERS]
    refused(write_keras(tmp_path / "m.h5", layers=layers), "'first' is a Activation in place 1")


def test_too_short_chains_and_channels(tmp_path):
    refused(write_keras(tmp_path / "m.h5", layers=[LAYERS[-1]]), "1 Conv2D layers")
    layers = [LAYERS[0], conv("last", 3)]
    refused(write_keras(tmp_path / "m.h5", layers=layers), "makes 3 channels from 2")
    weights = kernels(LAYERS, 2)
    weights["last"] = (np.zeros((3, 3, 7, 2), np.float32), np.zeros(2, np.float32))
    refused(write_keras(tmp_path / "m.h5", weights=weights), "takes 7 channels.*makes 4")


@pytest.mark.parametrize("flavour", ["keras2", "keras3"])
def test_branches_are_named(tmp_path, flavour):
    config = model_config(flavour, LAYERS, 2)
    add = {
        "class_name": "Subtract",
        "config": {"name": "minus"},
        "name": "minus",
        "inbound_nodes": [connection(flavour, "in", "last")],
    }
    config["config"]["layers"].append(add)
    refused(
        write_keras(tmp_path / "m.h5", flavour, config=config), r"'minus' \(Subtract\) is a branch"
    )
    end = ["minus", 0, 0]
    config["config"]["output_layers"] = [end] if flavour == "keras2" else end
    source = write_keras(tmp_path / "m.h5", flavour, config=config)
    refused(source, r"'minus' \(Subtract\) has several inputs")


@pytest.mark.parametrize("flavour", ["keras2", "keras3"])
def test_several_outputs_shared_layers_and_circles(tmp_path, flavour):
    config = model_config(flavour, LAYERS, 2)
    config["config"]["output_layers"] = [["b", 0, 0], ["last", 0, 0]]
    refused(write_keras(tmp_path / "m.h5", flavour, config=config), "2 output_layers")
    config = model_config(flavour, LAYERS, 2)
    config["config"]["layers"][2]["inbound_nodes"] *= 2
    refused(
        write_keras(tmp_path / "m.h5", flavour, config=config), r"'b' \(Conv2D\) is used 2 times"
    )
    config = model_config(flavour, LAYERS, 2)
    config["config"]["layers"][1]["inbound_nodes"] = [connection(flavour, "b")]
    refused(write_keras(tmp_path / "m.h5", flavour, config=config), "circle")


def test_files_that_are_none(tmp_path):
    refused(tmp_path / "absent.h5", "No such file")
    (tmp_path / "text.h5").write_text("not hdf5 at all")
    refused(tmp_path / "text.h5", "not an HDF5 file")
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as file:
        file.writestr("config.json", "{}")
    refused(tmp_path / "m.keras", r'load_model\("model.keras"\).save\("model.h5"\)')
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.create_group("layers")
    refused(tmp_path / "weights.h5", "weights alone")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"class_name": "Functional"}', "[" * 20_000, '{"class_name": 3}']
)
def test_model_configs_that_are_none(tmp_path, text):
    source = write_keras(tmp_path / "m.h5")
    with h5py.File(source, "a") as file:
        file.attrs["model_config"] = text
    refused(source, "model_config|a model of class 3")


def test_every_truncated_file_is_refused(tmp_path):
    data = write_keras(tmp_path / "m.h5").read_bytes()
    for length in range(0, len(data) - 1, len(data) // 60):
        (tmp_path / "cut.h5").write_bytes(data[:length])
        refused(tmp_path / "cut.h5", "HDF5")


@pytest.mark.parametrize("link", ["external", "soft", "virtual", "stored elsewhere"])
def test_data_elsewhere_are_refused(tmp_path, link):
    source = write_keras(tmp_path / "m.h5")
    write_keras(tmp_path / "other.h5")
    place = "model_weights/b/b/bias:0"
    with h5py.File(source, "a") as file:
        del file[place]
        if link == "external":
            file[place] = h5py.ExternalLink("other.h5", place)
        elif link == "soft":
            file[place] = h5py.SoftLink("/model_weights/last/last/bias:0")
        elif link == "virtual":
            layout = h5py.VirtualLayout((3,), np.float32)
            layout[:] = h5py.VirtualSource("other.h5", place, (3,))
            file.create_virtual_dataset(place, layout)
        else:
            (tmp_path / "raw").write_bytes(bytes(12))
            file.create_dataset(place, (3,), "f4", external=[(tmp_path / "raw", 0, 12)])
    # A link within the file is followed, and leads to a bias of another layer.
    refused(source, r"link to another file|has the shape \(2,\)|virtual|stored in other files")


def test_weights_that_do_not_fit(tmp_path):
    def changed(array, place="model_weights/b/b/bias:0", **more):
        source = write_keras(tmp_path / "m.h5")
        with h5py.File(source, "a") as file:
            del file[place]
            if array is not None:
                file.create_dataset(place, data=array, **more)
        return source

    refused(changed(None), "no 'b/bias:0'")
    refused(changed(np.zeros(4, np.float32)), r"shape \(4,\); expected \(3,\)")
    refused(changed(np.zeros((3, 1), np.float32)), "expected")
    refused(changed(np.zeros(3, np.int32)), "expected floats")
    refused(changed(np.float32([1, np.inf, 2])), "not finite")
    kernel = "model_weights/b/b/kernel:0"
    refused(changed(np.zeros((5, 5, 5, 4), np.float32), kernel), "expected")
    source = changed(None, kernel)
    with h5py.File(source, "a") as file:  # Takes no room in the file, but would in memory.
        file.create_dataset(kernel, (5, 5, 10**9, 3), "f4", chunks=(5, 5, 10, 3))
    refused(source, "expected floats")


def test_half_precision_weights_are_read(tmp_path):
    weights = {
        name: tuple(None if array is None else array.astype(np.float16) for array in pair)
        for name, pair in kernels(LAYERS, 2).items()
    }
    chain = read_keras(write_keras(tmp_path / "m.h5", weights=weights))
    assert chain.layers[0].kernel.dtype == np.float32
    np.testing.assert_array_equal(chain.layers[0].kernel, weights["conv2d"][0].astype(np.float32))


def test_no_weight_names(tmp_path):
    source = write_keras(tmp_path / "m.h5")
    with h5py.File(source, "a") as file:
        file["model_weights/b"].attrs["weight_names"] = []
    refused(source, r"'b' \(Conv2D\) has no kernel")
    with h5py.File(source, "a") as file:
        del file["model_weights/b"].attrs["weight_names"]
    refused(source, "damaged")
