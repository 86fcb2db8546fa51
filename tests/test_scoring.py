import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import ndimage

from snowmelt import baselines, cases, results, scores
from snowmelt.cases import ALONE, TAKES, Case, Collection
from snowmelt.errors import UserError
from snowmelt.evaluation import Contender, measure
from snowmelt.metrics import Peak, psnr
from snowmelt.results import summarize
from snowmelt.scoring import METRICS, PHASES, SIDE, metric_of, predict
from snowmelt.shapes import make_pairs

SIGMA = 0.1
COUNT, WIDTH = 4, 96
CLEAN = make_pairs(COUNT, seed=9)[1][:, :WIDTH, :WIDTH]
RNG = np.random.default_rng(0)
FIRST, SECOND = (CLEAN + RNG.normal(0, SIGMA, CLEAN.shape).astype(np.float32) for _ in range(2))


def collection(*stacks, roles=TAKES):
    made = [
        Case(f"image {i}", lambda pictures=pictures: pictures)
        for i, pictures in enumerate(zip(*stacks, strict=True))
    ]
    return Collection(title="made up", roles=roles, cases=tuple(made), scale=cases.UNIT)


def blur(sigma):
    return lambda picture: baselines.gaussian(picture, sigma)


GOOD, BAD = Contender("good", blur(0.7)), Contender("bad", blur(8.0))


def true_distance(denoise):
    errors = [np.mean((denoise(n) - c) ** 2) for n, c in zip(FIRST, CLEAN, strict=True)]
    return 255 * math.sqrt(np.mean(errors))


@pytest.fixture(scope="module")
def takes():
    return measure(collection(FIRST, SECOND), [GOOD, BAD], against=["tv"])


@pytest.fixture(scope="module")
def alone():
    images = collection(FIRST, roles=ALONE)
    return measure(images, [GOOD, BAD], against=["gaussian"])


def level(results):
    return results.measurement.noise["level"]


def words(results):
    return " ".join(results.table().split())


def test_two_exposures_give_the_noise(takes):
    # standard error of a standard deviation
    assert level(takes) == pytest.approx(255 * SIGMA, rel=5 / math.sqrt(2 * CLEAN.size))
    assert abs(takes.measurement.noise["correlation"]["value"]) < 5 / math.sqrt(CLEAN.size)
    assert "it is white" in words(takes)


def test_two_exposures_give_the_psnr_without_a_reference(takes):
    noisy, _, *ours = takes.rows
    for row, denoise in zip(ours, (GOOD.denoise, BAD.denoise), strict=True):
        expected = 20 * math.log10(255 / true_distance(denoise))
        assert row["estimated_psnr"] == pytest.approx(expected, abs=0.3)
    assert noisy["estimated_psnr"] == pytest.approx(psnr(CLEAN, FIRST, data_range=1), abs=0.15)


def test_no_psnr_is_estimated_below_the_noise():
    """Denoised to the very mean of both exposures, the difference is less than the noise alone."""
    known = {FIRST[i].tobytes(): (FIRST[i] + SECOND[i]) / 2 for i in range(COUNT)}
    oracle = Contender("oracle", lambda picture: known[picture.tobytes()])
    found = measure(collection(FIRST, SECOND), [oracle], against=[])
    assert found.rows[1]["rmse"] < level(found)
    assert math.isnan(found.rows[1]["estimated_psnr"])
    assert found.table().splitlines()[2].split()[-5] == "-"


def test_gains_are_on_a_scale_of_255(takes):
    noisy, baseline, good, bad = takes.rows
    assert takes.baseline == baseline["name"]
    for row in (good, bad):
        for key, other in (("gain_over_input", noisy), ("gain_over_baseline", baseline)):
            assert row[key].mean == pytest.approx(other["rmse"] - row["rmse"])
            assert row[key].low < row[key].mean < row[key].high


def test_residuals_are_described(takes):
    row = takes.rows[2]
    residual = [255 * (each - GOOD.denoise(each)) for each in FIRST]
    assert row["residual"] == pytest.approx(np.mean([each.std() for each in residual]), rel=1e-6)
    # a blur takes from a pixel what it gives to its neighbours
    assert row["correlation"].value < -0.1
    assert (abs(row["correlation"].down), abs(row["correlation"].right)) in [(0, 1), (1, 0)]
    assert "white" not in str(row["correlation"])


def test_verdicts_of_two_exposures(takes):
    good, bad = takes.verdicts
    assert good.text.startswith("good: worse than the best classical filter, total variation")
    assert good.outcome == "worse"
    assert bad.text.startswith("bad: worse than the noisy input by ")
    assert bad.text.endswith("don't use it on data like this (4 scenes only: a rough interval)")
    assert bad.outcome == "harmful"


