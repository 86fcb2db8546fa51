import csv
import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from snowmelt import results, scores
from snowmelt.errors import UserError
from snowmelt.results import summarize
from snowmelt.scores import BUNDLED, FILTER, INPUT, MODEL, Measurement, Protocol, Scores

SAVED = Path(__file__).parent / "saved"
SCENES = [f"scene {i}" for i in range(10)]
RNG = np.random.default_rng(0)
JITTER = RNG.normal(0, 0.3, 10)
BASE = 28 + RNG.normal(0, 2, 10)


def protocol(**changes):
    plain = Protocol(
        data="some images", images=10, scenes=10, sha256="ab" * 32, low=0, high=255, whole=True,
        noise="gaussian:25", seed=0, versions={"snowmelt": "0.1.0"},
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def scored(name, kind, psnr, ssim=0.8, details=None):
    count = len(psnr)
    values = {"psnr": [*map(float, psnr)], "ssim": [ssim] * count, "seconds": [0.5] * count}
    return Scores(name=name, kind=kind, details=details or {}, values=values, memory=12.0)


def measured(*models, filters=True, scenes=SCENES, stamp=None):
    classical = [scored("blur", FILTER, BASE + 4, 0.7), scored("median", FILTER, BASE + 5, 0.75)]
    rows = [scored("noisy input", INPUT, BASE, 0.4), *(classical if filters else []), *models]
    return Measurement(
        protocol=stamp or protocol(),
        tuning="3 other images",
        machine="2 processor cores",
        images=[f"image {i}" for i in range(len(scenes))],
        scenes=[*scenes],
        pixels=[250_000] * len(scenes),
        scores=rows,
    )


def judged(*models, **options):
    """Text and outcome of the only verdict."""
    (verdict,) = summarize(measured(*models, **options)).verdicts
    return verdict.text, verdict.outcome


def test_gains_are_paired_and_over_the_best_filter():
    found = summarize(measured(scored("ours", MODEL, BASE + 6 + JITTER)))
    noisy, blur, median, ours = found.rows
    assert found.baseline == "median"
    assert ours["psnr"] == pytest.approx(np.mean(BASE + 6 + JITTER))
    gain = ours["gain_over_baseline"]
    assert gain.mean == pytest.approx(1 + JITTER.mean())
    assert ours["gain_over_input"].mean == pytest.approx(6 + JITTER.mean())
    # of the jitter, not of the images, which differ by 2 dB
    assert gain.half == pytest.approx(1.96 * JITTER.std() / math.sqrt(10), rel=0.15)
    assert blur["gain_over_baseline"].mean == pytest.approx(-1)
    assert ours["ssim_gain_over_baseline"].mean == pytest.approx(0.05)
    assert median["gain_over_baseline"].mean == 0
    assert noisy["gain_over_input"].mean == 0
    assert ours["seconds_per_megapixel"] == pytest.approx(2)


def test_the_table_is_aligned_and_says_how_it_was_measured():
    text = summarize(measured(scored("ours", MODEL, BASE + 6))).table()
    lines = text.splitlines()
    assert lines[0].split("  ")[-1].strip() == "MB"
    assert len({len(line) for line in lines[:5]}) == 1
    assert max(map(len, lines)) <= 100
    assert "+1.00 ± 0.00" in lines[4]
    assert lines[4].split()[-2:] == ["2", "12"]
    assert lines[1].split()[-2:] == ["-", "-"]  # the noisy input takes no time
    assert lines[3].split()[2] == "-"  # the best filter has no gain over itself
    flat = " ".join(text.split())
    for words in (
        "gain: over median, ± half-width of the 95% interval (paired bootstrap, 10,000 draws of 10 scenes)",
        "filters tuned on 3 other images",
        "protocol: 10 images of 10 scenes; some images (sha256 abababababab); noise gaussian:25, seed 0 for "
        "each image, not clipped; outputs clipped to [0, 255], rounded to whole values; data range 255; no "
        "border cut; means of the images' values; PSNR over all pixels and channels",
        "SSIM of Wang et al. 2004: 11 x 11 Gaussian window",
        "snowmelt 0.1.0",
    ):
        assert words in flat


@pytest.mark.parametrize(
    ("psnr", "outcome", "words"),
    [
        (BASE + 6 + JITTER, "better",
         r"^ours: better than the best classical filter, median, by \S+ ± 0.1\d dB$"),
        (BASE + 5 - JITTER.mean() + JITTER, "same",
         r"^ours: no different from the best classical filter, median \([+-]0.00 ± 0.1\d dB\)$"),
        (BASE + 4 + JITTER, "worse",
         r"^ours: worse than the best classical filter, median, by \d\S+ ± 0\.1\d dB"),
        (BASE - 1 + JITTER, "harmful",
         r"^ours: worse than the noisy input by \d\S+ ± 0\.1\d dB: don't use it on"),
        (BASE, "harmful", r"^ours: no better than the noisy input \(\+0.00 ± 0.00 dB\): don't"),
        (BASE - JITTER.mean() + 0.01 + JITTER, "harmful",
         r"^ours: no better than the noisy input \(\+0.01 .* dB\): don't"),
    ],
)  # fmt: skip
def test_verdict(psnr, outcome, words):
    text, found = judged(scored("ours", MODEL, psnr, 0.75))
    assert re.search(words, text), text
    assert found == outcome


def test_verdict_says_where_ssim_is_of_another_mind():
    text, _ = judged(scored("ours", MODEL, BASE + 6, 0.6))
    assert text.endswith("SSIM says the opposite (-0.1500 ± 0.0000)")
    text, _ = judged(scored("ours", MODEL, BASE + 4, 0.9))
    assert text.endswith("SSIM says the opposite (+0.1500 ± 0.0000)")
    for better in (BASE + 6, BASE + 4):
        assert "SSIM" not in judged(scored("ours", MODEL, better, 0.75))[0]


@pytest.mark.parametrize(("scenes", "rough"), [(2, True), (7, True), (8, False)])
def test_verdict_on_few_scenes(scenes, rough):
    images = [f"scene {i % scenes}" for i in range(10)]
    text, _ = judged(scored("ours", MODEL, BASE + 6), scenes=images)
    assert text.endswith(f"({scenes} scenes only: a rough interval)") == rough


def test_verdict_on_one_scene():
    text, outcome = judged(scored("ours", MODEL, BASE + 6), scenes=["a"] * 10)
    assert "by 1.00 dB (on one scene; says nothing about others)" in text
    assert outcome == "better"
    text, outcome = judged(scored("ours", MODEL, BASE - 6), scenes=["a"] * 10)
    assert "worse than the noisy input by 6.00 dB: don't use it" in text
    assert outcome == "harmful"


def test_verdict_without_filters_and_without_models():
    text, outcome = judged(scored("ours", MODEL, BASE + 6), filters=False)
    assert "better than the noisy input by 6.00 ± 0.00 dB (no filter was compared)" in text
    assert outcome == "better"
    text, outcome = judged()
    assert text.startswith("median: better than the noisy input by 5.00 ± 0.00 dB (no model was")
    assert summarize(measured(filters=False)).verdicts == ()


@pytest.mark.parametrize(
    ("base", "said"),
    [(7, True), (6.0, False), (5.5, False), (4, False), (-1, False)],
)
def test_a_better_bundled_model_is_recommended(base, said):
    bundled = scored("base (bundled)", BUNDLED, BASE + base)
    ours = scored("ours", MODEL, BASE + 6)
    verdict, *more = summarize(measured(bundled, ours)).verdicts
    assert verdict.outcome == "better"
    assert len(more) == said
    if said:
        assert more[0].text == "base (bundled) is better than ours, by 1.00 ± 0.00 dB: use it"
        assert more[0].outcome == "worse"


@pytest.mark.parametrize(("base", "filters"), [(4, True), (-1, False), (0, False)])
def test_a_bundled_model_worse_than_all_else_is_not_recommended(base, filters):
    bundled = scored("base (bundled)", BUNDLED, BASE + base)
    bad = scored("bad", MODEL, BASE - 3)
    found = summarize(measured(bundled, bad, filters=filters))
    assert [each.outcome for each in found.verdicts] == ["harmful"]


def test_what_is_saved_comes_back(tmp_path):
    found = summarize(measured(scored("ours", MODEL, BASE + 6, math.nan, {"sha256": "cd"})))
    found.save(tmp_path / "results.json")
    again = results.load(tmp_path / "results.json")
    assert str(summarize(again)) == str(found)
    assert again.protocol == found.measurement.protocol
    assert again.scores[0] == found.measurement.scores[0]
    saved = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert saved == results.read(tmp_path / "results.json")
    assert saved["rows"][3]["ssim"] is None
    assert saved["verdicts"] == [{"text": str(found.verdicts[0]), "outcome": "better"}]
    assert saved["protocol"] == str(found.measurement.protocol)
    assert saved["baseline"] == "median"


def test_rows_have_their_protocol_each(tmp_path):
    found = measured(scored("ours", MODEL, BASE + 6, math.nan))
    summarize(found).save_all(tmp_path)
    lines = (tmp_path / "images.jsonl").read_text("utf-8").splitlines()
    with (tmp_path / "images.csv").open(newline="", encoding="utf-8") as file:
        table = [*csv.DictReader(file)]
    assert len(lines) == len(table) == 10 * 4
    last = json.loads(lines[-1])
    assert last["denoiser"] == "ours"
    assert last["psnr"] == float(table[-1]["psnr"]) == BASE[-1] + 6
    assert last["ssim"] is None
    assert {row["protocol"] for row in table} == {last["protocol"]} == {str(found.protocol)}


def test_only_what_was_measured_alike_comes_into_one_table():
    one = measured(scored("ours", MODEL, BASE + 6))
    other = measured(scored("theirs", MODEL, BASE + 7))
    (together,) = scores.merge([one, other])
    assert [each.name for each in together.scores] == [
        "noisy input", "blur", "median", "ours", "theirs",
    ]  # fmt: skip
    assert "NOT comparable" not in results.tables([one, other])


@pytest.mark.parametrize(
    "change",
    [
        {"noise": "gaussian:50"}, {"sha256": "ef" * 32}, {"high": 65535.0}, {"whole": False},
        {"border": 4}, {"ssim": "another"}, {"seed": 1}, {"stored": True}, {"versions": {"snowmelt": "9"}},
    ],
)  # fmt: skip
def test_what_was_measured_differently_never_does(change):
    one = measured(scored("ours", MODEL, BASE + 6))
    other = measured(scored("theirs", MODEL, BASE + 7), stamp=protocol(**change))
    assert len(scores.merge([one, other])) == 2
    text = results.tables([one, other])
    first, second = text.split("NOT comparable with the first table, measured differently: ")
    assert "theirs" not in first
    assert "ours:" not in second
    assert second.startswith(f"{next(iter(change))}: ")


def test_two_models_of_one_name_stay_two():
    one = measured(scored("model.onnx", MODEL, BASE + 6, details={"sha256": "a"}))
    other = measured(scored("model.onnx", MODEL, BASE + 7, details={"sha256": "b"}))
    (together,) = scores.merge([one, other])
    assert [each.name for each in together.scores][-2:] == ["model.onnx", "model.onnx, another one"]
    assert len(scores.merge([one, one])[0].scores) == len(one.scores)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "not results of"),
        ("no json", "not results of"),
        ("[1]", "not results of"),
        ('{"format": 9}', "format 9; this version reads 1 to 2"),
        ('{"format": 1, "measurement": {}}', "not results of"),
    ],
)
def test_files_that_are_no_results(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=words):
        results.load(tmp_path / "a.json")
    with pytest.raises(UserError, match=words):
        results.read(tmp_path / "a.json")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"a\.json: cannot be read: No such file"):
        results.load(tmp_path / "a.json")


