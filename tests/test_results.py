import csv
import dataclasses
import json
import math
import re

import numpy as np
import pytest

from snowmelt import results
from snowmelt.errors import UserError
from snowmelt.results import FILTER, MODEL, NOTHING, Marks, Protocol, Results

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


def marks(name, kind, psnr, ssim=0.8, details=None):
    count = len(psnr)
    return Marks(
        name=name, kind=kind, details=details or {}, psnr=[*map(float, psnr)], ssim=[ssim] * count,
        seconds=[0.5] * count, memory=12.0,
    )  # fmt: skip


def measured(*models, filters=True, scenes=SCENES, stamp=None):
    classical = [marks("blur", FILTER, BASE + 4, 0.7), marks("median", FILTER, BASE + 5, 0.75)]
    rows = [marks("noisy, as it is", NOTHING, BASE, 0.4), *(classical if filters else []), *models]
    return Results(
        protocol=stamp or protocol(),
        tuning="3 other images",
        machine="2 processor cores",
        images=[f"image {i}" for i in range(len(scenes))],
        scenes=[*scenes],
        pixels=[250_000] * len(scenes),
        marks=rows,
    )


def test_leads_are_paired_and_over_the_best_filter():
    found = measured(marks("ours", MODEL, BASE + 6 + JITTER))
    noisy, blur, median, ours = results.summarize(found)
    assert ours.psnr == pytest.approx(np.mean(BASE + 6 + JITTER))
    assert ours.lead.mean == pytest.approx(1 + JITTER.mean())
    assert ours.gain.mean == pytest.approx(6 + JITTER.mean())
    # of the jitter, not of the images, which differ by 2 dB
    assert ours.lead.half == pytest.approx(1.96 * JITTER.std() / math.sqrt(10), rel=0.15)
    assert blur.lead.mean == pytest.approx(-1)
    assert ours.lead_ssim.mean == pytest.approx(0.05)
    assert median.lead.mean == 0
    assert noisy.gain.mean == 0
    assert ours.seconds_per_megapixel == pytest.approx(2)


def test_the_table_is_aligned_and_says_how_it_was_measured():
    text = results.table(measured(marks("ours", MODEL, BASE + 6)))
    lines = text.splitlines()
    assert lines[0].split("  ")[-1].strip() == "MB"
    assert len({len(line) for line in lines[:5]}) == 1
    assert max(map(len, lines)) <= 100
    assert "+1.00 ± 0.00" in lines[4]
    assert lines[4].split()[-2:] == ["2", "12"]
    flat = " ".join(text.split())
    for words in (
        "lead: over median, ± half of the 95% interval (paired bootstrap, 10,000 draws of 10 scenes)",
        "filters tuned on 3 other images",
        "protocol: 10 images of 10 scenes; some images (sha256 abababababab); noise gaussian:25, seed 0 for "
        "each image, not clipped; outputs clipped to [0, 255], rounded to whole values; data range 255; no "
        "border cut; means of the images' values; PSNR over all pixels and channels",
        "SSIM of Wang et al. 2004: 11 x 11 Gaussian window",
        "snowmelt 0.1.0",
    ):
        assert words in flat


@pytest.mark.parametrize(
    ("psnr", "words"),
    [
        (BASE + 6 + JITTER, r"^ours: better than the best classical filter, median, by \S+ ± 0.1\d dB$"),
        (BASE + 5 - JITTER.mean() + JITTER, r"^ours: no different from .*\([+-]0.00 ± 0.1\d dB\)$"),
        (BASE + 4 + JITTER, r"^ours: worse than the best classical filter, median, by \S+ ± 0\.1\d dB"),
        (BASE - 1 + JITTER, r"^ours: worse than doing nothing by \S+ ± 0\.1\d dB: don't use it on"),
        (BASE - JITTER.mean() + 0.01 + JITTER, r"^ours: no better than doing nothing \(\+0.01 .*don"),
    ],
)  # fmt: skip
def test_verdict(psnr, words):
    (line,) = results.verdicts(measured(marks("ours", MODEL, psnr, 0.75)))
    assert re.search(words, line), line


def test_verdict_says_where_ssim_is_of_another_mind():
    (line,) = results.verdicts(measured(marks("ours", MODEL, BASE + 6, 0.6)))
    assert line.endswith("SSIM says the opposite (-0.1500 ± 0.0000)")


def test_verdict_on_few_scenes_and_on_one():
    (line,) = results.verdicts(measured(marks("ours", MODEL, BASE + 6), scenes=["a", "b"] * 5))
    assert line.endswith("(2 scenes only: a rough interval)")
    (line,) = results.verdicts(measured(marks("ours", MODEL, BASE + 6), scenes=["a"] * 10))
    assert "by 1.00 dB (on one scene" in line
    (line,) = results.verdicts(measured(marks("ours", MODEL, BASE - 6), scenes=["a"] * 10))
    assert "worse than doing nothing by 6.00 dB: don't use it" in line


def test_verdict_without_filters_and_without_models():
    (line,) = results.verdicts(measured(marks("ours", MODEL, BASE + 6), filters=False))
    assert "better than doing nothing by 6.00 ± 0.00 dB (no filter was held against it)" in line
    (line,) = results.verdicts(measured())
    assert line.startswith("median: better than doing nothing by 5.00")
    assert results.verdicts(measured(filters=False)) == []


def test_what_is_saved_comes_back(tmp_path):
    found = measured(marks("ours", MODEL, BASE + 6, math.nan, {"sha256": "cd"}))
    results.save(results.content(found), tmp_path / "results.json")
    again = results.load(tmp_path / "results.json")
    assert results.table(again) == results.table(found)
    assert again.protocol == found.protocol
    assert again.marks[0] == found.marks[0]
    saved = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert saved["scores"][3]["ssim"] is None
    assert saved["verdicts"] == results.verdicts(found)
    assert saved["protocol"] == str(found.protocol)


def test_rows_have_their_protocol_each(tmp_path):
    found = measured(marks("ours", MODEL, BASE + 6, math.nan))
    results.save_rows(results.rows_of(found), tmp_path)
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
    one = measured(marks("ours", MODEL, BASE + 6))
    other = measured(marks("theirs", MODEL, BASE + 7))
    (together,) = results.merge([one, other])
    assert [each.name for each in together.marks] == [
        "noisy, as it is", "blur", "median", "ours", "theirs",
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
    one = measured(marks("ours", MODEL, BASE + 6))
    other = measured(marks("theirs", MODEL, BASE + 7), stamp=protocol(**change))
    assert len(results.merge([one, other])) == 2
    text = results.tables([one, other])
    first, second = text.split("NOT comparable with the first table, measured differently: ")
    assert "theirs" not in first
    assert "ours:" not in second
    assert second.startswith(f"{next(iter(change))}: ")


def test_two_models_of_one_name_stay_two():
    one = measured(marks("model.onnx", MODEL, BASE + 6, details={"sha256": "a"}))
    other = measured(marks("model.onnx", MODEL, BASE + 7, details={"sha256": "b"}))
    (together,) = results.merge([one, other])
    assert [each.name for each in together.marks][-2:] == ["model.onnx", "model.onnx, another one"]
    assert len(results.merge([one, one])[0].marks) == len(one.marks)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "not results of"),
        ("no json", "not results of"),
        ("[1]", "not results of"),
        ('{"format": 9}', "format 9; this version reads 1"),
        ('{"format": 1, "measurement": {}}', "not results of"),
    ],
)
def test_files_that_are_no_results(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=words):
        results.load(tmp_path / "a.json")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"a\.json: cannot be read: No such file"):
        results.load(tmp_path / "a.json")
