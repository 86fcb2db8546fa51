import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch
import zarr

from snowmelt import batch, cli, images, modelfile, zoo
from snowmelt.batch import Job, Options, plan
from snowmelt.errors import UserError
from snowmelt.models import RecipeCNN

# Adds 10 of 255.
ADDED = 10


def write_model(path, offset, channels=1):
    """A model that adds ``offset`` to every value."""
    made = RecipeCNN([channels], kernel_size=1, activation="linear", channels=channels)
    with torch.no_grad():
        for layer in made.layers:
            layer.weight[:] = torch.eye(channels)[:, :, None, None]
            layer.bias.fill_(0)
        made.layers[-1].bias.fill_(offset)
    modelfile.write(path, made, modelfile.make_header(made))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "add.onnx", ADDED / 255)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(path, value=100, shape=(20, 30)):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write(path, np.full(shape, value, np.uint8))
    return path


def snowmelt(model, *arguments):
    return cli.main(["denoise", *map(str, arguments), "--model", str(model), "--precision", "f32"])


def values(path):
    (value,) = np.unique(images.read(path))
    return value


def everything(folder):
    """Every file below, hidden ones too, with its content."""
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_the_result_is_beside_the_input(here, model, capsys):
    picture("scan.png")
    before = everything(here)
    assert snowmelt(model, "scan.png") == 0
    assert values("scan_denoised.png") == 100 + ADDED
    after = everything(here)
    assert after.keys() - before.keys() == {here / "scan_denoised.png"}
    assert before.items() <= after.items()
    assert capsys.readouterr().out == "scan.png -> scan_denoised.png\n"


def test_without_a_model_it_is_base_and_each_image_gets_its_own(model, monkeypatch, capsys):
    files = {"base-grey": model, "base-colour": write_model(Path("20.onnx"), 20 / 255, 3)}
    monkeypatch.setattr(zoo, "shipped", lambda: files)
    picture("grey.png")
    picture("colour.png", shape=(20, 30, 3))
    assert cli.main(["denoise", "grey.png", "colour.png"]) == 0
    assert values("grey_denoised.png") == 100 + ADDED
    assert values("colour_denoised.png") == 120
    capsys.readouterr()
    monkeypatch.setattr(zoo, "shipped", dict)
    assert cli.main(["denoise", "grey.png", "--force"]) == 2
    assert "model 'base': no such file, nor a shipped model (none ships" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["new.png", "sub/deep/new.png"])
def test_a_single_input_goes_to_a_file(model, output):
    picture("scan.png")
    assert snowmelt(model, "scan.png", "-o", output) == 0
    assert values(output) == 100 + ADDED


@pytest.mark.parametrize("output", ["out", "out.d/", "there.d"])
def test_or_into_a_folder(here, model, output):
    picture("scan.png")
    (here / "there.d").mkdir()
    assert snowmelt(model, "scan.png", "-o", output) == 0
    assert values(here / output / "scan.png") == 100 + ADDED


def test_a_folder_keeps_its_structure(model):
    for name in (
        "in/a.png",
        "in/deep/er/a.png",
        "in/deep/b.tif",
        "in/.hidden.png",
        "in/.git/c.png",
    ):
        picture(name)
    Path("in/notes.txt").write_text("no image")
    assert snowmelt(model, "in", "-o", "out") == 0
    assert set(everything("out")) == {
        Path("out/a.png"),
        Path("out/deep/er/a.png"),
        Path("out/deep/b.tif"),
    }
    assert values("out/deep/b.tif") == 100 + ADDED


def sources(*arguments, output=None):
    return [job.source for job in plan([str(each) for each in arguments], output)]


