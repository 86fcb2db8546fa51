"""Make a model that ships of a trained one: its scores are measured and go into its header.

    python benchmarks/release.py runs/photo/model.onnx base-grey  # or the file that ships, to do it anew

Writes src/snowmelt/weights/NAME.onnx and prints its card for docs/models.md. What in its blocks is zero in
100 noisy pictures of BSDS500 train is pruned, and 48 of them calibrate it for 8 bits. Its weights are stored
in float16, more precise than the bf16 in which most processors compute. It is scored by the published
protocol on BSD68 and Set12, or CBSD68, in f32 and in 8 bits, and told the true level.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import quality
from snowmelt import calibration, cases, denoiser, evaluation, modelfile, models, noise, recipe
from snowmelt.cases import Collection, Picture
from snowmelt.evaluation import Contender
from snowmelt.models import UNet
from snowmelt.samples import Batch

WEIGHTS = Path(__file__).parents[1] / "src" / "snowmelt" / "weights"
SETS = {
    1: (("bsd68", "BSD68", (15, 25, 50)), ("set12", "Set12", (25,))),
    3: (("cbsd68", "CBSD68", (15, 25, 50)),),
}
GAUSSIAN = (
    "published: clean 8-bit images, N(0, sigma / 255) of seed 0 for each, not clipped; output clipped and "
    "rounded to 8 bits; PSNR over all pixels and channels, mean over the images; level told; "
)
LICENCE = (
    "MIT for the weights; learnt from BSDS500 train and test (Berkeley, for research), free photographs "
    "(public domain, CC0, Unsplash and Pexels licences) and drawn patterns"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__))
    parser.add_argument("model", type=Path, help="a run's model.onnx, or one that ships")
    parser.add_argument("name", help="such as base-grey")
    options = parser.parse_args()
    if not quality.DATA.is_dir():
        sys.exit(f"{quality.DATA}: not there; give the folder of images by SNOWMELT_DATA")
    network, found = modelfile.load_network(options.model), modelfile.read(options.model)
    assert isinstance(network, UNet)
    channels = found.header.channels
    network = models.pruned(
        network, calibration.largest(network, noisy_pictures(channels, 100))
    ).eval()
    header = dataclasses.replace(
        found.header,
        recipe=_bare(found.header),
        name=options.name,
        licence=found.header.licence or LICENCE,
        created_with=modelfile.CREATED_WITH,
        config=network.config,
        reach=network.reach,
        int8=calibration.ranges(network, noisy_pictures(channels, 48)),
    )
    WEIGHTS.mkdir(exist_ok=True)
    path = WEIGHTS / f"{options.name}.onnx"
    modelfile.write(path, network, header, half=True)
    header = dataclasses.replace(header, scores=_scores(path))
    modelfile.write(path, network, header, half=True)
    print(_card(modelfile.read(path)))


def _bare(header: modelfile.Header) -> dict[str, Any]:
    """The recipe without a machine's folders; of a model that ships as it is, maybe of an older version."""
    if header.name:
        return header.recipe
    return recipe.without_folders(recipe.from_dict(header.recipe))


def noisy_pictures(
    channels: int, count: int, folder: Path = quality.DATA / "bsds500" / "train"
) -> Iterator[Batch]:
    """Pictures of a folder, the first 320 x 320 of each, of sigma 0 to 55."""
    random = np.random.default_rng(0)
    files = sorted(folder.glob("*.[jp][pn]g"))
    if not files:
        sys.exit(f"{folder}: no PNG and no .jpg there")
    for place, file in enumerate(files[:: max(len(files) // count, 1)][:count]):
        picture = np.asarray(Image.open(file).convert("L" if channels == 1 else "RGB"))
        clean = np.atleast_3d(picture[:320, :320] / 255).transpose(2, 0, 1)[None]
        sigma = 5 * (place % 12) / 255
        noisy = clean + random.normal(0, sigma, clean.shape)
        target, image = (torch.from_numpy(each.astype(np.float32)) for each in (clean, noisy))
        yield Batch(image, target, level=torch.full_like(image[:, :1], sigma))


def _scores(model: Path) -> list[dict[str, Any]]:
    scores = []
    header = modelfile.read(model).header
    precisions = ("f32", "int8") if header.int8 else ("f32",)
    for folder, title, sigmas in SETS[header.channels]:
        clean = cases.from_files([str(quality.DATA / folder)], ("clean",))
        for sigma in sigmas:
            noisy = cases.with_noise(clean, noise.Gaussian(sigma / 255))
            for precision in precisions:
                value = _score(model, noisy, sigma / 255, precision)
                told = "" if precision == "f32" else f", {precision}"
                scores.append(_row(value, f"{title} sigma {sigma}{told}", GAUSSIAN + precision))
    return scores


def _row(value: float, data: str, protocol: str) -> dict[str, Any]:
    return {"metric": "PSNR, dB", "value": value, "data": data, "protocol": protocol}


def _score(model: Path, collection: Collection, sigma: float, precision: str) -> float:
    """Mean PSNR in dB."""
    network = denoiser.load(model, precision=precision, device="cpu")
    network.engine.deep = network.engine  # type: ignore[misc]  # floats go through 8 bits here, too
    assert network.engine.precision == precision
    axis = -1 if network.header.channels == 3 else None

    def denoise(picture: Picture) -> Picture:
        return network(picture, sigma=sigma, value_range=(0, 1), channel_axis=axis)

    found = evaluation.measure(collection, [Contender("model", denoise)], against=())
    return round(float(found.rows[-1]["psnr"]), 3)


def _card(model: modelfile.ModelFile) -> str:
    """What docs/models.md says of a model."""
    header = model.header
    parameters = sum(array.size for array in model.weights.values())
    rows = [
        ("network", f"{header.architecture} {header.config}, {parameters:,} parameters"),
        ("file", f"{len(model.raw) / 1e6:.1f} MB, SHA-256 `{model.sha256}`"),
        ("noise", f"{header.noise} of 255, level told or measured"),
        *((f"data: {row['name']}", f"SHA-256 `{row['sha256']}`") for row in header.data),
        *((str(row["data"]), f"{row['value']:.2f} dB") for row in header.scores),
        ("licence", str(header.licence)),
    ]
    lines = [f"### {header.name}", "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {key} | {value} |" for key, value in rows)])


if __name__ == "__main__":
    main()
