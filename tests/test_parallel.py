import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from snowmelt import modelfile, parallel, recipe, training
from snowmelt.errors import UserError
from snowmelt.recipe import Recipe, from_dict
from snowmelt.samples import Share

from .conftest import write_pairs

SECONDS = 120


def small(source: Path, **keys: Any) -> Recipe:
    return from_dict(
        {
            "data": {"source": str(source)},
            "network": {"widths": [4, 3]},
            "optimizer": {"name": "muon", "lr": 1e-3, "clip": 1.0, "ema": 0.9},
            "training": {"epochs": 3, "batch": 4, "patch": 16, "precision": "f32", **keys},
        }
    )


def torchrun(*arguments: object, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--standalone",
        "--no-python", str(Path(sys.executable).with_name("snowmelt")), *map(str, arguments),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pairs: two full batches of four and one of two."""
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.h5", train=10)


def written(folder: Path, chosen: Recipe) -> Path:
    recipe.write(chosen, folder / "in.toml")
    return folder / "in.toml"


def test_two_ranks_give_the_weights_of_one_and_resume_as_one(data: Path, tmp_path: Path) -> None:
    chosen = small(data)
    training.train(chosen, tmp_path / "one", quiet=True)
    done = torchrun("train", written(tmp_path, chosen), "-o", tmp_path / "two", "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report:") == 1  # one rank speaks
    states = [
        torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("one", "two")
    ]
    assert [state["step"] for state in states] == [9, 9]
    start = training.build_network(chosen).state_dict()
    for name, weights in states[0]["network"].items():
        moved = (weights - start[name]).abs().max()
        # Sums in another order: rounding, which the optimizer's division by small gradients magnifies.
        assert (weights - states[1]["network"][name]).abs().max() < 1e-3 * moved, name
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("one", "two")]
    for one, two in zip(*logs, strict=True):
        assert json.loads(one)["loss"] == pytest.approx(json.loads(two)["loss"], rel=1e-4)


def test_a_run_of_one_rank_goes_on_with_two(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = small(data)
    training.train(chosen, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patched:
        stop_at(4, patched)
        assert not training.train(chosen, tmp_path / "part", quiet=True)
    done = torchrun("train", "--resume", "-o", tmp_path / "part", "--quiet")
    assert done.returncode == 0, done.stderr
    networks = [
        modelfile.load_network(tmp_path / name / "model.onnx").state_dict()
        for name in ("whole", "part")
    ]
    for name, weights in networks[0].items():
        torch.testing.assert_close(weights, networks[1][name], rtol=1e-3, atol=1e-4)


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0

    def any_of(_: bool, __: Share) -> bool:
        nonlocal seen
        seen += 1
        return seen == step

    monkeypatch.setattr(parallel, "any_of", any_of)


def test_what_is_wrong_ends_all_ranks_with_a_message(tmp_path: Path) -> None:
    done = torchrun("train", "--data", tmp_path / "none.h5", "-o", tmp_path / "run")
    assert done.returncode != 0
    assert "none.h5: no such file" in done.stderr


def test_a_rank_that_dies_ends_the_run(data: Path, tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(
        "import os, sys\n"
        "from snowmelt import training\n"
        "from snowmelt.cli import main\n"
        "ordinary = training.Run.step\n"
        "def step(run, batch):\n"
        "    if run.share.rank == 1 and run.state.step == 3:\n"
        "        os._exit(9)\n"
        "    ordinary(run, batch)\n"
        "training.Run.step = step\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
            str(tmp_path / "dying.py"), "train", str(written(tmp_path, small(data))),
            "-o", str(tmp_path / "run"), "--quiet",
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "exitcode" in done.stderr
    assert (tmp_path / "run" / "last.ckpt").exists()


def test_a_batch_needs_a_picture_for_each_rank(data: Path, tmp_path: Path) -> None:
    chosen, _ = training.open_samples(small(data), tmp_path)
    parallel.check_batches(chosen, Share(0, 2))
    with pytest.raises(UserError, match="3 ranks, and a batch of 2"):
        parallel.check_batches(chosen, Share(0, 3))


def test_a_device_that_is_not_there_is_an_error() -> None:
    assert parallel.choose_device("cpu", Share()) == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="'cuda': torch finds none here; use --device cpu"):
            parallel.choose_device("cuda", Share())
