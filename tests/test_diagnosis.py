"""The noise doctor on a synthetic picture with known noise, and its command line."""

import dataclasses
import io
import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from snowmelt import advice, cli, diagnosis, images, modelfile, models
from snowmelt.baselines import FILTERS
from snowmelt.errors import UserError
from snowmelt.metrics import psnr
from snowmelt.noise import Gaussian, Poisson, PoissonGaussian, SaltAndPepper, parse

Picture = NDArray[np.float64]
DATA = Path(os.environ.get("SNOWMELT_DATA", Path(__file__).parents[2] / "shared" / "data"))
# Levels come from thousands of blocks: their own error is 1 to 2 percent, a part of the noise's range
# is clipped; 10 percent is what is promised.
PROMISED = 0.1


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(side: int = 256) -> Picture:
    """A shaded ground, discs and a patch of texture, from 0.15 to 0.9."""
    down, across = np.mgrid[:side, :side] / side
    clean = 0.25 + 0.3 * across + 0.1 * np.sin(4 * down)
    for index in range(12):
        y, x, radius, value = rng(index).uniform((0, 0, 0.03, 0.2), (1, 1, 0.15, 0.9))
        clean[(down - y) ** 2 + (across - x) ** 2 < radius**2] = value
    texture = ndimage.gaussian_filter(rng(99).normal(size=clean.shape), 0.7)
    clean[: side // 3, side // 2 :] += 0.2 * texture[: side // 3, side // 2 :]
    return np.clip(ndimage.gaussian_filter(clean, 0.5), 0.15, 0.9)


def as_8_bit(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def correlated(clean: Picture, random: np.random.Generator) -> Picture:
    noise = ndimage.gaussian_filter(random.normal(size=clean.shape), 1, mode="wrap")
    return clean + 20 / 255 * noise / noise.std()


def stripes(clean: Picture, random: np.random.Generator) -> Picture:
    offsets = random.normal(size=(len(clean), 1))
    return Gaussian(2 / 255)(clean + 8 / 255 * offsets / offsets.std(), random).astype(np.float64)


def diagnose(noisy: NDArray[np.floating]) -> diagnosis.Findings:
    return diagnosis.diagnose(as_8_bit(noisy), (0, 255))


@pytest.mark.parametrize("sigma", [3, 10, 25, 40, 60])
def test_level_of_a_clipped_8_bit_picture(sigma: int) -> None:
    noisy = as_8_bit(Gaussian(sigma / 255)(picture(), rng()))
    assert diagnosis.estimate_sigma(noisy) == pytest.approx(sigma, rel=PROMISED)


def test_level_where_half_the_picture_is_clipped_away() -> None:
    clean = np.where(np.arange(200) < 100, 0.1, 0.6) * np.ones((200, 1))
    noisy = as_8_bit(clean + rng().normal(0, 40 / 255, clean.shape))
    assert diagnosis.estimate_sigma(noisy) == pytest.approx(40, rel=PROMISED)
    assert noisy[:, :100].std() < 0.85 * 40, "clipping takes that much away"


def test_level_of_a_clean_picture_is_that_of_rounding() -> None:
    assert diagnosis.estimate_sigma(as_8_bit(picture())) < 0.6  # 1 / sqrt(12) is 0.29
    assert as_8_bit(picture()).std() > 20, "the trivial answer must fail"
    assert diagnose(picture()).kind == "clean"


def test_level_follows_units_and_offset() -> None:
    noisy = picture() + rng().normal(0, 0.05, (256, 256))
    level = diagnosis.estimate_sigma(noisy)
    assert diagnosis.estimate_sigma(1000 * noisy + 5000) == pytest.approx(1000 * level, rel=1e-6)
    assert diagnosis.estimate_sigma(noisy.astype(np.float32)) == pytest.approx(level, rel=1e-3)


def test_level_of_each_channel() -> None:
    noisy = np.stack([picture() + rng().normal(0, s, (256, 256)) for s in (0.02, 0.05, 0.1)])
    levels = diagnosis.estimate_sigma(noisy, channel_axis=0)
    np.testing.assert_allclose(levels, (0.02, 0.05, 0.1), rtol=PROMISED)
    last = diagnosis.estimate_sigma(np.moveaxis(noisy, 0, -1), channel_axis=-1)
    np.testing.assert_array_equal(last, levels)


def test_gaps_do_not_count() -> None:
    noisy = picture() + rng().normal(0, 0.05, (256, 256))
    noisy[40:90, 30:200], noisy[200, 200] = np.nan, np.inf
    before = noisy.copy()
    assert diagnosis.estimate_sigma(noisy) == pytest.approx(0.05, rel=PROMISED)
    assert diagnosis.diagnose(noisy, (0, 1)).kind == "gaussian"
    np.testing.assert_array_equal(noisy, before)


def test_a_constant_picture() -> None:
    flat = np.full((64, 64), 7, np.uint16)
    assert diagnosis.estimate_sigma(flat) == 0
    assert diagnosis.diagnose(flat, (0, 4095)).kind == "clean"


def test_a_drawing_of_black_and_white_has_no_impulses() -> None:
    drawing = np.where(picture() > 0.5, 255, 0).astype(np.uint8)
    drawing[5::20, 5::20] ^= 255
    found = diagnosis.diagnose(drawing, (0, 255))
    assert found.impulses == (0, 0)
    assert found.kind == "clean"


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (np.zeros((40, 40, 3)), "expected \\(H, W\\), and channel_axis"),
        (np.zeros((200, 31)), "31 x 200 pixels: noise is measured from 32 x 32 on"),
        (np.full((64, 64), np.nan), "no value is finite"),
        (np.where(np.arange(64) % 4, 1.0, np.nan) * np.ones((64, 1)), "hardly any 8 x 8 pixels"),
    ],
)
def test_what_cannot_be_measured(image: Picture, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        diagnosis.estimate_sigma(image)


@pytest.mark.parametrize(
    ("kind", "add", "measure", "truth"),
    [
        ("gaussian", Gaussian(25 / 255), lambda found: found.sigma, 25),
        ("poisson", Poisson(60), lambda found: found.curve.gain[0], 255 / 60),
        ("correlated", correlated, lambda found: found.sigma, 20),
        ("stripes", stripes, lambda found: found.rows, 8),
        ("impulse", SaltAndPepper(0.05), lambda found: sum(found.impulses), 0.05),
    ],
)
def test_kind_and_strength(
    kind: str,
    add: Callable[[Picture, np.random.Generator], Picture],
    measure: Callable[[diagnosis.Findings], float],
    truth: float,
) -> None:
    found = diagnose(add(picture(), rng()))
    assert found.kind == kind
    assert measure(found) == pytest.approx(truth, rel=PROMISED)


def test_poisson_gaussian() -> None:
    # The darkest and the brightest are far from both ends: 4 standard deviations fit between.
    found = diagnosis.diagnose(PoissonGaussian(100, 15 / 255)(picture(512), rng()), (0, 1))
    (gain, gain_error), (floor, floor_error) = found.curve.gain, found.curve.floor
    assert found.kind == "poisson-gaussian"
    assert abs(gain - 1 / 100) < 3 * gain_error < 0.6 / 100
    assert abs(floor - (15 / 255) ** 2) < 3 * floor_error < 0.6 * (15 / 255) ** 2


def test_clipping_distorts_neither_gain_nor_read_noise_much() -> None:
    found = diagnose(PoissonGaussian(60, 20 / 255)(picture(512), rng()))
    assert found.clipping.low > 0.001
    assert found.curve.gain[0] == pytest.approx(255 / 60, rel=0.2)
    assert np.sqrt(found.curve.floor[0]) == pytest.approx(20, rel=0.2)


def test_gaussian_noise_does_not_depend_on_brightness() -> None:
    found = [diagnose(Gaussian(20 / 255)(picture(), rng(seed))) for seed in range(10)]
    assert not any(each.curve.dependent for each in found)
    assert {each.kind for each in found} == {"gaussian"}


def test_stripes_of_columns_are_not_those_of_rows() -> None:
    striped = as_8_bit(stripes(picture(), rng()))
    across, down = (diagnosis.diagnose(each, (0, 255)) for each in (striped, striped.T))
    assert across.rows == pytest.approx(8, rel=PROMISED)
    assert down.columns == across.rows
    assert across.columns == down.rows < 0.8


def test_correlation_of_neighbours() -> None:
    spectrum = diagnose(correlated(picture(), rng())).spectrum
    # Of noise blurred by a Gaussian of 1 pixel: exp(-1 / 4).
    assert spectrum.down == pytest.approx(np.exp(-0.25), abs=0.05)
    assert spectrum.across == pytest.approx(np.exp(-0.25), abs=0.05)
    white = diagnose(Gaussian(20 / 255)(picture(), rng())).spectrum
    assert max(abs(white.down), abs(white.across)) < 0.1


def test_jpeg_leaves_a_grid() -> None:
    noisy = as_8_bit(Gaussian(4 / 255)(picture(), rng()))
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=60)
    compressed = np.asarray(Image.open(file))
    assert diagnosis.diagnose(compressed, (0, 255)).kind == "compressed"
    assert diagnosis.diagnose(compressed[3:, 5:], (0, 255)).grid > diagnosis.COMPRESSED
    assert diagnosis.diagnose(noisy, (0, 255)).grid < diagnosis.COMPRESSED


