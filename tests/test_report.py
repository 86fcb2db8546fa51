import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snowmelt import looks, report
from snowmelt.cli import main
from snowmelt.errors import UserError
from snowmelt.looks import Seen
from snowmelt.recipe import Recipe, from_dict
from snowmelt.recipe import write as write_recipe
from snowmelt.results import Results, summarize
from snowmelt.scores import (
    BUNDLED,
    FILTER,
    INPUT,
    MODEL,
    SELF_PREDICTION,
    Measurement,
    Protocol,
    Scores,
)

from . import chromium
from .chromium import Browser

SIDE = 48
NASTY = "</script><script>document.title='pwned'</script><img src=x onerror=alert(1)> & \"quotes\""
RECIPE: Recipe = from_dict({"pictures": {"photos": ["/home/somebody/secret/cat.png"]}})


def picture(seed: int, shape: tuple[int, ...] = (SIDE, SIDE)) -> looks.Picture:
    return np.random.default_rng(seed).random(shape, np.float32)


def seen(name: str, seed: int = 0, shape: tuple[int, ...] = (SIDE, SIDE)) -> Seen:
    clean = np.full(shape, 0.5, np.float32)
    return Seen(name, clean + (picture(seed, shape) - 0.5) / 4, clean)


def measured(*, ours: float = 30.123456) -> Results:
    """Ten images; the network's gain over the better filter is ours - 25 dB on each."""
    scenes, jitter = [f"scene {i}" for i in range(10)], np.linspace(-0.1, 0.1, 10)

    def scores(name: str, kind: str, psnr: float, ssim: float) -> Scores:
        values = {"psnr": (psnr + jitter).tolist(), "ssim": [ssim] * 10, "seconds": [0.5] * 10}
        return Scores(name=name, kind=kind, values=values, memory=12.0)

    measurement = Measurement(
        protocol=Protocol(
            data="some images", images=10, scenes=10, sha256="ab" * 32, low=0, high=1, whole=False
        ),
        tuning="3 other images",
        machine="2 processor cores",
        images=scenes,
        scenes=scenes,
        pixels=[250_000] * 10,
        scores=[
            scores("noisy input", INPUT, 19.0, 0.31),
            scores("Gaussian blur (sigma 1)", FILTER, 24.0, 0.61),
            scores("median <size 3>", FILTER, 25.0, 0.65),
            scores("the network", MODEL, ours, 0.91),
        ],
    )
    return summarize(measurement)


