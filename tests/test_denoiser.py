import copy
import pickle
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from snowmelt import engines, modelfile, models, zoo
from snowmelt.denoiser import Denoiser, Settings, load
from snowmelt.errors import UserError
from snowmelt.images.base import Image, Layout
from snowmelt.models import RecipeCNN
from snowmelt.outliers import Kept

# Float32 sums of up to 50 products of numbers near 1, in another order.
ROUNDING = 1e-5


def network(**config):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return RecipeCNN(**({"widths": [6, 5], "kernel_size": [3, 5, 3]} | config))


def affine(factor=1.0, offset=0.0, channels=1):
    """Output = factor * input + offset."""
    made = RecipeCNN([channels], kernel_size=1, activation="linear", channels=channels)
    with torch.no_grad():
        for layer, value in zip(made.layers, (1.0, factor), strict=True):
            layer.weight[:] = torch.eye(channels)[:, :, None, None] * value
            layer.bias.fill_(0)
        made.layers[-1].bias.fill_(offset)
    return made


class Conditioned(nn.Module):
    """Subtracts the noise level, at half the resolution."""

    architecture, reach, multiple, conditioned = "conditioned", 1, 2, True

    def __init__(self, channels=1):
        super().__init__()
        self.config = {"channels": channels}
        self.convolution = nn.Conv2d(4, 4, 1, bias=False)
        nn.init.dirac_(self.convolution.weight)

    def forward(self, image, noise_level):
        packed = nn.functional.pixel_unshuffle(noise_level, 2)
        return image - nn.functional.pixel_shuffle(self.convolution(packed), 2)


@pytest.fixture
def make(tmp_path):
    def make(network, *, tile=None, precision="f32", **header):
        path = tmp_path / "model.onnx"
        modelfile.write(path, network, modelfile.make_header(network, **header))
        return load(path, precision=precision, tile=tile, device="cpu")

    return make


@pytest.fixture
def conditioned(monkeypatch, make):
    monkeypatch.setitem(models.MODELS, "conditioned", Conditioned)
    monkeypatch.setattr(modelfile, "ARCHITECTURES", ("recipe-cnn", "conditioned"))
    return make(Conditioned())


def by_torch(network, image):
    """(H, W) or (H, W, C) in [0, 1] through the network as a whole."""
    planes = np.atleast_3d(image).transpose(2, 0, 1)[None].astype(np.float32)
    with torch.no_grad():
        result = network(torch.from_numpy(planes))[0].numpy().transpose(1, 2, 0)
    return result.reshape(image.shape)


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (70, 1), (33, 32), (61, 77)])
@pytest.mark.parametrize("tile", [None, 32])
def test_equals_torch_on_the_whole(make, size, tile):
    made = network()
    image = np.random.default_rng(0).random(size, np.float32)
    found = make(made, tile=tile)(image, value_range=(0, 1))
    expected = by_torch(made, image)
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)
    assert abs(expected - image).max() > 0.1