def test_patterns(here):
    for name in ("in/1/a.png", "in/2/a.png", "in/2/b.tif", "in/2/c.txt"):
        if name.endswith("txt"):
            Path(name).write_text("")
        else:
            picture(name)
    assert sources("in/*/a.png") == ["in/1/a.png", "in/2/a.png"]
    assert sources("in/**/*") == ["in/1/a.png", "in/2/a.png", "in/2/b.tif"]
    assert sources(here / "in" / "?" / "*.tif") == [str(here / "in/2/b.tif")]
    assert plan(["in/*/a.png"], "out") == [
        Job("in/1/a.png", Path("out/1/a.png")),
        Job("in/2/a.png", Path("out/2/a.png")),
    ]
    picture("x[1].png")
    assert sources("x[1].png") == ["x[1].png"]  # a name is a name, whatever it could mean
    with pytest.raises(UserError, match=r"in/\*\.gif: no images there; known kinds: \.png"):
        plan(["in/*.gif"])
    Path("empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no images there; known kinds: [^:]*$"):
        plan(["empty"])
    Path("empty/a.HEIC").write_text("")
    for text in ("empty", "empty/*.HEIC"):
        with pytest.raises(
            UserError, match=r"no images there; .* Not read: 1 \.heic: .*export it as PNG"
        ):
            plan([text])


