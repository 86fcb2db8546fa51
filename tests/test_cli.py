"""The command line in this process: exit codes, messages, what is written and what is not."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from snowmelt import checkpoint, training
from snowmelt.cli import main
from snowmelt.recipe import read
from snowmelt.samples import Batch


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def tiny(source: Path, folder: Path, *more: object) -> tuple[object, ...]:
    return (
        "train", "--data", source, "--widths", 4, 3, "--epochs", 2, "--batch", 4, "-o", folder, "--quiet",
        *more,
    )  # fmt: skip


def test_training_prints_the_table_and_the_verdict(
    pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*tiny(pairs_file, tmp_path / "run")) == 0
    lines = capsys.readouterr().out
    for word in (
        "noisy",
        "Gaussian blur (sigma",
        "median (size",
        "non-local means (sigma",
        "clipped",
    ):
        assert word in lines
    assert "the network: worse than the noisy input by" in lines  # after two epochs
    assert (tmp_path / "run" / "scores.json").exists()


def test_flags_and_set_reach_the_recipe(pairs_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    more = ("--lr", "2e-3", "--kernel-size", 5, "--set", "training.loss=l1", "--set", "data.seed=7")
    assert run(*tiny(pairs_file, folder, *more)) == 0
    recipe = read(str(folder / "recipe.toml"))
    assert recipe.network.widths == (4, 3)
    assert recipe.network.kernel_size == 5
    assert recipe.optimizer.lr == 2e-3
    assert recipe.training.loss == "l1"
    assert recipe.data.seed == 7
    assert recipe.data.source == str(pairs_file)


def test_paths_in_the_recipe_are_absolute(
    pairs_file: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = tiny(Path(pairs_file.name), Path("run"), "--photos", photo.name)
    assert run(*arguments) == 0
    recipe = read("run/recipe.toml")
    assert recipe.pictures.photos == (str(photo),)
    assert Path(recipe.data.source).is_absolute()


def test_resume_goes_on_and_takes_no_recipe_but_epochs(
    pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run(*tiny(pairs_file, folder)) == 0
    assert run("train", "--resume", "-o", folder, "--quiet") == 0
    assert run("train", "--resume", "-o", folder, "--lr", 1) == 2
    assert "leave --force and the recipe's flags out, but for --epochs" in capsys.readouterr().err
    assert run("train", "--resume", "-o", folder, "--epochs", 4, "--quiet") == 0
    assert len((folder / "log.jsonl").read_text().splitlines()) == 4


def test_ctrl_c_leaves_a_usable_run_and_says_how_to_go_on(
    pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import signal

    ordinary = training.Run.step

    def step(self: training.Run, batch: Batch) -> None:
        signal.raise_signal(signal.SIGINT)
        ordinary(self, batch)

    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(training.Run, "step", step)
        assert run(*tiny(pairs_file, folder)) == 130
    assert f"snowmelt train --resume -o {folder}" in capsys.readouterr().out
    assert (folder / "model.onnx").exists()
    assert run("train", "--resume", "-o", folder, "--quiet") == 0


def test_the_demo_goes_on_by_itself(
    pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("demo", *tiny(pairs_file, tmp_path / "run")[1:])
    assert run(*arguments) == 0
    written = (tmp_path / "run" / "last.ckpt").stat().st_mtime_ns
    assert run(*arguments) == 0
    assert (tmp_path / "run" / "photos.png").exists()
    assert (tmp_path / "run" / "last.ckpt").stat().st_mtime_ns >= written
    capsys.readouterr()
    assert run(*arguments, "--epochs", "3") == 2
    message = capsys.readouterr().err
    assert "training.epochs = 2, not 3" in message
    assert "--force" in message
    assert run(*arguments, "--epochs", "3", "--force") == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--widths", "0"), "each of 1 channel or more"),
        (("--kernel-size", "4"), "expected odd numbers"),
        (("--activation", "gelu"), "'gelu' is unknown"),
        (("--lr", "-1"), "expected a number above 0"),
        (("--epochs", "0"), "expected 1 or more"),
        (("--loss", "mae"), "known: l1, mse"),
        (("--set", "optimizer.lrate=1"), "did you mean 'lr'"),
        (("--set", "lr"), "expected TABLE.KEY=VALUE"),
        (("--set", "training.epochs=many"), "expected a whole number"),
        (("--sha256", "00"), "the recipe expects 00"),
        (("--photos", "none.jpg"), "none.jpg"),
        (("--from", "none.onnx"), "none.onnx"),
        (("--data", "none.h5"), "none.h5: no such file"),
    ],
)
def test_bad_flags_are_told_and_nothing_is_written(
    flags: tuple[str, ...],
    message: str,
    pairs_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*tiny(pairs_file, tmp_path / "run", *flags)) == 2
    error = capsys.readouterr().err
    assert error.startswith("snowmelt: error: ")
    assert message in error
    assert not (tmp_path / "run").exists()


def test_words_that_argparse_refuses_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["train", "--epochs", "x"], ["trian"], ["denoise"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert "usage: snowmelt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["trian"], "did you mean 'train'?"),
        (["denoise", "a.png", "--sgima", "5"], "did you mean '--sigma'?"),
        (["denoise", "a.png", "--tiles=5"], "did you mean '--tile'?"),
        (["recipes", "--colour\x1b[31m"], r"unrecognized arguments: --colour\x1b[31m"),
        (["models", "base\u202e"], r"unrecognized arguments: base\u202e"),
    ],
)
def test_typos_name_the_nearest(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.strip().endswith(hint)


def test_alone_it_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr()
    assert "denoise images" in printed.out
    assert printed.err == ""


def in_a_shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        env=os.environ | {"S": f"{sys.executable} -m snowmelt"} | environment,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "code", "error"),
    [
        ("$S recipes | true", 0, ""),
        ("$S --help | true", 0, ""),
        ("$S recipes >&-", 0, ""),
        ("$S denoise none.png 2>&-", 2, ""),
        ("$S recipes >&- 2>&- <&-", 0, ""),
        ("$S recipes >/dev/full", 1, "standard output: No space left on device"),
        ("$S denoise none.png 2>/dev/full", 2, ""),
    ],
)
def test_output_that_nobody_reads_changes_no_exit_code(command: str, code: int, error: str) -> None:
    done = in_a_shell(command)
    assert done.returncode == code
    assert done.stderr == (f"snowmelt: error: {error}\n" if error else "")


def test_output_in_ascii_is_escaped() -> None:
    done = in_a_shell("$S denoise Größe.png; $S denoise --help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert r"Gr\xf6\xdfe.png: no such file" in done.stderr
    assert r"0\u2013255 scale" in " ".join(done.stdout.split())


def test_no_control_character_reaches_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever command prints it: bars move the cursor, names do not."""

    def shout(_: object) -> int:
        print("a\x1b]0;title\x07\tb")
        print("\r 5%\x1b[A\x9b1m", file=sys.stderr)
        return 0

    monkeypatch.setattr("snowmelt.commands.recipes.run", shout)
    assert main(["recipes"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "a\\x1b]0;title\\x07\tb\n"
    assert printed.err == "\r 5%\x1b[A\\x9b1m\n"


def test_pictures_of_other_sizes_train_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "odd.h5"
    with h5py.File(path, "w") as file:
        for name, shape in (("train", (5, 9, 14)), ("test", (1, 7, 6))):
            file[f"{name}_gt"] = rng.integers(0, 65536, shape, np.uint16)
            file[f"{name}_ns"] = rng.integers(0, 65536, shape, np.uint16)
    assert run(*tiny(path, tmp_path / "run")) == 0


def test_a_full_disk_is_told(
    pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "store", full)
    assert run(*tiny(pairs_file, tmp_path / "run")) == 2
    assert "No space left on device" in capsys.readouterr().err


def test_without_torch_training_says_what_to_install(
    pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import sys

    monkeypatch.delitem(sys.modules, "snowmelt.training")
    monkeypatch.delattr("snowmelt.training", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(*tiny(pairs_file, tmp_path / "run")) == 2
    assert 'pip install "snowmelt[train]"' in capsys.readouterr().err
