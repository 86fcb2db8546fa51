"""Photographs as cameras store them: PolyU's pairs of a noisy JPEG and the mean of many shots.

    python benchmarks/camera.py --model base RUN/model.onnx
    python benchmarks/camera.py --learn-from FOLDER    links to the pairs of the scenes for tuning

Every third scene is for tuning, the others are scored; a scene is all files that differ in their last number
alone. Filters are tuned there, and so is the one level for all that FFDNet is told and, as "NAME at its best
level", a model of ours. A model called by its name alone is told nothing. Needs SNOWMELT_DATA.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from quality import DATA, peer, progress
from snowmelt import cases, denoiser, evaluation
from snowmelt.baselines import Denoise
from snowmelt.cases import Collection, Picture
from snowmelt.evaluation import Contender
from snowmelt.metrics import psnr

LEVELS = (4, 7, 10, 14)  # of 255
FILTERS = ("gaussian", "median", "nlm", "tv", "wavelet")


def main() -> None:
    options = _options()
    if not (DATA / "polyu").is_dir():
        sys.exit(
            f"{DATA / 'polyu'}: not there; give the folder of images by the variable SNOWMELT_DATA"
        )
    if options.learn_from:
        _link(options.learn_from)
        return
    torch.set_grad_enabled(False)
    sources = [str(DATA / "polyu" / f"*_{kind}.JPG") for kind in ("real", "mean")]
    pairs = cases.from_files(sources, ("noisy", "clean"))
    tuning, scored = (_part(pairs, is_tuning) for is_tuning in (True, False))
    contenders = [Contender("ffdnet", _at_best(lambda sigma: peer("ffdnet", sigma, True), tuning))]
    for name in options.model:
        contenders += _ours(name, tuning)
    found = evaluation.measure(
        scored, contenders, tuning=tuning, against=options.against, progress=progress
    )
    print(f"{len(tuning.cases)} pairs for tuning, {len(scored.cases)} scored")
    print(found.table())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Noise of real cameras.")
    parser.add_argument("--model", nargs="*", default=["base"], help="names or files of ours")
    parser.add_argument("--against", nargs="*", default=FILTERS)
    parser.add_argument("--learn-from", type=Path, metavar="FOLDER")
    return parser.parse_args()


def _scene(name: str) -> str:
    """ "Canon5D2_5_160_3200_chair_8_real" and "Canon5D2_5_160_3200_chair_11" are one scene."""
    return re.sub(r"_\d+(_real|_mean)?$", "", name)


def _tuning_scenes(names: Sequence[str]) -> set[str]:
    return set(sorted({_scene(name) for name in names})[::3])


def _part(pairs: Collection, is_tuning: bool) -> Collection:
    chosen = _tuning_scenes([Path(case.name).stem for case in pairs.cases])
    kept = [case for case in pairs.cases if (_scene(Path(case.name).stem) in chosen) == is_tuning]
    return replace(pairs, cases=tuple(kept))


def _link(folder: Path) -> None:
    files = sorted((DATA / "polyu").glob("*.JPG"))
    chosen = _tuning_scenes([file.stem for file in files])
    for file in files:
        if _scene(file.stem) in chosen:
            kind = folder / file.stem.rsplit("_", 1)[1]
            kind.mkdir(parents=True, exist_ok=True)
            (kind / f"{file.stem.rsplit('_', 1)[0]}.JPG").symlink_to(file)


def _at_best(told: Callable[[float], Denoise], tuning: Collection) -> Denoise:
    """A denoiser told the level that is best for all tuning pictures together."""
    pairs = [case.pictures() for case in tuning.cases[::3]]

    def score(sigma: float) -> float:
        denoise = told(sigma)
        return float(np.mean([psnr(clean, denoise(noisy), data_range=1) for noisy, clean in pairs]))

    best = max(LEVELS, key=score)
    print(f"best level for all: {best}", file=sys.stderr)
    return told(best)


def _ours(name: str, tuning: Collection) -> list[Contender]:
    network = denoiser.load(name)

    def told(sigma: float | None) -> Denoise:
        def denoise(picture: Picture) -> Picture:
            level = "auto" if sigma is None else sigma / 255
            return network(picture, sigma=level, value_range=(0, 1), channel_axis=-1)

        return denoise

    if not network.header.conditioned or network.header.told is not None:
        return [Contender(name, told(None))]
    return [
        Contender(name, told(None)),
        Contender(f"{name} at its best level", _at_best(told, tuning)),
    ]


if __name__ == "__main__":
    main()
