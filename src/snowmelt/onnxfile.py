"""ONNX files read and written with numpy alone: the part of the format that a denoiser needs.

An ONNX file is a protobuf message: numbered fields, each a number, 4 or 8 bytes, or a run of bytes. Here a
schema says which fields there may be; a field that is unknown, doubled or of another kind is an error, so
that no other program sees something in the file which was not checked here. Weights in other files, graphs
inside nodes, functions and sparse or quantised tensors are refused, which also bounds the depth.

The numbers are those of ``onnx/onnx.proto`` of the ONNX project.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError
from snowmelt.limits import MAX_DIMENSIONS, MAX_FIELDS

MAX_TENSOR = 2**31 - 1  # Numbers, and length of an axis: protobuf's limit for the bytes of a file.
DATA_TYPES = {1: "float32", 7: "int64", 10: "float16"}
# 3 brought operator sets (2017), 14 is that of ONNX 1.23.
IR_VERSIONS = range(3, 15)

Kind = Literal["int", "ints", "float", "floats", "text", "bytes", "message", "refused"]
Message = dict[str, Any]


@dataclass(frozen=True)
class Field:
    """One entry of a schema; ``many`` fields are lists."""

    name: str
    kind: Kind
    many: bool = False
    schema: Mapping[int, Field] | None = None


def _message(name: str, schema: Mapping[int, Field], *, many: bool = False) -> Field:
    return Field(name, "message", many, schema)


def _refused(**fields: int) -> dict[int, Field]:
    return {number: Field(name, "refused") for name, number in fields.items()}


_ENTRY = {1: Field("key", "text"), 2: Field("value", "text")}
_DOC = Field("doc_string", "text")
_TENSOR = {
    1: Field("dims", "ints"),
    2: Field("data_type", "int"),
    4: Field("float_data", "floats"),
    7: Field("int64_data", "ints"),
    8: Field("name", "text"),
    9: Field("raw_data", "bytes"),
    12: _DOC,
    14: Field("data_location", "int"),
    16: _message("metadata_props", _ENTRY, many=True),
    **_refused(segment=3, int32_data=5, string_data=6, double_data=10, uint64_data=11),
    **_refused(external_data=13),
}
_DIMENSION = {
    1: Field("dim_value", "int"),
    2: Field("dim_param", "text"),
    3: Field("denotation", "text"),
}
_SHAPE = {1: _message("dim", _DIMENSION, many=True)}
_TENSOR_TYPE = {1: Field("elem_type", "int"), 2: _message("shape", _SHAPE)}
_TYPE = {
    1: _message("tensor_type", _TENSOR_TYPE),
    6: Field("denotation", "text"),
    **_refused(sequence_type=4, map_type=5, opaque_type=7, sparse_tensor_type=8, optional_type=9),
}
_VALUE = {
    1: Field("name", "text"),
    2: _message("type", _TYPE),
    3: _DOC,
    4: _message("metadata_props", _ENTRY, many=True),
}
_ATTRIBUTE = {
    1: Field("name", "text"),
    2: Field("f", "float"),
    3: Field("i", "int"),
    4: Field("s", "bytes"),
    5: _message("t", _TENSOR),
    7: Field("floats", "floats"),
    8: Field("ints", "ints"),
    9: Field("strings", "bytes", many=True),
    13: _DOC,
    20: Field("type", "int"),
    **_refused(subgraph=6, tensors=10, subgraphs=11, type_proto=14, type_protos=15),
    **_refused(ref_attr_name=21, sparse_tensor=22, sparse_tensors=23),
}
_NODE = {
    1: Field("input", "text", many=True),
    2: Field("output", "text", many=True),
    3: Field("name", "text"),
    4: Field("op_type", "text"),
    5: _message("attribute", _ATTRIBUTE, many=True),
    6: _DOC,
    7: Field("domain", "text"),
    9: _message("metadata_props", _ENTRY, many=True),
    **_refused(overload=8, device_configurations=10),
}
_GRAPH = {
    1: _message("node", _NODE, many=True),
    2: Field("name", "text"),
    5: _message("initializer", _TENSOR, many=True),
    10: _DOC,
    11: _message("input", _VALUE, many=True),
    12: _message("output", _VALUE, many=True),
    13: _message("value_info", _VALUE, many=True),
    16: _message("metadata_props", _ENTRY, many=True),
    **_refused(quantization_annotation=14, sparse_initializer=15),
}
_OPSET = {1: Field("domain", "text"), 2: Field("version", "int")}
MODEL: Mapping[int, Field] = {
    1: Field("ir_version", "int"),
    2: Field("producer_name", "text"),
    3: Field("producer_version", "text"),
    4: Field("domain", "text"),
    5: Field("model_version", "int"),
    6: _DOC,
    7: _message("graph", _GRAPH),
    8: _message("opset_import", _OPSET, many=True),
    14: _message("metadata_props", _ENTRY, many=True),
    **_refused(training_info=20, functions=25, configuration=26),
}

_WIRE = {"int": 0, "float": 5, "text": 2, "bytes": 2, "message": 2}
_REASONS = {
    "external_data": "its weights lie in another file (external data); save the model as one file",
    "functions": "it defines functions of its own",
    "subgraph": "a node holds a graph of its own (If, Loop or Scan)",
    "subgraphs": "a node holds graphs of its own (If, Loop or Scan)",
}


@dataclass(frozen=True)
class Node:
    """One step of the graph."""

    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Value:
    """An input or output of the graph; ``shape`` has a number, or the name of a free size, an axis."""

    name: str
    data_type: int
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Model:
    """What an ONNX file holds, checked: tensors are whole and finite, names defined once, before use.

    ``stated`` is what the file says of the tensors inside (value_info), which nothing needs.
    """

    metadata: dict[str, str]
    initializers: dict[str, NDArray[Any]]
    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    opsets: dict[str, int]
    producer: str
    stated: tuple[Value, ...] = ()


def short(value: Any) -> str:
    """``repr``, cut: what a stranger wrote may be long or steer the terminal."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def encode(message: Mapping[str, Any], schema: Mapping[int, Field] = MODEL) -> bytes:
    """Write a message, given as a dict that follows the schema, as protobuf bytes."""
    parts: list[bytes] = []
    for number, field in schema.items():
        if field.name not in message:
            continue
        value = message[field.name]
        for item in value if field.many or field.kind in ("ints", "floats") else [value]:
            parts += _encode_field(number, field, item)
    return b"".join(parts)


