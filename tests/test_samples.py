import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from snowmelt.data import Dataset, Pairs
from snowmelt.errors import UserError
from snowmelt.levels import Line
from snowmelt.noise import parse
from snowmelt.recipe import Training, from_dict
from snowmelt.samples import Ahead, Batch, CropSamples, Share, StackSamples, prepare
from snowmelt.sources import Paired, Pictures
from snowmelt.supervision import LEAST_LEVEL, BlindSpot, Levels, Noised, Recorrupted, Twins

# --- pairs in memory


def stack(noisy: NDArray[Any], **keys: Any) -> StackSamples:
    pairs = Pairs(noisy.astype(np.float32), noisy.astype(np.float32) + 1)
    return StackSamples(Dataset(pairs, pairs, "pairs.h5", "0" * 64), Training(**keys))


def numbered(count: int) -> NDArray[Any]:
    return np.broadcast_to(np.arange(count)[:, None, None], (count, 6, 9))


def test_an_epoch_passes_over_every_picture_once_and_drops_none() -> None:
    pairs = stack(numbered(8), batch=3)
    assert (pairs.steps, pairs.sizes) == (3, (3, 2))
    epochs = [
        [pairs.batch(step, Share()).noisy[:, 0, 0, 0] for step in range(first, first + 3)]
        for first in (0, 3)
    ]
    assert [len(batch) for batch in epochs[0]] == [3, 3, 2]
    orders = [torch.cat(batches).tolist() for batches in epochs]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(8))
    assert orders[0] != orders[1]


def test_ranks_share_a_batch() -> None:
    pairs = stack(numbered(8), batch=3)
    parts = [pairs.batch(1, Share(rank, 2)) for rank in range(2)]
    assert [(len(part), part.whole) for part in parts] == [(2, 3), (1, 3)]
    both = sorted(torch.cat([part.noisy[:, 0, 0, 0] for part in parts]).tolist())
    assert both == sorted(pairs.batch(1, Share()).noisy[:, 0, 0, 0].tolist())


def test_patches_fit_noisy_and_clean_alike_and_vary() -> None:
    ramp = np.broadcast_to(np.arange(54).reshape(6, 9), (4, 6, 9))
    pairs, corners = stack(ramp, batch=2, patch=4), set()
    for step in range(40):
        batch = pairs.batch(step, Share())
        assert batch.noisy.shape == (2, 1, 4, 4)
        assert torch.equal(batch.noisy + 1, batch.target)
        corners.add(float(batch.noisy[0, 0, 0, 0]))
    assert min(corners) == 0  # top left
    assert max(corners) == 2 * 9 + 5  # bottom right


def test_a_patch_larger_than_a_side_takes_that_side_whole() -> None:
    assert stack(numbered(4), patch=7).batch(0, Share()).noisy.shape[2:] == (6, 7)


def test_flips_turn_noisy_and_clean_alike() -> None:
    ramp = np.broadcast_to(np.arange(36).reshape(6, 6), (2, 6, 6))
    pairs, seen = stack(ramp, batch=2, flips=True), set()
    for step in range(60):
        batch = pairs.batch(step, Share())
        assert torch.equal(batch.noisy + 1, batch.target)
        seen.add(tuple(batch.noisy[0].flatten().tolist()))
    assert len(seen) == 8
    wide = stack(numbered(4), flips=True)
    assert all(wide.batch(step, Share()).noisy.shape[2:] == (6, 9) for step in range(9))


def test_networks_are_told_one_level_of_pairs() -> None:
    pairs = stack(numbered(5), batch=2)
    assert pairs.told == "gaussian:25"
    pairs.tell(5 / 255)
    assert pairs.told == "gaussian:5"
    for batch in (pairs.batch(0, Share()), *pairs.held_out):
        assert batch.level.shape == batch.noisy.shape
        assert torch.allclose(batch.level, torch.tensor(5 / 255))


def in_memory(arrays: list[NDArray[Any]], value_range: tuple[float, float] = (0, 255)) -> Pictures:
    names = tuple(f"{index}.png" for index in range(len(arrays)))
    return Pictures(names, names, tuple(arrays), value_range)


