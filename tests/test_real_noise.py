"""The benchmark of the automatic level: its criteria, its cache, its simulators."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import features
from skimage import data

from snowmelt import images
from snowmelt.metrics import psnr

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import noise_zoo  # noqa: E402
import real_noise  # noqa: E402

CLEAN = data.astronaut()[100:180, 180:260] / 255


def score(automatic: float, noisy: float, *levels: float) -> real_noise.Score:
    rest = len(real_noise.LEVELS) - len(levels)
    return real_noise.Score(
        group="a", name="b", noisy=noisy, automatic=automatic, unchanged=False, change=30.0,
        seconds=0.5, levels=(*levels, *[0.0] * rest),
    )  # fmt: skip


def test_criteria_are_those_of_each_image() -> None:
    """The best level is taken image by image, the one level for all by its mean."""
    found = real_noise.summarise(
        "kind",
        [score(29.8, 25, 30, 28), score(26.0, 26.1, 20, 27), score(31.0, 31.04, 20, 31.1),
         score(35.0, 20, 20, 33)],
    )  # fmt: skip
    assert found.best == pytest.approx((30 + 27 + 31.1 + 33) / 4)
    assert found.the_level == real_noise.LEVELS[1]
    assert found.one_level == pytest.approx((28 + 27 + 31.1 + 33) / 4)
    assert found.within == 75  # all but the second, a decibel below its best
    assert found.worst == pytest.approx(-1.0)
    assert found.below == 25  # the second; the third is within 0.05 dB
    assert found.worst_to_noisy == pytest.approx(-0.1)


def test_without_fixed_levels_the_noisy_image_is_compared_with() -> None:
    scores = [real_noise.Score("g", "n", 20.0, result, False, 30.0, 0.1) for result in (19.0, 25.0)]
    found = real_noise.summarise("g", scores)
    assert np.isnan([found.best, found.one_level, found.the_level, found.within, found.worst]).all()
    assert (found.automatic, found.below, found.worst_to_noisy) == (22.0, 50.0, -1.0)
    assert "nan" in real_noise.noisy_table(scores, "all")


def test_all_images_get_a_line_of_their_own() -> None:
    scores = [score(1, 1), score(2, 2)]
    assert list(real_noise.by_group(scores, "all")) == ["a"]
    other = real_noise.Score("c", "d", 1, 1, True, np.inf, 0.1)
    groups = real_noise.by_group([*scores, other], "all")
    assert {name: len(members) for name, members in groups.items()} == {"a": 2, "c": 1, "all": 3}


def test_clean_images_are_counted_by_what_changed() -> None:
    scores = [
        real_noise.Score("g", "same", np.inf, np.inf, True, np.inf, 0.1),
        real_noise.Score("g", "close", np.inf, 46.0, False, 46.0, 0.1),
        real_noise.Score("g", "harmed", np.inf, 38.0, False, 38.0, 0.1),
        real_noise.Score("g", "same", np.inf, np.inf, True, np.inf, 0.1),
    ]
    assert "| g | 4 | 50 % | 75 % | 38.0 | 0.10 |" in real_noise.clean_table(scores)


def test_scores_of_levels_are_measured_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def measure() -> list[float]:
        asked.append("")
        return [1.5, 2.0]

    cache = real_noise.Cache(tmp_path)
    for _ in range(2):
        assert cache.get("key", measure) == [1.5, 2.0]
    with (tmp_path / "real_noise.jsonl").open("a") as file:
        file.write('["cut off", [1.')  # by the end of a run
    again = real_noise.Cache(tmp_path)
    assert again.get("key", measure) == [1.5, 2.0]
    assert len(asked) == 1
    again.get("cut off", measure)
    assert len(asked) == 2


def test_items_differ_by_their_images() -> None:
    one, other = (
        real_noise.Item("g", "n", np.full((8, 8), value, np.uint8), np.zeros((8, 8)))
        for value in (1, 2)
    )
    assert one.digest != other.digest
    assert one.digest == real_noise.Item("g", "m", one.noisy, one.reference).digest


def test_similarity_is_over_the_colours() -> None:
    stored = noise_zoo.to_bytes(CLEAN)
    item = real_noise.Item("g", "n", stored, stored.astype(float))
    assert real_noise.Bench._ssim(item, stored) == pytest.approx(1)
    assert real_noise.Bench._ssim(item, 255 - stored) < 0.5


@pytest.mark.parametrize("kind", noise_zoo.KINDS)
def test_simulated_noise_is_about_its_reference(kind: str) -> None:
    """The same at every call, another in every place; its mean is the reference's."""
    if kind == "avif" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    clean = CLEAN if noise_zoo.KINDS[kind].colour else CLEAN @ noise_zoo.LUMA
    noisy, reference = noise_zoo.make(kind, clean, 0)
    assert noisy.shape == reference.shape
    assert noisy.dtype in (np.uint8, np.uint16)
    span = np.iinfo(noisy.dtype).max
    assert 12 < float(psnr(reference, noisy, data_range=span)) < 46
    assert abs(float((noisy - reference).mean())) < 0.02 * span
    np.testing.assert_array_equal(noisy, noise_zoo.make(kind, clean, 0)[0])
    other = noise_zoo.make(kind, clean, 1)[0]
    assert other.shape != noisy.shape or not np.array_equal(noisy, other)


