"""The pictures of a training, as PNG files: fixed range, no axes, beyond black and white shown as these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from snowmelt.files import replacing
from snowmelt.metrics import psnr
from snowmelt.photos import AS_IT_CAME, ORIGINAL, NoisyPhoto

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
WIDEST = 1.25  # points of type for each pixel that a title's letter may have: they are about half as wide
CELL, GAP, CAPTION, TITLE = 256, 12, 28, 44  # pixels; a picture of 128 x 128 is doubled exactly


def draw_epoch(
    path: Path, epoch: int, triples: Sequence[tuple[NoisyPhoto, NDArray[np.float32]]]
) -> None:
    """Noised, original and denoised side by side, a row a picture, titled "After N epochs"."""
    rows = [
        (
            (photo.noisy, f"noised{_decibels(photo, photo.noisy)}"),
            (photo.clean, f"{photo.reference}: {photo.name}"),
            (denoised, f"denoised{_decibels(photo, denoised)}"),
        )
        for photo, denoised in triples
    ]
    _draw_grid(path, f"After {epoch} epochs", rows)


def draw_pair(path: Path, pair: NoisyPhoto) -> None:
    """A first look: one noisy picture beside what the network is held against."""
    reference = "clean" if pair.reference == ORIGINAL else pair.reference
    row = ((pair.noisy, f"noisy{_decibels(pair, pair.noisy)}"), (pair.clean, reference))
    _draw_grid(path, f"A first look: {pair.name}", [row])


def draw_photos(path: Path, photos: Sequence[NoisyPhoto]) -> None:
    """All photos in one figure, each original beside its noised twin."""
    rows = [
        (
            (photo.clean, f"original: {photo.name}"),
            (photo.noisy, f"noised{_decibels(photo, photo.noisy)}"),
        )
        for photo in photos
    ]
    _draw_grid(path, "Photos, and Gaussian noise on them", rows)


def draw_curves(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Training loss (logarithmic) and held-out PSNR over the epochs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.4), dpi=DPI, layout="constrained")
    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(rows) == 1 else ""  # a line through one point would be invisible
    left, right = figure.subplots(1, 2)
    left.semilogy(epochs, [row["loss"] for row in rows], marker=marker, color="#1f6f8b")
    left.set(title="training loss", xlabel="epoch")
    right.plot(epochs, [row["psnr"] for row in rows], marker=marker, color="#c8553d")
    right.set(title="held-out PSNR, dB", xlabel="epoch")
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, path)


def _draw_grid(
    path: Path, title: str, rows: Sequence[Sequence[tuple[NDArray[np.float32], str]]]
) -> None:
    """Pictures in rows, each in a square cell placed to the pixel, on a grey page that shows their edges."""
    from matplotlib.figure import Figure

    columns = len(rows[0])
    width = GAP + columns * (CELL + GAP)
    height = TITLE + len(rows) * (CAPTION + CELL) + GAP
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="#e8e8e8")
    size = min(14.0, WIDEST * (width - 2 * GAP) / len(title))
    figure.text(0.5, 1 - TITLE / 2 / height, title, fontsize=size, ha="center", va="center")
    for i, row in enumerate(rows):
        for j, (picture, caption) in enumerate(row):
            left = GAP + j * (CELL + GAP)
            bottom = height - TITLE - (i + 1) * (CAPTION + CELL)
            place = (left / width, bottom / height, CELL / width, CELL / height)
            axes = figure.add_axes(place)
            axes.imshow(picture.clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(_shorten(caption), fontsize=9, pad=5)
            axes.set_axis_off()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as part:
        figure.savefig(part, format="png")


def _decibels(photo: NoisyPhoto, image: NDArray[np.float32]) -> str:
    """PSNR as the end of a caption; none against the noisy picture itself, which is no truth."""
    if photo.reference == AS_IT_CAME:
        return ""
    return f", {psnr(photo.clean, image, data_range=1):.2f} dB"


def _shorten(caption: str, limit: int = 38) -> str:
    return caption if len(caption) <= limit else caption[: limit - 1] + "…"
