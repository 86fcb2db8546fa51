"""The estimator as torch trains it, and as ONNX runs it."""

import json

import numpy as np
import pytest
import torch

from snowmelt import estimator, levelnet, levels, onnxfile, processor


def made(channels):
    torch.manual_seed(channels)
    network = levelnet.LevelEstimator(channels)
    with torch.no_grad():  # levels that depend on what is seen, as after training
        network.head[4].weight.normal_(std=0.3)
    return network.eval()


def run(data, images):
    core = processor.core()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(core.read_model(data), "CPU", options)
    return np.array(model([images])[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_onnx_gives_what_torch_gives(channels):
    network = made(channels)
    data = levelnet.to_onnx(network, {"name": "trial", "channels": channels})
    assert json.loads(onnxfile.parse(data).metadata[estimator.HEADER])["name"] == "trial"
    for height, width in ((96, 96), (133, 171)):
        image = torch.rand(
            1, channels, height, width, generator=torch.Generator().manual_seed(height)
        )
        with torch.no_grad():
            expected = network(image)[0].numpy()
        found = run(data, image.numpy())
        assert found.shape == (estimator.KNOTS,)
        assert np.ptp(expected) > 0
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_pieces_are_pooled():
    network = made(1)
    data = levelnet.to_onnx(network, {})
    random = np.random.default_rng(0)
    dark, light = (random.normal(mean, 0.05, (1, 1, 96, 96)) for mean in (0.2, 0.7))
    one, twice, both = (
        run(data, np.concatenate(parts).astype(np.float32))
        for parts in ([dark], [dark, dark], [dark, light])
    )
    np.testing.assert_allclose(twice, one, rtol=1e-4)
    assert np.abs(both / one - 1).max() > 1e-3


def test_levels_scale_with_contrast():
    """No convolution has a bias: half the detail has energies of half the size."""
    network = made(1)
    image = torch.rand(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    statistics = [network.statistics(part)[1] for part in (image, (image - 0.5) / 4 + 0.5)]
    difference = statistics[0] - statistics[1]
    torch.testing.assert_close(
        difference, torch.full_like(difference, np.log(4)), atol=0.05, rtol=0
    )


def test_the_map_is_that_of_numpy():
    curve = torch.linspace(0.01, 0.2, estimator.KNOTS)[None]
    image = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    expected = levelnet.level_map(curve, image)[0, 0].numpy()
    found = levels.Estimated({0: (estimator.Curve(tuple(curve[0].tolist())),)}, {0: 0.1})
    seen = image[0].permute(1, 2, 0).numpy()
    window = slice(0, 3)
    np.testing.assert_allclose(found.over(seen, window, None, None), expected, atol=1e-5)