def test_overexposed_areas_are_not_lone_pixels() -> None:
    image = as_8_bit(picture())
    image[:50, :50] = 255
    image[100::16, 100::16] = 0
    clipping = diagnosis.diagnose(image, (0, 255)).clipping
    assert clipping.high == pytest.approx(50 * 50 / 256**2, rel=0.01)
    assert clipping.high_areas > 0.9 * clipping.high
    assert clipping.low == 100 / 256**2
    assert clipping.low_areas == 0


@pytest.mark.parametrize(
    "add", [Gaussian(25 / 255), Poisson(40), correlated, stripes, SaltAndPepper(0.05)]
)
def test_the_advised_filter_helps(add: Callable[[Picture, np.random.Generator], Picture]) -> None:
    clean = picture().astype(np.float32)
    noisy = (as_8_bit(add(clean, rng())) / 255).astype(np.float32)
    chosen = advice.choose_filter(noisy, diagnosis.diagnose(noisy, (0, 1)), 1)
    assert chosen is not None
    name, value = chosen
    better = FILTERS[name].apply(noisy, value)
    assert psnr(clean, better, data_range=1) > psnr(clean, noisy, data_range=1) + 2


def test_clean_pictures_are_left_alone() -> None:
    assert advice.choose_filter(picture(), diagnose(picture()), 255) is None