def test_the_same_bits_at_every_call_in_f32(make):
    denoise = make(network(), tile=32)
    image = np.random.default_rng(0).random((100, 90), np.float32)
    first, second = (denoise(image, value_range=(0, 1)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_torch_engine_equals_openvino(make):
    made = network(channels=3)
    denoise = make(made, tile=32)
    image = np.random.default_rng(0).random((50, 61, 3), np.float32)
    expected = denoise(image, value_range=(0, 1), channel_axis=2)
    # bf16 keeps 8 bits: 3 layers each round to 2 ** -9 of values up to 2.
    for precision, tolerance in (("f32", ROUNDING), ("bf16", 0.02)):
        engine = engines.Torch(denoise.model, "cpu", precision)
        assert engine.precision == precision
        found = Denoiser(denoise.model, engine, tile=32)(image, value_range=(0, 1), channel_axis=2)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_equals_openvino(make):
    denoise = make(network(), tile=32)
    image = np.random.default_rng(0).random((50, 61), np.float32)
    found = load(denoise.model.path, device="cuda", precision="f32")(image, value_range=(0, 1))
    expected = denoise(image, value_range=(0, 1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def layouts(image):
    """The same values in memory in other ways."""
    frozen = image.copy()
    frozen.flags.writeable = False
    yield frozen
    yield np.asfortranarray(image)
    yield np.repeat(image, 2, axis=1)[:, ::2]
    yield image[::-1].copy()[::-1]
    yield image.astype(image.dtype.newbyteorder())


@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "i1", "u4", "i4", "i8", "f2", "f4", "f8"])
@pytest.mark.filterwarnings("ignore:kept unchanged")  # some floats are far outside the range
def test_a_network_that_changes_nothing_gives_back_every_bit(make, kind):
    denoise = make(affine(), tile=32)
    random = np.random.default_rng(0)
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        image = (random.standard_normal((40, 37)) * 1e4).astype(dtype)
    else:
        information = np.iinfo(dtype)
        image = random.integers(
            max(information.min, -(2**52)), min(information.max, 2**52), (40, 37)
        )
        image = image.astype(dtype)
    for given in layouts(image):
        before = given.tobytes()
        found = denoise(given, value_range=(-1e3, 1e4 / 3))
        assert (found.dtype, found.shape) == (given.dtype, given.shape)
        np.testing.assert_array_equal(found, image)
        assert given.tobytes() == before


def test_strength_blends(make):
    denoise = make(affine(0.5), tile=32)
    image = np.random.default_rng(0).random((40, 40), np.float32)
    for strength in (0, 0.25, 1):
        found = denoise(image, value_range=(0, 1), strength=strength)
        np.testing.assert_allclose(found, image * (1 - strength / 2), rtol=1e-6)
    np.testing.assert_array_equal(denoise(image, value_range=(0, 1), strength=0), image)


def test_integers_are_rounded_and_clipped_and_floats_are_not(make):
    denoise = make(affine(1, 10.4 / 255))
    assert denoise(np.array([[0, 100, 250]], np.uint8)).tolist() == [[10, 110, 255]]
    assert denoise(np.array([[-128, 100, 127]], np.int8)).tolist() == [[-118, 110, 127]]
    found = denoise(np.array([[0, 250]], np.float32), value_range=(0, 255))
    np.testing.assert_allclose(found, [[10.4, 260.4]], rtol=1e-6)


def test_the_value_range_says_what_is_black_and_white(make):
    denoise = make(affine(0, 0.4))  # two fifths of the range, whatever comes
    image = np.array([[1000, 2000, 6000]], np.uint16)
    assert (denoise(image) == 26214).all()
    assert (denoise(image, value_range=(1000, 3000)) == 1800).all()
    assert (denoise(image.astype(np.int64), value_range=(1000, 3000)) == 1800).all()


def test_the_models_own_range_is_for_types_that_can_hold_it(make):
    denoise = make(affine(0, 0.25), value_range=(0, 4000))
    assert (denoise(np.zeros((2, 2))) == 1000).all()
    assert (denoise(np.zeros((2, 2)), value_range=(0, 10)) == 2.5).all()
    assert (denoise(np.zeros((2, 2), np.int32)) == 1000).all()
    assert (denoise(np.zeros((2, 2), np.uint16)) == 1000).all()
    assert (denoise(np.zeros((2, 2), np.uint8)) == 64).all()
    floats = make(affine(0, 0.25), value_range=(0, 1))
    assert (floats(np.zeros((2, 2), np.uint8)) == 64).all()
    assert (floats(np.zeros((2, 2))) == 0.25).all()


def test_a_grey_model_does_channels_one_by_one(make):
    made = network()
    image = np.random.default_rng(0).random((33, 40, 3), np.float32)
    found = make(made, tile=32)(image, value_range=(0, 1), channel_axis=-1)
    for channel in range(3):
        expected = by_torch(made, image[..., channel])
        np.testing.assert_allclose(found[..., channel], expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_a_colour_model_takes_the_channel_axis_anywhere(make, axis):
    made = network(channels=3)
    image = np.random.default_rng(0).random((33, 40, 3), np.float32)
    found = make(made)(np.moveaxis(image, -1, axis), value_range=(0, 1), channel_axis=axis)
    np.testing.assert_allclose(
        np.moveaxis(found, axis, -1), by_torch(made, image), rtol=0, atol=ROUNDING
    )


def test_leading_axes_are_planes(make):
    made = network()
    stack = np.random.default_rng(0).random((2, 3, 40, 35), np.float32)
    found = make(made, tile=32)(stack, value_range=(0, 1))
    for place in np.ndindex(2, 3):
        np.testing.assert_allclose(
            found[place], by_torch(made, stack[place]), rtol=0, atol=ROUNDING
        )


def test_the_noise_level_is_in_the_units_of_the_image(conditioned):
    # The network subtracts the level, in parts of the range.
    image = np.full((5, 7), 100, np.uint8)  # odd: padded to a multiple of 2
    assert (conditioned(image, sigma=30) == 70).all()
    found = conditioned(image.astype(np.float32), sigma=30, value_range=(50, 150))
    np.testing.assert_allclose(found, 70, rtol=1e-6)
    for wrong in (-1, np.nan, "lots", None, [1, -1]):
        with pytest.raises(UserError, match=r"expected 0 or more|no such kind"):
            conditioned(image, sigma=wrong)


def test_the_noise_level_may_be_a_map(conditioned):
    random = np.random.default_rng(0)
    image = random.random((101, 75), np.float32)
    levels = random.random(image.shape)
    # A part of the range of 0.5, subtracted as that part of it: the level in the image's units.
    for map_ in (levels, levels[:1], levels[:, :1]):
        for tile in (None, 32):
            denoise = Denoiser(conditioned.model, conditioned.engine, tile=tile)
            found = denoise(image, sigma=map_, value_range=(0, 0.5))
            np.testing.assert_allclose(found, image - map_, rtol=0, atol=ROUNDING)
    with pytest.raises(UserError, match=r"levels of shape \(4, 5\).*goes with .* 101 x 75"):
        conditioned(image, sigma=np.ones((4, 5)), value_range=(0, 1))


def test_noise_of_photons_is_a_map_of_the_smoothed_image(conditioned):
    image = np.random.default_rng(0).random((101, 75), np.float32)
    expected = image - np.sqrt(
        gaussian_filter(image, 2, truncate=3, mode="nearest") / 30 + (5 / 255) ** 2
    )
    # 6 pixels of the blur and 1 of the network: tiles of 32 have many seams.
    whole, tiled = (
        Denoiser(conditioned.model, conditioned.engine, tile=tile)(
            image, sigma="poisson-gaussian:30:5", value_range=(0, 1)
        )
        for tile in (None, 32)
    )
    np.testing.assert_allclose(whole, expected, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=ROUNDING)
    with pytest.raises(UserError, match="expected gaussian, poisson or poisson-gaussian"):
        conditioned(image, sigma="speckle:0.2", value_range=(0, 1))


def test_a_pair_does_grey_and_colour_each_with_its_own(tmp_path):
    for name, channels, offset in (("pair-grey", 1, 0.2), ("pair-colour", 3, 0.4)):
        made = affine(1, offset, channels=channels)
        modelfile.write(tmp_path / f"{name}.onnx", made, modelfile.make_header(made))
    denoise = load(tmp_path / "pair", device="cpu")
    image = np.zeros((8, 9, 3), np.uint8)
    assert (denoise(image[..., 0]) == 51).all()
    assert (denoise(image, channel_axis=-1) == 102).all()
    assert (denoise(image[..., :2], channel_axis=-1) == 51).all()
    picture = Fake(np.zeros((1, 8, 9, 4), np.uint8), alpha=True)
    denoise.denoise_image(picture, Path())
    assert (picture.written[..., :3] == 102).all()
    assert denoise.for_channels(3).header.channels == 3
    assert denoise.for_channels(1) is denoise
    assert denoise.for_channels(5) is denoise


@pytest.fixture
def holes():
    """An image with gaps, far enough from each other and from row 45 on none."""
    image = np.random.default_rng(0).random((60, 70), np.float32)
    image[10, 20:23] = np.nan
    image[30] = np.nan
    image[3, 0] = np.inf
    image[4, 69] = -np.inf
    return image


def test_what_is_not_finite_comes_back_and_harms_nobody(make, holes):
    made = network()
    bad = ~np.isfinite(holes)
    with pytest.warns(UserWarning, match=r"kept unchanged: 75 values not finite \(NaN or infinite"):
        found = make(made, tile=32)(holes, value_range=(0, 1))
    np.testing.assert_array_equal(found[bad], holes[bad])
    assert np.isfinite(found[~bad]).all()
    filled = holes.copy()
    filled[10, 20:23] = np.interp([20, 21, 22], [19, 23], holes[10, [19, 23]])
    filled[30] = 0.5
    filled[3, 0], filled[4, 69] = holes[3, 1], holes[4, 68]
    np.testing.assert_allclose(found[~bad], by_torch(made, filled)[~bad], rtol=0, atol=ROUNDING)


def test_what_is_not_finite_can_be_an_error(make, holes):
    denoise = make(network(), tile=32)
    with pytest.raises(UserError, match=r"values that are not finite .* in row 3 .*--nan keep"):
        denoise(holes, value_range=(0, 1), nan="fail")
    denoise(holes[45:], value_range=(0, 1), nan="fail")


OUTLIERS = [-9999, -3.4e38, 1e30, 1000, 9.5, -8.5, 4]


@pytest.mark.parametrize("value", OUTLIERS)
@pytest.mark.parametrize("tile", [None, 32])
def test_outliers_come_back_and_harm_nobody(make, value, tile):
    made = network()
    image = np.random.default_rng(0).random((60, 70), np.float32)
    places = [(0, 0), (10, 20), (31, 69), (59, 35)]  # at seams of tiles and borders
    filled = image.copy()
    for row, column in places:
        image[row, column] = value
        neighbours = [each for each in (column - 1, column + 1) if 0 <= each < 70]
        filled[row, column] = filled[row, neighbours].mean()
    with pytest.warns(UserWarning, match=r"kept unchanged: 4 values far outside the range 0 to 1"):
        found = make(made, tile=tile)(image, value_range=(0, 1))
    bad = filled != image
    np.testing.assert_array_equal(found[bad], image[bad])
    np.testing.assert_allclose(found[~bad], by_torch(made, filled)[~bad], rtol=0, atol=ROUNDING)


def test_highlights_of_an_hdr_image_are_denoised_like_the_rest(make):
    """No warning, and what lies up to 8 ranges above white goes to the network as it is."""
    made = network()
    image = np.random.default_rng(0).random((60, 70), np.float32)
    image[20:40, 30:50] = 2 + 6 * image[20:40, 30:50]
    found = make(made, tile=32)(image, value_range=(0, 1))
    np.testing.assert_allclose(found, by_torch(made, image), rtol=0, atol=8 * ROUNDING)


def test_an_outlier_costs_its_neighbourhood_nothing_with_a_bundled_model():
    random = np.random.default_rng(0)
    clean = np.broadcast_to(np.linspace(0.2, 0.8, 64, dtype=np.float32), (64, 64))
    noisy = clean + random.normal(0, 0.1, clean.shape).astype(np.float32)
    denoise = load("fast", device="cpu", precision="f32", threads=1)
    expected = denoise(noisy, value_range=(0, 1), sigma=0.1)
    for value in OUTLIERS:
        spoilt = noisy.copy()
        spoilt[30, 30] = value
        with pytest.warns(UserWarning, match="kept unchanged: 1 value far"):
            found = denoise(spoilt, value_range=(0, 1), sigma=0.1)
        assert found[30, 30] == np.float32(value)
        found[30, 30] = expected[30, 30]
        assert np.abs(found - expected).max() < 0.05  # as much as another value of the noise there


def test_strong_noise_is_no_outlier(conditioned):
    noisy = np.random.default_rng(0).normal(0.5, 1.5, (64, 64)).astype(np.float32)
    assert noisy.max() > 4
    found = conditioned(noisy, sigma=1.5, value_range=(0, 1))
    np.testing.assert_allclose(found, noisy - 1.5, rtol=0, atol=ROUNDING)


def test_integers_far_outside_a_narrower_range_are_bridged(make):
    denoise = make(network(), tile=32)
    image = np.random.default_rng(0).integers(0, 4096, (50, 60)).astype(np.uint16)
    filled, spoilt = image.copy(), image.copy()
    filled[20, 30] = (image[20, 29] + image[20, 31]) / 2
    spoilt[20, 30] = 65535
    with pytest.warns(UserWarning, match="1 value far outside the range 0 to 4095"):
        found = denoise(spoilt, value_range=(0, 4095))
    expected = denoise(filled, value_range=(0, 4095))
    expected[20, 30] = 65535
    np.testing.assert_array_equal(found, expected)
    assert (denoise(spoilt)[20, 30]) != 65535  # the whole of the type is the range: no outlier


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4"])
def test_missing_data_comes_back_and_harms_nobody(make, dtype):
    denoise = make(network(), tile=32)
    image = np.random.default_rng(0).integers(10, 100, (50, 60)).astype(dtype)
    filled = image.copy()
    image[5:20, :30] = image[30] = 0
    filled[5:20, :30] = image[5:20, 30:31]
    filled[30] = 50
    with pytest.warns(UserWarning, match=r"kept unchanged: 510 values of 0 \(no data\)$"):
        found = denoise(image, value_range=(0, 100), nodata=0)
    expected = denoise(filled, value_range=(0, 100))
    expected[image == 0] = 0
    np.testing.assert_array_equal(found, expected)
    file = Fake(image[None, ..., None])
    file.nodata = 0.0
    said = []
    kept = denoise.denoise_image(file, Path(), Settings(value_range=(0, 100)), warn=said.append)
    assert kept == Kept(no_data=510)
    assert said == ["kept unchanged: 510 values of 0 (no data)"]
    np.testing.assert_array_equal(file.written[0, ..., 0], expected)


def test_outliers_are_no_error_where_nan_is_one(make, holes):
    holes[~np.isfinite(holes)] = 1e30
    with pytest.warns(UserWarning, match="75 values far outside"):
        make(network())(holes, value_range=(0, 1), nan="fail")


@pytest.mark.parametrize("factor", [np.nan, np.inf, 3e38])
def test_a_network_whose_result_is_not_finite_is_an_error(make, factor):
    engine = make(affine()).engine

    class Broken:
        precision, workers, pixel_bytes = "f32", 1, 4

        @property
        def deep(self):
            return self

        def __call__(self, inputs):
            result = engine(inputs)
            with np.errstate(over="ignore"):
                result[..., -1, -1] *= np.float32(factor) * 100
            return result

    denoise = Denoiser(make(affine()).model, Broken())
    written = Fake(np.ones((1, 40, 50, 1), np.float32))
    for image in (np.ones((40, 50), np.float32), np.full((40, 50), 255, np.uint8)):
        with pytest.raises(UserError, match=r"network's result is not finite; nothing is written"):
            denoise(image, value_range=(0, image[0, 0]))
    with pytest.raises(UserError, match="not finite"):
        denoise.denoise_image(written, Path(), Settings(value_range=(0, 1)))
    assert not written.bands


def test_a_result_beyond_the_type_is_an_error(make):
    denoise = make(affine(1, 0.1))
    image = np.full((4, 5), 60000, np.float16)
    with pytest.raises(
        UserError, match=r"does not fit float16: .* with more bits, such as float32"
    ):
        denoise(image, value_range=(0, 65000))
    assert (denoise(image.astype(np.float32), value_range=(0, 65000)) == 66500).all()
    image = np.full((4, 5), 0.5, np.float16)
    image[2, 2] = 65504  # where a renderer's float16 ends: kept, it does not overflow
    with pytest.warns(UserWarning, match="1 value far outside"):
        assert denoise(image, value_range=(0, 1))[2, 2] == np.float16(65504)


@pytest.mark.parametrize("dtype", ["u1", "u2", "f2", "f4", "f8", "i8"])
@pytest.mark.parametrize(
    "value_range", [(0, 1e300), (-1.7e308, 1.7e308), (0, 1e-300), (1e300, 1.1e300), (0, 5e-324)]
)
def test_absurd_ranges_are_refused(make, dtype, value_range):
    with pytest.raises(UserError, match=f"of {np.dtype(dtype)} cannot be scaled by that; expected"):
        make(affine())(np.ones((4, 5), dtype), value_range=value_range)


def test_a_given_level_is_said_and_never_called_no_noise(conditioned):
    image = np.random.default_rng(0).integers(0, 255, (1, 40, 40, 1)).astype(np.uint8)
    for noise, words in (
        (25 / 255, "noise level 25 on a 0–255 scale (given)"),
        (0, "noise level 0 (given): unchanged"),
        ("gaussian:0", "noise level 0 (given): unchanged"),
        ("poisson:30", "noise level 0 in black, 46.6 in white on a 0–255 scale (given)"),
        (np.linspace(0, 1, 40), "noise level 0 to 255 on a 0–255 scale (given)"),
        (np.zeros((40, 40)), "noise level 0 (given): unchanged"),
    ):
        said, written = [], Fake(image)
        conditioned.denoise_image(written, Path(), Settings(noise=noise), say=said.append)
        assert said == [words]
        assert (written.written == image).all() == ("unchanged" in words)


def test_small_images_are_unchanged_under_an_automatic_level(conditioned):
    for shape in ((1, 1), (31, 200), (5, 7)):
        image = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
        with pytest.warns(
            UserWarning, match=r"measured from 32 x 32 on; unchanged \(to denoise it"
        ):
            np.testing.assert_array_equal(conditioned(image), image)
        said, written = [], Fake(image[None, ..., None])
        conditioned.denoise_image(written, Path(), say=said.append)
        assert said[0].startswith(f"{shape[1]} x {shape[0]} pixels: noise is measured from 32 x 32")
        np.testing.assert_array_equal(written.written[0, ..., 0], image)
        assert (conditioned(image, sigma=100) == np.maximum(image, 100) - 100).all()


def low_contrast(low, high, dtype="u2"):
    return np.random.default_rng(0).integers(low, high, (64, 64)).astype(dtype)


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (low_contrast(100, 1100), {"sigma": 2570}, r"100 to 1099, .* 12 bits.*--range 0 4095"),
        (low_contrast(100, 4000), {"sigma": 2570}, r"if its white is that of 12 bits, .* 0 4095"),
        (low_contrast(100, 110, "u1"), {"sigma": 25}, r"give a lower level, or the range"),
        (
            low_contrast(100, 1100, "f4") / 1e4,
            {"sigma": "poisson:10", "value_range": (0, 1)},
            "larger than the image's contrast",
        ),
    ],
)
def test_a_level_larger_than_the_contrast_is_warned_of(conditioned, image, options, words):
    with pytest.warns(UserWarning, match=words):
        conditioned(image, **options)


def test_a_level_that_may_be_right_is_not_warned_of(conditioned):
    random = np.random.default_rng(0)
    noisy = np.clip(random.normal(3, 25, (64, 64)), 0, 255).astype(np.uint8)  # half of it clipped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conditioned(noisy, sigma=25)
        conditioned(low_contrast(100, 1100), sigma=40, value_range=(0, 4095))
        conditioned(np.full((64, 64), 9, np.uint8), sigma=25)  # nothing to lose


def masked_array():
    return np.ma.masked_less(np.random.default_rng(0).random((40, 40)), 0.5)


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        (None, {}, "an image of object: expected integers or floats"),
        ([[1, 2], [3]], {}, "list: expected an array of numbers"),
        ("photo.png", {}, "an image of <U9: expected integers or floats"),
        (np.zeros((4, 4), object), {}, "an image of object"),
        (np.zeros((4, 4), "M8[s]"), {}, "datetime64"),
        (np.zeros((4, 4), "f4,f4"), {}, "an image of .*expected integers"),
        (np.zeros((4, 4), np.longdouble), {"value_range": (0, 1)}, "of up to 64 bits"),
        (
            masked_array(),
            {"value_range": (0, 1)},
            r"masked array: its mask would be lost; .*nodata=",
        ),
        (5, {}, r"shape \(\): expected \(\.\.\., H, W\)"),
        (np.zeros((4, 4, 3), "u1"), {"channel_axis": 1.0}, "channel_axis 1.0: expected a whole"),
        (np.zeros((4, 4, 3), "u1"), {"channel_axis": "C"}, "channel_axis 'C'"),
        (np.zeros((4, 4, 3), "u1"), {"channel_axis": True}, "channel_axis True"),
        (np.zeros((4, 4), "u1"), {"strength": "1"}, "strength '1': expected 0"),
        (np.zeros((4, 4), "u1"), {"strength": None}, "strength None"),
        (np.zeros((4, 4), "u1"), {"strength": True}, "strength True"),
        (np.zeros((4, 4), "u1"), {"value_range": (0, 1, 2)}, r"value range \(0, 1, 2\): .*two"),
        (np.zeros((4, 4), "u1"), {"value_range": 5}, "value range 5: expected two numbers"),
        (np.zeros((4, 4), "u1"), {"value_range": "01"}, "value range of '0'"),
        (np.zeros((4, 4), "u1"), {"value_range": (None, 1)}, "value range of None"),
        (np.zeros((4, 4), "u1"), {"value_range": (0j, 1)}, "value range of 0j"),
        (np.zeros((4, 4), "u1"), {"nan": None}, "nan None is unknown"),
        (np.zeros((4, 4), "u1"), {"nodata": "7"}, "nodata '7'"),
        (np.zeros((4, 4), "u1"), {"sigma": 1j}, "noise level of 1j: expected 0 or more"),
        (np.zeros((4, 4), "u1"), {"sigma": True}, "noise level of True"),
        (np.zeros((4, 4), "u1"), {"sigma": {}}, "noise level of {}"),
        (np.zeros((4, 4), "u1"), {"sigma": [[1], [1, 2]]}, "noise level of"),
        (np.zeros((4, 4), "u1"), {"sigma": b"auto"}, "noise level of b'auto'"),
        (np.zeros((4, 4), "u1"), {"sigma": 1e300}, "times the range .*; is it in other units"),
        (np.zeros((4, 4), "u1"), {"sigma": "gaussian:1e300"}, "noise"),
        (np.zeros((4, 4), "u1"), {"sigma": np.ones((5, 4, 4))}, "noise levels of shape"),
    ],
)
def test_arguments_of_other_types_are_refused(conditioned, array, options, words):
    with pytest.raises(UserError, match=words):
        conditioned(array, **options)


