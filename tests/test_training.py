import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from snowmelt import checkpoint, looks, modelfile, training
from snowmelt.data import read_dataset
from snowmelt.errors import UserError
from snowmelt.recipe import Optimizer, Recipe, from_dict
from snowmelt.samples import Batch, Share
from snowmelt.training import Run, resume, train

from .conftest import write_pairs


def small(source: Path, **training_keys: Any) -> Recipe:
    return from_dict(
        {
            "data": {"source": str(source)},
            "network": {"widths": [4, 3]},
            "training": {"epochs": 3, "batch": 3, **training_keys},
            "optimizer": {"lr": 1e-3},
            "pictures": {"every": 2},
        }
    )


def small_unet(pairs_file: Path) -> Recipe:
    keys = {"architecture": "unet", "widths": [8, 16], "blocks": [1, 1]}
    return from_dict({"network": keys}, base=small(pairs_file, epochs=1))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "last.ckpt", weights_only=True)["network"]
    return state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C in the middle of that step."""
    ordinary, taken = Run.step, 0

    def step(run: Run, batch: Batch) -> None:
        nonlocal taken
        taken += 1
        if taken == steps:
            signal.raise_signal(signal.SIGINT)
        ordinary(run, batch)

    monkeypatch.setattr(Run, "step", step)


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time of so small a run; only the test with a photo draws."""
    if "photo" not in request.fixturenames:
        for name in ("draw_epoch", "draw_pair", "draw_curves"):
            monkeypatch.setattr(training.figures, name, lambda *_: None)


# --- runs


def test_a_run_leaves_what_it_promises(pairs_file: Path, photo: Path, tmp_path: Path) -> None:
    recipe = small(pairs_file)
    recipe = replace(recipe, pictures=replace(recipe.pictures, photos=(str(photo),)))
    assert train(recipe, tmp_path / "run", quiet=True)
    assert sorted(item.name for item in (tmp_path / "run").iterdir()) == [
        "curves.png", "epoch-000.npz", "epoch-000.png", "epoch-002.npz", "epoch-002.png",
        "epoch-003.npz", "epoch-003.png", "last.ckpt", "log.jsonl", "model.onnx", "pair.png",
        "photos.png", "pictures.npz", "recipe.toml",
    ]  # fmt: skip
    log = rows(tmp_path / "run")
    assert [row["epoch"] for row in log] == [1, 2, 3]
    assert all(row["seconds"] > 0 and row["loss"] > 0 for row in log)
    assert log[-1]["loss"] < log[0]["loss"]


