from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from snowmelt import onnxfile
from snowmelt.errors import UserError

Change = Callable[[onnx.ModelProto], None]
WEIGHTS = np.arange(18, dtype=np.float32).reshape(2, 1, 3, 3)


def proto() -> onnx.ModelProto:
    """A model made by the onnx package: the independent writer."""
    node = helper.make_node("Conv", ["image", "weights"], ["denoised"], pads=[1, 1, 1, 1], name="c")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, "H", "W"])
    result = helper.make_tensor_value_info("denoised", TensorProto.FLOAT, ["N", 2, "H", "W"])
    graph = helper.make_graph(
        [node], "g", [image], [result], [numpy_helper.from_array(WEIGHTS, "weights")]
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="somebody"
    )
    helper.set_model_props(model, {"a": "b", "ä": "☃"})
    return model


def refused(data: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        onnxfile.parse(data)


def test_reads_what_the_onnx_package_writes():
    model = onnxfile.parse(proto().SerializeToString())
    assert model.metadata == {"a": "b", "ä": "☃"}
    assert model.opsets == {"": 17}
    assert model.producer.strip() == "somebody"
    assert [(value.name, value.data_type, value.shape) for value in model.inputs] == [
        ("image", 1, ("N", 1, "H", "W"))
    ]
    assert [value.name for value in model.outputs] == ["denoised"]
    (node,) = model.nodes
    assert (node.op_type, node.inputs, node.outputs) == (
        "Conv",
        ("image", "weights"),
        ("denoised",),
    )
    assert node.attributes == {"pads": [1, 1, 1, 1]}
    np.testing.assert_array_equal(model.initializers["weights"], WEIGHTS)
    assert model.initializers["weights"].dtype == np.float32


def test_the_onnx_package_reads_what_we_write():
    data = proto().SerializeToString()
    message = onnxfile.decode(data)
    message["graph"]["doc_string"] = "ours"
    again = onnx.load_from_string(onnxfile.encode(message))
    assert again.graph.doc_string == "ours"
    again.graph.ClearField("doc_string")
    assert again == proto()


def test_lists_of_numbers_are_read_packed_and_one_by_one():
    message = onnxfile.decode(proto().SerializeToString())
    one_by_one = onnxfile.encode(message)
    assert b"\x08\x02\x08\x01\x08\x03\x08\x03" in one_by_one  # dims, field 1, each with its tag
    packed = one_by_one.replace(
        b"\x08\x02\x08\x01\x08\x03\x08\x03", b"\x0a\x06\x82\x00\x01\x03\x03\x7f"
    )
    # The same length, so that no other length changes: 2 in two bytes; 0x7f spoils the shape on purpose.
    refused(packed, r"shape \[2, 1, 3, 3, 127\]")


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.float32([1.5, -2.0]), "float_data"),
        (np.int64([3, -4, 2**62, -(2**63)]), "int64_data"),
        (np.float32(7), "float_data"),
        (np.zeros((0, 3), np.float32), "float_data"),
    ],
)
def test_tensors_in_typed_fields_are_read_as_those_in_bytes(array, kind):
    model = proto()
    tensor = model.graph.initializer.add()
    tensor.name, tensor.data_type = "more", helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor.dims.extend(array.shape)
    getattr(tensor, kind).extend(array.ravel().tolist())
    found = onnxfile.parse(model.SerializeToString()).initializers["more"]
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype


def test_every_attribute_type_is_read():
    model = proto()
    node = model.graph.node[0]
    node.attribute.append(helper.make_attribute("i", -5))
    node.attribute.append(helper.make_attribute("f", 0.5))
    node.attribute.append(helper.make_attribute("s", "text"))
    node.attribute.append(helper.make_attribute("fs", [0.5, 2.0]))
    node.attribute.append(helper.make_attribute("t", numpy_helper.from_array(np.int64([4]))))
    attributes = onnxfile.parse(model.SerializeToString()).nodes[0].attributes
    assert attributes.pop("t").tolist() == [4]
    assert attributes == {"pads": [1] * 4, "i": -5, "f": 0.5, "s": "text", "fs": [0.5, 2.0]}


def test_every_cut_is_refused():
    data = proto().SerializeToString()
    accepted = []
    for length in range(len(data)):
        try:
            accepted.append(onnxfile.parse(data[:length]))
        except UserError:
            continue
    # The file ends in whole fields (metadata): cut between them, it is a sound model with less in it.
    assert all(model.metadata.keys() < {"a", "ä"} or model.opsets == {} for model in accepted)
    assert len(accepted) <= 3


def test_foreign_files_are_refused():
    refused(b"", "no graph")
    refused(b"\x89PNG\r\n\x1a\n" + bytes(100), "not ONNX|cut off")
    refused(b"hello world, this is text", "not ONNX|cut off")
    refused(b"\x80" * 40, "more than 64 bits")
    refused(b"\xff" * 9 + b"\x7f", "more than 64 bits")
    refused(b"\x0b\x0c", "wire type 3")
    refused(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "bytes follow")


