"""The noise doctor on real images with known noise: six noises at three strengths, and what it advises.

Prints a JSON line for the clean images and for each of the 18 cases; with --paths instead how far what is
advised is behind the best of our paths: the model that ships, all filters tuned on these very images, the
repair of lost pixels and shifted lines. Needs SNOWMELT_DATA.
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

from snowmelt import advice, baselines, defects, denoiser, diagnosis, scoring
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


# What a model that is told the noise is told by someone who knows; None where there is no word for it.
TRUE_NOISE: dict[str, list[str | None]] = {
    "gaussian": ["gaussian:10", "gaussian:25", "gaussian:50"],
    "poisson": ["poisson:200", "poisson:60", "poisson:20"],
    "poisson-gaussian": [
        "poisson-gaussian:200:10", "poisson-gaussian:60:20", "poisson-gaussian:20:30",
    ],
    "correlated": ["gaussian:10", "gaussian:25", "gaussian:50"],
    "stripes": ["gaussian:3", "gaussian:8", "gaussian:20"],
    "impulse": [None, None, None],
}  # fmt: skip
SCIKIT_IMAGE = (
    "astronaut.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "rocket.jpg", "retina.jpg",
    "ihc.png", "motorcycle_left.png", "page.png", "brick.png", "gravel.png",
)  # fmt: skip


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


def bsd68(first: int) -> list[Picture]:
    """12 of BSD68 from the so many-th on, which no model of ours has seen."""
    paths = sorted((DATA / "bsd68").glob("*.png"))[first::5][:12]
    return [(np.asarray(Image.open(path).convert("L")) / 255).astype(np.float32) for path in paths]


def scikit_image() -> list[Picture]:
    """12 images that come with scikit-image, grey, from their middle."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    pictures = [np.asarray(Image.open(folder / name).convert("L")) / 255 for name in SCIKIT_IMAGE]
    return [
        each[max(0, len(each) - 321) // 2 :, max(0, each.shape[1] - 321) // 2 :][:321, :321].astype(
            np.float32
        )
        for each in pictures
    ]


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


def middle(image: Picture) -> Picture:
    return image[100 : 100 + SIDE, 100 : 100 + SIDE]


def score(clean: list[Picture], denoised: list[Picture]) -> float:
    """Mean PSNR of the middles."""
    pairs = zip(map(middle, clean), map(middle, denoised), strict=True)
    values = [psnr(truth, np.clip(each, 0, 1), data_range=1) for truth, each in pairs]
    return float(np.mean(values))


def follow(noisy: Picture, model: denoiser.Denoiser) -> tuple[str, Picture]:
    """What `snowmelt inspect` says first to this image, done; and its name."""
    found = diagnosis.diagnose(noisy, (0, 1))
    estimated = model.for_channels(1)(noisy, value_range=(0, 1))
    chosen = advice.choose_denoising(found, automatic=bool((estimated != noisy).any()))
    choice = advice.choose_filter(noisy, found, 1)
    if chosen:
        image = repaired(noisy) if chosen.repair else noisy
        done = model(image, value_range=(0, 1), strength=chosen.strength)
        name = "repair, " * chosen.repair + "model" * (chosen.strength > 0)
        return name, done
    if choice:
        return choice[0], baselines.FILTERS[choice[0]].apply(noisy, choice[1])
    return "none", noisy


def repaired(image: Picture) -> Picture:
    return defects.repair(image)[0].astype(np.float32)


def compare(kind: str, pictures: list[Picture], model: denoiser.Denoiser) -> None:
    """What is advised for each image, seeing it alone, against the best of our paths for all.

    Those are: nothing; each filter, tuned with the truth on these very images; the model, measuring the level
    and told the true noise; the repair of lost pixels and shifted lines, alone and before the model.
    """
    for strength, (add, _) in enumerate(CASES[kind]):
        noisy = [
            as_8_bit(add(clean, np.random.default_rng(index)))
            for index, clean in enumerate(pictures)
        ]
        followed = [follow(each, model) for each in noisy]
        mended = [repaired(each) for each in noisy]
        paths = {"nothing": noisy, "model": [model(each, value_range=(0, 1)) for each in noisy]}
        if any((one != other).any() for one, other in zip(mended, noisy, strict=True)):
            paths["repair"] = mended
            paths["repair, model"] = [model(each, value_range=(0, 1)) for each in mended]
        truth = TRUE_NOISE[kind][strength]
        if truth:
            paths["model told the truth"] = [
                model(each, value_range=(0, 1), sigma=truth) for each in noisy
            ]
        scores = {name: score(pictures, images) for name, images in paths.items()}
        small = [middle(each) for each in pictures], [middle(each) for each in noisy]
        loss, rough = scoring.METRICS["reference"].tuning([*zip(*small[::-1], strict=True)])
        for name in baselines.ALWAYS_THERE:
            each = baselines.tune(loss, rough, baselines.FILTERS[name])
            values = [
                psnr(truth, np.clip(each(image), 0, 1), data_range=1)
                for truth, image in zip(*small, strict=True)
            ]
            scores[each.label] = float(np.mean(values))
        best = max(scores, key=lambda name: scores[name])
        advised = score(pictures, [image for _, image in followed])
        row: dict[str, Any] = {"noise": kind, "strength": strength + 1}
        row |= {"followed": collections.Counter(name for name, _ in followed)}
        row |= {"advised": round(advised, 2), "best path": best, "best": round(scores[best], 2)}
        row |= {"behind": round(scores[best] - advised, 2)}
        row |= {"all": {name: round(value, 2) for name, value in scores.items()}}
        print(json.dumps(row), flush=True)


def choose_pictures(options: argparse.Namespace) -> list[Picture]:
    if options.scikit_image:
        return scikit_image()
    if options.bsd68 is not None:
        return bsd68(options.bsd68)
    first = options.held_out
    return [*photographs(), *bsds(options.bsds)] if first is None else bsds(12, first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--paths",
        action="store_true",
        help="hold the advice against all filters, the model and the repair",
    )
    parser.add_argument("--bsds", type=int, default=6, help="images of BSDS500")
    parser.add_argument(
        "--held-out",
        type=int,
        metavar="N",
        help="instead 12 of BSDS500 from the N-th on, no photographs",
    )
    parser.add_argument("--bsd68", type=int, metavar="N", help="12 of BSD68 from the N-th on")
    parser.add_argument("--scikit-image", action="store_true", help="12 that come with it")
    parser.add_argument("--count", type=int, metavar="N", help="only so many of the images")
    parser.add_argument("--kinds", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    pictures = choose_pictures(options)[: options.count]
    if options.paths:
        model = denoiser.load()
        for kind in options.kinds:
            compare(kind, pictures, model)
        return
    found = [diagnosis.diagnose(each, (0, 1)) for each in pictures]
    print(json.dumps({"noise": "none", "votes": collections.Counter(each.kind for each in found)}))
    for kind in options.kinds:
        examine(kind, pictures, as_8_bit)


if __name__ == "__main__":
    main()
