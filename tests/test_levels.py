import numpy as np
import pytest

from snowmelt import diagnosis, levels, modelfile, noise
from snowmelt.cli import main
from snowmelt.denoiser import Denoiser, load
from snowmelt.errors import UserError
from snowmelt.images import read, write
from snowmelt.images.base import Image, Layout
from snowmelt.models import UNet


class Pixels(Image):
    """An array (P, H, W, C) that remembers which rows were read."""

    def __init__(self, array):
        self.array, self.reads = array, []
        self.layout = Layout(array.shape, "ZYXS", array.dtype)

    def read_rows(self, plane, start, stop):
        self.reads.append((plane, start, stop))
        return self.array[plane, start:stop]


def scene(height=320, width=320):
    """Smooth shades with edges, 0.1 to 0.9."""
    y, x = np.mgrid[:height, :width] / 160
    return 0.5 + 0.25 * np.sin(3 * x + y) + 0.15 * np.sign(np.sin(5 * y - 2 * x))


def estimated(picture, low=0, high=255):
    return levels.estimate(Pixels(picture.reshape(1, *picture.shape[:2], -1)), low, high)


def in_8_bits(picture):
    return np.clip(np.rint(255 * picture), 0, 255).astype(np.uint8)


def typical(picture, **range_):
    return 255 * estimated(picture, **range_).typical[0]


@pytest.mark.parametrize("sigma", [3, 8, 15, 30, 60])
def test_white_noise_is_estimated_near_its_standard_deviation(sigma):
    noisy = in_8_bits(scene() + np.random.default_rng(0).normal(0, sigma / 255, (320, 320)))
    assert typical(noisy) == pytest.approx(sigma, rel=0.35)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_clean_image_has_none(dtype):
    picture = scene()
    if dtype != np.float32:
        picture = np.rint(picture * np.iinfo(dtype).max)
    high = 1 if dtype == np.float32 else np.iinfo(dtype).max
    level = estimated(picture.astype(dtype), 0, high)
    assert level.is_zero(slice(0, 1))
    assert "no noise found; unchanged" in str(level)


def test_correlated_noise_needs_more_than_its_standard_deviation():
    """What a network for white noise is given: nearly the noise's strength at low frequencies."""
    from scipy.ndimage import gaussian_filter

    white = np.random.default_rng(0).normal(0, 1, (320, 320))
    coarse = gaussian_filter(white, 1.0)
    found = [
        typical(in_8_bits(scene() + 6 / 255 * noise / noise.std())) for noise in (white, coarse)
    ]
    assert found[1] > 1.3 * found[0]


def test_12_bits_in_a_file_of_16_are_estimated_as_12():
    noise = np.random.default_rng(0).normal(0, 0.03, (320, 320))
    noisy = np.clip(4095 * (scene() + noise), 0, 4095).astype(np.uint16)
    of_12, of_16 = (estimated(noisy, 0, white).typical[0] * white for white in (4095, 65535))
    assert of_16 == pytest.approx(of_12, rel=0.1)
    assert of_16 == pytest.approx(0.03 * 4095, rel=0.35)


def test_photons_are_found_as_a_curve():
    noisy = noise.Poisson(30)(scene(), np.random.default_rng(0))
    level = estimated((1000 * noisy).astype(np.float32), 0, 1000)
    dark, bright = (
        float(level.over(np.full((20, 20, 1), value, np.float32), slice(0, 1), None, None).mean())
        for value in (0.2, 0.8)
    )
    assert bright > 1.4 * dark  # twice by the square root


def test_each_channel_has_its_own_level():
    """Of images that are no colour images; the three channels of a colour image have one level."""
    random = np.random.default_rng(0)
    sigmas = (0, 10, 30)
    planes = [scene() + random.normal(0, sigma / 255, (320, 320)) for sigma in sigmas]
    several = in_8_bits(np.stack([*planes, planes[1]], -1))
    level = estimated(several)
    assert level.is_zero(slice(0, 1))
    assert [level.is_zero(slice(each, each + 1)) for each in (1, 2, 3)] == [False] * 3
    assert 255 * level.typical[2] > 2 * 255 * level.typical[1]
    assert list(estimated(several[..., :3]).curves) == [0]


def test_values_of_no_use_are_bridged():
    noisy = (scene() + np.random.default_rng(0).normal(0, 0.06, (320, 320))).astype(np.float32)
    spoilt = noisy.copy()
    spoilt[::40, ::40] = np.nan
    spoilt[20::40, 20::40] = 1e30
    expected = estimated(noisy, 0, 1).typical[0]
    assert estimated(spoilt, 0, 1).typical[0] == pytest.approx(expected, rel=0.1)


def test_of_a_large_image_a_few_bands_are_read():
    picture = np.zeros((3, 5000, 800, 1), np.uint8)
    picture += in_8_bits(0.5 + np.random.default_rng(0).normal(0, 0.04, picture.shape[1:]))
    image = Pixels(picture)
    level = levels.estimate(image, 0, 255)
    assert 255 * level.typical[0] == pytest.approx(10, rel=0.35)
    assert {plane for plane, *_ in image.reads} == {1}
    assert sum(stop - start for _, start, stop in image.reads) == 3 * 256
    assert (image.reads[0][1], image.reads[-1][2]) == (0, 5000)


