"""How close the level that `denoise` finds is to the noise that was added, stored as 8 bits.

    python benchmarks/told_level.py --every 4

BSDS500's training pictures, or another folder's, in colour and in grey. One JSON line for each strength: how
many pictures are told a level within 10% of it, by measuring alone and after the trial that settles a doubt;
how many are left as they are; and, at 0, the lowest PSNR to the input. Needs SNOWMELT_DATA.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

import snowmelt
from quality import DATA
from snowmelt import levels
from snowmelt.denoiser import Denoiser
from snowmelt.metrics import psnr

Pixels = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description="The level that is told.")
    parser.add_argument("--every", type=int, default=4, help="take every so-manieth picture")
    parser.add_argument("--sigmas", nargs="+", type=float, default=[0, 2, 3, 5, 10, 25, 50])
    parser.add_argument("--folder", default="bsds500/train", help="of JPEGs, in SNOWMELT_DATA")
    options = parser.parse_args()
    folder = DATA / options.folder
    paths = sorted(folder.glob("*.jpg"))[:: options.every]
    if not paths:
        sys.exit(f"{folder}: not there; give the folder of images by the variable SNOWMELT_DATA")
    base = snowmelt.load()
    for mode in ("RGB", "L"):
        pictures = [np.atleast_3d(np.asarray(Image.open(path).convert(mode))) for path in paths]
        network = base.for_channels(pictures[0].shape[-1])
        for sigma in options.sigmas:
            row = {"mode": mode, "sigma": sigma, "pictures": len(pictures)}
            print(json.dumps(row | _found(pictures, sigma, network)))


def _found(pictures: list[Pixels], sigma: float, network: Denoiser) -> dict[str, float]:
    told, change = [], []
    for index, clean in enumerate(tqdm(pictures, disable=None)):
        noise = np.random.default_rng(index).normal(0, sigma, clean.shape)
        seen = np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)
        measured, judged = _levels(seen, network)
        told.append((255 * measured, 255 * judged))
        if not sigma and judged:
            change.append(psnr(seen, network(seen, channel_axis=-1), data_range=255))
    by_measure, by_trial = np.array(told).T
    left = {"left_by_measure": int(np.sum(by_measure == 0)), "left": int(np.sum(by_trial == 0))}
    if not sigma:
        worst = {"lowest_psnr": round(min(change), 2)} if change else {}
        return {**left, **worst}
    return {
        "within_by_measure": int(np.sum(np.abs(by_measure / sigma - 1) < 0.1)),
        "within": int(np.sum(np.abs(by_trial / sigma - 1) < 0.1)),
        **left,
    }


def _levels(seen: Pixels, network: Denoiser) -> tuple[float, float]:
    """As measured, and after the trial, in parts of the range, at half the brightness."""
    channels = slice(0, seen.shape[-1])
    scaled = np.divide(seen, 255, dtype=np.float32)
    measured = levels.of_pixels(seen, 0, 255)
    judged = network.judge(measured, channels, lambda: scaled)
    return measured.at(0.5), judged.at(0.5)


if __name__ == "__main__":
    main()