def test_pictures_that_are_not_read_are_told(model, capsys):
    """But not the raw picture beside its JPEG."""
    picture("in/a.png")
    for name in ("in/a.CR2", "in/b.cr2", "in/2/c.cr2", "in/d.txt", "in/e.czi", "o/f.nef"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert snowmelt(model, "in", "-o", "in/results") == 0
    raw, microscope, *_ = capsys.readouterr().err.splitlines()
    assert raw == f"snowmelt: passed over 2 .cr2: {images.UNREAD['.cr2']}"
    assert microscope == f"snowmelt: passed over 1 .czi: {images.UNREAD['.czi']}"
    assert snowmelt(model, "in", "-o", "in/results", "--quiet", "--force") == 0
    assert "passed" not in capsys.readouterr().err


def test_earlier_results_are_not_denoised_again():
    for name in ("in/a.png", "in/a_denoised.png", "in/lone_denoised.png"):
        picture(name)
    expected = ["in/a.png", "in/lone_denoised.png"]
    assert sources("in") == expected
    assert sources("in/*.png") == expected
    assert sources("in/a.png", "in/a_denoised.png", "in/lone_denoised.png") == expected
    assert sources("in/a_denoised.png") == ["in/a_denoised.png"]
    picture("in/out/a.png")
    assert sources("in", output="in/out") == expected


def test_an_input_given_twice_is_one_input(here):
    picture("in/a.png")
    assert sources("in/a.png", "./in/a.png", here / "in/a.png", "in") == ["in/a.png"]


def test_what_is_there_is_replaced_by_force_only(model, capsys):
    picture("a.png")
    picture("b.png", 50)
    picture("a_denoised.png", 7)
    assert snowmelt(model, "a.png", "b.png") == 1
    assert values("a_denoised.png") == 7
    assert values("b_denoised.png") == 50 + ADDED  # the others go on
    printed = capsys.readouterr()
    assert "a_denoised.png: is there already; --force replaces it" in printed.err
    assert "1 of 2 images failed: a.png" in printed.err
    assert snowmelt(model, "a.png", "--force") == 0
    assert values("a_denoised.png") == 100 + ADDED


def test_a_dangling_link_is_there_already(model):
    picture("a.png")
    Path("a_denoised.png").symlink_to("elsewhere.png")
    assert snowmelt(model, "a.png") == 1
    assert snowmelt(model, "a.png", "--force") == 0
    assert not Path("elsewhere.png").exists()


@pytest.mark.parametrize("way", ["same", "symbolic", "hard", "other"])
def test_no_input_is_ever_replaced(here, model, capsys, way):
    source, target = picture("a.png"), Path("b.png")
    if way == "same":
        target = here / "sub" / ".." / "a.png"
        (here / "sub").mkdir()
    elif way == "symbolic":
        target.symlink_to(source)
    elif way == "hard":
        target.hardlink_to(source)
    else:
        picture("b/a.png")
    before = everything(here)
    if way == "other":
        # b/a.png would become a.png, which is an input as well
        assert snowmelt(model, "a.png", "b", "-o", ".", "--force") == 2
    else:
        assert snowmelt(model, "a.png", "-o", target, "--force") == 2
    assert everything(here) == before
    assert "no input is ever replaced" in capsys.readouterr().err or way == "other"


def test_an_output_folder_that_is_the_input_folder(model, capsys):
    picture("in/a.png")
    assert snowmelt(model, "in", "-o", "in", "--force") == 2
    assert "in/a.png: is an input, and no input is ever replaced" in capsys.readouterr().err
    assert values("in/a.png") == 100


def test_two_results_of_one_name(model, capsys):
    picture("1/a.png")
    picture("2/a.png")
    assert snowmelt(model, "1", "2", "-o", "out") == 2
    assert "1/a.png and 2/a.png would both become out/a.png" in capsys.readouterr().err
    assert not Path("out").exists()
    with h5py.File("x.h5", "w") as file:
        file["one"] = file["two"] = np.zeros((5, 5), np.uint8)
    with pytest.raises(UserError, match=r"would both become x_denoised.h5; do one after the other"):
        plan(["x.h5:/one", "x.h5:/two"])


def test_several_inputs_do_not_fit_a_file():
    picture("in/a.png")
    picture("b.png")
    for inputs in (["in"], ["in/*.png"], ["b.png", "in/a.png"]):
        with pytest.raises(UserError, match=r"-o out.png: several inputs need a folder"):
            plan(inputs, "out.png")


def test_links_out_of_the_output_folder(here, model, capsys):
    picture("in/sub/a.png")
    outside = here / "outside"
    outside.mkdir()
    Path("out").mkdir()
    Path("out/sub").symlink_to(outside)
    assert snowmelt(model, "in", "-o", "out") == 2
    assert "out/sub/a.png: a link leads out of the output folder out" in capsys.readouterr().err
    assert not any(outside.iterdir())
    Path("way").symlink_to("elsewhere")  # the folder itself may be a link: the user named it
    Path("elsewhere").mkdir()
    assert snowmelt(model, "in", "-o", "way") == 0
    assert values("elsewhere/sub/a.png") == 100 + ADDED


def test_linked_folders_are_not_entered(here):
    picture("in/a.png")
    Path("in/loop").symlink_to(here / "in")
    assert sources("in") == ["in/a.png"]


def test_failures_are_reported_and_the_others_go_on(model, capsys):
    picture("in/a.png")
    Path("in/b.png").write_bytes(Path("in/a.png").read_bytes()[:60])
    Path("in/c.tif").write_bytes(b"II*\0")
    Path("in/d.npy").write_bytes(b"")
    picture("in/e.png")
    np.save("in/f.npy", np.zeros((9, 9)))
    before = everything("in")
    assert snowmelt(model, "in", "missing.png", "-o", "out") == 1
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    for name in ("in/b.png", "in/c.tif", "in/d.npy", "in/f.npy", "missing.png"):
        (line,) = [
            line for line in printed.err.splitlines() if line.startswith(f"snowmelt: error: {name}")
        ]
        assert len(line) > 40
    assert printed.err.splitlines()[-1] == (
        "snowmelt: 5 of 7 images failed: in/b.png, in/c.tif, in/d.npy, in/f.npy, missing.png"
    )
    assert set(everything("out")) == {Path("out/a.png"), Path("out/e.png")}
    assert everything("in") == before


def test_a_fault_in_one_image_is_no_traceback(model, capsys, monkeypatch):
    picture("a.png")
    picture("b.png")

    def broken(path, **_):
        if "a.png" in path:
            raise ZeroDivisionError("division by zero")
        return images.open_image(path)

    monkeypatch.setattr(batch, "open_image", broken)
    assert snowmelt(model, "a.png", "b.png") == 1
    assert "a.png: ZeroDivisionError: division by zero. This is a fault" in capsys.readouterr().err
    assert Path("b_denoised.png").exists()


def test_what_is_wrong_with_the_request_is_said_once(here, model, capsys):
    picture("a.png")
    for arguments, words in (
        (["--strength", "2"], "strength 2: expected 0"),
        (["--sigma", "25"], "this model knows one noise level only"),
        (["--device", "tpu"], "device 'tpu' is unknown"),
        (["--range", "5", "1"], "value range 5 to 1"),
    ):
        assert snowmelt(model, "a.png", *arguments) == 2
        assert words in capsys.readouterr().err
    assert set(everything(here)) == {here / "a.png"}


def test_arrays_in_containers(model):
    with h5py.File("x.h5", "w") as file:
        file["deep/one"] = np.full((20, 20), 100, np.uint8)
        file["two"] = np.full((20, 20), 3, np.uint8)
    assert snowmelt(model, "x.h5:/deep/one", "--axes", "YX") == 0
    with h5py.File("x_denoised.h5") as file:
        assert (file["deep/one"][:] == 100 + ADDED).all()
        assert (file["two"][:] == 3).all()
    zarr.create_array("in/y.zarr", data=np.full((20, 20), 100, np.uint8), chunks=(8, 8))
    picture("in/a.png")
    assert sources("in") == ["in/a.png", "in/y.zarr"]
    assert snowmelt(model, "in/y.zarr", "--axes", "YX") == 0
    assert (zarr.open_array("in/y_denoised.zarr", mode="r")[:] == 100 + ADDED).all()
    assert plan(["in/y.zarr"], "out") == [Job("in/y.zarr", Path("out/y.zarr"))]


KINDS = [
    ("grey.png", "u1", (40, 41), "YX"),
    ("grey16.png", "u2", (40, 41), "YX"),
    ("colour.png", "u1", (40, 41, 3), "YXS"),
    ("opacity16.png", "u2", (40, 41, 4), "YXS"),
    ("lossless.webp", "u1", (40, 41, 3), "YXS"),
    ("grey.tif", "u1", (40, 41), "YX"),
    ("stack.tif", "u2", (3, 40, 41), "ZYX"),
    ("colours.tif", "f4", (2, 40, 41, 3), "TYXS"),
    ("stack.npy", "f8", (3, 40, 41), "ZYX"),
    ("big-endian.npy", ">i2", (40, 41), "YX"),
]


def test_a_network_that_changes_nothing_gives_back_every_kind_of_file(tmp_path):
    identity = write_model(tmp_path / "identity.onnx", 0)
    (tmp_path / "in").mkdir()
    random = np.random.default_rng(0)
    for name, kind, shape, axes in KINDS:
        dtype = np.dtype(kind)
        integers = random.integers(0, np.iinfo(dtype).max if dtype.kind in "ui" else 999, shape)
        images.write(tmp_path / "in" / name, integers.astype(dtype), axes=axes)
        options = [] if dtype.itemsize <= 2 else ["--range", "0", "500"]
        options += ["--axes", axes] if name.endswith("npy") else []
        source = tmp_path / "in" / name
        assert snowmelt(identity, source, "-o", tmp_path / "out", *options) == 0
        if name.endswith("npy"):
            assert (tmp_path / "out" / name).read_bytes() == source.read_bytes()
        found, expected = images.read(tmp_path / "out" / name, axes), images.read(source, axes)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_range_strength_and_nan_from_the_command_line(model, capsys):
    image = np.full((20, 30), 2.0, np.float32)
    image[3, 4] = np.nan
    tifffile.imwrite("f.tif", image)
    assert snowmelt(model, "f.tif") == 1
    assert "f.tif: an image of float32: which values" in capsys.readouterr().err
    assert snowmelt(model, "f.tif", "--range", "0", "25.5", "--strength", "0.5") == 0
    found = tifffile.imread("f_denoised.tif")
    assert np.isnan(found[3, 4])
    np.testing.assert_allclose(found[~np.isnan(found)], 2.5, rtol=1e-6)
    assert "f.tif: kept unchanged: 1 value not finite (NaN or inf" in capsys.readouterr().err
    assert snowmelt(model, "f.tif", "--range", "0", "1", "--nan", "fail", "--force") == 1
    assert (
        "f.tif: 1 values that are not finite (NaN or infinite) in row 3" in capsys.readouterr().err
    )


def test_quiet_prints_nothing(model, capsys):
    picture("a.png")
    assert snowmelt(model, "a.png", "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def run_in_python(code, **options):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_denoises_where_torch_cannot_be_imported(model):
    picture("a.png")
    process = run_in_python(f"""
        import sys
        for name in ("torch", "onnx", "onnxscript", "matplotlib"):
            sys.modules[name] = None  # importing it is a ModuleNotFoundError
        from snowmelt.cli import main
        sys.exit(main(["denoise", "a.png", "--model", {str(model)!r}]))
        """)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert abs(int(values("a_denoised.png")) - 100 - ADDED) <= 1  # bf16


def test_a_full_disk_leaves_nothing_behind(here, model):
    tifffile.imwrite("a.tif", np.zeros((2000, 1000), np.uint8))
    before = everything(here)
    process = run_in_python(f"""
        import resource, sys
        from snowmelt.cli import main
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
        sys.exit(main(["denoise", "a.tif", "--model", {str(model)!r}]))
        """)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == "snowmelt: error: a_denoised.tif: cannot be written: File too large\n"
    assert everything(here) == before


def test_ctrl_c_leaves_nothing_behind(here, model):
    tifffile.imwrite("a.tif", np.zeros((20000, 20000), np.uint8))
    before = set(here.iterdir())
    process = run_in_python(f"""
        import signal, sys
        from snowmelt.cli import main
        signal.signal(signal.SIGINT, signal.default_int_handler)  # `nohup make test` ignores it
        sys.exit(main(["denoise", "a.tif", "a.tif", "--model", {str(model)!r}]))
        """)
    while set(here.iterdir()) == before and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "snowmelt: stopped\n")
    assert set(here.iterdir()) == before


def test_options_reach_the_engine(model, monkeypatch):
    asked = {}

    def load(path, **options):
        asked.update(options, path=path)
        raise UserError("enough")

    monkeypatch.setattr(batch, "load", load)
    picture("a.png")
    with pytest.raises(UserError, match="enough"):
        batch.run(Options(inputs=["a.png"], model=str(model), device="cuda", tile=7, threads=3))
    expected = {"device": "cuda", "precision": "auto", "tile": 7, "threads": 3, "path": str(model)}
    assert asked == expected


def test_sigma_is_in_255ths_of_the_range():
    assert Options(inputs=[], model="", sigma=51).settings.noise == pytest.approx(0.2)


def test_what_is_missing_altogether_is_a_wrong_request(here, model, capsys):
    picture("scan_1.png")
    assert snowmelt(model, "scn_1.png") == 2
    assert "scn_1.png: no such file; did you mean 'scan_1'?" in capsys.readouterr().err
    assert snowmelt(model, "a.png", "no/b.png", "-o", "out") == 2
    assert "a.png: no such file; no/b.png: no such file, nor a folder no" in capsys.readouterr().err
    assert set(everything(here)) == {here / "scan_1.png"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([""], "an image with an empty name"),
        (["a.png", ""], "an image with an empty name"),
        (["a.png", "-o", ""], "-o with an empty name"),
        (["a.png", "-o", "-"], "-o called -: standard input and output are not supported"),
        (["-"], "an image called -"),
        (["a.png", "a.png", "in", "-o", "notes"], "-o notes: several inputs need a folder"),
    ],
)
def test_names_that_mean_nothing_are_refused(here, model, capsys, arguments, words):
    """An empty one once meant all of the current folder, as an unset variable of a script gives it."""
    picture("a.png")
    picture("in/b.png")
    Path("notes").write_text("no folder")
    before = everything(here)
    assert snowmelt(model, *arguments) == 2
    assert words in capsys.readouterr().err
    assert everything(here) == before


