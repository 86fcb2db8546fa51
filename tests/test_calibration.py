"""Arithmetic in 8 bits: what is calibrated, what is computed, and for which images."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import data
from torch import Tensor, nn

from snowmelt import calibration, denoiser, engines, images, modelfile, processor
from snowmelt.cli import main
from snowmelt.errors import UserError
from snowmelt.metrics import psnr
from snowmelt.models import RecipeCNN, UNet
from snowmelt.samples import Batch

needs_int8 = pytest.mark.skipif(
    not processor.has_int8(), reason="this processor does not sum products of 8 bits exactly"
)


def network() -> UNet:
    """Of weights that do something everywhere."""
    torch.manual_seed(0)
    made = UNet([16, 32], [1, 2])
    for weights in made.parameters():
        nn.init.kaiming_normal_(weights, a=1)
    return made.eval()


def batches() -> Iterator[Batch]:
    for seed in range(3):
        image = torch.rand(2, 1, 16, 24, generator=torch.Generator().manual_seed(seed))
        yield Batch(image, image, level=torch.full_like(image, 0.1))


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    def write(made: UNet, **fields: object) -> Path:
        path = tmp_path / "model.onnx"
        modelfile.write(path, made, modelfile.make_header(made, **fields))
        return path

    return write


def test_ranges_are_of_inner_layers_and_about_zero() -> None:
    made = network()
    found = calibration.ranges(made, batches())
    convolutions = [name for name, each in made.named_modules() if "Conv" in type(each).__name__]
    assert {*found} == {*convolutions} - {"head", "tail"}
    assert len(found) > 8
    for name, (low, high) in found.items():
        if name.endswith(".second"):  # after a ReLU
            assert low == 0
        else:
            assert low == pytest.approx(-high * 128 / 127)  # so that a step is zero
    assert found == calibration.ranges(made, batches())
    assert not made.middle[0].first._forward_pre_hooks


def test_what_is_rare_is_clipped() -> None:
    numbers = torch.randn(1, 1_000_000, generator=torch.Generator().manual_seed(0))
    numbers[0, 0] = 12
    assert 4 < calibration._range(numbers)[1] < 8
    numbers[0, ::100] = 12
    assert calibration._range(numbers)[1] == pytest.approx(12)
    assert calibration._range(torch.zeros(1, 10)) == [0.0, pytest.approx(0.15)]


def test_networks_that_gain_nothing_have_none() -> None:
    assert calibration.ranges(RecipeCNN(), batches()) == {}
    assert calibration.ranges(UNet([4, 8], [1, 1], block="separable"), batches()) == {}


def rounded_in_torch(made: UNet, ranges: dict[str, list[float]], *inputs: Tensor) -> Tensor:
    """The same arithmetic in floating point."""

    def round_input(high: float, low: float) -> Callable[..., Tensor]:
        step = (high - low) / 255

        def hook(_: nn.Module, given: tuple[Tensor]) -> Tensor:
            return (given[0] / step).round().clamp(round(low / step), round(high / step)) * step

        return hook

    for name, (low, high) in ranges.items():
        layer = made.get_submodule(name)
        layer.register_forward_pre_hook(round_input(high, low))
        axes = (0, 2, 3) if isinstance(layer, nn.ConvTranspose2d) else (1, 2, 3)
        step = layer.weight.data.abs().amax(axes, keepdim=True) / 127
        layer.weight.data = (layer.weight.data / step).round() * step
    with torch.no_grad():
        return made(*inputs)


@needs_int8
def test_openvino_computes_what_the_ranges_say(
    model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "has_bf16", lambda: False)  # what is left is exact
    made = network()
    ranges = calibration.ranges(made, batches())
    engine = engines.choose(
        modelfile.read(model(made, int8=ranges)), precision="int8", device="cpu"
    )
    assert (engine.precision, engine.deep.precision) == ("int8", "f32")
    inputs = [torch.rand(1, 1, 32, 40), torch.full((1, 1, 32, 40), 0.1)]
    with torch.no_grad():
        exact = made(*inputs)
    expected = rounded_in_torch(made, ranges, *inputs)
    found = torch.from_numpy(engine([each.numpy() for each in inputs]))

    def rms(difference: Tensor) -> float:
        return float(difference.square().mean().sqrt())

    assert rms(expected - exact) > 1e-3
    assert rms(found - expected) < 0.3 * rms(expected - exact)  # halves are rounded otherwise


def noisy(clean: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    random = np.random.default_rng(0)
    return np.clip(np.rint(clean + random.normal(0, sigma, clean.shape)), 0, 255).astype(np.uint8)


@needs_int8
@pytest.mark.parametrize(
    ("name", "clean", "axis"),
    [
        ("fast-grey", data.camera()[100:356, 100:356], None),
        ("base-colour", data.astronaut()[:256, 60:316], -1),
    ],
)
@pytest.mark.parametrize("sigma", [10, 40])
def test_models_that_ship_lose_little(
    name: str, clean: NDArray[np.uint8], axis: int | None, sigma: float
) -> None:
    picture = noisy(clean, sigma)
    by = {
        precision: denoiser.load(name, precision=precision, device="cpu")(
            picture, sigma=sigma, channel_axis=axis
        )
        for precision in ("int8", "f32")
    }
    whole, small = (psnr(clean, by[key], data_range=255) for key in ("f32", "int8"))
    assert not np.array_equal(by["int8"], by["f32"])
    assert small > whole - 0.06


@needs_int8
def test_only_images_of_8_bits_are_computed_in_8_bits() -> None:
    fast, usual = (denoiser.load("fast-grey", precision=each) for each in ("int8", "auto"))
    assert fast.engine.precision == "int8"
    assert fast.engine.deep.precision == usual.engine.precision
    picture = noisy(data.camera()[:64, :64], 20)
    deep = picture.astype(np.uint16) * 257
    floats = picture / np.float32(255)
    for image, options in (
        (deep, {"sigma": 20 * 257}),
        (floats, {"sigma": 20 / 255, "value_range": (0, 1)}),
        (picture, {"sigma": 20, "value_range": (0, 100)}),
    ):
        np.testing.assert_allclose(fast(image, **options), usual(image, **options), rtol=1e-6)
    assert not np.array_equal(fast(picture, sigma=20), usual(picture, sigma=20))


def test_what_cannot_be_done_in_8_bits_goes_as_ever(
    model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model(network())
    usual = denoiser.load(path, device="cpu").engine.precision
    assert denoiser.load(path, precision="int8", device="cpu").engine.precision == usual
    monkeypatch.setattr(processor, "has_int8", lambda: False)
    assert denoiser.load("fast", precision="int8", device="cpu").engine.precision == usual
    with pytest.raises(UserError, match="precision 'int8' is for the processor"):
        engines.Torch(modelfile.read(path), "cpu", "int8")


def test_a_layer_that_is_not_there(model: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"int8 names 'middle\.9', a layer without weights"):
        model(network(), int8={"middle.9": [-1.0, 1.0]})


@needs_int8
def test_from_the_command_line(tmp_path: Path) -> None:
    images.write(tmp_path / "photo.png", noisy(data.astronaut()[:96, :96], 25))
    arguments = [
        "denoise",
        str(tmp_path / "photo.png"),
        "--model",
        "fast",
        "--sigma",
        "25",
        "--force",
    ]
    found = []
    for precision in ("int8", "f32"):
        assert main([*arguments, "--precision", precision]) == 0
        found.append(images.read(tmp_path / "photo_denoised.png").astype(int))
    assert 0 < abs(found[0] - found[1]).mean() < 1


def test_weights_do_not_count_as_what_a_pixel_takes(model: Callable[..., Path]) -> None:
    """Weights in float16 are made float32 by the graph, and are no larger for a larger picture."""
    made = UNet([8, 64], [1, 1]).eval()
    sizes = []
    for half in (False, True):
        path = model(made)
        modelfile.write(path, made, modelfile.make_header(made), half=half)
        sizes.append(denoiser.load(path, device="cpu", precision="f32").engine.pixel_bytes)
    largest = 64 / 4**2  # channels at a quarter of the size
    assert sizes[0] == sizes[1] == largest * engines.TENSORS_ALIVE * 4
