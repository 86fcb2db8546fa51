"""Scores on images with a known truth, and `snowmelt evaluate` from its arguments to its files."""

import json
import math
from pathlib import Path

import h5py
import numpy as np
import pytest

from snowmelt import cases, evaluation, images, results
from snowmelt.cases import Scale
from snowmelt.cli import main
from snowmelt.errors import UserError
from snowmelt.evaluation import Contender, compare
from snowmelt.metrics import psnr, ssim
from snowmelt.shapes import make_pairs

NOISY, CLEAN = (each[:, :40, :48] for each in make_pairs(10, seed=2))
FLOATS, BYTES = Scale(0, 1, whole=False), Scale(0, 255, whole=True)
KINDS = ("nothing", "filter", "model")


def collection(noisy=NOISY, clean=CLEAN, scale=FLOATS, title="made up"):
    return cases.from_arrays([*noisy], [*clean], title=title, scale=scale)


def cheat(picture):
    """As good as the truth but for little: finds the picture it was given."""
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
    found = compare(collection(), {"cheat": cheat}, against=["median"], tuning=None)
    noisy, median, ours = results.summarize(found)
    assert [each.kind for each in (noisy, median, ours)] == [*KINDS]
    scored = [i for i in range(10) if i not in (0, 5)]  # one scene in five is held aside
    assert found.images == [f"{i:04d}" for i in scored]
    assert "2 of the 10 images, held aside" in found.tuning
    outputs = {i: np.clip(cheat(NOISY[i]), 0, 1) for i in scored}
    expected = np.mean([psnr(CLEAN[i], outputs[i], data_range=1) for i in scored])
    assert ours.psnr == pytest.approx(expected, abs=1e-9)
    expected = np.mean([ssim(CLEAN[i], outputs[i], data_range=1) for i in scored])
    assert ours.ssim == pytest.approx(expected, abs=1e-9)
    assert noisy.psnr < median.psnr < ours.psnr
    assert (
        "cheat: better than the best classical filter, median (size" in results.verdicts(found)[0]
    )


def test_outputs_of_integers_are_rounded():
    clean = (np.rint(CLEAN[:2] * 255) / 255).astype(np.float32)
    # a fifth of a level off, which rounding takes away, and half a level more than that, which it does not
    near, far = clean + np.float32(0.2 / 255), clean + np.float32(0.7 / 255)
    found = compare(
        collection(NOISY[:2], clean, BYTES),
        [Contender("near", lambda p: near[int(p[0, 0] != NOISY[0, 0, 0])]),
         Contender("far", lambda p: far[int(p[0, 0] != NOISY[0, 0, 0])])],
        against=[],
    )  # fmt: skip
    assert found.marks[1].psnr == [math.inf, math.inf]
    white = np.mean(clean == 1, axis=(1, 2))  # clipped, they stay right
    expected = 20 * np.log10(255) - 10 * np.log10(1 - white)
    np.testing.assert_allclose(found.marks[2].psnr, expected, atol=1e-6)
    assert found.protocol.whole
    assert found.protocol.high == 255


def test_takes_of_a_scene_are_held_aside_together():
    noisy = np.concatenate([NOISY, NOISY[:, ::-1] + 0.01])
    found = compare(collection(noisy, np.concatenate([CLEAN, CLEAN])), {}, against=["median"])
    assert found.protocol.scenes == 8
    assert found.protocol.images == 16
    assert not {"0000", "0010", "0005", "0015"} & set(found.images)


def test_filters_are_tuned_on_other_images_where_there_are_some():
    tuning = collection(NOISY[5:], CLEAN[5:], title="others")
    found = compare(collection(NOISY[:6], CLEAN[:6]), {}, against=["median"], tuning=tuning)
    assert len(found.images) == 6
    assert found.tuning == "4 images, others (1 more are among the scored and were left out)"
    with pytest.raises(UserError, match="filters are tuned on others"):
        compare(collection(NOISY[5:], CLEAN[5:]), {}, against=["median"], tuning=tuning)


def test_tuning_does_not_see_what_is_scored(monkeypatch):
    seen = []
    tune = evaluation.baselines.tune
    monkeypatch.setattr(
        evaluation.baselines, "tune", lambda n, c, f: seen.extend(c) or tune(n, c, f)
    )
    found = compare(collection(), {}, against=["median"])
    assert [np.where((each == CLEAN).all((1, 2)))[0][0] for each in seen] == [0, 5]
    assert not {"0000", "0005"} & set(found.images)


def test_one_scene_cannot_tune_and_score():
    with pytest.raises(UserError, match=r"one scene only.*--tune.*--against none"):
        compare(collection(NOISY[:1], CLEAN[:1]), {}, against=["median"])
    assert len(compare(collection(NOISY[:1], CLEAN[:1]), {}, against=[]).images) == 1