def test_a_folder_that_cannot_be_entered_stops_no_batch(model, capsys, monkeypatch):
    picture("in/a.png")
    picture("in/closed/b.png")
    allowed = os.access
    monkeypatch.setattr(  # root may enter all
        os, "access", lambda path, mode: "closed" not in str(path) and allowed(path, mode)
    )
    assert snowmelt(model, "in", "-o", "out") == 1
    assert set(everything("out")) == {Path("out/a.png")}
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "snowmelt: error: in/closed: cannot be looked into: Permission denied"
    assert last == "snowmelt: not looked into: in/closed"


def test_pipes_sockets_and_devices_are_refused(here, model, capsys):
    picture("in/a.png")
    os.mkfifo("in/pipe.png")
    Path("in/link.tif").symlink_to("/dev/zero")
    os.chdir("in")  # the path of a socket has 108 bytes at most
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("s.png")
    os.chdir(here)
    assert snowmelt(model, "in", "-o", "out") == 1
    assert set(everything("out")) == {Path("out/a.png")}
    errors = capsys.readouterr().err
    for words in ("pipe.png: is a pipe (FIFO)", "link.tif: is a device", "s.png: is a socket"):
        assert f"{words}; expected a file" in errors
    os.mkfifo("there.png")
    assert snowmelt(model, "in/a.png", "-o", "there.png", "--force") == 1
    assert "there.png: cannot be written: it is a pipe (FIFO)" in capsys.readouterr().err
    assert Path("there.png").is_fifo()