def write_run(folder: Path, *, names: tuple[str, ...] = ("held-out pair", "camera")) -> Path:
    """What a run of 120 epochs leaves, as far as the report reads it."""
    folder.mkdir(parents=True)
    write_recipe(RECIPE, folder / "recipe.toml")
    rows = [
        {"epoch": n, "seconds": 0.5, "loss": 0.3 / n, "psnr": 31 - 12 / n} for n in range(1, 121)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pictures = [seen(name, i) for i, name in enumerate(names)]
    looks.write_pictures(folder, pictures)
    for epoch, part in ((0, 1.0), (50, 0.5), (100, 0.1), (120, 0.05)):
        takes = [part * each.noisy + (1 - part) * np.float32(0.5) for each in pictures]
        looks.write_look(folder, epoch, takes)
    measured().save(folder / "scores.json")
    return folder


def content(page: str) -> Any:
    """The JSON in a page, found as a browser finds it."""
    block = page.partition('<script type="application/json" id="content">')[2]
    return json.loads(block.partition("</script>")[0])


def log_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def page_of(folder: Path) -> str:
    report.write(folder, folder / "report.html")
    return (folder / "report.html").read_text("utf-8")


# --- what is in it


def test_the_page_holds_the_numbers_that_were_saved(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    shown = content(page_of(run))
    saved = json.loads((run / "scores.json").read_text())
    assert shown["scores"]["rows"] == saved["rows"]
    assert [each["text"] for each in shown["verdicts"]] == [
        each["text"] for each in saved["verdicts"]
    ]
    assert shown["scores"]["notes"] == saved["notes"]
    assert ["scores", saved["protocol"]] in shown["protocols"]
    assert shown["log"] == log_of(run)
    assert shown["takes"] == [f"After {n} epochs" for n in (0, 50, 100, 120)]


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert page_of(run) == page_of(run)


def test_psnr_of_the_pictures(tmp_path: Path) -> None:
    """The last take has a twentieth of the noise: 20 log10 20 = 26.0 dB better."""
    first, *_ = content(page_of(write_run(tmp_path / "run")))["pictures"]
    assert first["noisy"]["psnr"] == pytest.approx(
        -10 * np.log10(np.mean((seen("", 0).noisy - 0.5) ** 2)), abs=1e-4
    )
    gain = first["takes"][-1]["psnr"] - first["noisy"]["psnr"]
    assert gain == pytest.approx(20 * np.log10(20), abs=1e-3)


def test_pictures_are_kept_to_the_grey_level() -> None:
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    each = seen("ramp")
    shown = report.show(each, 999)
    pixels = Image.open(BytesIO(b64decode(shown["noisy"]["png"].partition(",")[2])))
    assert np.array_equal(np.asarray(pixels), np.rint(each.noisy * 255))


def test_a_stopped_run_shows_what_there_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "scores.json").unlink()
    shown = content(page_of(run))
    assert shown["scores"] is None
    assert "stopped" in shown["verdicts"][0]["text"]
    (run / "pictures.npz").unlink()
    for look in run.glob("epoch-*.npz"):
        look.unlink()
    (run / "log.jsonl").unlink()
    shown = content(page_of(run))
    assert (shown["log"], shown["pictures"]) == ([], [])


def test_paths_of_the_author_stay_out(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run"))
    assert "cat.png" in page
    assert "somebody" not in page


def test_names_cannot_leave_the_json(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "<b>&run", names=(NASTY,)))
    assert content(page)["pictures"][0]["name"] == NASTY
    assert len(re.findall("</script|<script", page)) == 4
    assert "<title>&lt;b&gt;&amp;run" in page


@pytest.mark.parametrize(
    ("verdict", "tone"),
    [(30.0, "good"), (25.0, "plain"), (22.0, "plain"), (18.0, "bad")],
)
def test_the_tone_is_that_of_the_verdict(verdict: float, tone: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    measured(ours=verdict).save(run / "scores.json")
    (each,) = content(page_of(run))["verdicts"]
    assert each["tone"] == tone


def test_the_strongest_correlation_and_its_shift() -> None:
    """A field plus half of itself 2 to the left and 3 down: 0.5 / (1 + 0.25) = 0.4 at that shift."""
    white = np.random.default_rng(0).normal(size=(256, 256))
    found = report.correlation_of(white + np.roll(white, (3, -2), axis=(0, 1)) / 2)
    assert found["shift"] == [-2, 3]
    assert found["peak"] == pytest.approx(0.4, abs=5 / 256)
    assert abs(report.correlation_of(white)["peak"]) < found["chance"] == 4 / 256


def test_any_pictures_stay_under_ten_megabytes(tmp_path: Path) -> None:
    """Noise in colour, which PNG cannot shrink; cut to its middle, and the page says so."""
    run = write_run(tmp_path / "run")
    large = [seen(f"large {i}", i, (600, 700, 3)) for i in range(2)]
    large = [
        looks.Seen(each.name, picture(i, (600, 700, 3)), each.clean) for i, each in enumerate(large)
    ]
    looks.write_pictures(run, large)
    for look in run.glob("epoch-*.npz"):
        looks.write_look(
            run, int(look.stem[-3:]), [picture(i + 9, (600, 700, 3)) for i in range(2)]
        )
    page = page_of(run)
    assert 5e6 < len(page) < 10e6
    first = content(page)["pictures"][0]
    assert first["size"] == [700, 600]
    assert first["shown"][0] == first["shown"][1] < 600


def test_many_looks_are_thinned(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for epoch in range(1, 40):
        looks.write_look(run, epoch, [each.noisy for each in looks.read_pictures(run)])
    takes = content(page_of(run))["takes"]
    assert len(takes) == report.MAX_TAKES
    assert (takes[0], takes[1], takes[-1]) == (
        "After 0 epochs",
        "After 4 epochs",
        "After 120 epochs",
    )


# --- evaluations


def write_results(folder: Path) -> Path:
    folder.mkdir()
    measured().save(folder / "results.json")
    first = seen("a picture")
    takes = {"median": first.noisy / 2, "the network": first.noisy / 3}
    looks.write_pictures(folder, [Seen(first.name, first.noisy, first.clean, takes)])
    return folder


def test_results_of_an_evaluation(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "results")
    shown = content(page_of(folder))
    assert shown["takes"] == ["median", "the network"]
    assert shown["scores"]["rows"][3]["psnr"] == pytest.approx(30.123456)
    assert shown["origin"][0] == ["data", "some images", "ab" * 32]
    report.write(folder / "results.json", tmp_path / "other.html")
    assert content((tmp_path / "other.html").read_text()) == shown


@pytest.mark.parametrize("alone", [False, True])
def test_an_evaluation_keeps_what_its_report_shows(alone: bool, tmp_path: Path) -> None:
    import tifffile

    folder = tmp_path / "noisy"
    folder.mkdir()
    for i in range(6):
        tifffile.imwrite(
            folder / f"{i}.tif", np.rint(seen("", i, (40, 400)).noisy * 255).astype("u1")
        )
    images = (
        ["--noisy", str(folder)] if alone else ["--clean", str(folder), "--noise", "gaussian:9"]
    )
    flags = ["--against", "gaussian,median", "-o", str(tmp_path / "results"), "--quiet"]
    assert main(["evaluate", *images, *flags]) == 0
    shown = content(page_of(tmp_path / "results"))
    assert len(shown["pictures"]) == looks.ALBUM
    assert [take.split()[0] for take in shown["takes"]] == ["Gaussian", "median"]
    for each in shown["pictures"]:
        assert each["size"] == [looks.SIDE, 40]
        assert (each["clean"] is None) == alone
        assert len({take["png"] for take in each["takes"]}) == 2


def without_reference() -> Results:
    rows = [
        Scores(
            name=name,
            kind=kind,
            values={"rmse": [square**0.5], "residual": [2.0], "seconds": [1.0]},
            squares=[square] * 9,
            autocorrelation=np.zeros((17, 17)).tolist(),
        )
        for name, kind, square in (
            ("mean", INPUT, 9.0),
            ("median", FILTER, 4.0),
            ("base (bundled)", BUNDLED, 2.0),
            ("ours", MODEL, 1.0),
        )
    ]
    return summarize(
        Measurement(
            protocol=Protocol(
                data="some images", images=1, scenes=1, sha256="ab" * 32, low=0, high=1,
                whole=False, metric=SELF_PREDICTION,
            ),
            tuning="this image", machine="2 processor cores", images=["one"], scenes=["one"],
            pixels=[10_000], scores=rows, samples=[f"tile {i}" for i in range(9)],
            noise={"kinds": ["gaussian"]},
        )
    )  # fmt: skip


def test_results_without_a_reference(tmp_path: Path) -> None:
    without_reference().save(tmp_path / "results.json")
    first = seen("one")
    looks.write_pictures(tmp_path, [Seen("one", first.noisy, takes={"ours": first.noisy / 2})])
    shown = content(page_of(tmp_path))
    assert [each["key"] for each in shown["scores"]["columns"]] == [
        "rmse", "gain_over_baseline", "residual", "correlation",
    ]  # fmt: skip
    assert shown["scores"]["bar"] == "gain_over_baseline"
    assert [row["correlation"] for row in shown["scores"]["rows"]] == [0.0] * 4
    assert shown["figures"] == []
    assert shown["pictures"][0]["clean"] is None
    assert shown["pictures"][0]["takes"][0]["psnr"] is None
    assert [each["tone"] for each in shown["verdicts"]] == ["good"]


@pytest.mark.parametrize(("name", "tone"), [("reference", "bad"), ("exposures", "plain")])
def test_results_of_version_0_1(name: str, tone: str, tmp_path: Path) -> None:
    """Where that version kept the scores of each image, the colour comes from them."""
    text = (Path(__file__).parent / "saved" / f"{name}-format-1.json").read_text("utf-8")
    (tmp_path / "results.json").write_text(text, "utf-8")
    shown = content(page_of(tmp_path))
    (verdict,) = shown["verdicts"]
    assert verdict["text"].startswith("half: worse than ")
    assert verdict["tone"] == tone
    assert shown["scores"]["baseline"].startswith("Gaussian blur")
    assert len(shown["scores"]["columns"]) >= 5


# --- what is refused


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("recipe.toml", b"[data", "not a recipe"),
        ("log.jsonl", b'{"epoch": 1}\n', "not the log of a run"),
        ("log.jsonl", b"\xff", "not the log of a run"),
        ("scores.json", b"[]", "not results of .snowmelt evaluate"),
        ("scores.json", b'{"format": 2, "rows": [{"name": "x"}]}', "not results of"),
        ("scores.json", b'{"format": 1, "scores": []}', "not results of"),
        ("pictures.npz", b"PK junk", "not pictures that Snowmelt kept.*make them anew"),
        ("epoch-050.npz", b"", "not pictures that Snowmelt kept"),
    ],
)
def test_damaged_files_are_named(name: str, text: bytes, message: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / name).write_bytes(text)
    with pytest.raises(UserError, match=f"{name}: {message}"):
        report.content_of(run)


def test_other_folders_and_other_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "expected the folder of a run" in capsys.readouterr().err
    run = write_run(tmp_path / "run")
    (tmp_path / "mine.html").write_text("<p>my page")
    for name, message in (("mine.html", "is no report"), ("photo.png", "a report is an HTML file")):
        assert main(["report", str(run), "-o", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "mine.html").read_text() == "<p>my page"


def test_training_ends_with_a_report(
    pairs_file: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = ["--widths", "4", "--epochs", "2", "--every", "1", "--photos", str(photo), "--quiet"]
    assert main(["train", "--data", str(pairs_file), "-o", str(run), *flags]) == 0
    assert f"report: {run / 'report.html'}" in capsys.readouterr().out
    shown = content((run / "report.html").read_text())
    assert shown["takes"] == ["After 0 epochs", "After 1 epoch", "After 2 epochs"]
    assert [each["name"] for each in shown["pictures"]] == ["held-out pair", "photo"]
    assert shown["origin"][1][:2] == ["model file", "model.onnx"]
    assert main(["report", str(run)]) == 0


@pytest.mark.parametrize(
    ("data", "name", "curve"),
    [
        ({"clean": ["/a/b"], "noise": "gaussian:25"}, "clean: b", "Held-out PSNR, dB"),
        (
            {"noisy": ["/a/one"], "noisy_too": ["/a/two"]},
            "noisy: one; noisy too: two",
            "Held-out PSNR against the second exposure, dB",
        ),
        (
            {"noisy": ["/a/one"]},
            "noisy: one",
            "Held-out PSNR against noisy pixels hidden from the network, dB",
        ),
    ],
)
def test_data_of_ones_own_are_named_and_no_truth_is_claimed(
    data: dict[str, Any], name: str, curve: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run")
    write_recipe(from_dict({"data": data}), run / "recipe.toml")
    shown = content(page_of(run))
    assert shown["origin"][0][1] == name
    assert shown["curve"] == curve
    assert "source" not in shown["recipe"]["data"]


def test_a_second_take_is_not_called_the_original(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", names=("held-out pair",))
    looks.write_pictures(run, [replace(seen("held-out pair"), reference="second take")])
    shown = content(page_of(run))
    assert shown["pictures"][0]["reference"] == "second take"
    browser.open(run / "report.html")
    assert text(browser, "#clean-caption") == ["second take"]
    assert "original" not in " ".join(text(browser, "main"))
    assert "true noise" not in " ".join(text(browser, "main"))


# --- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = chromium.find()
    if program is None:
        assert not os.environ.get("CI"), "no Chromium here; .ci/run installs one"
        pytest.skip("no Chromium here; install one, or name it in SNOWMELT_CHROMIUM")
    opened = Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("reports") / "run", names=("held-out pair", NASTY))
    report.write(run, run / "report.html")
    return run


@pytest.fixture
def page(browser: Browser, run_folder: Path) -> Browser:
    """The report of a run, just opened in a wide light window."""
    browser.emulate()
    browser.resize(1400, 1000)
    browser.open(run_folder / "report.html")
    return browser


def text(page: Browser, selector: str) -> list[str]:
    found: list[str] = page.evaluate(
        f"[...document.querySelectorAll({selector!r})].map((each) => each.textContent)"
    )
    return found


def centre(page: Browser, selector: str) -> tuple[float, float]:
    """Scroll there; the middle in the window's pixels."""
    find = f"document.querySelector({selector!r})"
    page.evaluate(f"{find}.scrollIntoView({{block: 'center'}})")
    box = page.evaluate(f"{find}.getBoundingClientRect().toJSON()")
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def focus(page: Browser, selector: str) -> None:
    page.evaluate(f"document.querySelector({selector!r}).focus()")


def split(page: Browser) -> float:
    """Where the divider is drawn, in parts of the picture's width."""
    value: float = page.evaluate(
        "(() => { const pane = document.getElementById('compare').getBoundingClientRect(),"
        "handle = document.getElementById('handle').getBoundingClientRect();"
        "return (handle.x + handle.width / 2 - pane.x) / pane.width; })()"
    )
    return value


def transforms(page: Browser) -> list[str]:
    """Of every picture that is shown: scale, and the shift in parts of its own width and height."""
    found: list[str] = page.evaluate(
        "[...document.querySelectorAll('.pane img')].filter((each) => each.offsetWidth).map((each) => {"
        "const m = new DOMMatrix(getComputedStyle(each).transform);"
        "return [m.a, m.e / each.offsetWidth, m.f / each.offsetHeight].map((n) => n.toFixed(3)).join(' '); })"
    )
    return found


def test_nothing_is_fetched_and_nothing_complains(page: Browser) -> None:
    asked = [
        event["params"]["request"]["url"]
        for event in page.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url.partition(":")[0] for url in asked if not url.startswith("data:")] == ["file"]
    complaints = ("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening")
    assert [event for event in page.events if event["method"] in complaints] == []


def test_the_page_itself_forbids_fetching(page: Browser) -> None:
    refused = page.evaluate("fetch('https://example.org/').then(() => 'went out', () => 'refused')")
    assert refused == "refused"
    violations = [event for event in page.events if event["method"] == "Log.entryAdded"]
    assert "Content Security Policy" in violations[0]["params"]["entry"]["text"]


def test_names_are_shown_as_they_are(page: Browser) -> None:
    assert NASTY in text(page, ".chips label")
    assert page.evaluate("document.title") == "run · Snowmelt report"
    assert page.evaluate("document.scripts.length") == 2


def test_the_numbers_equal_the_json(page: Browser, run_folder: Path) -> None:
    saved = json.loads((run_folder / "scores.json").read_text())
    assert text(page, ".verdict") == [each["text"] for each in saved["verdicts"]]
    for row, cells in zip(saved["rows"], range(1, 5), strict=True):
        shown = text(page, f".scores tbody tr:nth-child({cells}) > *")
        assert shown[0] == row["name"]
        assert shown[1] == f"{row['psnr']:.2f}"
        assert shown[3] == f"{row['ssim']:.4f}"
        gain = row["gain_over_baseline"]
        half = (gain["high"] - gain["low"]) / 2
        own = row["name"] == saved["baseline"]
        said = "–" if own else f"{gain['mean']:+.2f} ± {half:.2f}".replace("-", "−")
        assert shown[2] == said
        assert (shown[5] == "–") == (row["kind"] == INPUT)
    exact = page.evaluate("document.querySelector('.scores .model data').value")
    assert float(exact) == saved["rows"][3]["psnr"]
    log = log_of(run_folder)
    assert text(page, ".log tr:last-child > *") == [
        "120",
        f"{log[-1]['loss']:.6f}",
        "30.90",
        "0.50",
    ]
    film = text(page, ".film button")
    shown = [take["psnr"] for each in content((run_folder / "report.html").read_text())["pictures"]
             for take in each["takes"]]  # fmt: skip
    assert film == [f"{value:.2f} dB" for value in shown]


def test_keys_move_the_divider(page: Browser) -> None:
    assert split(page) == pytest.approx(0.5, abs=0.01)
    focus(page, "#handle")
    page.press("ArrowRight", "ArrowRight", "ArrowRight")
    assert split(page) == pytest.approx(0.56, abs=0.01)
    page.press("ArrowLeft", shift=True)
    assert split(page) == pytest.approx(0.46, abs=0.01)
    assert page.evaluate("document.getElementById('handle').ariaValueNow") == "46"
    page.press("Home")
    assert split(page) == pytest.approx(0, abs=0.01)
    clip = page.evaluate("getComputedStyle(document.querySelector('.after')).clipPath")
    assert clip == "inset(0px 0px 0px 0%)"


def test_the_pointer_and_a_finger_move_the_divider(page: Browser) -> None:
    x, y = centre(page, "#handle")
    page.drag((x, y), (x + 30, y), (x + 64, y))
    width = page.evaluate("document.getElementById('compare').clientWidth")
    assert split(page) == pytest.approx(0.5 + 64 / width, abs=0.01)
    x, y = centre(page, "#handle")
    page.touch([(x, y)], [(x - 50, y)], [(x - 100, y)])
    assert split(page) == pytest.approx(0.5 - 36 / width, abs=0.02)


def test_all_pictures_zoom_and_move_together(page: Browser) -> None:
    x, y = centre(page, "#compare")
    assert len(transforms(page)) == 6
    assert set(transforms(page)) == {"1.000 0.000 0.000"}
    focus(page, "#handle")
    page.press("+", "+", "+", "-")
    assert set(transforms(page)) == {"4.000 0.000 0.000"}
    width, height = page.evaluate("[compare.clientWidth, compare.clientHeight]")
    page.drag((x - width / 4, y), (x - width / 4 + 40, y + 30))
    assert set(transforms(page)) == {f"4.000 {40 / width:.3f} {30 / height:.3f}"}
    assert split(page) == pytest.approx(0.5, abs=0.01)  # zoomed in, a drag moves the picture
    focus(page, "#clean-figure .pane")
    page.press("ArrowLeft", "ArrowLeft")
    assert set(transforms(page)) == {f"4.000 {40 / width + 0.2:.3f} {30 / height:.3f}"}
    page.press("0")
    assert set(transforms(page)) == {"1.000 0.000 0.000"}


def test_two_fingers_zoom(page: Browser) -> None:
    x, y = centre(page, "#compare")
    page.touch(
        [(x - 20, y)],
        [(x - 20, y), (x + 20, y)],
        [(x - 30, y), (x + 30, y)],
        [(x - 60, y), (x + 60, y)],
    )
    (found,) = set(transforms(page))
    assert float(found.split()[0]) == pytest.approx(3, rel=0.2)


def test_pixels_stay_squares_of_whole_screen_pixels(page: Browser) -> None:
    widths = page.evaluate(
        "[...document.querySelectorAll('.pane')].map((each) => each.getBoundingClientRect().width)"
    )
    assert all(width % SIDE == 0 for width in widths)
    rendering = page.evaluate("getComputedStyle(document.getElementById('taken')).imageRendering")
    assert rendering == "pixelated"


def test_the_time_line(page: Browser) -> None:
    assert text(page, "#take") == ["After 120 epochs"]
    before = page.evaluate("taken.src")
    focus(page, "#scrubber")
    page.press("ArrowLeft")
    assert text(page, "#take") == ["After 100 epochs"]
    assert page.evaluate("taken.src") != before
    x, y = centre(page, ".film tbody tr:nth-child(4) td:nth-child(3) img")
    page.drag((x, y))
    assert text(page, "#take") == ["After 50 epochs"]
    assert page.evaluate("taken.alt").startswith(NASTY)
    page.press("ArrowUp", "ArrowRight")
    assert text(page, "#take") == ["After 100 epochs"]
    assert page.evaluate("taken.alt") == "held-out pair, denoised, After 100 epochs"


def test_the_curves_tell_their_values(page: Browser, run_folder: Path) -> None:
    log = log_of(run_folder)
    focus(page, "#charts")
    page.press("Home", "ArrowRight")
    assert text(page, "#at") == [f"epoch 2: loss 0.1500, {log[1]['psnr']:.2f} dB"]
    centre(page, ".chart:last-child svg")
    x, y, width = page.evaluate(
        "(() => { const box = document.querySelector('.chart:last-child .curve').getBoundingClientRect();"
        "return [box.x, box.y, box.width]; })()"
    )
    page.drag((x + width * 59 / 119, y))
    assert text(page, "#at")[0].startswith("epoch 60: ")


def test_everything_is_reached_by_tab_and_shows_it(page: Browser) -> None:
    reached = []
    page.evaluate("document.activeElement.blur()")
    for _ in range(25):
        page.press("Tab")
        name, outlined = page.evaluate(
            "(() => { const each = document.activeElement, parts = [each, each.parentElement];"
            "const drawn = (part, pseudo) => getComputedStyle(part, pseudo).outlineStyle !== 'none';"
            "return [each.id || each.className || each.name || each.tagName,"
            "parts.some((part) => drawn(part)) || drawn(each, '::after')]; })()"
        )
        if name == "BODY":
            break
        assert outlined, name
        reached.append(name)
    order = ["picture", "out", "in", "fit", "compare", "handle", "play", "scrubber", "charts"]
    assert [name for name in reached if name in order] == order


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_are_legible(scheme: str, page: Browser) -> None:
    """Contrast of at least 4.5 : 1 (WCAG AA) for every text."""
    page.emulate(scheme=scheme)
    colours = page.evaluate(
        "[...document.querySelectorAll('h1, .verdict, .kicker, figcaption, .note, th, td, dt, dd, button,"
        "small, label, .chart text')].map((each) => [each.tagName,"
        "getComputedStyle(each)[each.ownerSVGElement ? 'fill' : 'color'],"
        "getComputedStyle(each.matches('label') ? each : document.body).backgroundColor])"
    )

    def luminance(colour: str) -> float:
        parts = np.array([float(part) for part in re.findall(r"[\d.]+", colour)[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    assert len(colours) > 50
    paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert paper > 0.9 if scheme == "light" else paper < 0.02
    for name, ink, ground in colours:
        low, high = sorted([luminance(ink), luminance(ground)])
        assert (high + 0.05) / (low + 0.05) >= 4.5, (name, ink, ground)


def test_paper_has_no_dead_controls_and_both_pictures(page: Browser) -> None:
    page.emulate(media="print", scheme="dark")
    page.resize(700, 1000)
    visible = page.evaluate(
        "[...document.querySelectorAll('input, .row button, #play, #handle, details')]"
        ".filter((each) => each.offsetWidth).length"
    )
    assert visible == 0
    before, after = page.evaluate(
        "['before', 'after'].map((name) => { const box = document.querySelector('.' + name)"
        ".getBoundingClientRect(); return [box.left, box.right, box.height]; })"
    )
    assert before[1] <= after[0]
    assert before[2] == after[2] > 40
    clip = page.evaluate("getComputedStyle(document.querySelector('.after')).clipPath")
    assert clip == "none"
    paper = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink')")
    assert paper == "#1c2126"  # dark ink, whatever the screen shows


def test_a_phone_shows_it_without_scrolling_sideways(page: Browser) -> None:
    page.resize(360, 700, ratio=3)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_results_open_too(browser: Browser, tmp_path: Path) -> None:
    folder = write_results(tmp_path / "results")
    report.write(folder, folder / "report.html")
    browser.emulate()
    browser.open(folder / "report.html")
    assert text(browser, "#take") == ["the network"]
    hidden = browser.evaluate("[training.hidden, play.hidden, comparison.hidden]")
    assert hidden == [True, True, False]
    assert [event for event in browser.events if event["method"] == "Runtime.exceptionThrown"] == []