def test_the_model_file_holds_the_weights_and_tells_their_story(
    pairs_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    train(small(pairs_file), folder, quiet=True)
    header = modelfile.read(folder / "model.onnx").header
    assert header.config["widths"] == [4, 3]
    assert header.recipe["training"]["epochs"] == 3
    assert header.data[0]["name"] == "pairs.h5"
    assert len(header.data[0]["sha256"]) == 64
    assert header.scores[0]["value"] == pytest.approx(rows(folder)[-1]["psnr"])
    assert "clipped" in header.scores[0]["protocol"]
    assert same(modelfile.load_network(folder / "model.onnx").state_dict(), weights(folder))


def test_the_recipe_in_the_folder_runs_again_to_the_same_numbers(
    pairs_file: Path, tmp_path: Path
) -> None:
    from snowmelt.recipe import read

    train(small(pairs_file, patch=16), tmp_path / "one", quiet=True)
    train(read(str(tmp_path / "one" / "recipe.toml")), tmp_path / "two", quiet=True)
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert (one["loss"], one["psnr"]) == (two["loss"], two["psnr"])


def test_another_seed_gives_other_weights(pairs_file: Path, tmp_path: Path) -> None:
    train(small(pairs_file), tmp_path / "one", quiet=True)
    train(small(pairs_file, seed=1), tmp_path / "two", quiet=True)
    assert not same(weights(tmp_path / "one"), weights(tmp_path / "two"))


@pytest.mark.parametrize("steps", [1, 4, 6])  # inside the first, the second epoch; at its end
def test_stopped_and_resumed_equals_never_stopped(
    steps: int, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small(pairs_file)
    assert train(recipe, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patched:
        stop_after(steps, patched)
        assert not train(recipe, tmp_path / "stopped", quiet=True)
    assert torch.load(tmp_path / "stopped" / "last.ckpt", weights_only=True)["step"] == steps
    modelfile.read(tmp_path / "stopped" / "model.onnx")  # usable
    assert resume(tmp_path / "stopped", quiet=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    for one, two in zip(rows(tmp_path / "whole"), rows(tmp_path / "stopped"), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-12)
        assert one["psnr"] == two["psnr"]


def test_resuming_a_finished_run_changes_nothing(pairs_file: Path, tmp_path: Path) -> None:
    train(small(pairs_file), tmp_path / "run", quiet=True)
    before = weights(tmp_path / "run")
    assert resume(tmp_path / "run", quiet=True)
    assert same(before, weights(tmp_path / "run"))
    assert len(rows(tmp_path / "run")) == 3


def test_a_run_goes_on_to_another_number_of_epochs(pairs_file: Path, tmp_path: Path) -> None:
    assert small(pairs_file).optimizer.schedule == "constant"  # else the rates would differ
    train(small(pairs_file), tmp_path / "three", quiet=True)
    train(small(pairs_file, epochs=2), tmp_path / "two", quiet=True)
    assert not same(weights(tmp_path / "three"), weights(tmp_path / "two"))
    assert resume(tmp_path / "two", epochs=3, quiet=True)
    assert same(weights(tmp_path / "three"), weights(tmp_path / "two"))
    assert len(rows(tmp_path / "two")) == 3
    recipe = (tmp_path / "two" / "recipe.toml").read_text()
    assert recipe == (tmp_path / "three" / "recipe.toml").read_text()
    assert resume(tmp_path / "two", quiet=True)  # it stays so


def test_a_run_cannot_go_back_to_fewer_epochs(pairs_file: Path, tmp_path: Path) -> None:
    train(small(pairs_file), tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="has 3 epochs behind it, more than 2"):
        resume(tmp_path / "run", epochs=2, quiet=True)
    with pytest.raises(UserError, match=r"training\.epochs = 0: expected 1 or more"):
        resume(tmp_path / "run", epochs=0, quiet=True)
    assert resume(tmp_path / "run", quiet=True)  # nothing happened to it


def test_kill_at_any_moment_loses_at_most_an_epoch(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "pairs.h5", train=16)
    recipe = small(source, epochs=400)
    folder = tmp_path / "run"
    code = (
        "import sys; from pathlib import Path; from snowmelt import recipe, training;"
        "training.train(recipe.read(sys.argv[1]), Path(sys.argv[2]), quiet=True)"
    )
    from snowmelt.recipe import write

    write(recipe, tmp_path / "recipe.toml")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "recipe.toml"), str(folder)]
    )
    wait_for(lambda: (folder / "log.jsonl").exists() and len(rows(folder)) >= 3)
    seen = len(rows(folder))
    process.kill()
    process.wait()
    state = torch.load(folder / "last.ckpt", weights_only=True)
    assert len(state["rows"]) >= seen - 1
    assert state["step"] == 6 * len(state["rows"])
    finish = from_dict({"training": {"epochs": 400}}, base=recipe)
    run = Run.prepare(replace(finish, data=replace(finish.data, sha256="")), folder, quiet=True)
    checkpoint.restore(run.state, folder / "last.ckpt", run.recipe)
    assert run.state.step == state["step"]


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError):
            if condition():
                return
        time.sleep(0.01)
    raise AssertionError(f"nothing happened in {seconds} seconds")


def test_a_network_goes_on_from_a_model_file(pairs_file: Path, tmp_path: Path) -> None:
    train(small(pairs_file), tmp_path / "first", quiet=True)
    recipe = small(pairs_file, epochs=1)
    network = replace(recipe.network, start=str(tmp_path / "first" / "model.onnx"), widths=(9,))
    run = Run.prepare(replace(recipe, network=network), tmp_path / "second", quiet=True)
    assert same(run.state.network.state_dict(), weights(tmp_path / "first"))