def test_an_array_is_a_range_and_a_number(conditioned):
    image = np.random.default_rng(0).random((40, 40))
    found = conditioned(
        image, value_range=np.array([0, 1]), strength=np.array(0.5), sigma=np.float32(0.5)
    )
    np.testing.assert_allclose(found, image - 0.25, atol=ROUNDING)
    np.testing.assert_array_equal(
        conditioned(np.ma.array(image), value_range=(0, 1), sigma=0),
        image,  # nothing is masked
    )


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (5, {}, "model 5: expected the name"),
        (None, {}, "model None"),
        (b"base", {}, "model b'base'"),
        ("", {}, "model '': expected"),
        ("a\0b", {}, "expected the name of a model"),
        ("fast", {"device": None}, "device None: expected a name"),
        ("fast", {"precision": 16}, "precision 16"),
        ("fast", {"tile": 512.0}, "tile 512.0: expected a whole number"),
        ("fast", {"threads": "2"}, "threads '2'"),
        ("fast", {"tile": True}, "tile True"),
    ],
)
def test_arguments_of_load_of_other_types_are_refused(model, options, words):
    with pytest.raises(UserError, match=words):
        load(model, **options)


def test_an_image_of_opacity_alone_is_refused(make):
    image = Fake(np.zeros((1, 40, 40, 1), np.uint8), alpha=True)
    with pytest.raises(UserError, match="opacity alone"):
        make(affine()).denoise_image(image, Path())