def _encode_field(number: int, field: Field, item: Any) -> list[bytes]:
    if field.kind in ("int", "ints"):
        return [_varint(number << 3), _varint(item)]
    if field.kind == "float":
        return [_varint(number << 3 | 5), struct.pack("<f", item)]
    if field.kind == "message":
        assert field.schema is not None
        item = encode(item, field.schema)
    elif field.kind == "text":
        item = item.encode()
    return [_varint(number << 3 | 2), _varint(len(item)), item]


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def decode(data: bytes) -> Message:
    """Read protobuf bytes of an ONNX model as nested dicts; the inverse of ``encode``.

    Runs of bytes are views on ``data``. Raises UserError for anything that the schema does not have.
    """
    return _Decoder().message(memoryview(data), MODEL, "model")


class _Decoder:
    def __init__(self) -> None:
        self.fields_left = MAX_FIELDS

    def message(self, data: memoryview, schema: Mapping[int, Field], where: str) -> Message:
        result: Message = {}
        for number, wire, value in self.split(data, where):
            field = schema.get(number)
            if field is None:
                raise UserError(f"damaged, or not ONNX: {where} has an unknown field {number}")
            if field.kind == "refused":
                reason = _REASONS.get(field.name, f"{where} has {field.name}, which is not allowed")
                raise UserError(reason)
            self.store(result, field, wire, value, where)
        return result

    def store(self, result: Message, field: Field, wire: int, value: Any, where: str) -> None:
        name = f"{where}.{field.name}"
        if field.kind in ("ints", "floats"):
            result.setdefault(field.name, []).extend(self.numbers(field, wire, value, name))
            return
        if wire != _WIRE[field.kind]:
            raise UserError(f"damaged, or not ONNX: {name} is not a {field.kind}")
        item = self.item(field, value, name)
        if field.many:
            result.setdefault(field.name, []).append(item)
        elif field.name in result:
            raise UserError(f"damaged, or not ONNX: {name} is there twice")
        else:
            result[field.name] = item

    def item(self, field: Field, value: Any, name: str) -> Any:
        if field.kind == "message":
            assert field.schema is not None
            return self.message(value, field.schema, field.name)
        if field.kind == "text":
            return _text(value, name)
        if field.kind == "float":
            return struct.unpack("<f", value)[0]
        return _signed(value) if field.kind == "int" else value

    def numbers(self, field: Field, wire: int, value: Any, name: str) -> list[Any]:
        """Lists of numbers come packed in one run of bytes or one by one."""
        if field.kind == "floats" and wire == 5:
            return [value]
        if field.kind == "floats" and wire == 2 and len(value) % 4 == 0:
            return [value]
        if field.kind == "ints" and wire == 0:
            return [_signed(value)]
        if field.kind == "ints" and wire == 2:
            return self.packed(value, name)
        raise UserError(f"damaged, or not ONNX: {name} is not a list of {field.kind}")

    def packed(self, data: memoryview, where: str) -> list[int]:
        numbers = []
        position = 0
        while position < len(data):
            value, position = _read_varint(data, position, where)
            numbers.append(_signed(value))
            self.count()
        return numbers

    def split(self, data: memoryview, where: str) -> Iterator[tuple[int, int, Any]]:
        """Cut a message into (field number, wire type, value)."""
        position = 0
        while position < len(data):
            self.count()
            tag, position = _read_varint(data, position, where)
            wire = tag & 7
            if wire == 0:
                value, position = _read_varint(data, position, where)
                yield tag >> 3, wire, value
                continue
            if wire == 2:
                length, position = _read_varint(data, position, where)
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                raise UserError(f"damaged, or not ONNX: {where} has a field of wire type {wire}")
            if length > len(data) - position:
                raise UserError(
                    f"cut off or damaged: {where} says that {length} bytes follow, "
                    f"but {len(data) - position} do"
                )
            yield tag >> 3, wire, data[position : position + length]
            position += length

    def count(self) -> None:
        self.fields_left -= 1
        if self.fields_left < 0:
            raise UserError(f"more than {MAX_FIELDS:,} fields; no denoising network has so many")