def test_correlated_noise_of_two_exposures_is_named():
    smooth = [
        CLEAN
        + ndimage.gaussian_filter(RNG.normal(0, 0.3, CLEAN.shape), (0, 1, 1)).astype(np.float32)
        for _ in range(2)
    ]
    found = measure(collection(*smooth), [GOOD], against=[])
    # a Gaussian's autocorrelation is exp(-d² / 4 sigma²)
    assert Peak(**found.measurement.noise["correlation"]).value == pytest.approx(
        math.exp(-1 / 4), abs=0.03
    )
    assert "it is correlated, +0.7" in words(found)


def test_a_prediction_does_not_see_its_pixel():
    picture = FIRST[0][:32, :32]
    before = predict(GOOD.denoise, picture)
    changed = picture.copy()
    changed[10, 13] += 5
    after = predict(GOOD.denoise, changed)
    assert after[10, 13] == before[10, 13]
    assert after[10, 14] != before[10, 14]
    colour = np.repeat(changed[..., None], 3, axis=2)
    np.testing.assert_allclose(predict(blur(0.7), colour)[..., 1].shape, after.shape)


def test_only_the_grids_asked_for_are_predicted():
    some = predict(GOOD.denoise, FIRST[0][:32, :32], [(0, 0), (3, 3)])
    assert np.isfinite(some).sum() == 2 * 8 * 8
    whole = predict(GOOD.denoise, FIRST[0][:32, :32])
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(some[3::4, 3::4], whole[3::4, 3::4])


def test_distance_alone_is_the_predictions_error_and_the_noise(alone):
    predicted = [predict(GOOD.denoise, each) for each in FIRST]
    error = np.mean((np.array(predicted) - CLEAN) ** 2)
    expected = 255 * math.sqrt(error + SIGMA**2)
    # the mixed term has mean 0 and a standard deviation of 2 sigma sqrt(error / N)
    assert alone.rows[2]["rmse"] == pytest.approx(expected, rel=0.02)
    assert "level" not in alone.measurement.noise


def test_alone_ranks_like_a_reference(alone):
    filtered, good, bad = alone.rows[1:]
    assert filtered["rmse"] <= good["rmse"] < bad["rmse"]
    assert "bad: worse than the mean of the four neighbours" in alone.verdicts[1].text
    text = words(alone)
    assert "what it cannot say: a PSNR" in text
    assert "est. PSNR" not in text
    assert f"filters tuned on the middle 256 x 256 pixels of {COUNT} of the images" in text


def test_tuning_alone_predicts_a_quarter_of_the_pixels():
    seen = []

    def watched(picture):
        seen.append(picture.shape)
        return picture

    loss, rough = METRICS[metric_of(ALONE)].tuning([(FIRST[0],)])
    some = loss(watched)
    assert len(seen) == len(PHASES) == 4
    every = np.mean((predict(lambda picture: picture, FIRST[0]) - FIRST[0]) ** 2)
    assert some == pytest.approx(every, rel=0.1)
    steps = np.diff(FIRST[0], axis=0)
    assert rough == pytest.approx(math.sqrt(np.mean(steps**2) / 2))
    assert SIGMA < rough < 2 * SIGMA


@pytest.mark.parametrize(("sigma", "kind"), [(0, "gaussian"), (1, "correlated")])
def test_no_verdict_where_neighbours_predict_the_noise(sigma, kind):
    clean = make_pairs(1, seed=4)[1]
    noise = ndimage.gaussian_filter(RNG.normal(0, 1, clean.shape), (0, sigma, sigma))
    # within black and white, so that nothing else is remarkable
    noisy = (0.2 + 0.6 * clean + 0.05 * noise / noise.std()).astype(np.float32)
    found = measure(collection(noisy, roles=ALONE), [GOOD], against=[])
    assert found.measurement.noise["kinds"] == [kind]
    (verdict,) = found.verdicts
    assert ("no verdict, because the noise is correlated" in verdict.text) == bool(sigma)
    assert (verdict.outcome is None) == bool(sigma)


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [("gaussian", True), ("poisson", True), ("unclear", True), ("impulse", True),
     ("correlated", False), ("compressed", False), ("stripes", False)],
)  # fmt: skip
def test_noise_that_neighbours_predict_allows_no_verdict(kind, verdict, alone):
    changed = dataclasses.replace(alone.measurement, noise={"kinds": ["clean", kind]})
    found = summarize(changed).verdicts
    assert [each.outcome is not None for each in found] == [verdict] * 2
    assert (f"because the noise is {kind}:" in found[0].text) is not verdict