@pytest.fixture
def pair(tmp_path):
    for name, channels, offset in (("pair-grey", 1, 0.2), ("pair-colour", 3, 0.4)):
        made = affine(1, offset, channels=channels)
        modelfile.write(tmp_path / f"{name}.onnx", made, modelfile.make_header(made))
    return tmp_path / "pair"


def test_it_is_pickled_by_path_and_hash(pair, monkeypatch):
    monkeypatch.chdir(pair.parent)
    denoise = load("./pair", device="cpu", precision="f32", tile=64, threads=1)
    stored = pickle.dumps(denoise)
    assert len(stored) < 1000
    monkeypatch.chdir("/")
    found = pickle.loads(stored)
    assert repr(found) == repr(denoise)
    grey, colour = np.zeros((8, 9), np.uint8), np.zeros((8, 9, 3), np.uint8)
    assert (found(grey) == 51).all()
    assert (found(colour, channel_axis=-1) == 102).all()
    assert (pickle.loads(pickle.dumps(found.for_channels(3)))(colour, channel_axis=-1) == 102).all()
    for name in ("grey", "colour"):
        path = pair.with_name(f"pair-{name}.onnx")
        kept = path.read_bytes()
        other = affine(1, 0.3, channels=3 if name == "colour" else 1)
        modelfile.write(path, other, modelfile.make_header(other))
        with pytest.raises(UserError, match="this is not the model that was pickled"):
            pickle.loads(stored)
        path.write_bytes(kept)
    by_hand = Denoiser(denoise.model, denoise.engine)
    with pytest.raises(TypeError, match=r"made by hand cannot be pickled; use snowmelt\.load"):
        pickle.dumps(by_hand)
    shutil.rmtree(pair.parent)
    with pytest.raises(UserError, match="no such model"):
        pickle.loads(stored)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
