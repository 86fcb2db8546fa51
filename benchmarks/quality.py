"""Quality against peers by the published protocol: Gaussian noise on BSD68, Set12, CBSD68.

Or on soft photographs, as cameras store them: the means of many shots in PolyU, in grey or in colour.

    python benchmarks/quality.py                          DnCNN and FFDNet on BSD68 at sigma 25
    python benchmarks/quality.py --model model.onnx       and a model of ours, in the same run
    python benchmarks/quality.py --against nlm,tv         and filters, tuned on BSDS500's training images

One JSON line for each denoiser, then the table. The peers' published weights are not Snowmelt's and lie
with the images, outside of the project.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from snowmelt import cases, denoiser, evaluation, noise, scores
from snowmelt.baselines import Denoise
from snowmelt.cases import Picture
from snowmelt.evaluation import Contender

DATA = Path(os.environ.get("SNOWMELT_DATA", Path(__file__).parents[2] / "shared" / "data"))
SETS = {  # where the clean images are
    "bsd68": "bsd68",
    "set12": "set12",
    "cbsd68": "cbsd68",
    "soft-grey": "polyu/*_mean.JPG",
    "soft-colour": "polyu/*_mean.JPG",
}
COLOUR = ("cbsd68", "soft-colour")
PUBLISHED = {  # dB on BSD68 and CBSD68, from the papers
    ("dncnn", "bsd68"): {15: 31.73, 25: 29.23, 50: 26.23},
    ("ffdnet", "bsd68"): {15: 31.63, 25: 29.19, 50: 26.29},
}


def main() -> None:
    options = _options()
    if not DATA.is_dir():
        sys.exit(f"{DATA}: not there; give the folder of images by the variable SNOWMELT_DATA")
    torch.set_grad_enabled(False)
    for name in options.sets:
        for sigma in options.sigmas:
            _compare(name, sigma, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Quality against peers.")
    parser.add_argument("--sets", nargs="+", default=["bsd68"], choices=SETS)
    parser.add_argument("--sigmas", nargs="+", type=int, default=[25], help="15, 25 or 50")
    parser.add_argument("--peers", nargs="*", default=["dncnn", "ffdnet"])
    parser.add_argument("--model", nargs="*", default=[], help="model files of ours")
    parser.add_argument("--against", default="", help="filters, such as nlm,tv")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def _compare(name: str, sigma: int, options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    colour = name in COLOUR
    kind = noise.Gaussian(sigma / 255)
    scored = cases.with_noise(_clean(SETS[name], grey=name == "soft-grey"), kind)
    tuning = cases.with_noise(_clean("bsds500/train", grey=not colour), kind)
    contenders = [Contender(each, peer(each, sigma, colour)) for each in options.peers]
    contenders += [_ours(path, sigma, colour) for path in options.model]
    against = [each for each in options.against.split(",") if each]
    found = evaluation.measure(
        scored, contenders, tuning=tuning, against=against, progress=progress
    )
    for row in found.json()["rows"]:
        published = PUBLISHED.get((row["name"], name), {}).get(sigma)
        row = {"set": name, "sigma": sigma} | row | {"published": published}
        print(json.dumps(scores.finite(row)), flush=True)
    print(found.table(), flush=True)


def _clean(place: str, *, grey: bool) -> cases.Collection:
    images = cases.from_files([str(DATA / place)], ("clean",))
    return cases.made_grey(images) if grey else images


def progress(items: Sequence[Any], what: str) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(items, desc=what, disable=None)


def _ours(path: str, sigma: int, colour: bool) -> Contender:
    network = denoiser.load(path)
    level = sigma / 255 if network.header.conditioned else "auto"

    def denoise(picture: Picture) -> Picture:
        axis = -1 if colour else None
        return network(picture, sigma=level, value_range=(0, 1), channel_axis=axis)

    return Contender(path, denoise, details={"precision": network.engine.precision})


def peer(name: str, sigma: float, colour: bool) -> Denoise:
    """DnCNN or FFDNet; the former's ``sigma``, in levels of 255, is 15, 25 or 50."""
    kind = "color" if colour else "gray"
    file = f"dncnn_{kind}_{sigma:g}.npz" if name == "dncnn" else f"ffdnet_{kind}.npz"
    network = _plain_chain(DATA / "peers" / file)

    def dncnn(image: Tensor) -> Tensor:
        return image - network(image)

    def ffdnet(image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        padded = functional.pad(image, (0, width % 2, 0, height % 2), mode="replicate")
        halves = functional.pixel_unshuffle(padded, 2)
        level = torch.full_like(halves[:, :1], sigma / 255)
        denoised = functional.pixel_shuffle(network(torch.cat([halves, level], 1)), 2)
        return denoised[..., :height, :width]

    return _on_pictures({"dncnn": dncnn, "ffdnet": ffdnet}[name])


def _plain_chain(path: Path) -> nn.Sequential:
    """Convolutions 3x3 with ReLU between them, from ``convNN.weight`` and ``convNN.bias``."""
    weights = np.load(path)
    layers: list[nn.Module] = []
    for i in range(len(weights.files) // 2):
        weight, bias = (
            torch.from_numpy(weights[f"conv{i:02d}.{part}"]) for part in ("weight", "bias")
        )
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def _on_pictures(network: Any) -> Denoise:
    """A network (1, C, H, W) as a function of a picture (H, W) or (H, W, C)."""

    def denoise(picture: Picture) -> Picture:
        channels = np.atleast_3d(picture).transpose(2, 0, 1)
        result: Picture = network(torch.from_numpy(channels.copy())[None])[0].numpy()
        return result.transpose(1, 2, 0).reshape(picture.shape)

    return denoise


if __name__ == "__main__":
    main()