@pytest.mark.parametrize("kind", diagnosis.KINDS)
def test_each_command_of_the_advice_exists(kind: str) -> None:
    noise = {"poisson": "poisson:30", "impulse": "salt-and-pepper:0.05"}.get(kind, "gaussian:25")
    for command in advice.ADVICE[kind].commands:
        program, *arguments = shlex.split(
            command.format(file="scan.tif", flags=" --range 0 9", noise=noise), comments=True
        )
        assert program == "snowmelt"
        cli._parser().parse_args(arguments)  # an unknown command or flag would exit


def test_noise_is_named_as_evaluate_reads_it() -> None:
    found = diagnose(Poisson(60)(picture(), rng()))
    named = parse(str(advice.name_noise(found, 255)))
    assert isinstance(named, Poisson)
    assert named.peak == pytest.approx(60, rel=PROMISED)


def findings(**changes: Any) -> diagnosis.Findings:
    """Gaussian noise of level 20 on a scale of 255, but for some of what was found."""
    return dataclasses.replace(diagnose(Gaussian(20 / 255)(picture(64), rng())), **changes)


@pytest.mark.parametrize(
    ("kind", "besides", "automatic", "expected"),
    [
        ("gaussian", "gaussian", True, advice.Denoising()),
        ("correlated", "correlated", True, advice.Denoising()),
        ("compressed", "compressed", True, advice.Denoising()),
        ("clean", "clean", False, None),
        ("unclear", "unclear", False, None),
        ("stripes", "clean", False, advice.Denoising(repair=True)),
        ("impulse", "gaussian", True, advice.Denoising(repair=True)),
        ("impulse", "clean", True, advice.Denoising(repair=True, strength=0.0)),
        ("impulse", "gaussian", False, advice.Denoising(repair=True, strength=0.0)),
    ],
)
def test_the_bundled_model_is_advised_where_the_automatic_level_is_above_zero(
    kind: str, besides: str, automatic: bool, expected: advice.Denoising | None
) -> None:
    found = findings(kind=kind, besides=besides)
    assert advice.choose_denoising(found, automatic=automatic) == expected


@pytest.mark.parametrize(("level", "removed"), [(10, 0.7), (20, 0.8)])
def test_against_correlated_noise_the_residual_decides(level: float, removed: float) -> None:
    clean = 255 * picture()
    noise = ndimage.gaussian_filter(rng().normal(size=clean.shape), 1, mode="wrap")
    noisy = ((clean + level * noise / noise.std()) / 255).astype(np.float32)
    found = findings(kind="correlated", besides="correlated", sigma=float(level))
    chosen = advice.choose_filter(noisy, found, 255)
    assert chosen is not None
    name, parameter = chosen
    assert name == "nlm"
    residual = 255 * (noisy - FILTERS[name].apply(noisy, parameter))
    assert residual.std() == pytest.approx(removed * level, rel=0.05)


