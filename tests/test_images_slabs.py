import io
import shutil
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snowmelt.images import slabs
from snowmelt.images.base import Layout
from snowmelt.images.slabs import Grid, RawFile, Reader, pour, unchunked

CASES = [
    ("YX", (13, 17), (4, 5)),
    ("XY", (17, 13), (5, 4)),
    ("YX", (13, 17), (20, 20)),
    ("YX", (13, 17), (13, 1)),
    ("YXC", (13, 17, 3), (4, 5, 2)),
    ("SYX", (3, 13, 17), (2, 4, 5)),
    ("CYX", (3, 13, 17), (1, 4, 5)),
    ("ZYX", (5, 13, 17), (2, 4, 5)),
    ("ZYX", (5, 13, 17), (5, 13, 17)),
    ("TCZYX", (2, 3, 5, 6, 7), (1, 1, 3, 4, 5)),
    ("TCZYX", (2, 3, 5, 6, 7), (1, 2, 3, 4, 5)),
    ("TCZYX", (3, 2, 2, 6, 7), (2, 1, 1, 4, 5)),
    ("YXZ", (13, 17, 5), (4, 5, 2)),
    ("ZXTYC", (2, 7, 3, 6, 4), (2, 3, 2, 4, 3)),
    ("YX", (1, 1), (1, 1)),
]


class Recorder:
    """An array that counts how often each value is moved, and where boxes begin and end."""

    def __init__(self, values, chunks):
        self.values, self.chunks = values, chunks
        self.moved = np.zeros(values.shape, int)

    def note(self, box):
        self.moved[box] += 1
        for part, chunk, size in zip(box, self.chunks, self.values.shape, strict=True):
            assert part.start % chunk == 0
            assert part.stop % chunk == 0 or part.stop == size

    def __getitem__(self, box):
        self.note(box)
        return self.values[box]

    def __setitem__(self, box, values):
        self.note(box)
        self.values[box] = values


def layout_of(axes, shape, dtype="u2"):
    return Layout(shape, axes, np.dtype(dtype))


def planes_of(array, layout):
    """The same order of planes by another way: (planes, H, W, channels)."""
    channel = layout.channel_axis
    if channel is None:
        array, channel = array[..., None], array.ndim
    places = (layout.axes.index("Y"), layout.axes.index("X"), channel)
    moved = np.moveaxis(array, places, (-3, -2, -1))
    return moved.reshape(-1, *moved.shape[-3:])


def bands_of(planes, rows):
    """Bands of uneven heights, each within its plane."""
    for plane in planes:
        row, step = 0, 1
        while row < len(plane):
            yield plane[row : row + step]
            row, step = row + step, rows
            rows = rows + 1 if rows < 9 else 2


def random(shape):
    return np.random.default_rng(0).integers(0, 60000, shape).astype("u2")


@pytest.fixture(params=[(2**24, 2**28), (64, 2**28), (64, 16)], ids=["large", "small", "scratch"])
def limits(request, monkeypatch):
    monkeypatch.setattr(slabs, "BLOCK", request.param[0])
    monkeypatch.setattr(slabs, "HELD", request.param[1])


@pytest.mark.parametrize(("axes", "shape", "chunks"), CASES)
@pytest.mark.usefixtures("limits")
def test_rows_read_in_sequence_move_each_chunk_once(axes, shape, chunks):
    array, layout = random(shape), layout_of(axes, shape)
    source = Recorder(array, chunks)
    reader = Reader(source, Grid(layout, chunks, tuple(range(len(shape)))))
    expected = planes_of(array, layout)
    for plane in range(layout.planes):
        for start in range(0, layout.height, 3):
            stop = min(start + 3, layout.height)
            rows = reader.rows(plane, start, stop)
            np.testing.assert_array_equal(rows, expected[plane, start:stop])
    assert (source.moved == 1).all()


@pytest.mark.parametrize(("axes", "shape", "chunks"), CASES)
@pytest.mark.usefixtures("limits")
def test_bands_written_in_sequence_move_each_chunk_once(tmp_path, axes, shape, chunks):
    array, layout = random(shape), layout_of(axes, shape)
    target = Recorder(np.zeros_like(array), chunks)
    grid = Grid(layout, chunks, tuple(range(len(shape))))
    pour(bands_of(planes_of(array, layout), 3), target, grid, tmp_path)
    np.testing.assert_array_equal(target.values, array)
    assert (target.moved == 1).all()
    assert list(tmp_path.iterdir()) == []


def test_no_rows_are_no_work():
    layout = layout_of("YX", (4, 5))
    source = Recorder(random((4, 5)), (2, 2))
    rows = Reader(source, Grid(layout, (2, 2), (0, 1))).rows(0, 2, 2)
    assert rows.shape == (0, 5, 1)
    assert not source.moved.any()


def test_bands_that_end_too_soon_are_our_mistake(tmp_path):
    layout = layout_of("YX", (4, 5))
    target = Recorder(np.zeros((4, 5), "u2"), (2, 2))
    with pytest.raises(AssertionError):
        pour(iter([np.ones((3, 5, 1), "u2")]), target, Grid(layout, (2, 2), (0, 1)), tmp_path)


@pytest.mark.parametrize(("axes", "fortran", "all_planes"), [
    ("ZYX", False, False),
    ("YXZ", False, True),
    ("YZX", False, False),
    ("ZYX", True, True),
    ("XYZ", True, False),
    ("YXC", True, False),
])  # fmt: skip
def test_interleaved_planes_are_read_together(axes, fortran, all_planes):
    grid = unchunked(layout_of(axes, (4, 5, 6)), fortran=fortran)
    assert (grid.slab(0, 0)[axes.find("Z")] == slice(0, 1)) != all_planes or "Z" not in axes
    assert (max(grid.chunks) > 1) == all_planes


@given(st.data())
def test_boxes_of_a_raw_file_are_those_of_the_array(data):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    order = data.draw(st.sampled_from("CF"))
    array = np.asarray(random(shape), dtype=">u2", order=order)
    box = []
    for size in shape:
        start = data.draw(st.integers(0, size - 1))
        box.append(slice(start, data.draw(st.integers(start + 1, size))))
    box = tuple(box)
    file = io.BytesIO(b"head" + array.tobytes(order))
    raw = RawFile(file, 4, shape, ">u2", fortran=order == "F")
    np.testing.assert_array_equal(raw[box], array[box])
    new = random(shape)[box][..., ::-1]
    raw[box] = new
    array[box] = new
    assert file.getvalue() == b"head" + array.tobytes(order)


def test_a_raw_file_that_shrinks_is_an_error():
    raw = RawFile(io.BytesIO(b"abc"), 0, (4,), "u1")
    with pytest.raises(ValueError, match="shorter"):
        raw[(slice(0, 4),)]


def test_scratch_needs_room(monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(slabs, "HELD", 8)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(free=10))
    layout = layout_of("YX", (4, 5))
    with pytest.raises(OSError, match="set TMPDIR to a larger disk"):
        Reader(random((4, 5)), Grid(layout, (4, 5), (0, 1))).rows(0, 0, 1)