@pytest.mark.parametrize(
    ("demosaick", "pattern"),
    [
        (noise_zoo.malvar, noise_zoo.bayer),
        (noise_zoo.adaptive, noise_zoo.bayer),
        (noise_zoo.averaged, noise_zoo.xtrans),
    ],
)
def test_demosaicking_keeps_flat_colours_and_grey_details(demosaick, pattern) -> None:  # type: ignore[no-untyped-def]
    flat = np.broadcast_to([0.8, 0.4, 0.2], (24, 30, 3))
    sites = pattern(flat.shape)
    assert [(sites == each).mean() > 0.2 for each in range(3)] == [True] * 3
    mosaic = np.take_along_axis(flat, sites[..., None], axis=2)[..., 0]
    np.testing.assert_allclose(demosaick(mosaic, sites), flat, atol=1e-9)
    ramp = np.add.outer(np.arange(24), np.arange(30)) / 60
    inner = demosaick(ramp, sites)[4:-4, 4:-4]
    np.testing.assert_allclose(inner, np.stack([ramp[4:-4, 4:-4]] * 3, -1), atol=0.02)


def test_images_without_noise_are_made() -> None:
    rng = np.random.default_rng(0)
    page = real_noise.draw_text(rng)
    assert page.shape == (320, 400, 3)
    assert (page == 255).all(axis=2).mean() > 0.4
    scan = real_noise.as_scanned(page, rng)
    assert scan.shape == (320, 400)
    assert scan.std() > 10
    stored = noise_zoo.to_bytes(CLEAN)
    assert np.abs(real_noise.as_jpeg(stored, 30) - stored.astype(float)).mean() > 1
    assert real_noise.enlarge(stored, 1.5).shape == (120, 120, 3)
    grain = real_noise.faint_grain(np.full((64, 64, 3), 128, np.uint8), rng)
    assert 0.8 < grain[..., 0].std() < 2.8
    grey = np.full((4, 4, 3), 90, np.uint8)
    np.testing.assert_array_equal(real_noise.saturate(grey, 2), grey)


def test_a_denoiser_of_ones_own_is_measured(tmp_path: Path) -> None:
    """One that gives back its input has the noisy image's score; what is not there is skipped."""
    clean = data.camera()[100:164, 200:264]
    noisy = np.clip(clean + np.random.default_rng(0).normal(0, 30, clean.shape), 0, 255)
    for place, image in (("noisy", noisy.astype(np.uint8)), ("clean", clean)):
        (tmp_path / "fmd" / place).mkdir(parents=True)
        images.write(tmp_path / "fmd" / place / "Confocal_1.png", image)
    (tmp_path / "mine.py").write_text("def same(array):\n    return array\n")
    command = [
        sys.executable,
        str(BENCHMARKS / "real_noise.py"),
        "--sets",
        "polyu",
        "fmd",
        "--full",
    ]
    command += ["--model", "fast", "--denoiser", "mine:same", "--json", "scores.json"]
    done = subprocess.run(
        [*command, "--cache", "cache"], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"SNOWMELT_DATA": str(tmp_path), "SNOWMELT_CLEAN": str(tmp_path)},
    )  # fmt: skip
    assert "polyu: skipped" in done.stdout
    assert "FMD Confocal" in done.stdout
    (found,) = json.loads((tmp_path / "scores.json").read_text())["scores"]["fmd"]
    assert found["unchanged"]
    assert found["automatic"] == found["noisy"] == pytest.approx(18.8, abs=0.5)
    assert max(found["levels"]) > found["noisy"] + 5
    assert found["ssim"][0] == found["ssim"][1]
    assert (tmp_path / "cache" / "real_noise.jsonl").exists()