def pictures(*sizes: tuple[int, int], channels: int = 1) -> Pictures:
    random = np.random.default_rng(0)
    return in_memory([random.integers(0, 256, (*size, channels), np.uint8) for size in sizes])


def crops(supervision: Any, **keys: Any) -> CropSamples:
    return CropSamples(supervision, supervision, Training(**keys), multiple=8)


# --- crops of pictures


def test_a_sample_depends_on_seed_step_and_place_alone() -> None:
    clean = Noised(pictures((40, 60), (64, 32)), parse("gaussian:0-55"))
    whole = crops(clean, batch=6, patch=16, flips=True)
    batch = whole.batch(5, Share())
    parts = [whole.batch(5, Share(rank, 3)) for rank in range(3)]
    assert [len(part) for part in parts] == [2, 2, 2]
    assert all(part.whole == 6 for part in parts)
    for rank, part in enumerate(parts):
        assert torch.equal(part.noisy, batch.noisy[rank::3])
        assert torch.equal(part.level, batch.level[rank::3])
    assert torch.equal(
        crops(clean, batch=6, patch=16, flips=True).batch(5, Share()).noisy, batch.noisy
    )
    assert not torch.equal(whole.batch(6, Share()).noisy, batch.noisy)
    other = crops(clean, batch=6, patch=16, flips=True, seed=1)
    assert not torch.equal(other.batch(5, Share()).target, batch.target)


def test_noise_has_the_level_that_is_told_and_errors_weigh_alike() -> None:
    samples = crops(Noised(pictures((200, 200)), parse("gaussian:5-50")), batch=8, patch=128)
    batch = samples.batch(0, Share())
    found = (batch.noisy - batch.target).std(dim=(1, 2, 3))
    told = batch.level[:, 0, 0, 0]
    assert torch.allclose(found, told, rtol=0.03)  # of 16,384 values: 0.6% expected
    assert told.min() < 0.08 < 0.12 < told.max()
    strength = (batch.noisy - batch.target).square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(batch.weight[:, 0, 0, 0], 1 / (strength + LEAST_LEVEL))


def test_enlarged_pictures_are_softer_and_as_large() -> None:
    random = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)

    def steps(resize: tuple[float, ...]) -> float:
        clean = Noised(in_memory([random]), parse("gaussian:0"), resize=resize, resized=1)
        batch = crops(clean, batch=20, patch=32).batch(0, Share())
        assert batch.target.shape == (20, 3, 32, 32)
        assert 0 <= batch.target.min() < batch.target.max() <= 1
        return float(batch.target.diff(dim=3).abs().mean())

    assert steps((1, 3)) < 0.75 * steps(())


def slopes(side: int, resize: tuple[float, ...], resized: float = 0.5) -> torch.Tensor:
    """How steep a ramp of 1 grey level a row has become, in each of 200 squares."""
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None, None], (100, 100, 1))
    clean = Noised(in_memory([ramp[:side]]), parse("gaussian:0"), resize=resize, resized=resized)
    batch = crops(clean, batch=200, patch=32).batch(0, Share())
    assert batch.target.shape == (200, 1, 32, 32)
    return 255 * batch.target.diff(dim=2)[:, 0, 8:-8].mean(dim=(1, 2))


def test_every_second_picture_is_resized() -> None:
    """By any factor of the range, twice as large as often as half as large."""
    found = slopes(100, (0.5, 2))
    as_they_are = torch.isclose(found, torch.tensor(1.0), atol=1e-3)
    assert 70 < as_they_are.sum() < 130  # standard deviation 7
    others = found[~as_they_are]
    assert 0.47 < others.min() < 0.55 < 1.9 < others.max() < 2.06
    assert 0.35 < (others < 1).float().mean() < 0.65


def test_all_pictures_are_enlarged_and_none_reduced_below_its_size() -> None:
    assert slopes(100, (2, 4), resized=1).max() < 0.52
    assert 1.2 < slopes(40, (0.5, 0.5)).max() < 1.3