def test_results_of_version_0_1_are_read():
    """As that version saved them; the outcomes come from the scores, not from its sentences."""
    path = SAVED / "reference-format-1.json"
    old, new = json.loads(path.read_text("utf-8")), results.read(path)
    assert new["format"] == 2
    assert [row["kind"] for row in new["rows"]] == ["input", "filter", "model"]
    for before, after in zip(old["scores"], new["rows"], strict=True):
        for name in ("psnr", "ssim", "memory"):
            assert after[name] == pytest.approx(before[name], abs=2e-6)
        for was, now in (
            ("gain", "gain_over_input"), ("lead", "gain_over_baseline"),
            ("lead_ssim", "ssim_gain_over_baseline"),
        ):  # fmt: skip
            assert after[now] == pytest.approx(before[was], abs=2e-6)
    (verdict,) = new["verdicts"]
    assert verdict["outcome"] == "harmful"
    assert "half: worse than the noisy input by 9.01 ± 1.26 dB" in verdict["text"]
    assert "half: worse than the noisy input" in results.tables([results.load(path)])


def test_results_without_a_reference_of_version_0_1_are_shown_but_not_joined():
    path = SAVED / "exposures-format-1.json"
    old, new = json.loads(path.read_text("utf-8")), results.read(path)
    assert [row["rmse"] for row in new["rows"]] == [row["distance"] for row in old["scores"]]
    assert new["rows"][2]["gain_over_baseline"] == old["scores"][2]["lead"]
    assert new["rows"][2]["residual"] == old["scores"][2]["removed"]
    assert new["baseline"] == old["opponent"]
    assert new["verdicts"] == [{"text": old["verdicts"][0], "outcome": None}]
    with pytest.raises(UserError, match="did not keep the scores of each image; evaluate again"):
        results.load(path)