def test_the_longest_names(model, capsys):
    name = "n" * 251 + ".png"
    picture(name)
    assert snowmelt(model, name, "-o", "out/") == 0
    assert values(Path("out") / name) == 100 + ADDED
    assert snowmelt(model, name) == 1
    assert "is longer than 255 bytes; give it another one: -o" in capsys.readouterr().err


def test_links_in_a_circle_are_errors_of_their_own(here, model, capsys):
    picture("a.png")
    for name in ("b.png", "circle"):
        Path(name).symlink_to(name)
    assert snowmelt(model, "a.png", "b.png") == 1
    assert "b.png: cannot be read: Too many levels" in capsys.readouterr().err
    assert values("a_denoised.png") == 100 + ADDED
    assert snowmelt(model, "a.png", "-o", "circle/") == 1
    assert not (here / "circle").exists()


def test_names_reach_the_terminal_without_control_characters(model, capsys):
    name = "a\x1b]0;title\x07\nb.png"
    picture(name)
    assert snowmelt(model, name) == 0
    printed = capsys.readouterr()
    assert r"a\x1b]0;title\x07\nb.png -> a" in printed.out
    assert "\x1b" not in printed.out + printed.err
    Path(name).write_bytes(b"")
    assert snowmelt(model, name, "--force") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(r"snowmelt: error: a\x1b]0;title\x07\nb.png: ")