def test_resized_pictures_keep_their_place_and_their_detail() -> None:
    """Halves stay where they are, and stripes too fine for a smaller picture become grey, not coarse ones."""
    fine, half = np.zeros((64, 64, 1), np.uint8), np.zeros((64, 96, 1), np.uint8)
    fine[:, ::2], half[:, :48] = 255, 255
    clean = Noised(in_memory([fine, half]), parse("gaussian:0"))
    corner = slice(0, 32)
    np.testing.assert_allclose(
        clean.resized_crop(0, corner, corner, 0.5)[4:-4, 4:-4], 0.5, atol=0.02
    )
    for start, grey in ((0, 1.0), (64, 0.0)):
        for factor in (0.8, 2.0):
            part = clean.resized_crop(1, slice(16, 48), slice(start, start + 32), factor)
            np.testing.assert_allclose(part, grey, atol=1e-6)


def test_every_pixel_is_as_likely() -> None:
    """A picture of four times the area comes four times as often."""
    zeros, ones = np.zeros((32, 32, 1), np.uint8), np.full((64, 64, 1), 255, np.uint8)
    clean = Noised(in_memory([zeros, ones]), parse("gaussian:0"))
    samples = crops(clean, batch=50, patch=8)
    share = torch.cat(
        [samples.batch(step, Share()).target[:, 0, 0, 0] for step in range(40)]
    ).mean()
    assert abs(float(share) - 0.8) < 0.04  # 2,000 draws: standard error 0.009


def test_flips_are_the_eight() -> None:
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    samples = crops(
        Noised(in_memory([picture]), parse("gaussian:0")), batch=80, patch=8, flips=True
    )
    batch = samples.batch(0, Share())
    found = {tuple((each.flatten() * 255).round().int().tolist()) for each in batch.target}
    turned = [np.rot90(picture[..., 0], turn) for turn in range(4)]
    assert found == {tuple(each.ravel()) for turn in turned for each in (turn, turn[:, ::-1])}


def test_pictures_smaller_than_a_patch_are_mirrored() -> None:
    samples = crops(Noised(pictures((20, 12), (12, 40)), parse("gaussian:0")), batch=4, patch=24)
    batch = samples.batch(0, Share())
    assert batch.noisy.shape == (4, 1, 24, 24)
    assert torch.equal(batch.noisy, batch.target)
    shapes = samples.held_out[0].noisy.shape, samples.held_out[1].noisy.shape
    assert shapes == ((1, 1, 16, 8), (1, 1, 8, 40))


def test_without_a_patch_it_is_what_all_pictures_have() -> None:
    samples = crops(Noised(pictures((20, 50), (70, 33)), parse("gaussian:0")), batch=2)
    assert samples.batch(0, Share()).noisy.shape == (2, 1, 16, 16)
    assert samples.steps == math.ceil((20 * 50 + 70 * 33) / 16**2 / 2)


def test_grey_comes_before_the_noise() -> None:
    colours = pictures((64, 64), channels=3)
    samples = crops(Noised(replace(colours, grey=True), parse("gaussian:25")), batch=4, patch=64)
    batch = samples.batch(0, Share())
    expected = colours.whole(0) @ np.array([0.299, 0.587, 0.114], np.float32)
    assert batch.noisy.shape == (4, 1, 64, 64)
    np.testing.assert_allclose(batch.target[0, 0], expected, atol=1e-6)
    assert float((batch.noisy - batch.target).std()) == pytest.approx(25 / 255, rel=0.03)


def test_twins_show_one_place() -> None:
    ramp = np.arange(40 * 60, dtype=np.float32).reshape(40, 60, 1) / 10
    paired = Paired(in_memory([ramp]), in_memory([ramp + 5]))
    batch = crops(Twins(paired), batch=8, patch=16, flips=True).batch(0, Share())
    torch.testing.assert_close(batch.target, batch.noisy + 5 / 255)
    assert batch.weight is None


