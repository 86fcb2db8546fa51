"""How the level of cameras' pictures is judged: the weights of `snowmelt.trials`, and how good they are.

    python benchmarks/camera_level.py

PolyU's noisy pictures against pictures without noise: PolyU's means of many shots, CBSD68, BSDS500,
photographs reduced by 3, and BSDS500 enlarged and compressed. Each of PolyU's five cameras, and a fifth of
all the rest, is judged by weights fitted to the others. Needs SNOWMELT_DATA.
"""

from __future__ import annotations

import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import minimize
from tqdm import tqdm

from quality import DATA
from snowmelt import denoiser, trials
from snowmelt.metrics import psnr

Pixels = NDArray[np.uint8]
SIDE = 512
NOISY = "PolyU"
CAMERAS = ("Canon5D2", "Canon80D", "Canon600D", "NikonD800", "Sony")
# Above the value where noisy and clean are as likely if there are as many of both: most pictures are clean.
MARGIN = 1.0


def main() -> None:
    if not (DATA / "polyu").is_dir():
        sys.exit(
            f"{DATA / 'polyu'}: not there; give the folder of images by the variable SNOWMELT_DATA"
        )
    judge = denoiser.load(trials.JUDGE)

    def denoise(picture: trials.Picture, level: float) -> trials.Picture:
        return judge(picture, sigma=level, value_range=(0, 1), channel_axis=-1)

    kinds, names, found = [], [], []
    for kind, name, pixels, _ in tqdm(_pictures(), disable=None):
        kinds.append(kind)
        names.append(name)
        found.append(trials.measure(_scaled(pixels), denoise))
    some = np.array([traces is not None for traces in found])
    features = np.array([traces.features for traces in found if traces is not None])
    noisy = (np.array(kinds) == NOISY)[some]
    part = np.array([*map(_part, names)])[some]
    print(json.dumps({"weights": _fit(features, noisy).round(2).tolist(), "margin": MARGIN}))
    judged = np.zeros(len(noisy))
    for fold in CAMERAS:
        weights = _fit(features[part != fold], noisy[part != fold])
        judged[part == fold] = _weighed(features[part == fold], weights) - MARGIN
    evidence = np.full(len(found), -np.inf)
    evidence[some] = judged
    for row in _summaries(evidence, denoise):
        print(json.dumps(row))


def _summaries(
    evidence: NDArray[np.float64], denoise: Callable[[trials.Picture, float], trials.Picture]
) -> Iterator[dict[str, Any]]:
    """Of each kind: how many are told a level; PSNR of the noisy, of the others those that change visibly."""
    scores: dict[str, list[tuple[float, float]]] = {}
    for (kind, _, pixels, truth), value in zip(_pictures(), evidence, strict=True):
        level = trials.told(float(value))
        seen, clean = _scaled(pixels), _scaled(truth)
        result = np.clip(denoise(seen, level), 0, 1) if level else seen
        before, after = (
            psnr(clean, each, data_range=1) if np.any(each != clean) else np.inf
            for each in (seen, result)
        )
        scores.setdefault(kind, []).append((before, after))
    for kind, pairs in scores.items():
        before, after = np.array(pairs).T
        row = {
            "pictures": kind,
            "number": len(pairs),
            "told": int(np.count_nonzero(after != before)),
        }
        if kind == NOISY:
            row |= {"noisy": before.mean().round(2), "judged": after.mean().round(2)}
        else:
            row |= {"below 45 dB": int((after < 45).sum()), "below 40 dB": int((after < 40).sum())}
        yield row


def _pictures() -> Iterator[tuple[str, str, Pixels, Pixels]]:
    """Kind, name, pixels and the truth, which is the same of clean ones."""
    polyu = sorted((DATA / "polyu").glob("*_real.JPG"))
    for path in polyu:
        truth = _read(path.with_name(path.name.replace("_real", "_mean")))
        yield NOISY, path.name, _read(path), truth
        yield "PolyU, means", path.name, truth, truth
    for folder, kind in (
        ("cbsd68", "CBSD68"),
        ("bsds500/train", "BSDS500"),
        ("bsds500/test", "BSDS500"),
    ):
        for path in sorted((DATA / folder).iterdir()):
            if path.suffix in (".png", ".jpg"):
                yield kind, path.name, *2 * (_read(path),)
    changes: dict[str, Callable[[Pixels], Pixels]] = {
        "BSDS500 twice as large": partial(_enlarged, times=2),
        "BSDS500 three times as large": partial(_enlarged, times=3),
        "BSDS500, JPEG 75": partial(_compressed, quality=75),
        "BSDS500, JPEG 30": partial(_compressed, quality=30),
        "BSDS500 twice as large, JPEG 75": lambda pixels: _compressed(_enlarged(pixels, 2), 75),
    }
    for kind, change in changes.items():
        for path in sorted((DATA / "bsds500" / "train").glob("*.jpg"))[::3]:
            yield kind, path.name, *2 * (change(_read(path)),)
    for path in sorted((DATA / "photos").glob("*.jpg")):
        pixels = np.asarray(Image.open(path).convert("RGB").reduce(3))
        for top in range(0, pixels.shape[0] - SIDE, SIDE):
            yield "photographs reduced by 3", path.name, *2 * (pixels[top:, top:][:SIDE, :SIDE],)


def _scaled(pixels: Pixels) -> trials.Picture:
    scaled: trials.Picture = np.divide(pixels, 255, dtype=np.float32)
    return scaled


def _read(path: Path) -> Pixels:
    return np.asarray(Image.open(path).convert("RGB"))


def _enlarged(pixels: Pixels, times: int) -> Pixels:
    picture = Image.fromarray(pixels)
    size = (picture.width * times, picture.height * times)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))[:SIDE, :SIDE]


def _compressed(pixels: Pixels, quality: int) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _part(name: str) -> str:
    """The camera of PolyU's pictures; the others go to the parts by chance."""
    camera = name.split("_")[0]
    return camera if camera in CAMERAS else CAMERAS[zlib.crc32(name.encode()) % len(CAMERAS)]


def _fit(features: NDArray[np.float64], noisy: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Logistic regression in which noisy and clean count alike; the last weight is the constant."""
    sign = np.where(noisy, 1, -1)
    count = np.where(noisy, 0.5 / noisy.sum(), 0.5 / (~noisy).sum())

    def loss(weights: NDArray[np.float64]) -> float:
        return float(count @ np.logaddexp(0, -sign * _weighed(features, weights)))

    fitted: NDArray[np.float64] = minimize(loss, np.zeros(features.shape[1] + 1)).x
    return fitted


def _weighed(features: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    weighed: NDArray[np.float64] = features @ weights[:-1] + weights[-1]
    return weighed


if __name__ == "__main__":
    main()
