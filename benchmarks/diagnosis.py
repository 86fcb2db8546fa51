"""The noise doctor on real images with known noise: six noises at three strengths, and what it advises.

Prints a JSON line for the clean images, for each of the 18 cases, and (--paths) for how far what is advised,
the model that ships or a filter, is behind the best of the model and of all filters, tuned on these very
images. Needs SNOWMELT_DATA.
"""

import argparse
import collections
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from snowmelt import baselines, denoiser, diagnosis
from snowmelt.commands.inspect import FOR_SHIPPED
from snowmelt.metrics import psnr
from snowmelt.noise import Gaussian, Poisson, PoissonGaussian, SaltAndPepper

Picture = NDArray[np.float32]
Add = Callable[[Picture, np.random.Generator], Picture]
DATA = Path(os.environ.get("SNOWMELT_DATA", Path(__file__).parents[2] / "shared" / "data"))
PHOTO_SIDE, SIDE, REDUCE = 640, 128, 4  # pixels; reducing hides a photograph's own noise


def correlated(sigma: float) -> Add:
    """Gaussian noise blurred by a Gaussian of 1 pixel; correlation of neighbours 0.78."""

    def add(clean: Picture, rng: np.random.Generator) -> Picture:
        noise = ndimage.gaussian_filter(rng.normal(size=clean.shape), 1, mode="wrap")
        return clean + (sigma / noise.std() * noise).astype(np.float32)

    return add


def stripes(sigma: float, white: float = 3 / 255) -> Add:
    """An offset for each row, and a little white noise."""

    def add(clean: Picture, rng: np.random.Generator) -> Picture:
        offsets = rng.normal(size=(len(clean), 1))
        offsets *= sigma / offsets.std()
        return (clean + offsets + rng.normal(0, white, clean.shape)).astype(np.float32)

    return add


def level(found: diagnosis.Findings) -> float:
    return found.sigma


def gain(found: diagnosis.Findings) -> float:
    return found.curve.gain[0]


def read_noise(found: diagnosis.Findings) -> float:
    return float(np.sqrt(max(found.curve.floor[0], 0)))


def offsets(found: diagnosis.Findings) -> float:
    return found.rows


def lost(found: diagnosis.Findings) -> float:
    return sum(found.impulses)


Measure = Callable[[diagnosis.Findings], float]
# kind -> cases: what to add, and each parameter's truth with how it is read off
CASES: dict[str, list[tuple[Add, dict[Measure, float]]]] = {
    "gaussian": [(Gaussian(s / 255), {level: s / 255}) for s in (10, 25, 50)],
    "poisson": [(Poisson(peak), {gain: 1 / peak}) for peak in (200, 60, 20)],
    "poisson-gaussian": [
        (PoissonGaussian(peak, s / 255), {gain: 1 / peak, read_noise: s / 255})
        for peak, s in ((200, 10), (60, 20), (20, 30))
    ],
    "correlated": [(correlated(s / 255), {level: s / 255}) for s in (10, 25, 50)],
    "stripes": [(stripes(s / 255), {offsets: s / 255}) for s in (3, 8, 20)],
    "impulse": [(SaltAndPepper(part), {lost: part}) for part in (0.01, 0.05, 0.2)],
}