def test_copies_share_what_never_changes(pair, way):
    denoise = load(pair, device="cpu", tile=64)
    found = way(denoise)
    assert (found.model is denoise.model, found.engine is denoise.engine) == (True, True)
    assert (found.tile, repr(found)) == (64, repr(denoise))
    assert (found(np.zeros((8, 9, 3), np.uint8), channel_axis=-1) == 102).all()
    assert way(Denoiser(denoise.model, denoise.engine, tile=64)).tile == 64


def test_its_representation_says_what_it_does(pair, conditioned):
    assert repr(load(pair, device="cpu", precision="f32", tile=64)) == (
        f"<Denoiser {str(pair)!r}: grey and colour images, one noise level, f32, tiles of 64 pixels>"
    )
    assert "noise level automatic or given" in repr(conditioned)


def test_a_relative_path_holds_where_the_folder_changes(pair, monkeypatch):
    monkeypatch.chdir(pair.parent)
    denoise = load("./pair", device="cpu")
    monkeypatch.chdir("/")
    assert (denoise(np.zeros((8, 9, 3), np.uint8), channel_axis=-1) == 102).all()


def test_threads_may_share_it(make):
    denoise = make(network(), tile=32)
    images = [np.random.default_rng(n).random((40 + n, 50), np.float32) for n in range(4)]
    expected = [denoise(image, value_range=(0, 1)) for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: denoise(image, value_range=(0, 1)), images * 3))
    for one, other in zip(found, expected * 3, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_forked_child_may_use_it(make):
    """Even if another thread held the parent's engine at that moment."""
    denoise = make(network(), tile=32)
    image = np.random.default_rng(0).random((40, 50), np.float32)
    expected = denoise(image, value_range=(0, 1))
    code = """
import multiprocessing, numpy, snowmelt, sys

def work(image):
    return denoise(image, value_range=(0, 1))

denoise = snowmelt.load(sys.argv[1], device="cpu", precision="f32", tile=32)
image = numpy.random.default_rng(0).random((40, 50), numpy.float32)
work(image)
denoise.engine._lock.acquire()
with multiprocessing.get_context("fork").Pool(2) as pool:
    numpy.save(sys.argv[2], pool.map_async(work, [image] * 4).get(60))
"""
    target = denoise.model.path.with_name("results.npy")
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, denoise.model.path, target],
        check=True, timeout=100,
    )  # fmt: skip
    for found in np.load(target):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        (np.zeros((4, 4)), {}, r"float64.*which values .*--range LOW HIGH.*value_range="),
        (np.zeros((4, 4), np.int32), {}, "int32.*which values"),
        (np.zeros((4, 4), bool), {}, "an image of bool: expected integers or floats"),
        (np.zeros((4, 4), complex), {}, "complex128"),
        (np.zeros((4, 4), "U3"), {}, "expected integers or floats"),
        (np.zeros((4, 0), np.uint8), {}, r"\(4, 0\) has no pixels"),
        (np.zeros(4, np.uint8), {}, r"\(4,\): expected \(\.\.\., H, W\)"),
        (np.zeros((4, 4), np.uint8), {"channel_axis": 0}, "channel_axis for one more"),
        (
            np.zeros((4, 4, 3), np.uint8),
            {"channel_axis": 3},
            "channel_axis 3: the array has 3 axes",
        ),
        (np.zeros((40, 40, 3), np.uint8), {}, "looks like colour; say channel_axis=-1"),
        (
            np.zeros((4, 4), np.uint8),
            {"sigma": 1},
            r"one noise level only; leave --sigma and --noise \(sigma=\)",
        ),
        (np.zeros((4, 4), np.uint8), {"strength": 2}, "strength 2: expected 0"),
        (np.zeros((4, 4), np.uint8), {"strength": np.nan}, "strength nan"),
        (np.zeros((4, 4), np.uint8), {"nan": "kep"}, "'kep' is unknown; did you mean 'keep'"),
        (np.zeros((4, 4), np.uint8), {"value_range": (1, 1)}, "value range 1 to 1: .* black first"),
        (np.zeros((4, 4), np.uint8), {"value_range": (0, np.inf)}, "value range 0 to inf"),
    ],
)
def test_arrays_that_are_refused(make, array, options, words):
    with pytest.raises(UserError, match=words):
        make(network())(array, **options)