def _read_varint(data: memoryview, position: int, where: str) -> tuple[int, int]:
    value = 0
    for index in range(10):
        if position + index >= len(data):
            raise UserError(f"cut off or damaged: {where} ends inside a number")
        byte = data[position + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if value >= 2**64:
                break
            return value, position + index + 1
    raise UserError(f"damaged, or not ONNX: {where} has a number of more than 64 bits")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _text(data: memoryview, where: str) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"damaged, or not ONNX: {where} is not UTF-8 text") from error


def parse(data: bytes) -> Model:
    """Read and check an ONNX model. The arrays are copies. Raises UserError, without a file's name."""
    message = decode(data)
    version = message.get("ir_version", 0)
    if "graph" not in message or version < 1:
        raise UserError("not an ONNX file: it has no graph")
    if version not in IR_VERSIONS:
        raise UserError(
            f"it is of ONNX's file version (IR) {version}; expected {IR_VERSIONS[0]} to "
            f"{IR_VERSIONS[-1]}"
        )
    graph = message["graph"]
    initializers: dict[str, NDArray[Any]] = {}
    for tensor in graph.get("initializer", []):
        name = tensor.get("name", "")
        if name in initializers:
            raise UserError(f"the weights {short(name)} are there twice")
        initializers[name] = _array(tensor, f"the weights {short(name)}")
    model = Model(
        metadata=_pairs(message.get("metadata_props", []), "key", "value", "metadata key"),
        initializers=initializers,
        nodes=tuple(_node(node) for node in graph.get("node", [])),
        inputs=tuple(_value(value) for value in graph.get("input", [])),
        outputs=tuple(_value(value) for value in graph.get("output", [])),
        opsets=_pairs(message.get("opset_import", []), "domain", "version", "operator set"),
        producer=" ".join(message.get(key, "") for key in ("producer_name", "producer_version")),
        stated=tuple(_value(value) for value in graph.get("value_info", [])),
    )
    _check_order(model)
    return model