def photographs() -> list[Picture]:
    """Middle of each photograph, grey, reduced by 4."""
    pictures = []
    for path in sorted((DATA / "photos").glob("*.jpg")):
        with Image.open(path) as file:
            grey = np.asarray(file.reduce(REDUCE).convert("L"), np.float32) / 255
        top, left = ((side - min(side, PHOTO_SIDE)) // 2 for side in grey.shape)
        pictures.append(grey[top : top + PHOTO_SIDE, left : left + PHOTO_SIDE].astype(np.float32))
    return pictures


def bsds(count: int, first: int = 0) -> list[Picture]:
    """Every so many-th of the 200 BSDS500 training images, grey."""
    paths = sorted((DATA / "bsds500" / "train").glob("*.jpg"))[first :: 200 // count][:count]
    return [(np.asarray(Image.open(path).convert("L")) / 255).astype(np.float32) for path in paths]


def as_8_bit(image: Picture) -> Picture:
    """Clipped and rounded, as in a file."""
    return (np.rint(np.clip(image, 0, 1) * 255) / 255).astype(np.float32)


def examine(kind: str, pictures: list[Picture], store: Callable[[Picture], Picture]) -> None:
    for strength, (add, truths) in enumerate(CASES[kind]):
        found = [
            diagnosis.diagnose(store(add(clean, np.random.default_rng(index))), (0, 1))
            for index, clean in enumerate(pictures)
        ]
        named = collections.Counter(each.kind for each in found)
        row: dict[str, Any] = {"noise": kind, "strength": strength + 1}
        row |= {"named": named.most_common(1)[0][0], "votes": dict(named)}
        for measure, truth in truths.items():
            ratios = np.array([measure(each) / truth for each in found])
            row[measure.__name__] = round(float(np.median(ratios)), 3)
            row[f"{measure.__name__} within 10%"] = round(float(np.mean(abs(ratios - 1) < 0.1)), 2)
        print(json.dumps(row), flush=True)


def total(found: diagnosis.Findings) -> float:
    """Level of all that was found."""
    return float(np.sqrt(found.sigma**2 + found.rows**2 + found.columns**2))


def middle(image: Picture) -> Picture:
    return image[100 : 100 + SIDE, 150 : 150 + SIDE]


def compare(kind: str, pictures: list[Picture], model: denoiser.Denoiser) -> None:
    """What is advised for each image against the best filter tuned with the truth of all, and the model.

    The model is taken twice: as it is advised, measuring the level, and told the level of all noise found.
    """
    filters = baselines.choose(baselines.ALWAYS_THERE)
    clean = [middle(picture) for picture in pictures]

    def score(denoised: list[Picture]) -> float:
        pairs = zip(clean, denoised, strict=True)
        return float(
            np.mean([psnr(truth, np.clip(each, 0, 1), data_range=1) for truth, each in pairs])
        )

    for strength, (add, _) in enumerate(CASES[kind]):
        whole = [
            as_8_bit(add(clean, np.random.default_rng(index)))
            for index, clean in enumerate(pictures)
        ]
        noisy = [middle(each) for each in whole]
        found = [diagnosis.diagnose(each, (0, 1)) for each in whole]
        advised = [diagnosis.choose_filter(each, 1) for each in found]
        measured = [middle(model(each, value_range=(0, 1))) for each in whole]
        denoised = [
            by_model
            if each.kind in FOR_SHIPPED
            else filters[choice[0]].apply(image, choice[1])
            if choice
            else image
            for each, choice, image, by_model in zip(found, advised, noisy, measured, strict=True)
        ]
        told = [
            middle(model(image, value_range=(0, 1), sigma=total(each)))
            for each, image in zip(found, whole, strict=True)
        ]
        tuned = {"model": score(measured), "model, told": score(told)}
        tuned |= {
            each.label: score([each(image) for image in noisy])
            for each in baselines.tune(noisy, clean, filters)
        }
        best = max(tuned, key=lambda name: tuned[name])
        row = {"noise": kind, "strength": strength + 1, "noisy": round(score(noisy), 2)}
        row |= {"advised": round(score(denoised), 2), "best": round(tuned[best], 2)}
        row |= {
            "paths": collections.Counter(
                "model" if each.kind in FOR_SHIPPED else choice[0] if choice else "none"
                for each, choice in zip(found, advised, strict=True)
            ),
            "best path": best,
            "models": [round(tuned[name], 2) for name in ("model", "model, told")],
        }
        print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--paths",
        action="store_true",
        help="also hold the advice against all filters and the model",
    )
    parser.add_argument("--bsds", type=int, default=6, help="images of BSDS500")
    parser.add_argument(
        "--held-out",
        type=int,
        metavar="N",
        help="instead 12 of BSDS500 from the N-th on, no photographs",
    )
    options = parser.parse_args()
    first = options.held_out
    pictures = [*photographs(), *bsds(options.bsds)] if first is None else bsds(12, first)
    found = [diagnosis.diagnose(each, (0, 1)) for each in pictures]
    print(json.dumps({"noise": "none", "votes": collections.Counter(each.kind for each in found)}))
    for kind in CASES:
        examine(kind, pictures, as_8_bit)
    for kind in CASES if options.paths else ():
        compare(kind, pictures, denoiser.load())


if __name__ == "__main__":
    main()