def test_a_colour_model_refuses_grey_and_names_the_remedy(make):
    denoise = make(network(channels=3))
    with pytest.raises(
        UserError, match=r"3 channels, and this is a grey image; use a model for grey"
    ):
        denoise(np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match="an image of 4 channels"):
        denoise(np.zeros((4, 4, 4), np.uint8), channel_axis=-1)


def test_options_that_are_refused(make, tmp_path, monkeypatch):
    denoise = make(network())
    for options, words in (
        ({"device": "gpu"}, "device 'gpu' is unknown; .*known: auto, cpu, cuda, mps"),
        ({"precision": "fp16"}, "precision 'fp16' is unknown"),
        ({"threads": 0}, "threads 0: expected 1 or more"),
        ({"tile": 0}, "tile 0: expected a number of pixels"),
    ):
        with pytest.raises(UserError, match=words):
            load(denoise.model.path, **options)
    monkeypatch.setattr(engines, "_torch_has", lambda _: False)
    with pytest.raises(UserError, match="device 'cuda': the torch that is installed finds none"):
        load(denoise.model.path, device="cuda")
    with pytest.raises(UserError, match=r"tile 8: this network sees 4 pixels far .* 9 pixels"):
        load(denoise.model.path, tile=8)(np.zeros((30, 30), np.uint8))
    with pytest.raises(UserError, match="model 'photo': no such file, nor a shipped model"):
        load("photo")
    with pytest.raises(UserError, match=r"no-such.onnx: cannot be read"):
        load(tmp_path / "no-such.onnx")


