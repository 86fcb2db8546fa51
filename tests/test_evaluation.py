"""Scores with a reference, `snowmelt.compare`, and `snowmelt evaluate` from its arguments to its files."""

import json
import math
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

import snowmelt
from snowmelt import cases, evaluation, images, scores
from snowmelt.cases import PAIR, Scale
from snowmelt.cli import main
from snowmelt.errors import UserError
from snowmelt.evaluation import Contender, measure
from snowmelt.metrics import psnr, ssim
from snowmelt.shapes import make_pairs

NOISY, CLEAN = (each[:, :40, :48] for each in make_pairs(10, seed=2))
FLOATS, BYTES = Scale(0, 1, whole=False), Scale(0, 255, whole=True)
KINDS = ("input", "filter", "model")


def collection(noisy=NOISY, clean=CLEAN, scale=FLOATS, title="made up"):
    return cases.from_pictures([*zip(noisy, clean, strict=True)], PAIR, title=title, scale=scale)


def score(collection, denoisers, **options):
    contenders = [Contender(name, denoise) for name, denoise in denoisers.items()]
    return measure(collection, contenders, **options)


def cheat(picture):
    """Nearly the reference: finds the picture it was given."""
    place = int(np.argmin([np.abs(picture - each).sum() for each in NOISY]))
    return 0.9 * CLEAN[place] + 0.1 * picture


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import torch

    from snowmelt import modelfile
    from snowmelt.models import RecipeCNN

    torch.manual_seed(0)
    network = RecipeCNN((2,))
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    modelfile.write(path, network, modelfile.make_header(network))
    return path


def test_scores_are_those_of_clipped_outputs():
    found = score(collection(), {"cheat": cheat}, against=["median"], tuning=None)
    noisy, median, ours = found.rows
    assert [each["kind"] for each in (noisy, median, ours)] == [*KINDS]
    scored = [i for i in range(10) if i not in (0, 5)]  # one scene in five is held aside
    assert found.measurement.images == [f"{i:04d}" for i in scored]
    assert "2 of the 10 images, held aside" in found.measurement.tuning
    outputs = {i: np.clip(cheat(NOISY[i]), 0, 1) for i in scored}
    expected = np.mean([psnr(CLEAN[i], outputs[i], data_range=1) for i in scored])
    assert ours["psnr"] == pytest.approx(expected, abs=1e-9)
    expected = np.mean([ssim(CLEAN[i], outputs[i], data_range=1) for i in scored])
    assert ours["ssim"] == pytest.approx(expected, abs=1e-9)
    assert noisy["psnr"] < median["psnr"] < ours["psnr"]
    (verdict,) = found.verdicts
    assert "cheat: better than the best classical filter, median (size" in verdict.text
    assert verdict.outcome == "better"


def test_outputs_of_integers_are_rounded():
    clean = (np.rint(CLEAN[:2] * 255) / 255).astype(np.float32)
    # a fifth of a level off, which rounding takes away, and half a level more than that, which it does not
    near, far = clean + np.float32(0.2 / 255), clean + np.float32(0.7 / 255)
    found = score(
        collection(NOISY[:2], clean, BYTES),
        {"near": lambda p: near[int(p[0, 0] != NOISY[0, 0, 0])],
         "far": lambda p: far[int(p[0, 0] != NOISY[0, 0, 0])]},
        against=[],
    ).measurement  # fmt: skip
    assert found.scores[1].values["psnr"] == [math.inf, math.inf]
    white = np.mean(clean == 1, axis=(1, 2))  # clipped, they stay right
    expected = 20 * np.log10(255) - 10 * np.log10(1 - white)
    np.testing.assert_allclose(found.scores[2].values["psnr"], expected, atol=1e-6)
    assert found.protocol.whole
    assert found.protocol.high == 255


