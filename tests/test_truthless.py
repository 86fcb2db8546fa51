import json
import math

import numpy as np
import pytest
from scipy import ndimage

from snowmelt import baselines, cases, results, truthless
from snowmelt.cases import ALONE, TAKES, Case, Collection, Scale
from snowmelt.errors import UserError
from snowmelt.evaluation import Contender
from snowmelt.metrics import psnr
from snowmelt.shapes import make_pairs

SIGMA = 0.1
COUNT, SIDE = 4, 96
CLEAN = make_pairs(COUNT, seed=9)[1][:, :SIDE, :SIDE]
RNG = np.random.default_rng(0)
FIRST, SECOND = (CLEAN + RNG.normal(0, SIGMA, CLEAN.shape).astype(np.float32) for _ in range(2))


def collection(*stacks, roles=TAKES):
    made = [
        Case(f"image {i}", lambda pictures=pictures: pictures)
        for i, pictures in enumerate(zip(*stacks, strict=True))
    ]
    scale = Scale(0, 1, whole=False)
    return Collection(title="made up", roles=roles, cases=tuple(made), scale=scale)


def blur(sigma):
    return lambda picture: baselines.gaussian(picture, sigma)


GOOD, BAD = Contender("good", blur(0.7)), Contender("bad", blur(8.0))


def true_distance(denoise):
    errors = [np.mean((denoise(n) - c) ** 2) for n, c in zip(FIRST, CLEAN, strict=True)]
    return 255 * math.sqrt(np.mean(errors))


@pytest.fixture(scope="module")
def takes():
    return truthless.compare(collection(FIRST, SECOND), [GOOD, BAD], against=["tv"])


@pytest.fixture(scope="module")
def alone():
    images = collection(FIRST, roles=ALONE)
    return truthless.compare(images, [GOOD, BAD], against=["gaussian"])


def test_two_takes_tell_the_noise(takes):
    # standard error of a standard deviation
    assert takes.noise == pytest.approx(255 * SIGMA, rel=5 / math.sqrt(2 * CLEAN.size))
    assert abs(takes.noise_peak.value) < 5 / math.sqrt(CLEAN.size)
    assert "it is white" in truthless.table(takes)


def test_two_takes_tell_the_psnr_without_the_truth(takes):
    for marks, denoise in ((takes.marks[2], GOOD.denoise), (takes.marks[3], BAD.denoise)):
        expected = 20 * math.log10(255 / true_distance(denoise))
        assert truthless.estimated_psnr(takes, marks) == pytest.approx(expected, abs=0.3)
    noisy = truthless.estimated_psnr(takes, takes.marks[0])
    assert noisy == pytest.approx(psnr(CLEAN, FIRST, data_range=1), abs=0.15)


def test_leads_are_in_levels(takes):
    good, bad = takes.marks[2:]
    lead = truthless.lead(takes, good, bad)
    assert lead.mean == pytest.approx(bad.distance - good.distance)
    assert lead.low < lead.mean < lead.high


def test_verdicts_of_two_takes(takes):
    good, bad = truthless.verdicts(takes)
    assert good.startswith("good: worse than the best classical filter, total variation")
    assert bad.startswith("bad: worse than doing nothing")
    assert bad.endswith("don't use it on data like this (4 scenes only: a rough interval)")


def test_correlated_noise_of_two_takes_is_named():
    smooth = [
        CLEAN
        + ndimage.gaussian_filter(RNG.normal(0, 0.3, CLEAN.shape), (0, 1, 1)).astype(np.float32)
        for _ in range(2)
    ]
    found = truthless.compare(collection(*smooth), [GOOD], against=[])
    # a Gaussian's autocorrelation is exp(-d² / 4 sigma²)
    assert found.noise_peak.value == pytest.approx(math.exp(-1 / 4), abs=0.03)
    assert "it is correlated, +0.7" in " ".join(truthless.table(found).split())


def test_a_prediction_does_not_see_its_pixel():
    picture = FIRST[0][:32, :32]
    before = truthless.predict(GOOD.denoise, picture)
    changed = picture.copy()
    changed[10, 13] += 5
    after = truthless.predict(GOOD.denoise, changed)
    assert after[10, 13] == before[10, 13]
    assert after[10, 14] != before[10, 14]
    colour = np.repeat(changed[..., None], 3, axis=2)
    np.testing.assert_allclose(truthless.predict(blur(0.7), colour)[..., 1].shape, after.shape)