def flat(level: float, sigma: float, *, photons: float = 0.0) -> Pictures:
    """A large flat picture with noise, stored as floats."""
    random = np.random.default_rng(1)
    noisy = level + random.normal(0, math.sqrt(sigma**2 + photons * level), (256, 256, 1))
    return in_memory([noisy.astype(np.float32)], (0.0, 1.0))


def test_recorrupted_pairs_share_no_noise() -> None:
    noisy = flat(0.5, 0.1)
    batch = crops(Recorrupted(noisy, Levels(noisy)), batch=16, patch=128).batch(0, Share())
    one, two = (each.flatten(1) - 0.5 for each in (batch.noisy, batch.target))
    together = (one * two).mean(1) / (one.std(1) * two.std(1))
    assert (
        together.abs().max() < 0.04
    )  # 16,384 values: 0.008 by chance; of y with itself it would be 1
    told = batch.level.mean((1, 2, 3))
    assert torch.allclose(one.std(1), told, rtol=0.05)
    assert (
        0.1 * 1.03 < told.min() < 0.1 * 1.2 < told.max() < 0.1 * 1.5
    )  # root of 1 + 0.3^2 to 1 + 1
    # Of equal weight times variance: the error that is left is mostly the target's own noise.
    assert torch.allclose(
        batch.weight[:, 0, 0, 0] * two.var(1), torch.tensor(0.1**2 / 0.11), rtol=0.1
    )


