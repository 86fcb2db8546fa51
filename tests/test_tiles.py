import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from snowmelt import tiles
from snowmelt.errors import UserError

SIZES = [1, 2, 3, 7, 8, 9, 23, 24, 25, 40, 41, 63, 64, 65, 100]


class Chain(nn.Module):
    """Two asymmetric 5x5 kernels: each pixel sees exactly 4 pixels far."""

    multiple = 1
    reach = 4

    def __init__(self):
        super().__init__()
        random = np.random.default_rng(0)
        kernels = random.uniform(0.5, 1.5, (2, 1, 1, 5, 5))
        self.kernels = [torch.from_numpy(kernel / kernel.sum()) for kernel in kernels]

    def forward(self, image):
        for kernel in self.kernels:
            image = torch.tanh(functional.conv2d(image, kernel, padding=2)) + 0.1
        return image


class Pyramid(nn.Module):
    """Halves the image and doubles it again: what it sees depends on where the 2x2 blocks fall.

    A pixel at the end of its block sees its block's start (1), the neighbouring block (2): 3 pixels; the
    convolution after doubling adds 1.
    """

    multiple = 2
    reach = 4

    def __init__(self):
        super().__init__()
        random = np.random.default_rng(1)
        self.down, self.middle, self.last = (
            torch.from_numpy(random.uniform(0.5, 1.5, (1, 1, side, side)) / side**2)
            for side in (2, 3, 3)
        )

    def forward(self, image):
        coarse = torch.tanh(functional.conv2d(image, self.down, stride=2))
        coarse = functional.conv2d(coarse, self.middle, padding=1)
        fine = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return functional.conv2d(torch.tanh(fine + image), self.last, padding=1)


def run(network, image):
    tensor = torch.from_numpy(np.ascontiguousarray(image))[None, None]
    return network(tensor)[0, 0].numpy()


def on_the_whole(network, image):
    height, width = image.shape
    row = tiles.Window(0, tiles.round_up(height, network.multiple), 0, height)
    column = tiles.Window(0, tiles.round_up(width, network.multiple), 0, width)
    return run(network, tiles.cut(image, row, column))[:height, :width]


def stitched(network, image, tile, reach):
    rows, columns = (tiles.windows(length, tile, reach, network.multiple) for length in image.shape)
    result = np.full_like(image, np.nan)
    for row, strip in tiles.strips(lambda start, stop: image[start:stop], len(image), rows):
        for column in columns:
            part = run(network, tiles.cut(strip, row, column))[row.kept, column.kept]
            place = (
                slice(row.keep_start, row.keep_stop),
                slice(column.keep_start, column.keep_stop),
            )
            assert np.isnan(result[place]).all()
            result[place] = part
    return result


def affected(network, place, length=40):
    """Largest distance at which changing the input at ``place`` changes the output."""
    image = np.random.default_rng(2).random((length, length))
    changed = image.copy()
    changed[place] += 0.5
    rows, columns = np.nonzero(run(network, image) != run(network, changed))
    return max(abs(rows - place[0]).max(), abs(columns - place[1]).max())


@pytest.mark.parametrize("network", [Chain(), Pyramid()])
def test_reach_is_what_a_changed_pixel_shows(network):
    places = itertools.product((20, 21), repeat=2)
    assert max(affected(network, place) for place in places) == network.reach


@pytest.mark.parametrize("network", [Chain(), Pyramid()])
@pytest.mark.parametrize("tile", [10, 16, 24, 64])
def test_stitched_equals_whole(network, tile):
    random = np.random.default_rng(3)
    for height, width in zip(SIZES, reversed(SIZES), strict=True):
        image = random.random((height, width))
        # Float64 sums of 25 numbers near 1, in whatever order: 25 roundings of 1e-16.
        np.testing.assert_allclose(
            stitched(network, image, tile, network.reach),
            on_the_whole(network, image),
            rtol=0,
            atol=1e-14,
        )


# In blocks of 2 a kept part that begins 3 behind an even start begins inside a block: see Pyramid.
@pytest.mark.parametrize(("network", "reach"), [(Chain(), 3), (Pyramid(), 2)])
def test_less_than_the_reach_shows(network, reach):
    image = np.random.default_rng(4).random((64, 64))
    error = stitched(network, image, 16, reach) - on_the_whole(network, image)
    assert abs(error).max() > 1e-6


@pytest.mark.parametrize(("reach", "multiple"), [(0, 1), (5, 1), (4, 2), (13, 8), (100, 16)])
def test_windows_keep_every_pixel_once_and_far_from_inner_edges(reach, multiple):
    shortest = tiles.smallest_tile(reach, multiple)
    for length in [*SIZES, 1000, 1023]:
        for tile in (shortest, shortest + multiple, shortest + 10 * multiple):
            found = tiles.windows(length, tile, reach, multiple)
            whole = tiles.round_up(length, multiple)
            assert [window.keep_start for window in found] == [
                0,
                *(window.keep_stop for window in found[:-1]),
            ]
            assert found[-1].keep_stop == length
            assert len({window.stop - window.start for window in found}) == 1
            for window in found:
                assert window.start % multiple == 0
                assert window.keep_start < window.keep_stop
                assert window.start == 0 or window.keep_start - window.start >= reach
                assert window.stop == whole or window.stop - window.keep_stop >= reach


def test_tile_is_the_whole_image_or_the_shortest_with_the_fewest_windows():
    assert tiles.fit_tile(384, 384, 5, 1) == 384
    assert tiles.fit_tile(31, 384, 5, 8) == 32
    assert tiles.fit_tile(400, 384, 5, 1) == 208  # two of 208 rather than two of 384
    for length in range(385, 3000, 61):
        tile = tiles.fit_tile(length, 384, 5, 8)
        assert tile % 16 == 0
        fewest = len(tiles.windows(length, 384, 5, 8))
        assert len(tiles.windows(length, tile, 5, 8)) == fewest
        assert tile == 384 or len(tiles.windows(length, tile - 16, 5, 8)) > fewest


def test_tile_too_small_for_the_reach_is_refused():
    with pytest.raises(UserError, match=r"tile 16: .* 13 pixels far .* blocks of 8.* 40 pixels"):
        tiles.fit_tile(100, 20, 13, 8)
    assert tiles.fit_tile(15, 20, 13, 8) == 16  # a small image needs no windows


def test_strips_read_each_row_once_in_order():
    image = np.arange(103)[:, None]
    reads = []

    def read(start, stop):
        reads.append((start, stop))
        return image[start:stop]

    rows = tiles.windows(103, 32, 5, 4)
    for window, strip in tiles.strips(read, 103, rows):
        np.testing.assert_array_equal(strip, image[window.start : window.stop])
    assert reads[0] == (0, 0)
    assert [start for start, _ in reads[1:]] == [0, *(stop for _, stop in reads[1:-1])]
    assert reads[-1][1] == 103


@pytest.mark.parametrize(("length", "expected"), [(3, [0, 1, 2, 2]), (6, [0, 1, 2, 3, 4, 5, 5, 4])])
def test_what_is_missing_is_the_mirror_image(length, expected):
    strip = np.arange(float(length))[None]
    row, column = tiles.Window(0, 1, 0, 1), tiles.Window(0, len(expected), 0, length)
    np.testing.assert_array_equal(tiles.cut(strip, row, column), [expected])


def test_a_single_pixel_is_repeated():
    row, column = tiles.Window(0, 4, 0, 1), tiles.Window(0, 8, 0, 1)
    np.testing.assert_array_equal(
        tiles.cut(np.full((1, 1, 3), 7.0), row, column), np.full((4, 8, 3), 7)
    )