def test_only_the_grids_asked_for_are_predicted():
    some = truthless.predict(GOOD.denoise, FIRST[0][:32, :32], [(0, 0), (3, 3)])
    assert np.isfinite(some).sum() == 2 * 8 * 8
    whole = truthless.predict(GOOD.denoise, FIRST[0][:32, :32])
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(some[3::4, 3::4], whole[3::4, 3::4])


def test_distance_alone_is_the_predictions_error_and_the_noise(alone):
    predicted = [truthless.predict(GOOD.denoise, each) for each in FIRST]
    error = np.mean((np.array(predicted) - CLEAN) ** 2)
    expected = 255 * math.sqrt(error + SIGMA**2)
    # the mixed term has mean 0 and a standard deviation of 2 sigma sqrt(error / N)
    assert alone.marks[2].distance == pytest.approx(expected, rel=0.02)
    assert alone.noise is None


def test_alone_ranks_like_the_truth(alone):
    filtered, good, bad = alone.marks[1:]
    assert filtered.distance <= good.distance < bad.distance
    assert "bad: worse than mean of the four neighbours" in truthless.verdicts(alone)[1]
    text = " ".join(truthless.table(alone).split())
    assert "what it cannot say: a PSNR" in text
    assert "est. PSNR" not in text


@pytest.mark.parametrize(("sigma", "kind"), [(0, "gaussian"), (1, "correlated")])
def test_no_verdict_where_neighbours_share_the_noise(sigma, kind):
    clean = make_pairs(1, seed=4)[1]
    noise = ndimage.gaussian_filter(RNG.normal(0, 1, clean.shape), (0, sigma, sigma))
    # within black and white, so that nothing else is remarkable
    noisy = (0.2 + 0.6 * clean + 0.05 * noise / noise.std()).astype(np.float32)
    found = truthless.compare(collection(noisy, roles=ALONE), [GOOD], against=[])
    assert found.kinds == [kind]
    assert ("no verdict, for the noise is correlated" in truthless.verdicts(found)[0]) == bool(
        sigma
    )


def test_one_image_is_cut_into_tiles():
    found = truthless.compare(collection(FIRST[:1], SECOND[:1]), [GOOD], against=[])
    assert len(set(found.samples)) == len(found.samples) == 1  # 96 pixels: one tile of 64
    large = np.tile(FIRST[:1], (1, 2, 2)), np.tile(SECOND[:1], (1, 2, 2))
    found = truthless.compare(collection(*large), [GOOD], against=[])
    assert len(set(found.samples)) == 9
    assert truthless.verdicts(found)[0].endswith(
        "(on one scene: what holds for others, it does not say)"
    )


def test_an_image_too_small_for_an_interval_gets_none():
    small = collection(FIRST[:1, :64, :64], SECOND[:1, :64, :64])
    nothing = Contender("nothing much", lambda picture: picture + np.float32(0.3))
    found = truthless.compare(small, [GOOD, nothing], against=["tv"])
    good, worse = truthless.verdicts(found)
    assert "nan" not in truthless.table(found) + good
    assert "too small for an interval" in truthless.table(found)
    assert "don't use it" not in good
    assert "worse than doing nothing" in worse


def test_it_is_saved_as_json_and_rows(takes, tmp_path):
    results.save(truthless.content(takes), tmp_path / "results.json")
    saved = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert saved["truth"] is False
    assert saved["scores"][2]["distance"] == takes.marks[2].distance
    rows = truthless.rows_of(takes)
    assert len(rows) == COUNT * 4
    squares = [row["distance"] ** 2 for row in rows if row["denoiser"] == "good"]
    assert math.sqrt(np.mean(squares)) == pytest.approx(takes.marks[2].distance)


def test_tiny_images_are_refused():
    with pytest.raises(UserError, match="image 0: smaller than 32 pixels"):
        truthless.compare(collection(FIRST[:, :20, :20], roles=ALONE), [GOOD], against=[])


def test_the_same_take_twice_is_refused():
    with pytest.raises(UserError, match="the noisy and the noisy-too image are the same"):
        truthless.compare(collection(FIRST, FIRST), [GOOD], against=[])


def test_examined_digest_is_of_the_pixels():
    assert cases.examine(collection(FIRST, SECOND)).cases[0].digest