def test_noise_is_measured_as_a_line_for_training():
    """White noise and photons by statistics, with an offset; see `levels.of_pixels`."""
    random = np.random.default_rng(0)
    clean = np.maximum(scene() - 0.45, 0.0)
    noisy = 100 + 40 * random.poisson(100 * clean) + random.normal(0, 30, clean.shape)
    pixels = np.clip(np.rint(noisy), 0, 65535).astype(np.uint16)[..., None]
    line = levels.of_pixels(pixels, 0, 65535)
    assert line.floor[0] < 0
    found = 65535 * line.on((noisy / 65535).astype(np.float32)[..., None])
    truth = np.sqrt(40**2 * 100 * clean + 30**2)
    assert np.median(found[clean == 0]) == pytest.approx(30, rel=0.2)
    assert np.median(found[clean > 0.3] / truth[clean > 0.3]) == pytest.approx(1, rel=0.1)
    white = in_8_bits(scene() + random.normal(0, 15 / 255, (320, 320)))
    line = levels.of_pixels(white[..., None], 0, 255)
    assert line.gain == (0,)
    assert 255 * line.floor[0] ** 0.5 == pytest.approx(15, rel=0.1)


def test_the_level_is_hardly_more_than_the_flattest_blocks_have(monkeypatch):
    noisy = noise.Gaussian(20 / 255)(np.full((96, 96), 0.5), np.random.default_rng(0))
    curve = diagnosis.measure_curve(diagnosis.as_plane(noisy), (-np.inf, np.inf))
    for level, expected in ((0.05, 0.055), (0.2, curve.sigma)):
        spectrum = diagnosis.Spectrum(level, 0.0, 0.0, 1.0)
        monkeypatch.setattr(diagnosis, "measure_spectrum", lambda *_, found=spectrum: found)
        line = levels.of_pixels(noisy[..., None], 0, 1)
        assert line.at(0.5) == pytest.approx(expected, rel=1e-3)


def test_fine_texture_is_not_measured_as_noise():
    # Patches of unequal strength, neighbours alike: what gravel or foliage look like.
    random = np.random.default_rng(0)
    fine = random.normal(0, 1, (321, 321))
    fine = fine[1:, 1:] + 0.5 * (fine[:-1, 1:] + fine[1:, :-1])
    strength = np.kron(random.uniform(6, 40, (20, 20)), np.ones((16, 16)))
    texture = in_8_bits(0.5 + fine * strength / 255)
    assert diagnosis.estimate_sigma(texture) > 2
    assert levels.of_pixels(texture[..., None], 0, 255).is_zero(slice(0, 1))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "unet.onnx"
    network = UNet([8, 8], [1, 1])
    modelfile.write(path, network, modelfile.make_header(network, value_range=(0, 1)))
    return path


def test_a_clean_picture_comes_back_bit_for_bit(model):
    denoise = load(model, device="cpu")
    assert isinstance(denoise, Denoiser)
    clean = in_8_bits(scene())
    np.testing.assert_array_equal(denoise(clean), clean)
    assert (denoise(clean, sigma=25) != clean).any()
    np.testing.assert_array_equal(denoise(clean, sigma=0), clean)
    noisy = in_8_bits(scene() + np.random.default_rng(0).normal(0, 0.1, clean.shape))
    assert (denoise(noisy) != noisy).any()
    np.testing.assert_array_equal(denoise(np.zeros((40, 40))), 0)


@pytest.mark.parametrize("sigma", ["auto", "poisson-gaussian:30:5"])
def test_the_result_does_not_depend_on_the_tiles(model, sigma):
    noisy = noise.PoissonGaussian(40, 4 / 255)(scene(333, 350), np.random.default_rng(0))
    whole, tiled = (
        load(model, device="cpu", precision="f32", tile=tile)(noisy, sigma=sigma)
        for tile in (None, 96)
    )
    # Some layers of sums of about 100 products of numbers near 1, in float32, in another order.
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-5)
    assert abs(whole - noisy).max() > 0.01


def test_the_command_line_says_the_level_it_used(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write("clean.png", in_8_bits(scene()))
    write("noisy.png", in_8_bits(scene() + np.random.default_rng(0).normal(0, 0.1, (320, 320))))

    def said(*options):
        arguments = ["--model", str(model), "--force", *options]
        assert main(["denoise", "clean.png", "noisy.png", *arguments]) == 0
        return capsys.readouterr().err

    text = said()
    assert "clean.png: no noise found; unchanged" in text
    assert "noisy.png: estimated noise level 2" in text
    assert "on a 0–255 scale" in text
    np.testing.assert_array_equal(read("clean_denoised.png"), read("clean.png"))
    assert "noisy.png: noise level 25 on a 0–255 scale (given)\n" in said("--sigma", "25")
    photons = "noise level 5 in black, 46.8 in white on a 0–255 scale (given)\n"
    assert photons in said("--noise", "poisson-gaussian:30:5")
    assert said("--quiet") == ""
    for options, words in (
        (["--sigma", "much"], "--sigma much: expected a level .* such as 25, or auto"),
        (["--sigma", "25", "--noise", "poisson:30"], "say the same thing; leave one out"),
        (["--noise", "speckle:1"], "expected gaussian, poisson or poisson-gaussian"),
        (["--sigma", "-3"], "expected 0 or more"),
    ):
        assert main(["denoise", "noisy.png", "--model", str(model), *options]) == 2
        with pytest.raises(UserError, match=words):
            raise UserError(capsys.readouterr().err)