@pytest.mark.parametrize(
    ("kind", "level", "expected"),
    [
        ("gaussian", 34.9, ("nlm", 1.05)), ("gaussian", 35, ("tv", 0.85)),
        ("poisson", 14.9, ("nlm", 1.15)), ("poisson", 15, ("tv", 0.95)),
        ("poisson-gaussian", 17.9, ("nlm", 1.1)), ("poisson-gaussian", 18, ("tv", 0.87)),
        ("dependent", 50, ("nlm", 1.05)), ("correlated", 35, ("tv", 4.5)), ("stripes", 9, ("nlm", 1.1)),
    ],
)  # fmt: skip
def test_the_advised_filter_and_its_parameter(
    kind: str, level: float, expected: tuple[str, float]
) -> None:
    found = findings(kind=kind, sigma=float(level), rows=0.0, columns=0.0)
    chosen = advice.choose_filter(picture(64), found, 255)
    assert chosen == (expected[0], pytest.approx(expected[1] * level / 255))


@pytest.mark.parametrize(("lost", "size"), [(0.11, 3), (0.13, 5)])
def test_the_median_grows_with_the_pixels_lost(lost: float, size: int) -> None:
    found = findings(kind="impulse", impulses=(lost / 2, lost / 2))
    assert advice.choose_filter(picture(64), found, 255) == ("median", size)


@pytest.mark.parametrize(
    ("changes", "below", "above"),
    [
        ({"grid": (7.9, 8.1), "level": (5, 5)}, "gaussian", "compressed"),
        ({"grid": (9, 9), "level": (10.1, 9.9)}, "gaussian", "compressed"),
        ({"level": (1.21, 1.19)}, "gaussian", "clean"),
        ({"uneven": (2.19, 2.21), "level": (5, 5)}, "gaussian", "unclear"),
        ({"uneven": (3, 3), "level": (10.1, 9.9)}, "gaussian", "unclear"),
        ({"correlation": (0.19, 0.21), "fine": (0.6, 0.6)}, "gaussian", "correlated"),
        ({"correlation": (0.5, 0.5), "fine": (0.71, 0.69)}, "gaussian", "correlated"),
        ({"correlation": (0.5, 0.5), "fine": (0.6, 0.6), "uneven": (1.81, 1.79)},
         "gaussian", "correlated"),
        ({"correlation": (0.5, 0.5), "fine": (0.3, 0.3), "uneven": (2.51, 2.49), "shared": (30, 30)},
         "unclear", "correlated"),
        ({"correlation": (0.5, 0.5), "fine": (0.3, 0.3), "uneven": (2, 2), "shared": (24.9, 25.1)},
         "gaussian", "correlated"),
        ({"correlation": (0.5, 0.5), "fine": (0.41, 0.39), "uneven": (2, 2), "shared": (30, 30)},
         "gaussian", "correlated"),
        ({"gain": (3.9, 4.1)}, "gaussian", "poisson"),
        ({"ratio": (1.14, 1.16)}, "gaussian", "poisson"),
    ],
)  # fmt: skip
def test_the_limits_of_the_kinds(
    changes: dict[str, tuple[float, float]], below: str, above: str
) -> None:
    """Levels on a scale of 255, ``fine`` as a part of that of the spectrum, ``gain`` in standard errors."""
    for side, kind in ((0, below), (1, above)):
        has = {name: pair[side] for name, pair in changes.items()}
        shared = has.get("shared", 20.0)
        level = has["level"] if "level" in has else has.get("fine", 1.0) * shared
        brightness = np.linspace(0, 200, 16)
        gain = (0.0, 1.0)
        floor = level**2
        if "gain" in has or "ratio" in has:
            # from the 0.1 to the 0.9 quantile, 20 to 180, the level grows by this ratio
            ratio = has.get("ratio", 2.0)
            slope = floor * (ratio**2 - 1) / (180 - 20 * ratio**2)
            gain = (slope, slope / has.get("gain", 20.0))
        curve = diagnosis.Curve(brightness, brightness, brightness, gain, (floor, floor), level)
        spectrum = diagnosis.Spectrum(
            shared, has.get("correlation", 0.0), 0.0, has.get("uneven", 1.0)
        )
        found = diagnosis._kind(255, curve, spectrum, has.get("grid", 0.0))
        assert found == kind, (side, has)