def test_exposures_of_a_scene_are_held_aside_together():
    noisy = np.concatenate([NOISY, NOISY[:, ::-1] + 0.01])
    doubled = collection(noisy, np.concatenate([CLEAN, CLEAN]))
    found = score(doubled, {}, against=["median"]).measurement
    assert found.protocol.scenes == 8
    assert found.protocol.images == 16
    assert not {"0000", "0010", "0005", "0015"} & set(found.images)


def test_filters_are_tuned_on_other_images_where_there_are_some():
    tuning = collection(NOISY[5:], CLEAN[5:], title="others")
    scored = collection(NOISY[:6], CLEAN[:6])
    found = score(scored, {}, against=["median"], tuning=tuning).measurement
    assert len(found.images) == 6
    assert found.tuning == "4 images, others (1 more are among the scored and were left out)"
    with pytest.raises(UserError, match="filters are tuned on others"):
        score(collection(NOISY[5:], CLEAN[5:]), {}, against=["median"], tuning=tuning)


def test_tuning_does_not_see_what_is_scored(monkeypatch):
    seen = []
    tune = evaluation.baselines.tune

    def watched(loss, noise, each):
        seen.append(loss(lambda picture: picture))
        return tune(loss, noise, each)

    monkeypatch.setattr(evaluation.baselines, "tune", watched)
    found = score(collection(), {}, against=["median"]).measurement
    clipped = [psnr(CLEAN[i], np.clip(NOISY[i], 0, 1), data_range=1) for i in (0, 5)]
    assert seen == [pytest.approx(-np.mean(clipped), abs=1e-9)]
    assert not {"0000", "0005"} & set(found.images)


def test_at_most_sixteen_images_tune():
    tuning = [*range(3, 10), *range(3, 10), *range(3, 10)]
    shifted = np.stack([CLEAN[i] * (1 - n / 99) for n, i in enumerate(tuning, 1)])
    others = collection(shifted + np.float32(0.1), shifted, title="others")
    found = score(collection(), {}, against=["median"], tuning=others).measurement
    assert found.tuning == "16 images, others"


def test_filters_are_tuned_on_the_middle_of_images():
    large = np.zeros((2, 300, 280), np.float32)
    large[1] = 0.5
    large[:, 22:278, 12:268] += 0.25  # the middle 256 x 256
    pairs = collection(large + np.float32(0.1), large, title="others")
    _, views, said = evaluation._tuning_views(cases.examine(collection()), pairs)
    assert said == "2 images, others"
    assert [view[1].shape for view in views] == [(256, 256)] * 2
    assert [float(view[1].min()) for view in views] == [0.25, 0.75]


def test_one_scene_cannot_tune_and_score():
    with pytest.raises(UserError, match=r"one scene only.*--tune.*--against none"):
        score(collection(NOISY[:1], CLEAN[:1]), {}, against=["median"])
    found = score(collection(NOISY[:1], CLEAN[:1]), {}, against=[])
    assert len(found.measurement.images) == 1


def test_colours_are_scored_over_all_channels():
    noisy, clean = (np.stack([each[:3], each[3:6], each[6:9]], -1) for each in (NOISY, CLEAN))
    found = score(collection(noisy, clean), {"same": lambda p: p}, against=["tv"]).measurement
    expected = psnr(clean[1], np.clip(noisy[1], 0, 1), data_range=1)
    assert found.scores[2].values["psnr"][0] == pytest.approx(expected, abs=1e-9)
    expected = ssim(clean[1], np.clip(noisy[1], 0, 1), data_range=1, channel_axis=-1)
    assert found.scores[2].values["ssim"][0] == pytest.approx(expected, abs=1e-9)
    with pytest.raises(UserError, match="one is grey, one in colour"):
        score(collection(noisy, clean), {}, tuning=collection())


def test_images_below_the_window_have_no_ssim():
    found = score(collection(NOISY[:, :8], CLEAN[:, :8]), {}, against=["median"])
    assert math.isnan(found.rows[0]["ssim"])
    assert "none for images smaller than its window" in found.table()
    assert found.table().splitlines()[1].split()[-4] == "-"