def test_a_network_to_go_on_from_grows(pairs_file: Path, tmp_path: Path) -> None:
    fresh = small_unet(pairs_file)
    train(fresh, tmp_path / "fresh", quiet=True)
    start = {"start": str(tmp_path / "fresh" / "model.onnx"), "grow": [2, 1], "widen": [8, 20]}
    train(from_dict({"network": start}, base=fresh), tmp_path / "grown", quiet=True)
    header = modelfile.read(tmp_path / "grown" / "model.onnx").header
    assert (header.config["blocks"], header.config["widths"]) == ([2, 1], [8, 20])
    with pytest.raises(UserError, match=r"network.grow = \[2, 1\] is for a network to go on from"):
        from_dict({"network": {"grow": [2, 1]}}, base=fresh)
    with pytest.raises(UserError, match=r"network.widen = .* a new one has network.widths"):
        from_dict({"network": {"widen": [9, 16]}}, base=fresh)


def test_a_teacher_is_what_is_learnt(pairs_file: Path, tmp_path: Path) -> None:
    fresh = small_unet(pairs_file)
    train(fresh, tmp_path / "first", quiet=True)
    model = str(tmp_path / "first" / "model.onnx")
    taught = from_dict({"training": {"teacher": model}}, base=fresh)
    same = from_dict({"network": {"start": model}}, base=taught)
    run = Run.prepare(same, tmp_path / "same", quiet=True)
    batch = run.samples.batch(0, Share())
    assert run.loss(batch).item() == 0  # it is its own teacher
    alone = Run.prepare(
        from_dict({"network": {"start": model}}, base=fresh), tmp_path / "alone", quiet=True
    )
    assert alone.loss(batch).item() > 0
    assert run.score() == alone.score()  # against the truth
    # Another network comes nearer to it.
    longer = from_dict({"training": {"epochs": 3}, "optimizer": {"lr": 3e-3}}, base=taught)
    run = Run.prepare(longer, tmp_path / "other", quiet=True)
    before = run.loss(batch).item()
    assert run.go()
    assert run.loss(batch).item() < 0.5 * before
    assert modelfile.read(tmp_path / "other" / "model.onnx").header.recipe["training"][
        "teacher"
    ] == ("model.onnx")


def test_teachers_that_cannot_teach(pairs_file: Path, tmp_path: Path) -> None:
    fresh = small_unet(pairs_file)
    train(fresh, tmp_path / "first", quiet=True)
    taught = {"training": {"teacher": str(tmp_path / "first" / "model.onnx")}}
    with pytest.raises(UserError, match="sides divide by 4; give such a --patch"):
        Run.prepare(
            from_dict(
                {"training": {"patch": 6}, "network": {"architecture": "recipe-cnn"}},
                base=from_dict(taught, base=small(pairs_file)),
            ),
            tmp_path / "odd",
            quiet=True,
        )
    with pytest.raises(UserError, match="is for 3 channels; these pictures have 1"):
        Run.prepare(
            from_dict({"training": {"teacher": "large-colour"}}, base=fresh),
            tmp_path / "colour",
            quiet=True,
        )
    with pytest.raises(
        UserError, match="there is nothing to teach where pictures learn from themselves"
    ):
        from_dict({"data": {"noisy": ["a.png"]}, **taught})


