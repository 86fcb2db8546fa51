"""Make a model that ships of a trained one: its scores are measured and go into its header.

    python benchmarks/release.py runs/photo/model.onnx base-grey

Writes src/snowmelt/weights/NAME.onnx and prints its card for docs/models.md. Its weights are stored in
float16, more precise than the bf16 in which most processors compute. It is scored by the published protocol
on BSD68 and Set12, or CBSD68, in f32, and told the true level.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

import quality
from snowmelt import cases, denoiser, evaluation, modelfile, noise, recipe
from snowmelt.cases import Collection, Picture

WEIGHTS = Path(__file__).parents[1] / "src" / "snowmelt" / "weights"
SETS = {
    1: (("bsd68", "BSD68", (15, 25, 50)), ("set12", "Set12", (25,))),
    3: (("cbsd68", "CBSD68", (15, 25, 50)),),
}
GAUSSIAN = (
    "published: clean 8-bit images, N(0, sigma / 255) of seed 0 for each, not clipped; output clipped and "
    "rounded to 8 bits; PSNR over all pixels and channels, mean over the images; level told; f32"
)
LICENCE = (
    "MIT for the weights; learnt from BSDS500 train and test (Berkeley, for research), free photographs "
    "(public domain, CC0, Unsplash and Pexels licences) and drawn patterns"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__))
    parser.add_argument("model", type=Path, help="a run's model.onnx")
    parser.add_argument("name", help="such as base-grey")
    options = parser.parse_args()
    if not quality.DATA.is_dir():
        sys.exit(f"{quality.DATA}: not there; give the folder of images by SNOWMELT_DATA")
    network, found = modelfile.load_network(options.model), modelfile.read(options.model)
    header = dataclasses.replace(
        found.header,
        recipe=recipe.without_folders(recipe.from_dict(found.header.recipe)),
        name=options.name,
        licence=LICENCE,
        created_with=modelfile.CREATED_WITH,
    )
    WEIGHTS.mkdir(exist_ok=True)
    path = WEIGHTS / f"{options.name}.onnx"
    modelfile.write(path, network, header, half=True)
    header = dataclasses.replace(header, scores=_scores(path))
    modelfile.write(path, network, header, half=True)
    print(_card(modelfile.read(path)))


def _scores(model: Path) -> list[dict[str, Any]]:
    scores = []
    for folder, title, sigmas in SETS[modelfile.read(model).header.channels]:
        clean = cases.from_files([str(quality.DATA / folder)], ("clean",))
        for sigma in sigmas:
            noisy = cases.with_noise(clean, noise.Gaussian(sigma / 255))
            value = _score(model, noisy, sigma / 255)
            scores.append(_row(value, f"{title} sigma {sigma}", GAUSSIAN))
    return scores


def _row(value: float, data: str, protocol: str) -> dict[str, Any]:
    return {"metric": "PSNR, dB", "value": value, "data": data, "protocol": protocol}


def _score(model: Path, collection: Collection, sigma: float) -> float:
    """Mean PSNR in dB."""
    network = denoiser.load(model, precision="f32")
    axis = -1 if network.header.channels == 3 else None

    def denoise(picture: Picture) -> Picture:
        return network(picture, sigma=sigma, value_range=(0, 1), channel_axis=axis)

    measured = evaluation.compare(collection, {"model": denoise}, against=())
    (psnr,) = (each.psnr for each in measured.marks if each.name == "model")
    return round(float(np.mean(psnr)), 3)


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