def _pairs(entries: list[Message], key: str, value: str, what: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for entry in entries:
        name = entry.get(key, "")
        if name in result or value not in entry:
            raise UserError(f"damaged: the {what} {short(name)} is there twice or has no {value}")
        result[name] = entry[value]
    return result


def _node(node: Message) -> Node:
    attributes = {}
    where = short(next(iter(node.get("output", [])), ""))
    for attribute in node.get("attribute", []):
        name = attribute.get("name", "")
        if name in attributes:
            raise UserError(f"damaged: the attribute {short(name)} is there twice")
        attributes[name] = _attribute(attribute, f"{short(name)} of {where}")
    return Node(
        op_type=node.get("op_type", ""),
        domain=node.get("domain", ""),
        inputs=tuple(node.get("input", [])),
        outputs=tuple(node.get("output", [])),
        attributes=attributes,
    )


def _attribute(attribute: Message, where: str) -> Any:
    """Its value: a finite number, text, an array or a list, as its type says."""
    kind, name = attribute.get("type", 0), attribute.get("name", "")
    key = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints"}.get(kind, "")
    if attribute.keys() - {"name", "type", "doc_string"} != {key}:
        raise UserError(f"damaged: the attribute {short(name)} is not what its type {kind} says")
    value = attribute[key]
    if key == "s":
        return _text(value, name)
    if key == "t":
        return _array(value, where)
    if key == "floats":
        value = np.frombuffer(b"".join(value), "<f4").tolist()
    if key in ("f", "floats"):
        _check_finite(np.asarray(value), where)
    return value


def _value(value: Message) -> Value:
    name = value.get("name", "")
    tensor = value.get("type", {}).get("tensor_type", {})
    if "shape" not in tensor:
        raise UserError(f"{short(name)} is not a tensor with a shape")
    dimensions = tensor["shape"].get("dim", [])
    shape = tuple(axis.get("dim_value", axis.get("dim_param", "")) for axis in dimensions)
    return Value(name, tensor.get("elem_type", 0), shape)


def _check_finite(array: NDArray[Any], where: str) -> None:
    if array.dtype.kind == "f":
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
            raise UserError(f"{bad} of {array.size} numbers of {where} are not finite")


def _array(tensor: Message, where: str) -> NDArray[Any]:
    name, shape = tensor.get("name") or where, tensor.get("dims", [])
    dtype = DATA_TYPES.get(tensor.get("data_type", 0))
    if tensor.get("data_location", 0) != 0:
        raise UserError(_REASONS["external_data"])
    if dtype is None:
        raise UserError(
            f"the tensor {short(name)} has ONNX data type {tensor.get('data_type', 0)}; "
            f"expected float32 (1), int64 (7) or float16 (10)"
        )
    too_many = len(shape) > MAX_DIMENSIONS or any(size < 0 for size in shape)
    # An axis of length 0 hides the others from a product.
    if too_many or math.prod(max(1, size) for size in shape) > MAX_TENSOR:
        raise UserError(f"the tensor {short(name)} has the impossible shape {short(shape)}")
    data = _tensor_bytes(tensor, dtype)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if len(data) != size:
        raise UserError(
            f"cut off or damaged: the tensor {short(name)} of shape {short(shape)} needs {size} bytes, "
            f"but has {len(data)}"
        )
    little_endian = np.dtype(dtype).newbyteorder("<")
    array = np.frombuffer(data, little_endian).astype(dtype).reshape(shape)
    _check_finite(array, where)
    return array


def _tensor_bytes(tensor: Message, dtype: str) -> bytes | memoryview:
    found = [key for key in ("raw_data", "float_data", "int64_data") if key in tensor]
    typed = {"float32": "float_data", "int64": "int64_data"}.get(dtype, "raw_data")
    if len(found) > 1 or (found and found[0] not in ("raw_data", typed)):
        raise UserError(
            f"damaged: the tensor {short(tensor.get('name', ''))} of {dtype} has {found}"
        )
    if not found:
        return b""
    values = tensor[found[0]]
    if found[0] == "raw_data":
        return memoryview(values)
    return b"".join(values) if dtype == "float32" else np.array(values, "<i8").tobytes()


def _check_order(model: Model) -> None:
    """Every name is made once, and before it is used."""
    known = {""}  # An empty name stands for an optional input that is left out.
    made = [value.name for value in model.inputs] + list(model.initializers)
    if not all(node.outputs for node in model.nodes):
        raise UserError("damaged: an operator makes nothing")
    for node in [Node("graph", "", (), tuple(made), {}), *model.nodes]:
        for name in node.inputs:
            if name not in known:
                raise UserError(
                    f"damaged: {short(node.op_type)} uses {short(name)}, which nothing makes"
                )
        for name in node.outputs:
            if name in known:
                raise UserError(f"damaged: {short(name)} is made twice, or without a name")
            known.add(name)
    for value in model.outputs:
        if value.name not in known - {""}:
            raise UserError(f"damaged: nothing makes the output {short(value.name)}")