def test_networks_are_told_the_level_that_suits_them(
    pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = small_unet(pairs_file)
    train(fresh, tmp_path / "fresh", quiet=True)
    model = tmp_path / "fresh" / "model.onnx"
    assert modelfile.read(model).header.told == "gaussian:25"

    def error(_: object, batch: Batch, level: float) -> torch.Tensor:
        return torch.full_like(batch.noisy, (255 * level - 7) ** 2)

    monkeypatch.setattr(training, "_weighed_error", error)
    found = Run.prepare(from_dict({"network": {"start": str(model)}}, base=fresh), tmp_path / "two")
    assert found.recipe.network.told == 8  # of those that are tried
    assert found.samples.told == "gaussian:8"
    said = {"start": str(model), "told": 40.0}
    run = Run.prepare(from_dict({"network": said}, base=fresh), tmp_path / "three", quiet=True)
    assert run.samples.told == "gaussian:40"


def test_a_model_tells_the_engine_what_it_was_told(pairs_file: Path, tmp_path: Path) -> None:
    from snowmelt import denoiser

    keys = {"architecture": "unet", "widths": [8, 16], "blocks": [1, 1], "told": 40.0}
    train(from_dict({"network": keys}, base=small(pairs_file)), tmp_path / "run", quiet=True)
    model = denoiser.load(tmp_path / "run" / "model.onnx", precision="f32")
    noisy = read_dataset(pairs_file).test.noisy[0]
    silent, same, other = (
        model(noisy, value_range=(0, 1), sigma=sigma) for sigma in ("auto", 40 / 255, 5 / 255)
    )
    assert np.array_equal(silent, same)
    assert not np.allclose(silent, other)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_each_choice_learns(
    precision: str, optimizer: str, loss: str, pairs_file: Path, tmp_path: Path
) -> None:
    recipe = small(pairs_file, precision=precision, loss=loss)
    rate = 0.05 if optimizer == "sgd" else 5e-3
    recipe = replace(recipe, optimizer=Optimizer(name=optimizer, lr=rate))
    run = Run.prepare(recipe, tmp_path / "run", quiet=True)
    assert run.bf16 == (precision == "bf16")
    before = run.score()
    for step in range(60):
        run.step(run.samples.batch(step, Share()))
    assert run.score() > before + 1


def test_the_score_is_the_mean_of_clipped_psnr(pairs_file: Path, tmp_path: Path) -> None:
    from snowmelt.metrics import psnr

    run = Run.prepare(small(pairs_file), tmp_path / "run", quiet=True)
    run.denoise = lambda noisy, _: (noisy * 1.1).clamp(0, 1)  # type: ignore[method-assign]
    test = read_dataset(pairs_file).test
    expected = np.mean(
        [
            psnr(clean, np.clip(noisy * np.float32(1.1), 0, 1), data_range=1)
            for noisy, clean in zip(test.noisy, test.clean, strict=True)
        ]
    )
    assert run.score() == pytest.approx(expected, abs=1e-4)


def test_only_pixels_that_count_are_scored(pairs_file: Path, tmp_path: Path) -> None:
    """Of a blind spot the others are in plain sight: to give them back says nothing."""
    run = Run.prepare(small(pairs_file), tmp_path / "run", quiet=True)
    noisy = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    target, weight = noisy.clone(), torch.zeros(1, 1, 8, 8)
    target[0, 0, 2, 3] += 0.5
    weight[0, 0, 2, 3] = 64.0
    run.samples.held_out = [Batch(noisy, target, weight)]
    run.denoise = lambda noisy, _: noisy  # type: ignore[method-assign]
    assert run.score() == pytest.approx(-20 * np.log10(0.5), abs=1e-4)


# --- what is refused


def test_a_rate_that_diverges_is_told_and_the_last_good_state_kept(
    pairs_file: Path, tmp_path: Path
) -> None:
    recipe = replace(small(pairs_file), optimizer=Optimizer(name="sgd", lr=1e6))
    with pytest.raises(UserError, match=r"of 1e\+06, and smaller steps.*--lr 100000"):
        train(recipe, tmp_path / "run", quiet=True)
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())


def test_after_a_loss_that_is_no_number_it_goes_on_from_the_last_good_state(
    pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.prepare(small(pairs_file, epochs=4), tmp_path / "run")
    ordinary, bad = run.loss, [7]

    def loss(batch: Batch) -> torch.Tensor:
        value = ordinary(batch)
        if bad and run.state.step == bad[0]:
            bad.pop()
            value = value * torch.nan
        return value

    run.loss = loss  # type: ignore[method-assign]
    assert run.go()
    said = capsys.readouterr().err
    assert "the loss is nan at step 7 (epoch 3)" in said
    assert "going back to step 6, with steps 0.3 times as large" in said
    assert [row["epoch"] for row in rows(run.folder)] == [1, 2, 3, 4]
    assert (run.state.setbacks, run.state.rate_factor) == (1, 0.3)
    assert run.state.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.3e-3)
    restored = Run.prepare(run.recipe, run.folder, quiet=True)
    checkpoint.restore(restored.state, run.folder / "last.ckpt", run.recipe)
    assert restored.state.rate_factor == 0.3