def test_colours_are_scored_over_all_channels():
    noisy, clean = (np.stack([each[:3], each[3:6], each[6:9]], -1) for each in (NOISY, CLEAN))
    found = compare(collection(noisy, clean), {"same": lambda p: p}, against=["tv"])
    expected = psnr(clean[1], np.clip(noisy[1], 0, 1), data_range=1)
    assert found.marks[2].psnr[0] == pytest.approx(expected, abs=1e-9)
    expected = ssim(clean[1], np.clip(noisy[1], 0, 1), data_range=1, channel_axis=-1)
    assert found.marks[2].ssim[0] == pytest.approx(expected, abs=1e-9)
    with pytest.raises(UserError, match="one is grey, one in colour"):
        compare(collection(noisy, clean), {}, tuning=collection())


def test_images_below_the_window_have_no_ssim():
    found = compare(collection(NOISY[:, :8], CLEAN[:, :8]), {}, against=["median"])
    assert math.isnan(results.summarize(found)[0].ssim)
    assert "none for images smaller than its window" in results.table(found)


def test_an_output_that_is_not_finite_is_named():
    broken = {"broken": lambda picture: np.full_like(picture, np.nan)}
    with pytest.raises(UserError, match="broken: its output for 0000 is not finite"):
        compare(collection(), broken, against=[])


def test_seconds_and_memory_are_of_the_call_alone():
    calls = []

    def greedy(picture):
        calls.append(1)
        return picture + np.ones(4_000_000)[0].astype(np.float32) * 0

    found = compare(collection(NOISY[:3], CLEAN[:3]), {"greedy": greedy}, against=[])
    assert len(calls) == 4  # once more than there are images, before the clock runs
    assert len(found.marks[1].seconds) == 3
    if not math.isnan(found.marks[1].memory):
        assert found.marks[1].memory == pytest.approx(32, rel=0.2)


def test_the_stamp_tells_data_apart():
    one, other = collection(), collection(NOISY + np.float32(0.001))
    first, again, second = (
        compare(each, {}, against=[]).protocol for each in (one, collection(), other)
    )
    assert first == again
    assert first.sha256 != second.sha256
    assert results.differences(first, second)[0].startswith("sha256: ")
    assert {"snowmelt", "numpy", "scikit-image"} <= {*first.versions}


def test_a_file_of_pairs_from_the_command_line(pairs_file, model, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("evaluate", "--data", pairs_file, "--model", model, "--quiet", "-o", out) == 0
    text = capsys.readouterr().out
    assert "filters tuned on 8 images, train arrays of pairs.h5" in text
    last = text.splitlines()[-1]
    assert last.startswith("model.onnx: worse than doing nothing by")
    assert "don't use it on data like this" in last
    saved = json.loads((out / "results.json").read_text("utf-8"))
    assert saved["verdicts"] == [last]
    assert saved["scores"][0]["name"] == "noisy, as it is"
    assert saved["measurement"]["marks"][-1]["details"]["precision"] in ("bf16", "f32")
    assert len((out / "images.jsonl").read_text("utf-8").splitlines()) == 2 * 7
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


def test_takes_and_a_noisy_image_alone_from_the_command_line(folders, capsys, tmp_path):
    out = tmp_path / "out"
    takes = ("--noisy", folders / "noisy", "--noisy-too", folders / "too")
    assert run("evaluate", *takes, "--against", "gaussian", "--quiet", "-o", out) == 0
    assert "what it cannot say" in capsys.readouterr().out
    assert len((out / "images.csv").read_text("utf-8").splitlines()) == 1 + 5 * 2
    assert run("evaluate", "--noisy", folders / "noisy", "--against", "gaussian", "--quiet") == 0
    assert "a PSNR, for how much of the distance is noise" in capsys.readouterr().out
    assert run("evaluate", "--results", out / "results.json") == 2
    assert "without a truth" in capsys.readouterr().err


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
        (("--noisy", "x", "--tune", "y"), "--tune needs a truth"),
        (("--data", "x.h5", "--tune", "y"), "expected a noisy and a clean source"),
        (
            ("--clean", "x", "--noise", "gaussian:5", "--tune", "y", "z"),
            "expected one clean source",
        ),
        (("--results", "r.json", "--data", "x.h5"), "leave images and models out"),
        (("--data", "x.h5", "--against", "blur"), "known: bm3d, gaussian"),
        (("--data", "x.h5", "--precision", "int8"), "these are floats; use auto, bf16 or f32"),
        (("--data", "x.h5", "--model", "m.onnx", "m.onnx"), "one of them is there twice"),
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