def _attribute_of(value: object) -> Change:
    def add(model: onnx.ModelProto) -> None:
        model.graph.node[0].attribute.append(helper.make_attribute("more", value))

    return add


def _not_finite(model: onnx.ModelProto) -> None:
    weights = WEIGHTS.copy()
    weights[0, 0, 0, :2] = np.nan, np.inf
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "weights"))


def _half_not_finite(model: onnx.ModelProto) -> None:
    half = np.float16([1, np.inf])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(half, "weights"))


def _no_numbers(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**62, 0]
    model.graph.initializer[0].raw_data = b""


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def _location_alone(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def _external_constant(model: onnx.ModelProto) -> None:
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [0], [])
    tensor.external_data.add(key="location", value="x")
    model.graph.node[0].attribute.append(helper.make_attribute("t", tensor))


def _subgraph(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("body", model.graph))


def _function(model: onnx.ModelProto) -> None:
    model.functions.append(helper.make_function("d", "f", [], [], [], []))


def _sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def _sequence(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.sequence_type.SetInParent()


def _too_few_bytes(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = b"1234"


def _huge_shape(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**40, 2**40]


def _negative_shape(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [-2, -9]


def _many_axes(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [1] * 100


def _of_double(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = TensorProto.DOUBLE


def _half_as_numbers(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = TensorProto.FLOAT16
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].float_data.append(1)


def _two_kinds(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].float_data.append(1)


def _twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _circle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "denoised"


def _shadow(model: onnx.ModelProto) -> None:
    model.graph.node[0].output[0] = "image"


def _no_output(model: onnx.ModelProto) -> None:
    model.graph.node[0].ClearField("output")


def _wrong_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute[0].type = 1


def _attribute_twice(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(model.graph.node[0].attribute[0])


def _metadata_twice(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="a", value="c")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_external, "external data"),
        (_location_alone, "external data"),
        (_external_constant, "external data"),
        (_subgraph, "graph of its own"),
        (_function, "functions"),
        (_sparse, "sparse_initializer"),
        (_sequence, "sequence_type"),
        (_too_few_bytes, "needs 72 bytes, but has 4"),
        (_huge_shape, "impossible shape"),
        (_no_numbers, r"impossible shape \[4611686018427387904, 0\]"),
        (_not_finite, "2 of 18 numbers of the weights 'weights' are not finite"),
        (_half_not_finite, "1 of 2 numbers of the weights 'weights' are not finite"),
        (_attribute_of(float("nan")), "1 of 1 numbers of 'more' of 'denoised' are not finite"),
        (_attribute_of([0.5, -np.inf]), "1 of 2 numbers of 'more' of 'denoised'"),
        (
            _attribute_of(numpy_helper.from_array(np.float32([np.nan]))),
            "1 of 1 numbers of 'more' of 'denoised' are not finite",
        ),
        (_negative_shape, "impossible shape"),
        (_many_axes, "impossible shape"),
        (_of_double, "data type 11; expected float32"),
        (_half_as_numbers, r"of float16 has \['float_data'\]"),
        (_two_kinds, "raw_data"),
        (_twice, "there twice"),
        (_circle, "which nothing makes"),
        (_shadow, "made twice"),
        (_no_output, "makes nothing"),
        (_wrong_attribute, "not what its type 1 says"),
        (_attribute_twice, "'pads' is there twice"),
        (_metadata_twice, "'a' is there twice"),
    ],
)
def test_refuses(change, words):
    model = proto()
    change(model)
    refused(model.SerializeToString(), words)


def test_a_second_graph_is_refused_where_protobuf_would_merge_it():
    data = proto().SerializeToString()
    refused(data + data, "is there twice")


def test_unknown_fields_are_refused():
    refused(proto().SerializeToString() + b"\x9a\x06\x01x", "unknown field 99")


def test_a_field_of_another_kind_is_refused():
    refused(b"\x0a\x01x", "ir_version is not a int")


def test_a_file_of_many_tiny_fields_is_refused_early(monkeypatch):
    monkeypatch.setattr(onnxfile, "MAX_FIELDS", 50)
    refused(b"\x72\x00" * 51, "more than 50 fields")
    dims = b"\x0a\x3c" + bytes(60)  # Packed numbers count too.
    graph = b"\x2a" + bytes([len(dims)]) + dims
    refused(b"\x3a" + bytes([len(graph)]) + graph, "more than 50 fields")


def test_bad_utf8_is_refused():
    refused(b"\x12\x01\xff", "producer_name is not UTF-8")


def test_long_names_are_cut_in_messages():
    model = proto()
    model.graph.node[0].input[0] = "\x1b[31m" + "x" * 10_000
    with pytest.raises(UserError) as caught:
        onnxfile.parse(model.SerializeToString())
    assert len(str(caught.value)) < 300
    assert "\x1b" not in str(caught.value)