def test_a_result_that_is_not_finite_is_never_written(here, model, capsys):
    image = np.full((40, 50), 65000, np.float16)
    tifffile.imwrite("half.tif", image)
    tifffile.imwrite("there_denoised.tif", image)
    tifffile.imwrite("there.tif", image)
    before = everything(here)
    for name in ("half.tif", "there.tif"):
        assert snowmelt(model, name, "--range", "0", "65504", "--force") == 1  # ADDED is 2569
        assert f"{name}: the result does not fit float16" in capsys.readouterr().err
    assert snowmelt(model, "half.tif", "--range", "0", "1e300") == 1
    assert "an image of float16 cannot be scaled by that" in capsys.readouterr().err
    assert everything(here) == before


def test_outliers_and_missing_data_are_kept_and_said(model, capsys):
    image = np.full((20, 30), 100, np.uint16)
    image[3, 4], image[5, :9] = 65535, 7
    tifffile.imwrite("a.tif", image)
    assert snowmelt(model, "a.tif", "--range", "0", "255", "--nodata", "7", "--quiet") == 0
    expected = np.where(image == 100, 100 + ADDED, image)
    np.testing.assert_array_equal(tifffile.imread("a_denoised.tif"), expected)
    assert capsys.readouterr().err == (
        "snowmelt: a.tif: kept unchanged: 9 values of 7 (no data), 1 value far outside the range 0 to 255 "
        "(if they belong to the image, state a wider one: --range LOW HIGH, in Python value_range=)\n"
    )


def test_messages_about_levels(capsys):
    random = np.random.default_rng(0)
    images.write("12.tif", random.integers(100, 1100, (40, 50)).astype(np.uint16))
    images.write("small.tif", np.full((31, 50), 9, np.uint8))
    for name, sigma, words in (
        ("12.tif", "0", "12.tif: noise level 0 (given): unchanged"),
        ("12.tif", "10", "12.tif: noise level 10 on a 0–255 scale (given)"),
        (
            "small.tif",
            "auto",
            "small.tif: 50 x 31 pixels: noise is measured from 32 x 32 on; unchanged",
        ),
    ):
        arguments = ["denoise", name, "--model", "fast", "--sigma", sigma, "--force"]
        assert cli.main(arguments) == 0
        printed = capsys.readouterr().err
        assert printed.startswith(words)
        assert "no noise" not in printed
        warned = "the given noise level, 2570, is larger than the image's contrast" in printed
        assert warned == (sigma == "10")
    np.testing.assert_array_equal(images.read("small_denoised.tif"), images.read("small.tif"))
