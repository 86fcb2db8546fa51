"""Samples made on a device. They are made on the CPU here, by the same code."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from snowmelt import ondevice, training
from snowmelt.noise import parse
from snowmelt.ondevice import DeviceCrops, Pixels, Squares
from snowmelt.recipe import from_dict
from snowmelt.samples import Share
from snowmelt.sources import Pictures
from snowmelt.supervision import LEAST_LEVEL, BlindSpot, Noised

from .test_samples import crops, in_memory, pictures

CPU = torch.device("cpu")


def on_device(clean: Pictures, noise: str = "gaussian:0-55", **keys: Any) -> DeviceCrops:
    options = {key: keys.pop(key) for key in ("resize", "resized") if key in keys}
    return DeviceCrops(crops(Noised(clean, parse(noise), **options), **keys), CPU)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_squares_are_those_of_the_pictures_turned(grey: bool, dtype: Any) -> None:
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (*size, 3)).astype(dtype) for size in ((40, 60), (33, 20))]
    clean = replace(in_memory(arrays), grey=grey)
    index, turn = np.arange(16) % 2, np.arange(16) // 2
    corner = random.random((16, 2))
    corner[:2] = 0
    found = Pixels(clean, CPU).cut(Squares(index, corner, turn), 16)
    assert found.shape == (16, 1 if grey else 3, 16, 16)
    for square, which, (down, across), turned in zip(found, index, corner, turn, strict=True):
        height, width = clean.shapes[which]
        top, left = int(down * (height - 15)), int(across * (width - 15))
        expected = clean.crop(which, slice(top, top + 16), slice(left, left + 16))
        expected = expected[::-1] if turned & 1 else expected
        expected = expected[:, ::-1] if turned & 2 else expected
        expected = expected.swapaxes(0, 1) if turned & 4 else expected
        np.testing.assert_allclose(square.movedim(0, -1), expected, atol=1e-6)


def test_the_last_row_and_column_are_reached() -> None:
    clean = pictures((20, 30))
    last = Squares(np.array([0]), np.full((1, 2), np.nextafter(1, 0)), np.array([0]))
    found = Pixels(clean, CPU).cut(last, 16)[0, 0]
    np.testing.assert_allclose(found, clean.whole(0)[4:, 14:, 0], atol=1e-6)


def test_pictures_too_small_are_mirrored_as_on_a_cpu() -> None:
    clean = pictures((5, 40), channels=3)
    found = Pixels(clean, CPU).cut(Squares(np.array([0]), np.zeros((1, 2)), np.array([0])), 16)
    expected = np.pad(clean.whole(0)[:, :16], ((0, 11), (0, 0), (0, 0)), mode="symmetric")
    np.testing.assert_allclose(found[0].movedim(0, -1), expected, atol=1e-6)


def test_a_batch_depends_on_seed_and_step_alone_and_ranks_share_it() -> None:
    keys: Any = {"batch": 6, "patch": 16, "flips": True, "resize": (0.5, 2)}
    made = on_device(pictures((40, 60), (64, 32), channels=3), **keys)
    batch = made.batch(5, Share())
    assert not torch.equal(made.batch(6, Share()).noisy, batch.noisy)
    parts = [made.batch(5, Share(rank, 3)) for rank in range(3)]
    assert [(len(part), part.whole) for part in parts] == [(2, 6)] * 3
    for rank, part in enumerate(parts):
        for name in ("noisy", "target", "weight", "level"):
            assert torch.equal(getattr(part, name), getattr(batch, name)[rank::3])
    other = on_device(pictures((40, 60), (64, 32), channels=3), seed=1, **keys)
    assert not torch.equal(other.batch(5, Share()).target, batch.target)


def test_noise_has_the_level_that_is_told_and_errors_weigh_alike() -> None:
    batch = on_device(pictures((200, 200), channels=3), "gaussian:5-50", batch=8, patch=128).batch(
        0, Share()
    )
    assert (batch.noisy.shape, batch.level.shape) == ((8, 3, 128, 128), (8, 1, 128, 128))
    noise, told = batch.noisy - batch.target, batch.level[:, 0, 0, 0]
    assert torch.allclose(noise.std(dim=(1, 2, 3)), told, rtol=0.02)  # 0.3% expected
    assert told.min() < 0.08 < 0.12 < told.max()
    strength = noise.square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(batch.weight[:, 0, 0, 0], 1 / (strength + LEAST_LEVEL))
    one = on_device(pictures((64, 64), channels=3), "gaussian:25", batch=2, patch=32).batch(
        0, Share()
    )
    assert torch.allclose(one.level, torch.tensor(25 / 255))


def test_larger_pictures_are_taken_more_often() -> None:
    flat = [np.full((side, side, 1), side, np.uint8) for side in (20, 60)]
    batch = on_device(in_memory(flat), batch=400, patch=8).batch(0, Share())
    large = (batch.target[:, 0, 0, 0] * 255).round() == 60
    assert 335 < large.sum() < 384  # 360 expected, standard deviation 6


def slopes(*, resize: tuple[float, ...], resized: float, side: int = 100) -> torch.Tensor:
    """How steep a ramp of 1 grey level a row has become, in squares of 40 steps, (40, 20)."""
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None, None], (100, 100, 1))
    clean = in_memory([ramp[:side]])
    made = on_device(clean, "gaussian:0", batch=20, patch=32, resize=resize, resized=resized)
    steps = [made.batch(step, Share()).target for step in range(40)]
    assert all(each.shape == (20, 1, 32, 32) for each in steps)
    return 255 * torch.stack(steps).diff(dim=3)[..., 0, 8:-8, :].mean(dim=(2, 3))


def test_a_part_of_each_step_is_resized_by_one_factor() -> None:
    found = slopes(resize=(0.5, 2), resized=0.5)
    same = torch.isclose(found, torch.tensor(1.0), atol=1e-3)
    assert 320 < same.sum() < 480  # of 800; standard deviation 14
    factors = [step[~kept] for step, kept in zip(found, same, strict=True) if not kept.all()]
    assert all(each.max() - each.min() < 2e-3 for each in factors)
    firsts = torch.stack([each[0] for each in factors])
    assert 0.47 < firsts.min() < 0.65 < 1.5 < firsts.max() < 2.1
    assert 0.25 < (firsts < 1).float().mean() < 0.75
    assert slopes(resize=(0.5, 0.5), resized=1, side=40).max() < 1.3  # as small as it can be


def test_only_gaussian_noise_on_clean_pictures_is_made_on_a_gpu() -> None:
    clean, cuda = pictures((32, 32), channels=3), torch.device("cuda")
    gaussian = crops(Noised(clean, parse("gaussian:0-55")), patch=16)
    assert ondevice.moved(gaussian, CPU) is gaussian
    assert ondevice.can_make(gaussian.supervision)
    assert ondevice.can_make(Noised(clean, parse("gaussian:25")))
    for noise in ("poisson:30", "gaussian:5+gaussian:3", "camera:2000:1:0.5:2:95"):
        other = crops(Noised(clean, parse(noise)), patch=16)
        assert ondevice.moved(other, cuda) is other
    blind = crops(BlindSpot(clean), patch=16)
    assert ondevice.moved(blind, cuda) is blind


def test_pictures_too_large_for_memory_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = Noised(pictures((32, 32), channels=3), parse("gaussian:25"))
    monkeypatch.setattr(ondevice, "MEMORY", 32 * 32 * 3 - 1)
    assert not ondevice.can_make(clean)


def test_numbers_that_float32_does_not_hold_stay_where_they_are() -> None:
    for dtype, found in ((np.uint16, True), (np.uint32, False), (np.float64, False)):
        stored = in_memory([np.zeros((32, 32, 1), dtype)])
        assert ondevice.can_make(Noised(stored, parse("gaussian:25"))) == found


def test_a_run_learns_from_them_and_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved(chosen: Any, device: torch.device) -> Any:
        return DeviceCrops(chosen, device)

    monkeypatch.setattr(ondevice, "moved", moved)
    random = np.random.default_rng(0)
    (tmp_path / "clean").mkdir()
    for name in range(4):
        soft = random.integers(0, 256, (8, 8)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        Image.fromarray(soft).save(tmp_path / "clean" / f"{name}.png")
    data = {"clean": [str(tmp_path / "clean")], "noise": "gaussian:50", "held_out": 0.25}
    keys = {"steps": 20, "batch": 4, "patch": 32, "flips": True, "device": "cpu"}
    optimizer = {"lr": 3e-3}
    small = {"widths": [8, 8]}

    def recipe(epochs: int) -> Any:
        tables = {"data": data, "network": small, "optimizer": optimizer}
        return from_dict(tables | {"training": keys | {"epochs": epochs}})

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert training.train(recipe(3), whole, quiet=True)
    assert training.train(recipe(1), parts, quiet=True)
    assert training.resume(parts, epochs=3, quiet=True)
    ends = [torch.load(run / "last.ckpt", weights_only=True) for run in (whole, parts)]
    for name, weights in ends[0]["network"].items():
        assert torch.equal(weights, ends[1]["network"][name])
    scores = [row["psnr"] for row in ends[0]["rows"]]
    assert scores[-1] > scores[0] + 0.5
    assert scores[-1] > 20 * np.log10(255 / 50) + 1  # better than doing nothing