def test_an_output_that_is_not_finite_is_named():
    broken = {"broken": lambda picture: np.full_like(picture, np.nan)}
    with pytest.raises(UserError, match="broken: its output for 0000 is not finite"):
        score(collection(), broken, against=[])


def test_seconds_and_memory_are_of_the_call_alone():
    calls = []

    def greedy(picture):
        calls.append(1)
        return picture + np.ones(4_000_000)[0].astype(np.float32) * 0

    found = score(collection(NOISY[:3], CLEAN[:3]), {"greedy": greedy}, against=[])
    assert len(calls) == 4  # once more than there are images, before the clock runs
    scored = found.measurement.scores[1]
    assert len(scored.values["seconds"]) == 3
    if not math.isnan(scored.memory):
        assert scored.memory == pytest.approx(32, rel=0.2)


def test_the_stamp_tells_data_apart():
    one, other = collection(), collection(NOISY + np.float32(0.001))
    first, again, second = (
        score(each, {}, against=[]).measurement.protocol for each in (one, collection(), other)
    )
    assert first == again
    assert first.sha256 != second.sha256
    assert scores.differences(first, second)[0].startswith("sha256: ")
    assert {"snowmelt", "numpy", "scikit-image"} <= {*first.versions}


def test_a_file_of_pairs_from_the_command_line(pairs_file, model, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("evaluate", "--data", pairs_file, "--model", model, "--quiet", "-o", out) == 0
    text = capsys.readouterr().out
    assert "filters tuned on 8 images, train arrays of pairs.h5" in text
    last = text.splitlines()[-1]
    saved = json.loads((out / "results.json").read_text("utf-8"))
    verdict, *more = saved["verdicts"]
    assert verdict["text"].startswith("model.onnx: worse than the noisy input by")
    assert "don't use it on data like this" in verdict["text"]
    assert verdict["outcome"] == "harmful"
    assert last == [verdict, *more][-1]["text"]
    assert saved["rows"][0]["name"] == "noisy input"
    assert [row["name"] for row in saved["rows"]][-2:] == ["base (bundled)", "model.onnx"]
    assert saved["measurement"]["scores"][-1]["details"]["precision"] in ("bf16", "f32")
    assert len((out / "images.jsonl").read_text("utf-8").splitlines()) == 2 * 8
    assert run("evaluate", "--data", pairs_file, "--quiet", "-o", out) == 2
    assert "holds results already" in capsys.readouterr().err
    assert run("evaluate", "--results", out, out / "results.json") == 0
    assert capsys.readouterr().out.splitlines()[-1] == last


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name, stack in (("noisy", NOISY), ("clean", CLEAN), ("too", NOISY[::-1])):
        (tmp_path / name).mkdir()
        for i, picture in enumerate(stack[:5]):
            pixels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
            images.write(tmp_path / name / f"{i}.png", pixels)
    return tmp_path


def test_folders_from_the_command_line(folders, model, capsys):
    where = ("--noisy", folders / "noisy", "--clean", folders / "clean")
    assert run("evaluate", *where, "--against", "median,gaussian", "--quiet") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "outputs clipped to [0, 255], rounded to whole values" in text
    assert "1 of the 5 images, held aside" in text
    tune = ("--tune", folders / "too", folders / "clean", "--model", model)
    assert run("evaluate", *where, *tune, "--quiet") == 2
    assert "filters are tuned on others" in capsys.readouterr().err


def test_noise_from_the_command_line(folders, capsys):
    where = ("--clean", folders / "clean", "--noise", "gaussian:25", "--against", "gaussian")
    assert run("evaluate", *where, "--quiet") == 0
    published = capsys.readouterr().out
    assert "noise gaussian:25, seed 0 for each image, not clipped" in " ".join(published.split())
    assert run("evaluate", *where, "--clip-noisy", "--seed", 3, "--quiet") == 0
    clipped = capsys.readouterr().out
    assert "seed 3 for each image, clipped and rounded as in a file" in " ".join(clipped.split())
    assert clipped.splitlines()[1] != published.splitlines()[1]


def test_exposures_and_a_noisy_image_alone_from_the_command_line(folders, capsys, tmp_path):
    out = tmp_path / "out"
    takes = ("--noisy", folders / "noisy", "--noisy-too", folders / "too")
    assert run("evaluate", *takes, "--against", "gaussian", "--quiet", "-o", out) == 0
    said = capsys.readouterr().out
    assert "what it cannot say" in said
    assert len((out / "images.csv").read_text("utf-8").splitlines()) == 1 + 5 * 2
    assert run("evaluate", "--noisy", folders / "noisy", "--against", "gaussian", "--quiet") == 0
    assert "a PSNR, since how much of the RMSE is noise" in " ".join(
        capsys.readouterr().out.split()
    )
    assert run("evaluate", "--results", out / "results.json") == 0
    assert capsys.readouterr().out == said


def test_stacks_from_the_command_line(tmp_path, capsys):
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        file["noisy"], file["clean"] = NOISY * 400, CLEAN * 400
    np.save(tmp_path / "noisy.npy", NOISY)
    source = tmp_path / "stack.h5"
    where = ("--noisy", f"{source}:/noisy", "--clean", f"{source}:/clean", "--axes", "ZYX")
    more = ("--against", "gaussian", "--quiet")
    assert run("evaluate", *where, "--range", 0, 400, *more) == 0
    assert "clipped to [0, 400], not rounded; data range 400" in " ".join(
        capsys.readouterr().out.split()
    )
    assert run("evaluate", *where, *more) == 2
    error = capsys.readouterr().err
    assert "10 things" in error
    assert error.count("give one that holds it: --range LOW HIGH") == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "which images? expected one of: --data; --noisy --clean; --clean --noise;"),
        (("--clean", "x"), "which images?"),
        (("--data", "nowhere.h5"), "nowhere.h5: no such file"),
        (("--noisy", "nowhere"), "nowhere"),
        (("--clean", "x", "--noise", "gauss:25"), "did you mean 'gaussian'"),
        (("--data", "x.h5", "--range", "0", "1"), "leave --range and --axes out"),
        (("--noisy", "x", "--tune", "y"), "--tune needs reference images"),
        (("--data", "x.h5", "--tune", "y"), "expected a noisy and a clean source"),
        (
            ("--clean", "x", "--noise", "gaussian:5", "--tune", "y", "z"),
            "expected one clean source",
        ),
        (("--results", "r.json", "--data", "x.h5"), "leave images and models out"),
        (("--data", "x.h5", "--against", "blur"), "known: base, bm3d, gaussian"),
        (("--data", "x.h5", "--precision", "int8"), "these are floats; use auto, bf16 or f32"),
        (("--data", "x.h5", "--model", "m.onnx", "m.onnx"), "one of them is given twice"),
    ],
)
def test_wrong_words(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    images.write(tmp_path / "x" / "a.png", np.eye(20, dtype=np.uint8))
    assert run("evaluate", *arguments, "-o", "out") == 2
    assert not Path("out").exists()
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


# --- in Python


def as_bytes(stack):
    return [np.rint(np.clip(each, 0, 1) * 255).astype(np.uint8) for each in stack]


def test_compare_takes_arrays():
    noisy, clean = as_bytes(NOISY), as_bytes(CLEAN)
    found = snowmelt.compare(lambda picture: picture * 0.9, noisy=noisy, clean=clean, sigma=25)
    assert [row["kind"] for row in found.rows] == ["input", *["filter"] * 5, "bundled", "model"]
    assert found.rows[-1]["name"] == "<lambda>"
    scored = [i for i in range(10) if i not in (0, 5)]
    expected = [psnr(clean[i], noisy[i], data_range=255) for i in scored]
    assert found.rows[0]["psnr"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert found.measurement.protocol.whole
    assert str(found).endswith(found.verdicts[-1].text)
    stacked = snowmelt.compare(noisy=np.stack(noisy), clean=np.stack(clean), against=["median"])
    assert stacked.rows[1] == found.rows[2] | {
        key: stacked.rows[1][key]
        for key in (
            "gain_over_baseline",
            "ssim_gain_over_baseline",
            "seconds_per_megapixel",
            "memory",
        )
    }


def test_compare_takes_files_and_folders(folders):
    whole = snowmelt.compare(noisy=folders / "noisy", clean=folders / "clean", against=["median"])
    lists = [sorted((folders / name).iterdir()) for name in ("noisy", "clean")]
    listed = snowmelt.compare(noisy=lists[0], clean=lists[1], against=["median"])
    assert [row["psnr"] for row in listed.rows] == [row["psnr"] for row in whole.rows]
    assert listed.measurement.images == [f"000{i}" for i in range(1, 5)]
    assert listed.measurement.protocol.data == "noisy/0.png and 4 more and clean/0.png and 4 more"


def test_compare_without_a_reference():
    exposures = snowmelt.compare(noisy=[*NOISY], noisy_too=[*NOISY[::-1]], against=["median"])
    assert exposures.measurement.protocol.metric == "exposures"
    alone = snowmelt.compare(noisy=[NOISY[0]], against=["median"])
    assert alone.measurement.protocol.metric == "self-prediction"


def test_compare_adds_noise_and_tunes_on_other_images():
    found = snowmelt.compare(
        clean=[*CLEAN[:3]],
        add_noise="gaussian:25",
        tune=([*NOISY[5:]], [*CLEAN[5:]]),
        against=["gaussian"],
    )
    assert found.measurement.protocol.noise == "gaussian:25"
    assert found.measurement.tuning == "5 images, 5 arrays"
    noise = np.random.default_rng(0).normal(0, 25 / 255, CLEAN[0].shape)
    expected = psnr(CLEAN[0], np.clip(CLEAN[0] + noise, 0, 1), data_range=1)
    assert found.measurement.scores[0].values["psnr"][0] == pytest.approx(expected, abs=1e-4)


def test_compare_takes_colours_on_any_axis():
    noisy, clean = (np.stack([each[:3], each[3:6], each[6:9]], 1) for each in (NOISY, CLEAN))
    first = snowmelt.compare(noisy=[*noisy], clean=[*clean], channel_axis=0, against=["gaussian"])
    last = snowmelt.compare(
        noisy=np.moveaxis(noisy, 1, -1), clean=np.moveaxis(clean, 1, -1), channel_axis=-1,
        against=["gaussian"],
    )  # fmt: skip
    assert [row["psnr"] for row in first.rows] == [row["psnr"] for row in last.rows]
    assert first.measurement.pixels == [40 * 48] * 2


def test_compare_gives_conditioned_models_the_noise_level_of_the_range():
    noisy, clean = (400 * each[:3] + 100 for each in (NOISY, CLEAN))
    images = {"noisy": [*noisy], "clean": [*clean], "value_range": (100, 500)}
    network = snowmelt.load("base-grey", precision="f32")
    found = snowmelt.compare({"ours": network}, **images, sigma=20.0, against=())
    outputs = [network(each, sigma=20.0, value_range=(100, 500)) for each in noisy]
    expected = [
        psnr(c, np.clip(each, 100, 500), data_range=400)
        for c, each in zip(clean, outputs, strict=True)
    ]
    assert found.rows[1]["psnr"] == pytest.approx(np.mean(expected), abs=0.01)
    details = found.measurement.scores[1].details
    assert details["sigma"] == pytest.approx(255 * 20 / 400)
    assert details["sha256"] == network.model.sha256


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "which images?"),
        ({"clean": [CLEAN[0]]}, "expected noisy and clean, or clean and add_noise, or noisy and"),
        ({"noisy": [NOISY[0]], "clean": [CLEAN[0]], "noisy_too": [NOISY[1]]}, "which images?"),
        ({"noisy": [NOISY[0]], "add_noise": "gaussian:5"}, "which images?"),
        ({"noisy": [*NOISY], "clean": [*CLEAN[1:]]}, "10 noisy, 9 clean images: expected as many"),
        ({"noisy": [], "clean": []}, "expected as many of each kind, at least one"),
        ({"noisy": [NOISY], "clean": [CLEAN]}, r"image 0: arrays of float32 \(10, 40, 48\)"),
        ({"noisy": [NOISY[0]], "clean": [CLEAN[0][1:]]}, r"\(40, 48\) and float32 \(39, 48\)"),
        ({"noisy": [NOISY[0] > 0], "clean": [CLEAN[0] > 0]}, "expected integers or floats"),
        (
            {"noisy": as_bytes(NOISY), "clean": [*CLEAN]},
            r"different number types.*value_range=\(low, high\)",
        ),
        ({"noisy": [*NOISY], "clean": [*CLEAN], "against": ["bass"]}, "did you mean 'base'"),
    ],
)
def test_what_cannot_be_compared(given, words):
    with pytest.raises(UserError, match=words):
        snowmelt.compare(**given)