def test_shipped_models_go_by_their_name(make, monkeypatch):
    denoise = make(network())
    monkeypatch.setattr(zoo, "shipped", lambda: {"photo": denoise.model.path})
    assert load("photo").header == denoise.header
    with pytest.raises(UserError, match=r"'phot': .*did you mean 'photo'"):
        load("phot")


def test_the_memory_there_is_bounds_the_tile(make, monkeypatch):
    denoise = make(network())
    assert denoise.tile == 544
    monkeypatch.setattr(engines, "available_memory", lambda: 2**22)
    side = load(denoise.model.path, precision="f32").tile
    assert side < 544
    assert side**2 * denoise.engine.pixel_bytes <= 2**20
    monkeypatch.setattr(engines, "available_memory", lambda: 0)
    assert load(denoise.model.path).tile == 9


class Fake(Image):
    """Rows made on demand, bands collected; says what was asked for."""

    def __init__(self, planes, *, alpha=False, value_range=None):
        self.planes = planes  # (P, H, W, C)
        self.layout = Layout(planes.shape, "ZYXS", planes.dtype, alpha=alpha)
        self.value_range = value_range
        self.reads, self.bands = [], []

    def read_rows(self, plane, start, stop):
        self.reads.append((plane, start, stop))
        return self.planes[plane, start:stop]

    def write_like(self, _, bands):
        self.bands += bands

    @property
    def written(self):
        return np.concatenate(self.bands).reshape(self.planes.shape)


