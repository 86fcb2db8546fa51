"""The pictures of a training, as PNG files: fixed grey range, no axes, nothing clipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snowmelt.files import replacing
from snowmelt.metrics import psnr
from snowmelt.photos import NoisyPhoto

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 2.6  # inches a picture
DPI = 110
CAPTION = 0.34  # inches for the line above a picture


def draw_epoch(
    path: Path, epoch: int, triples: Sequence[tuple[NoisyPhoto, NDArray[np.float32]]]
) -> None:
    """Noised, original and denoised side by side, a row a picture, titled "After N epochs"."""
    rows = [
        (
            (photo.noisy, f"noised, {_decibels(photo.clean, photo.noisy)}"),
            (photo.clean, f"original: {photo.name}"),
            (denoised, f"denoised, {_decibels(photo.clean, denoised)}"),
        )
        for photo, denoised in triples
    ]
    _draw_grid(path, f"After {epoch} epochs", rows)


def draw_pair(path: Path, pair: NoisyPhoto) -> None:
    """A first look: one noisy picture beside its clean twin."""
    row = ((pair.noisy, f"noisy, {_decibels(pair.clean, pair.noisy)}"), (pair.clean, "clean"))
    _draw_grid(path, f"A first look: {pair.name}", [row])


def draw_photos(path: Path, photos: Sequence[NoisyPhoto]) -> None:
    """All photos in one figure, each original beside its noised twin."""
    rows = [
        (
            (photo.clean, f"original: {photo.name}"),
            (photo.noisy, f"noised, {_decibels(photo.clean, photo.noisy)}"),
        )
        for photo in photos
    ]
    _draw_grid(path, "Photos, and Gaussian noise on them", rows)


def draw_curves(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Training loss (logarithmic) and held-out PSNR over the epochs."""
    from matplotlib.figure import Figure

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
    _save(figure, path)


def _draw_grid(
    path: Path, title: str, rows: Sequence[Sequence[tuple[NDArray[np.float32], str]]]
) -> None:
    from matplotlib.figure import Figure

    columns = len(rows[0])
    size = (columns * CELL, len(rows) * (CELL + CAPTION) + 2 * CAPTION)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for cells, row in zip(grid, rows, strict=True):
        for axes, (picture, caption) in zip(cells, row, strict=True):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(_shorten(caption), fontsize=9)
            axes.set_axis_off()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as part:
        figure.savefig(part, format="png")


def _decibels(clean: Any, image: Any) -> str:
    return f"{psnr(clean, image, data_range=1):.2f} dB"


def _shorten(caption: str, limit: int = 38) -> str:
    return caption if len(caption) <= limit else caption[: limit - 1] + "…"
