"""Damaged training data, Keras files, states and run folders: what was in them, or a UserError, nothing else.

A few seconds in the suite; SNOWMELT_FUZZ=100000 asks for that many examples (``make fuzz``).
"""

import contextlib
import copy
import json
import os
import random
import shutil
import tomllib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tomli_w
import torch

from snowmelt import checkpoint, report, training
from snowmelt.data import NAMES, read_dataset
from snowmelt.errors import UserError
from snowmelt.keras_import import read_keras
from snowmelt.training import Run

from .conftest import write_pairs
from .test_keras_import import FLAVOURS, write_keras
from .test_report import write_results, write_run
from .test_training import small

EXAMPLES = int(os.environ.get("SNOWMELT_FUZZ", "0"))
ODD = (
    None, True, -1, 0, 3, 10**9, 2**70, 1.5, 1e308, float("nan"), float("inf"), "", "x", "\x1b[31m", [],
    [1], [[]], {}, {"a": 1}, ["x", "y"],
)  # fmt: skip


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, or the end cut off."""
    changed = bytearray(data)
    if rng.random() < 0.1:
        return bytes(changed[: rng.randrange(len(changed))])
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        changed[rng.randrange(len(changed))] = rng.choice([0, 255, rng.randrange(256)])
    return bytes(changed)


def edited(rng: random.Random, tree: Any) -> Any:
    """A copy of nested values with one of them exchanged, left out or added."""
    tree = copy.deepcopy(tree)
    places = [(tree, key) for key in _keys(tree)]
    for node, key in places:
        places += [(node[key], inner) for inner in _keys(node[key])]
    if not places:
        return rng.choice(ODD)
    node, key = rng.choice(places)
    if rng.random() < 0.2:
        del node[key]
    elif isinstance(node, dict) and rng.random() < 0.1:
        node[rng.choice(["", "x", "\x1b[31m"])] = rng.choice(ODD)
    else:
        node[key] = rng.choice(ODD)
    return tree


def _keys(node: Any) -> list[Any]:
    return (
        list(node)
        if isinstance(node, dict)
        else [*range(len(node))]
        if isinstance(node, list)
        else []
    )


DATA: tuple[dict[str, Any], ...] = (
    {},
    {"chunks": (1, 8, 8), "compression": "gzip", "shuffle": True, "fletcher32": True},
    {"chunks": (2, 8, 8), "maxshape": (None, None, None)},
    {"chunks": (2, 5, 5), "compression": "lzf"},
)


def test_fuzz_training_data(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    for number in range(EXAMPLES or 40):
        rng = random.Random(number)
        with h5py.File(path, "w", libver=rng.choice(["earliest", "latest"])) as file:
            for name in NAMES:
                dtype = rng.choice(["u1", "u2", "f4"])
                file.create_dataset(name, data=np.ones((2, 8, 8), dtype), **DATA[number % 4])
        data = mutated(rng, path.read_bytes())
        path.write_bytes(data)
        with contextlib.suppress(UserError):
            found = read_dataset(path)
            assert np.isfinite(found.train.noisy).all()
            assert found.test.noisy.shape == found.test.clean.shape
        assert path.read_bytes() == data


def test_fuzz_keras(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    seeds = [write_keras(path, flavour).read_bytes() for flavour in FLAVOURS]
    for number in range(EXAMPLES or 40):
        rng = random.Random(number)
        if number % 3:
            path.write_bytes(mutated(rng, seeds[number % len(seeds)]))
        else:
            write_keras(path, FLAVOURS[number % len(seeds)])
            with h5py.File(path, "a") as file:
                config = json.loads(file.attrs["model_config"])
                file.attrs["model_config"] = json.dumps(edited(rng, config))
        with contextlib.suppress(UserError):
            chain = read_keras(path)
            assert all(np.isfinite(layer.kernel).all() for layer in chain.layers)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    data = write_pairs(folder / "pairs.h5")
    keys: dict[str, Any] = {"optimizer": {"name": "muon", "ema": 0.9}}
    recipe = training.recipes.from_dict(keys, base=small(data, epochs=1))
    training.train(recipe, folder / "run", quiet=True)
    return folder / "run"


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, about what it reads
def test_fuzz_states(trained: Path, tmp_path: Path) -> None:
    recipe = training.recipes.read(str(trained / "recipe.toml"))
    state = Run.prepare(recipe, trained, quiet=True).state
    whole = (trained / "last.ckpt").read_bytes()
    values = torch.load(trained / "last.ckpt", weights_only=True)
    path = tmp_path / "last.ckpt"
    for number in range(EXAMPLES or 150):
        rng = random.Random(number)
        if number % 2:
            path.write_bytes(mutated(rng, whole))
        else:
            torch.save(edited(rng, values), path)
        with contextlib.suppress(UserError):
            checkpoint.restore(state, path, recipe)
            assert training.is_finite(state.network)
    checkpoint.restore(state, trained / "last.ckpt", recipe)


@pytest.mark.filterwarnings("error")
def test_fuzz_reports(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "run"), write_results(tmp_path / "results")]
    files = [path for folder in folders for path in sorted(folder.iterdir())]
    for number in range(EXAMPLES or 80):
        rng = random.Random(number)
        path = files[number % len(files)]
        before = path.read_bytes()
        path.write_bytes(changed(rng, path) if rng.random() < 0.7 else mutated(rng, before))
        with contextlib.suppress(UserError):
            json.loads(json.dumps(report.render(report.content_of(path.parent))))
        path.write_bytes(before)


def changed(rng: random.Random, path: Path) -> bytes:
    """A file of a run as somebody might edit it, who knows its format."""
    data = path.read_bytes()
    if path.suffix == ".toml":
        with contextlib.suppress(TypeError):  # TOML has no null
            return tomli_w.dumps(edited(rng, tomllib.loads(data.decode()))).encode()
        return b"a = 2026-11-27"
    if path.suffix == ".json":
        return json.dumps(edited(rng, json.loads(data))).encode()
    if path.suffix == ".jsonl":
        rows = edited(rng, [json.loads(line) for line in data.splitlines()])
        return "\n".join(map(json.dumps, rows)).encode()
    with np.load(path) as file:
        arrays = dict(file)
    name = rng.choice(sorted(arrays))
    odd: list[Any] = [
        np.zeros(3), np.zeros((4, 5)), np.zeros((0, 4)), np.full_like(arrays[name], 1), np.array(["x"]),
        np.zeros((2, 3, 4, 5), np.float32), np.full((48, 48), np.nan, np.float32), np.float32(1),
        np.full((48, 48), 1e38, np.float32), np.zeros((48, 48), np.int64),
    ]  # fmt: skip
    arrays[name] = rng.choice(odd)
    if rng.random() < 0.2:
        del arrays[name]
    with path.open("wb") as target:
        np.savez(target, **arrays)
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_fuzz_recipes_of_runs(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    tables = tomllib.loads((trained / "recipe.toml").read_text())
    for number in range(EXAMPLES // 10 or 8):
        rng = random.Random(number)
        with contextlib.suppress(TypeError):
            (folder / "recipe.toml").write_text(tomli_w.dumps(edited(rng, tables)))
        with contextlib.suppress(UserError):
            training.resume(folder, quiet=True)