def test_files_are_read_and_written_in_bands_from_top_to_bottom(make):
    planes = np.random.default_rng(0).integers(0, 255, (2, 100, 50, 3)).astype(np.uint8)
    image = Fake(planes)
    denoise = make(network(), tile=32)
    done = []
    assert denoise.denoise_image(image, Path(), progress=done.append) == Kept()
    assert sum(done) == 2 * 100 * 50
    rows = [range(start, stop) for plane, start, stop in image.reads if plane == 1]
    assert [row for part in rows for row in part] == list(range(100))
    assert max(len(part) for part in rows) <= 32
    assert [plane for plane, *_ in image.reads] == sorted(plane for plane, *_ in image.reads)
    np.testing.assert_array_equal(image.written, denoise(planes, channel_axis=-1))


def test_opacity_is_no_business_of_the_network(make):
    planes = np.random.default_rng(0).integers(0, 255, (1, 40, 40, 4)).astype(np.uint8)
    image = Fake(planes, alpha=True)
    make(affine(0, 0.4, channels=3), tile=32).denoise_image(image, Path())
    assert (image.written[..., :3] == 102).all()
    np.testing.assert_array_equal(image.written[..., 3], planes[..., 3])


def test_a_file_of_12_bits_spans_12_bits_and_stays_in_them(make):
    planes = np.full((1, 5, 5, 1), 4000, np.uint16)
    image = Fake(planes, value_range=(0, 4095))
    make(affine(1, 0.5)).denoise_image(image, Path())
    assert (image.written == 4095).all()
    image = Fake(planes, value_range=(0, 4095))
    make(affine(0, 0.5)).denoise_image(image, Path(), Settings(value_range=(0, 2000)))
    assert (image.written == 1000).all()


def test_an_error_while_reading_or_writing_stops_everything(make):
    class Broken(Fake):
        def read_rows(self, plane, start, stop):
            if start > 50:
                raise UserError("cut off")
            return super().read_rows(plane, start, stop)

    class Full(Fake):
        def write_like(self, _, bands):
            next(bands)
            raise UserError("disk full")

    planes = np.zeros((1, 500, 50, 1), np.uint8)
    for kind, words in ((Broken, "cut off"), (Full, "disk full")):
        image = kind(planes)
        with pytest.raises(UserError, match=words):
            make(network(), tile=32).denoise_image(image, Path())
        assert len(image.reads) < 10  # of 20


def test_many_shapes_forget_the_oldest(make):
    denoise = make(network())
    for width in range(10, 10 + engines.SHAPES_KEPT + 3):
        denoise(np.zeros((10, width), np.uint8))
    assert len(denoise.engine._shapes) == engines.SHAPES_KEPT


def test_shapes_that_fill_the_memory_forget_the_oldest(make, monkeypatch):
    denoise = make(network())
    monkeypatch.setattr(engines, "SHAPES_BYTES", 250 * denoise.engine.pixel_bytes)
    for width, kept in ((10, [10]), (12, [10, 12]), (11, [12, 11]), (12, [11, 12]), (99, [99])):
        denoise(np.zeros((10, width), np.uint8))
        assert [shape[-1] for shape in denoise.engine._shapes] == kept


def test_torch_is_not_imported_where_there_is_no_gpu(make):
    if engines._found_gpu() is not None:
        pytest.skip("this machine has a GPU")
    path = make(network()).model.path
    code = (
        "import sys, numpy, snowmelt;"
        f"snowmelt.load({str(path)!r})(numpy.zeros((9, 9), 'uint8'));"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ctrl_c_is_safe_after_models_come_and_go(make):
    """OpenVINO takes the thread's signal stack along when its last Core but one goes."""
    path = make(network()).model.path
    code = (
        "import faulthandler, signal, numpy, snowmelt\n"
        "faulthandler.enable()\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # `nohup make test` ignores it
        f"one, other = (snowmelt.load({str(path)!r}) for _ in range(2))\n"
        "for denoise in (one, other): denoise(numpy.zeros((9, 9), 'uint8'))\n"
        "del one, denoise\n"
        "del other\n"
        "try: signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt: print('stopped')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "stopped\n"


def test_an_engine_that_cannot_start_in_a_fork_says_what_to_do(make, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    denoise = make(affine())
    monkeypatch.setattr(engines, "choose", refuse)
    assert (denoise(np.zeros((4, 5), np.uint8)) == 0).all()
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(UserError, match=r"cannot run after a fork \(Cannot .*'spawn', or load"):
        denoise(np.zeros((4, 5), np.uint8))


@pytest.mark.parametrize("sigma", ["auto", 160])
def test_signed_integers_are_denoised_as_well_as_unsigned_ones(sigma):
    """CT and MR: a small part of a range from -32768 on, whose middle numbers of few bits do not resolve."""
    random = np.random.default_rng(0)
    clean = np.kron(random.integers(100, 2000, (12, 12)), np.ones((16, 16)))
    noisy = np.rint(clean + random.normal(0, 160, clean.shape)).clip(0)
    denoise = load("fast", device="cpu")
    signed, unsigned = (
        np.square(denoise(noisy.astype(dtype), sigma=sigma) - clean).mean() ** 0.5
        for dtype in ("int16", "uint16")
    )
    assert unsigned < 80
    assert signed == pytest.approx(unsigned, rel=0.1)
