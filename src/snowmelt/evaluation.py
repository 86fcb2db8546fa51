"""Scores of denoisers on images with a known truth, against filters and against doing nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snowmelt.baselines import Denoise, tune
from snowmelt.data import Dataset
from snowmelt.files import replacing
from snowmelt.metrics import SSIM_WINDOW, psnr, ssim

Picture = NDArray[np.float32]
PROTOCOL = (
    "PSNR and SSIM (11 x 11 Gaussian window) are means over the pictures; outputs clipped to [0, 1], "
    "not rounded; data range 1; no border cut"
)
TUNING_PICTURES = 16
NETWORK = "the network"
SAME = 0.05  # dB; a smaller lead is called none


@dataclass(frozen=True)
class Score:
    """Mean PSNR (dB) and SSIM of one denoiser; SSIM is NaN for pictures smaller than its window."""

    name: str
    psnr: float
    ssim: float


def nothing(image: Picture) -> Picture:
    """Do nothing: what every denoiser has to beat."""
    return image


def score(name: str, denoise: Denoise, noisy: Sequence[Picture], clean: Sequence[Picture]) -> Score:
    """Apply a denoiser to (H, W) pictures in [0, 1] and compare with the truth, as PROTOCOL says."""
    pairs = [
        (truth, np.clip(denoise(image), 0, 1)) for image, truth in zip(noisy, clean, strict=True)
    ]
    measures: tuple[Callable[..., float], ...] = (psnr, ssim)
    small = min(clean[0].shape) < SSIM_WINDOW
    decibels, similarity = (
        math.nan if measure is ssim and small else _mean(measure, pairs) for measure in measures
    )
    return Score(name, decibels, similarity)


def _mean(measure: Callable[..., float], pairs: Sequence[tuple[Picture, Picture]]) -> float:
    return float(np.mean([measure(truth, image, data_range=1) for truth, image in pairs]))


def compare(dataset: Dataset, denoisers: Mapping[str, Denoise]) -> list[Score]:
    """Score doing nothing, the classical filters at their best and the given denoisers on the test pictures.

    The filters are tuned on the first training pictures, never on the test.
    """
    train, test = dataset.train, dataset.test
    filters = tune([*train.noisy[:TUNING_PICTURES]], [*train.clean[:TUNING_PICTURES]])
    contenders: dict[str, Denoise] = {"noisy, as it is": nothing}
    contenders |= {each.label: each for each in filters}
    contenders |= denoisers
    noisy, clean = [*test.noisy], [*test.clean]
    return [score(name, each, noisy, clean) for name, each in contenders.items()]


def judge(folder: Path) -> list[Score]:
    """Hold a finished run's model against the filters on its test pictures; kept as `scores.json` there."""
    from snowmelt import denoiser, recipe, training

    network = denoiser.load(folder / "model.onnx", precision="f32")
    dataset = training.prepare_data(recipe.read(str(folder / "recipe.toml")), folder, quiet=True)
    scores = compare(dataset, {NETWORK: lambda image: network(image, value_range=(0, 1))})
    content = {"protocol": PROTOCOL, "data": dataset.name, "sha256": dataset.sha256}
    with replacing(folder / "scores.json") as part:
        part.write_text(
            json.dumps(content | {"scores": [asdict(each) for each in scores]}, indent=1)
        )
    return scores


def table(scores: Sequence[Score]) -> str:
    """The scores as lines of text, the protocol last."""
    width = max(len(each.name) for each in scores)
    lines = [f"{'':{width}}  PSNR, dB    SSIM"]
    lines += [f"{each.name:{width}}  {each.psnr:8.2f}  {each.ssim:6.4f}" for each in scores]
    return "\n".join([*lines, PROTOCOL])


def verdict(scores: Sequence[Score], name: str) -> str:
    """One line: whether the denoiser ``name`` is better than the best of the others, and by how much.

    Expects doing nothing first among ``scores``, as `compare` gives them.
    """
    ours = next(each for each in scores if each.name == name)
    noisy, *filters = [each for each in scores if each.name != name]
    best = max(filters, key=lambda each: each.psnr)
    lead = ours.psnr - best.psnr
    against = f"the best classical filter, {best.name}, at {best.psnr:.2f} dB"
    if ours.psnr <= noisy.psnr:
        loss = noisy.psnr - ours.psnr
        return f"{name}: worse than doing nothing by {loss:.2f} dB: don't use it on data like this"
    if abs(lead) < SAME:
        return f"{name}: no different from {against}"
    if lead > 0:
        return f"{name}: better by {lead:.2f} dB than {against}"
    return f"{name}: worse by {-lead:.2f} dB than {against}"