@pytest.mark.parametrize(
    ("impulses", "stripes", "kind"),
    [(0.0019, 0.79, None), (0.0021, 0, "impulse"), (0, 0.81, "stripes"), (0.0021, 9, "impulse")],
)
def test_the_limits_of_defects(impulses: float, stripes: float, kind: str | None) -> None:
    assert diagnosis._defect(255, impulses, stripes) == kind


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real images in {DATA}")
@pytest.mark.parametrize("sigma", [0, 5, 25, 60])
def test_level_on_real_photographs(sigma: int) -> None:
    for seed, path in enumerate(sorted((DATA / "photos").glob("*.jpg"))):
        with Image.open(path) as file:
            clean = np.asarray(file.reduce(4).convert("L"))[:600, :600] / 255
        level = diagnosis.estimate_sigma(
            as_8_bit(clean + rng(seed).normal(0, sigma / 255, clean.shape))
        )
        assert level == pytest.approx(sigma, rel=PROMISED) if sigma else level < 2, path.name


@pytest.fixture
def noisy_file(tmp_path: Path) -> Path:
    path = tmp_path / "noisy one.png"
    Image.fromarray(as_8_bit(Gaussian(25 / 255)(picture(), rng()))).save(path)
    return path


def test_command_says_what_and_what_to_do(
    noisy_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", str(noisy_file)]) == 0
    said = capsys.readouterr().out
    assert "256 x 256 (YX), uint8" in said
    assert "Gaussian: white" in said
    assert f"snowmelt denoise {shlex.quote(str(noisy_file))} # bundled model" in said
    assert f"snowmelt denoise {shlex.quote(str(noisy_file))} --model MODEL.onnx" in said
    assert f"image = snowmelt.read({str(noisy_file)!r})" in said
    assert "denoised = snowmelt.baselines.non_local_means((image - 0.0) / 255.0, 0.1" in said
    level = re.search(r"`denoise` uses a noise level of (\S+) on a 0–255 scale", said)
    assert level is not None
    assert float(level[1]) == pytest.approx(25, rel=0.3)


@pytest.mark.parametrize(
    ("add", "flags"),
    [
        (Gaussian(25 / 255), "image.png #"),
        (Poisson(40), "image.png #"),
        (correlated, "image.png #"),
        (stripes, "--repair"),
        (SaltAndPepper(0.05), "--repair --strength 0"),
    ],
)
def test_the_first_command_is_of_use(
    add: Callable[[Picture, np.random.Generator], Picture],
    flags: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "image.png"
    noisy = as_8_bit(add(picture().astype(np.float32), rng()))
    Image.fromarray(noisy).save(path)
    assert cli.main(["inspect", "--json", str(path)]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    program, *arguments = shlex.split(facts["commands"][0], comments=True)
    assert program == "snowmelt"
    assert flags in facts["commands"][0]
    assert cli.main(arguments) == 0
    better = np.asarray(Image.open(tmp_path / "image_denoised.png"))
    clean = np.clip(picture(), 0, 1)
    assert psnr(clean, better / 255, data_range=1) > psnr(clean, noisy / 255, data_range=1) + 2


def test_commands_say_the_range_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "image.tif"
    noisy = Gaussian(25 / 255)(picture().astype(np.float32), rng())
    images.write(path, np.rint(500 + 3000 * np.clip(noisy, 0, 1)).astype(np.uint16))
    assert cli.main(["inspect", "--json", "--range", "500", "3500", str(path)]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    command = facts["commands"][0]
    assert command.endswith(
        "image.tif --range 500 3500 # bundled model, noise level estimated automatically"
    )
    assert cli.main(shlex.split(command, comments=True)[1:]) == 0


@pytest.mark.parametrize("peak", [20, 400, 3000])
def test_noise_of_any_strength_is_named_as_evaluate_reads_it(peak: int) -> None:
    found = diagnose(PoissonGaussian(peak, 6 / 255)(picture(), rng()))
    named = str(advice.name_noise(found, 255))
    assert "e" not in named.partition(":")[2]
    parse(named)


def test_white_noise_on_texture_is_not_correlated() -> None:
    texture = ndimage.gaussian_filter(rng(5).normal(size=(256, 256)), 1.5)
    clean = 0.5 + 0.12 * texture / texture.std()
    assert diagnose(Gaussian(40 / 255)(clean, rng())).kind == "gaussian"


@pytest.mark.parametrize(
    ("fine", "level", "correlation", "uneven", "shared"),
    [
        (3.4, 24.6, 0.75, 0.9, True),  # as measured on images of BSD68: blurred noise of 25,
        (3.9, 26.7, 0.75, 1.81, True),  # the same in texture,
        (6.9, 14.4, 0.46, 1.91, False),  # noise of 10 in texture: which is which cannot be told;
        (2.9, 22.4, 0.78, 2.99, False),  # and clean gravel,
        (10.4, 24.6, 0.62, 2.85, False),  # which has white noise of 10
    ],
)
def test_strong_coarse_noise_is_told_from_texture(
    fine: float, level: float, correlation: float, uneven: float, shared: bool
) -> None:
    curve = dataclasses.replace(diagnose(picture()).curve, level=fine)
    spectrum = diagnosis.Spectrum(level, correlation, correlation, uneven)
    assert diagnosis._is_shared(255, curve, spectrum) is shared


def test_read_noise_is_that_in_black() -> None:
    noisy = PoissonGaussian(60, 10 / 255)(picture().astype(np.float32), rng())
    found = diagnosis.diagnose(500 + 3000 * noisy, (500, 3500))
    named = parse(str(advice.name_noise(found, 3000, 500)))
    assert getattr(named, "sigma", 0.0) == pytest.approx(10 / 255, abs=10 / 255)
    assert isinstance(named, Poisson | PoissonGaussian)


def test_command_in_json(
    noisy_file: Path, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", "--json", str(noisy_file), str(model_file)]) == 0
    image, model = json.loads(capsys.readouterr().out)
    assert image["kind"] == image["channels"]["grey"]["kind"] == "gaussian"
    assert image["channels"]["grey"]["sigma"] == pytest.approx(25, rel=PROMISED)
    assert model["model"]["architecture"] == "recipe-cnn"


def test_command_reads_models(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(model_file)]) == 0
    assert "architecture  recipe-cnn" in capsys.readouterr().out


def test_a_file_that_fails_stops_no_other(
    noisy_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small.png"
    Image.new("L", (20, 20)).save(small)
    missing = str(tmp_path / "none.png")
    assert cli.main(["inspect", missing, str(small), str(noisy_file), "no.onnx"]) == 1
    said = capsys.readouterr()
    assert "Gaussian: white" in said.out
    assert "none.png: cannot be read: No such file" in said.err
    assert "small.png: an image of 20 x 20 pixels" in said.err
    assert "no.onnx" in said.err


def test_folders_mean_their_images(
    noisy_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "below").mkdir()
    other = noisy_file.rename(tmp_path / "below/a.png")
    (tmp_path / "notes.txt").touch()
    for text in (tmp_path, tmp_path / "*"):
        assert cli.main(["inspect", "--json", str(text)]) == 0
        (facts,) = json.loads(capsys.readouterr().out)
        assert (facts["file"], facts["kind"]) == (str(other), "gaussian")
    assert cli.main(["inspect", str(tmp_path / "*.tif")]) == 2
    assert "no images there" in capsys.readouterr().err


def test_range_and_axes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "stack.npy"
    clean = np.stack([picture(96)] * 3)
    np.save(path, (100 + 1000 * Gaussian(0.1)(clean, rng())).astype(np.uint16))
    command = ["inspect", str(path), "--axes", "ZYX", "--json"]
    assert cli.main([*command, "--range", "100", "1100"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["region"] == "all of plane 1 of 3"
    assert found["value_range"] == [100, 1100]
    assert found["noise"].startswith("gaussian:2")
    assert cli.main([*command, "--range", "1", "1"]) == 2
    assert "expected two numbers, black first" in capsys.readouterr().err


def test_channels_are_told_apart_and_opacity_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "colour.png"
    levels = (5 / 255, 15 / 255, 30 / 255)
    planes = [as_8_bit(Gaussian(s)(picture(128), rng(i))) for i, s in enumerate(levels)]
    Image.fromarray(np.stack([*planes, np.full((128, 128), 200, np.uint8)], axis=-1)).save(path)
    assert cli.main(["inspect", "--json", str(path)]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert list(found["channels"]) == ["R", "G", "B"]
    sigmas = [channel["sigma"] for channel in found["channels"].values()]
    np.testing.assert_allclose(sigmas, (5, 15, 30), rtol=PROMISED)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    network = models.build("recipe-cnn", {"widths": [4], "kernel_size": 3})
    path = tmp_path / "model.onnx"
    modelfile.write(path, network, modelfile.make_header(network))
    return path