@pytest.mark.parametrize(
    ("value", "words"), [(0.049, "white"), (0.051, "correlated, +0.05 (1, 2)")]
)
def test_noise_is_white_below_a_correlation_of_a_twentieth(value, words, takes):
    noise = {"level": 20.0, "correlation": {"value": value, "down": 1, "right": 2}}
    text = summarize(dataclasses.replace(takes.measurement, noise=noise)).table()
    assert f"from the difference of two; it is {words}" in " ".join(text.split())


def test_correlations_are_seen_up_to_eight_pixels():
    images = [each + 0.5 * np.roll(each, 8, axis=1) for each in RNG.normal(0, 0.05, (2, 2, 96, 96))]
    noisy = (0.5 + np.array(images)).astype(np.float32)
    found = measure(collection(*noisy), [GOOD], against=[])
    peak = Peak(**found.measurement.noise["correlation"])
    assert (abs(peak.down), peak.right) in ((8, 0), (0, 8))


def test_the_protocol_says_how(takes, alone):
    assert "first exposure denoised, compared with the second; the middle 1024 x 1024" in words(
        takes
    )
    assert "its prediction from the others, 4² grids; the middle 1024 x 1024" in words(alone)


def test_one_image_is_cut_into_tiles():
    found = measure(collection(FIRST[:1], SECOND[:1]), [GOOD], against=[])
    assert found.measurement.samples == ["tile 0"]  # 96 pixels: one tile of 64
    large = np.tile(FIRST[:1], (1, 2, 2)), np.tile(SECOND[:1], (1, 2, 2))
    found = measure(collection(*large), [GOOD], against=[])
    assert found.measurement.samples == [f"tile {i}" for i in range(9)]
    assert found.verdicts[0].text.endswith("(on one scene; says nothing about others)")
    assert "(paired bootstrap over 9 tiles of the image)" in words(found)


def test_an_image_too_small_for_an_interval_gets_none():
    small = collection(FIRST[:1, :64, :64], SECOND[:1, :64, :64])
    shifted = Contender("shifted", lambda picture: picture + np.float32(0.3))
    found = measure(small, [GOOD, shifted], against=["tv"])
    good, worse = found.verdicts
    assert "nan" not in found.table() + good.text
    assert "too small for an interval" in words(found)
    assert good.outcome in ("better", "worse")
    assert worse.outcome == "harmful"
    assert "worse than the noisy input" in worse.text


def test_of_large_images_the_middle_is_scored():
    shown = []

    def watched(picture):
        shown.append(picture.shape)
        return picture

    large = np.tile(FIRST[:1], (1, 12, 1))
    other = np.tile(SECOND[:1], (1, 12, 1))
    found = measure(collection(large, other), [Contender("same", watched)], against=[])
    assert set(shown) == {(SIDE, 96)}
    assert found.measurement.pixels == [SIDE * 96]


def test_it_is_saved_and_comes_back(takes, alone, tmp_path):
    for found in (takes, alone):
        found.save_all(tmp_path)
        saved = json.loads((tmp_path / "results.json").read_text("utf-8"))
        assert saved["rows"][2]["rmse"] == found.rows[2]["rmse"]
        assert saved["verdicts"][0]["outcome"] == found.verdicts[0].outcome
        lines = (tmp_path / "images.jsonl").read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        assert len(rows) == COUNT * len(found.rows)
        squares = [row["rmse"] ** 2 for row in rows if row["denoiser"] == "good"]
        assert math.sqrt(np.mean(squares)) == pytest.approx(found.rows[2]["rmse"])
        again = results.load(tmp_path / "results.json")
        assert again.protocol == found.measurement.protocol
        assert str(summarize(again)) == str(found)


def test_what_is_scored_otherwise_is_no_part_of_the_same_table(takes, alone):
    assert len(scores.merge([takes.measurement, alone.measurement])) == 2
    apart = scores.differences(takes.measurement.protocol, alone.measurement.protocol)
    assert "metric: exposures / self-prediction" in apart


def test_tiny_images_are_refused():
    small = collection(FIRST[:, :20, :20], roles=ALONE)
    with pytest.raises(UserError, match=r"image 0: 20 x 20 pixels; .* at least 32 x 32"):
        measure(small, [GOOD], against=[])
    just = measure(collection(FIRST[:, :32, :32], roles=ALONE), [GOOD], against=[])
    assert len(just.measurement.images) == COUNT


def test_the_same_exposure_twice_is_refused():
    with pytest.raises(UserError, match="the noisy and the noisy-too image are the same"):
        measure(collection(FIRST, FIRST), [GOOD], against=[])


def test_examined_digest_is_of_the_pixels():
    assert cases.examine(collection(FIRST, SECOND)).cases[0].digest