@pytest.mark.parametrize(("at", "found", "back"), [(5, 6, [3]), (6, 9, [6, 3])])
def test_after_weights_blew_up_it_goes_on_from_an_epoch_before(
    at: int,
    found: int,
    back: list[int],
    pairs_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Run.prepare(small(pairs_file, epochs=4), tmp_path / "run")
    ordinary, bad = run.step, [at]

    def step(batch: Batch) -> None:
        ordinary(batch)
        if bad and run.state.step == bad[0]:
            bad.pop()
            with torch.no_grad():
                for weights in run.state.network.parameters():
                    weights *= 100

    run.step = step  # type: ignore[method-assign]
    assert run.go()
    said = capsys.readouterr().err
    rose = rf"the loss rose from 0\.\d+ to [\d.e+]+ at step {found} \(epoch {found // 3}\)"
    assert len(re.findall(rose, said)) == len(back)
    assert [int(step) for step in re.findall(r"going back to step (\d+)", said)] == back
    losses = [row["loss"] for row in rows(run.folder)]
    assert len(losses) == 4
    assert max(losses) < 2 * losses[0]


@pytest.mark.parametrize("steps", [2, 4])
def test_muon_and_the_mean_of_weights_resume_exactly(
    steps: int, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small(pairs_file)
    keys = {"name": "muon", "ema": 0.9, "clip": 0.1, "schedule": "trapezoid", "warmup": 0.2}
    recipe = from_dict({"optimizer": keys, "network": {"widths": [4, 3, 3]}}, base=recipe)
    train(recipe, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patched:
        stop_after(steps, patched)
        train(recipe, tmp_path / "stopped", quiet=True)
    resume(tmp_path / "stopped", quiet=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    models = [
        modelfile.load_network(tmp_path / name / "model.onnx") for name in ("whole", "stopped")
    ]
    assert same(models[0].state_dict(), models[1].state_dict())
    assert not same(models[0].state_dict(), weights(tmp_path / "whole"))  # the mean is what is kept


def test_a_run_is_not_overwritten_unless_forced(pairs_file: Path, tmp_path: Path) -> None:
    train(small(pairs_file), tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match=r"holds a run already.*--resume.*--force"):
        train(small(pairs_file), tmp_path / "run", quiet=True)
    train(small(pairs_file, epochs=1), tmp_path / "run", quiet=True, force=True)
    assert len(rows(tmp_path / "run")) == 1
    assert not list((tmp_path / "run").glob("epoch-002.*"))


def test_pictures_of_the_user_in_the_folder_stay(pairs_file: Path, tmp_path: Path) -> None:
    mine = [tmp_path / name for name in ("mine.png", "mine.npz")]
    for path in mine:
        path.write_bytes(b"precious")
    train(small(pairs_file, epochs=1), tmp_path, quiet=True)
    train(small(pairs_file, epochs=1), tmp_path, quiet=True, force=True)
    assert all(path.read_bytes() == b"precious" for path in mine)


def test_each_look_is_kept_exactly(pairs_file: Path, photo: Path, tmp_path: Path) -> None:
    recipe = small(pairs_file)
    recipe = replace(recipe, pictures=replace(recipe.pictures, photos=(str(photo),)))
    run = Run.prepare(recipe, tmp_path / "run", quiet=True)
    run.go()
    kept = looks.read_looks(run.folder, most=9)
    assert [each.name for each in kept] == ["held-out pair", "photo"]
    for picture, each in zip(run.pictures(), kept, strict=True):
        assert np.array_equal(each.noisy, picture.noisy)
        assert np.array_equal(each.clean, picture.clean)
        assert [*each.takes] == ["After 0 epochs", "After 2 epochs", "After 3 epochs"]
        expected = run.denoise(torch.from_numpy(picture.noisy)[None, None])[0, 0].numpy()
        assert np.array_equal(each.takes["After 3 epochs"], expected)
    assert [*looks.read_looks(run.folder, most=2)[0].takes] == ["After 0 epochs", "After 3 epochs"]


def test_resuming_needs_a_run_its_recipe_and_its_data(pairs_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run to resume"):
        resume(tmp_path / "none", quiet=True)
    folder = tmp_path / "run"
    train(small(pairs_file), folder, quiet=True)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    text = (other / "recipe.toml").read_text()
    (other / "recipe.toml").write_text(text.replace("lr = 0.001", "lr = 0.002"))
    with pytest.raises(UserError, match="not the one this run began with"):
        resume(other, quiet=True)
    with h5py.File(pairs_file, "a") as file:
        file["train_ns"][0] = 0
    with pytest.raises(UserError, match=r"its SHA-256 is .* the recipe expects"):
        resume(folder, quiet=True)


@pytest.mark.parametrize("damage", [b"", b"\x80\x04junk", None])
def test_a_damaged_state_is_refused(damage: bytes | None, pairs_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(small(pairs_file), folder, quiet=True)
    whole = (folder / "last.ckpt").read_bytes()
    (folder / "last.ckpt").write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with pytest.raises(UserError, match=r"last.ckpt: not a state that a run can resume from"):
        resume(folder, quiet=True)


@pytest.mark.filterwarnings("ignore:Sparse.*tensor:UserWarning")
@pytest.mark.parametrize("kind", ["meta", "sparse", "csr"])
def test_a_state_of_tensors_that_are_not_plain(kind: str, pairs_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(small(pairs_file), folder, quiet=True)
    values = torch.load(folder / "last.ckpt", weights_only=True)
    recipe = from_dict(values["recipe"])
    state = training.Run.prepare(recipe, folder, quiet=True).state
    change = {
        "meta": lambda tensor: tensor.to("meta"),
        "sparse": lambda tensor: tensor.to_sparse(),
        "csr": lambda tensor: tensor.flatten(1).to_sparse_csr(),
    }[kind]
    remembered = next(iter(values["optimizers"][0]["state"].values()))
    for place in (values["network"], remembered):
        key = next(name for name, tensor in place.items() if tensor.ndim > 1)
        good, place[key] = place[key], change(place[key])
        torch.save(values, folder / "last.ckpt")
        place[key] = good
        with pytest.raises(UserError, match=r"last.ckpt: not a state that a run can resume from"):
            checkpoint.restore(state, folder / "last.ckpt", recipe)


def test_a_state_cannot_run_code(pairs_file: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "sprung"),))

    folder = tmp_path / "run"
    train(small(pairs_file), folder, quiet=True)
    torch.save(Trap(), folder / "last.ckpt")
    with pytest.raises(UserError, match="not a state"):
        resume(folder, quiet=True)
    assert not (tmp_path / "sprung").exists()


def test_a_full_disk_leaves_the_old_state(
    pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    train(small(pairs_file), folder, quiet=True)
    before = (folder / "last.ckpt").read_bytes()

    def full(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        resume(folder, quiet=True)
    assert (folder / "last.ckpt").read_bytes() == before
    assert not list(folder.glob(".*part*"))


def test_wrong_data_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        train(small(tmp_path / "none.h5"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_setback_after_a_resume_goes_back_to_where_it_resumed(
    pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    train(small(pairs_file, epochs=1), folder, quiet=True)
    before, calls, usual = rows(folder), 0, Run.loss

    def loss(self: Run, batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return usual(self, batch) * (float("nan") if calls == 1 else 1)

    monkeypatch.setattr(Run, "loss", loss)
    assert resume(folder, epochs=2, quiet=True)
    assert rows(folder)[:1] == before  # not trained anew from the first step
    assert len(rows(folder)) == 2
