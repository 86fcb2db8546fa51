"""Does the epoch that is kept without a truth come close to the best one? Ten small trainings.

    python benchmarks/stop_rule.py --epochs 16 --steps 60

Five sets of four pictures, two noises; each training sees noisy pictures alone and is never told the truth.
After each epoch the truth scores the network on those pictures, whole. Prints a JSON line for each run: the
epoch that the rule keeps, the best one, and how many dB lie between. Needs SNOWMELT_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from snowmelt import images, levels, noise, recipe
from snowmelt.metrics import psnr
from snowmelt.training import Run

DATA = Path(os.environ.get("SNOWMELT_DATA", Path(__file__).parents[2] / "shared" / "data"))
SIDE, PICTURES = 192, 4
NOISES = ("gaussian:25", "poisson:30")


class Watched(Run):
    """A run whose every epoch is also scored by the truth."""

    truth: list[NDArray[Any]]
    noisy: list[NDArray[Any]]
    true_scores: list[float]

    def score(self) -> float:
        value = super().score()
        self.true_scores.append(
            float(
                np.mean(
                    [self._true_psnr(*each) for each in zip(self.noisy, self.truth, strict=True)]
                )
            )
        )
        return value

    def _true_psnr(self, noisy: NDArray[Any], truth: NDArray[Any]) -> float:
        line = levels.of_pixels(noisy[..., None], 0, 1)
        level = torch.from_numpy(line.on(noisy[..., None]))[None, None]
        if self.samples.level is not None:
            level = torch.full_like(level, self.samples.level)
        denoised = self.denoise(torch.from_numpy(noisy)[None, None], level)[0, 0].numpy()
        return float(psnr(truth, denoised, data_range=1))


def sets() -> dict[str, list[NDArray[np.float32]]]:
    """Four pictures each: of three parts of BSDS500, of photographs, of fluorescence."""
    files = sorted((DATA / "bsds500" / "test").glob("*.jpg"))
    found = {f"bsds {first}": files[first : first + PICTURES] for first in (0, 40, 80)}
    found["photos"] = sorted((DATA / "photos").glob("*.jpg"))[:PICTURES]
    found["fluorescence"] = sorted((DATA / "fmd" / "clean").iterdir())[::5][:PICTURES]
    return {
        name: [_read(path, name == "photos") for path in paths] for name, paths in found.items()
    }


def _read(path: Path, large: bool) -> NDArray[np.float32]:
    with Image.open(path) as file:
        grey = file.convert("L")
        picture = np.asarray(grey.reduce(4) if large else grey)
    return picture[:SIDE, :SIDE].astype(np.float32) / np.float32(255)


def watch(
    clean: list[NDArray[np.float32]], kind: str, way: str, options: argparse.Namespace
) -> Watched:
    """Train on noisy pictures alone."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "noisy"
        place.mkdir()
        noisy = []
        for index, picture in enumerate(clean):
            noisy.append(noise.parse(kind)(picture, np.random.default_rng(index)))
            images.write(place / f"{'abcd'[index]}.tif", noisy[-1])
        chosen = recipe.from_dict(
            {
                "data": {
                    "noisy": [str(place)],
                    "range": [0.0, 1.0],
                    "held_out": 0.25,
                    "self_supervision": way,
                },
                "network": {"widths": [16, 32, 48], "blocks": [1, 1, 1], "block": "plain"},
                "training": {"epochs": options.epochs, "steps": options.steps, "patch": 64},
                "pictures": {"every": 10_000},
            },
            base=recipe.read("blindspot"),
        )
        run = Watched.prepare(chosen, Path(folder) / "run", quiet=True)
        assert isinstance(run, Watched)
        run.noisy, run.truth, run.true_scores = noisy, clean, []
        run.go()
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--ways", nargs="+", default=["auto"], help="auto, recorrupted, blind-spot")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"{DATA}: not there; give the folder of images by the variable SNOWMELT_DATA")
    for way in options.ways:
        for name, clean in sets().items():
            for kind in NOISES:
                run = watch(clean, kind, way, options)
                scores = run.true_scores[: options.epochs]
                kept = run.state.best["epoch"]
                row = {"set": name, "noise": kind, "way": way, "kept": kept}
                row |= {"best": int(np.argmax(scores)) + 1, "psnr": round(scores[kept - 1], 2)}
                row |= {
                    "loss": round(max(scores) - scores[kept - 1], 3),
                    "last": round(scores[-1], 2),
                }
                noisy = [
                    psnr(t, n, data_range=1) for t, n in zip(run.truth, run.noisy, strict=True)
                ]
                print(json.dumps(row | {"noisy": round(float(np.mean(noisy)), 2)}), flush=True)


if __name__ == "__main__":
    main()