def test_blind_spots_hide_a_pixel_of_each_square_and_weigh_nothing_else() -> None:
    noisy = flat(0.5, 0.1)
    batch = crops(BlindSpot(noisy), batch=4, patch=64).batch(0, Share())
    hidden = batch.noisy != batch.target
    assert torch.equal(hidden, batch.weight > 0)
    squares = hidden.float().unfold(2, 8, 8).unfold(3, 8, 8).sum((-1, -2))
    assert torch.equal(squares, torch.ones_like(squares))
    assert float(batch.weight.mean()) == pytest.approx(1)
    # What stands there instead is a neighbour at most two pixels away, in every direction.
    for place in hidden[0, 0].nonzero()[:20]:
        y, x = place.tolist()
        around = batch.target[0, 0, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        assert (around == batch.noisy[0, 0, y, x]).any()


@pytest.mark.parametrize("gain", [0.0, 1 / 30])
def test_recorrupted_photons_say_nothing_of_each_other(gain: float) -> None:
    """With Gaussian noise on three photons they are uncorrelated, but squares of one foretell the other."""
    random = np.random.default_rng(0)
    photons = (random.poisson(3, (512, 512, 1)) / 30).astype(np.float32)
    noisy = in_memory([photons], (0.0, 1.0))
    measured = Levels(noisy)
    measured._common = Line((gain,), (0.1 / 30 if not gain else 0.0,))
    sample = Recorrupted(noisy, measured)(0, slice(None), slice(None), np.random.default_rng(1))
    seen, target = (each - each.mean() for each in (sample.noisy, sample.target))
    foretold = [abs(np.corrcoef(seen.ravel() ** k, target.ravel())[0, 1]) for k in (1, 2, 3)]
    if gain:
        assert max(foretold) < 0.02  # 0.002 by chance
    else:
        assert foretold[0] < 0.02 < 0.05 < foretold[1]


def test_the_level_that_is_told_does_not_give_away_the_target() -> None:
    random = np.random.default_rng(0)
    noisy = in_memory([(random.poisson(3, (128, 128, 1)) / 30).astype(np.float32)], (0.0, 1.0))
    measured = Levels(noisy)
    measured._common = line = Line((1 / 30,), (0.0,))
    sample = Recorrupted(noisy, measured)(0, slice(None), slice(None), np.random.default_rng(1))
    ratio = sample.level[..., 0] / line.on(sample.noisy)
    assert np.ptp(ratio) < 1e-5
    assert 1.04 < ratio.mean() < 1.42  # the root of 1 + 0.3^2 to 1 + 1


def test_levels_of_photons_are_maps() -> None:
    random = np.random.default_rng(0)
    ramp = np.broadcast_to(np.linspace(0.05, 0.95, 256)[None, :, None], (256, 256, 1))
    noisy = in_memory([(random.poisson(ramp * 60) / 60).astype(np.float32)], (0.0, 1.0))
    sample = Recorrupted(noisy, Levels(noisy))(
        0, slice(None), slice(None), np.random.default_rng(0)
    )
    part = sample.level / np.sqrt(ramp / 60)  # the root of 1 + a^2, the same everywhere
    columns = part.mean(axis=(0, 2))
    assert np.abs(columns[20:] / columns[20:].mean() - 1).max() < 0.2  # brightness of 50 pixels
    assert sample.level[:, 240].mean() > 2 * sample.level[:, 30].mean()


def test_pictures_of_one_noise_get_its_median_and_others_their_own() -> None:
    random = np.random.default_rng(0)

    def with_noise(*sigmas: float) -> Pictures:
        return in_memory(
            [(0.5 + random.normal(0, s, (96, 96, 1))).astype(np.float32) for s in sigmas], (0, 1)
        )

    alike = Levels(with_noise(0.1, 0.1, 0.1, 0.1, 0.0))  # in one it cannot be seen
    assert alike.most_have_noise
    grey = np.full((4, 4, 1), 0.5, np.float32)
    found = [float(alike(index).on(grey).mean()) for index in range(5)]
    assert found == pytest.approx([0.1] * 5, rel=0.1)
    several = Levels(with_noise(0.02, 0.05, 0.12, 0.25))
    found = [float(several(index).on(grey).mean()) for index in range(4)]
    assert found == pytest.approx([0.02, 0.05, 0.12, 0.25], rel=0.15)
    assert not Levels(with_noise(0.0, 0.0, 0.1)).most_have_noise


@pytest.mark.parametrize(
    ("noise", "told"),
    [
        ("gaussian:25", "gaussian:25"),
        ("poisson:30", "poisson:30"),
        ("gaussian:0-55", None),
        ("poisson-gaussian:30-60:2-5", None),
        ("speckle:0.2", "gaussian:25"),
        ("gaussian:5+salt-and-pepper:0.1", "gaussian:25"),
    ],
)
def test_what_networks_are_told_of_noise_that_is_put_on(noise: str, told: str | None) -> None:
    samples = crops(Noised(pictures((32, 32)), parse(noise)), batch=2, patch=16)
    assert samples.told == told
    batch = samples.batch(0, Share())
    if samples.level is not None:
        samples.tell(0.1)
        assert samples.told == "gaussian:25.5"
        batch = samples.batch(0, Share())
        assert torch.allclose(batch.level, torch.tensor(0.1))
    elif noise == "gaussian:25":
        assert torch.allclose(batch.level, torch.tensor(25 / 255))


def test_batches_made_ahead_are_the_same() -> None:
    samples = crops(Noised(pictures((64, 64)), parse("gaussian:25")), batch=2, patch=16)
    ahead = Ahead(lambda step: samples.batch(step, Share()), threads=2)
    try:
        for step in (0, 1, 2, 7, 8, 3):  # on, forward and back
            assert torch.equal(ahead.batch(step).noisy, samples.batch(step, Share()).noisy)
    finally:
        ahead.close()


def test_a_failure_ahead_is_raised_where_its_batch_is_asked_for() -> None:
    def make(step: int) -> Batch:
        raise UserError(f"step {step}")

    ahead = Ahead(make, threads=1)
    with pytest.raises(UserError, match="step 0"):
        ahead.batch(0)
    ahead.close()


# --- what a recipe names


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"clean": ["a"]}, "need noise to learn from; say which: --noise"),
        ({"noisy": ["a"], "clean": ["b"], "noise": "gaussian:5"}, "is for clean pictures alone"),
        ({"noisy": ["a"], "clean": ["b"], "noisy_too": ["c"]}, "leave one of the two out"),
    ],
)
def test_recipes_that_do_not_say_what_to_learn(data: dict[str, Any], message: str) -> None:
    recipe = from_dict({"data": data})
    with pytest.raises(UserError, match=message):
        prepare(recipe, lambda: pytest.fail("not that"), conditioned=False, multiple=1)