def test_models_get_names():
    def halved(picture):
        return picture / 2

    named = evaluation._named([halved, halved, Path("runs/a/model.onnx")])
    assert [*named] == ["halved", "halved 2", "model.onnx"]
    assert [*evaluation._named("base")] == ["base"]
    assert [*evaluation._named({"mine": halved})] == ["mine"]


# --- the bundled model


def test_a_bundled_model_is_not_compared_with_itself():
    noisy, clean = [*NOISY[:2]], [*CLEAN[:2]]
    found = snowmelt.compare("base", noisy=noisy, clean=clean, sigma=0.1, against=["base"])
    assert [row["kind"] for row in found.rows] == ["input", "model"]
    found = snowmelt.compare(noisy=noisy, clean=clean, against=["base"])
    assert [row["kind"] for row in found.rows] == ["input"]
    found = snowmelt.compare(cheat, noisy=noisy, clean=clean, sigma=0.1, against=["base"])
    assert [row["name"] for row in found.rows] == ["noisy input", "base (bundled)", "cheat"]


@pytest.mark.parametrize(
    ("side", "sigma", "there"), [(31, "auto", False), (31, 0.1, True), (32, "auto", True)]
)
def test_a_bundled_model_does_not_estimate_noise_where_that_fails(side, sigma, there):
    """The noise level is estimated on images from 32 x 32 on."""
    small = collection(NOISY[:2, :side, :side], CLEAN[:2, :side, :side])
    contenders = evaluation.with_bundled([Contender("same", lambda p: p)], ["base"], 1, sigma)
    assert len(contenders) == 2
    found = measure(small, contenders, against=[])
    assert ("base (bundled)" in [row["name"] for row in found.rows]) is there


@pytest.mark.parametrize(("channels", "there"), [(1, True), (3, True), (2, False), (4, False)])
def test_the_bundled_model_is_for_grey_and_rgb(channels, there):
    ours = Contender("ours", lambda picture: picture)
    found = evaluation.with_bundled([ours], evaluation.AGAINST, channels, 0.1)
    assert (len(found) == 2) is there
    assert found[-1] is ours


def test_the_python_lines_of_the_page_run(folders, model, monkeypatch):
    monkeypatch.chdir(folders)
    (folders / "scans").mkdir()
    for name in ("noisy", "clean"):
        (folders / name).rename(folders / "scans" / name)
    Path("model.onnx").write_bytes(model.read_bytes())
    page = (Path(__file__).parents[1] / "docs" / "evaluate.md").read_text("utf-8")
    first, *others = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(others) == 1
    names = {"snowmelt": snowmelt, "noisy": [*NOISY[:4]], "clean": [*CLEAN[:4]]}
    names["second_exposures"] = [*NOISY[4:8]]
    for block in (first, *others):
        exec(block, names)
    assert names["results"].rows[-1]["name"] == "model.onnx"
