"""`snowmelt models`: the models that ship, with size, speed on this machine, scores and licence."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from snowmelt.commands import DONE, Commands

if TYPE_CHECKING:
    from pathlib import Path

    from snowmelt.modelfile import ModelFile

SIDE, TRIAL_SIDE = 1024, 256  # pixels of the pictures that are timed
PATIENCE = 2.0  # seconds that timing may take unasked
WIDTH, INDENT = 98, 12  # characters
KINDS = {1: "grey", 3: "colour"}


def add(commands: Commands) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "models",
        help="list the models that ship, with size, speed and scores",
        description="List the models that ship. Of NAME-grey and NAME-colour, `--model NAME` takes the one "
        "that an image needs.",
    )
    parser.add_argument(
        "--time", action="store_true",
        help=f"time all of them; else those that can be timed within {PATIENCE:g} seconds",
    )  # fmt: skip
    parser.add_argument(
        "--verbose", action="store_true", help="with data, protocol of the scores and SHA-256"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a few lines for each model, the smallest first."""
    from snowmelt import modelfile, zoo

    files = zoo.shipped()
    if not files:
        print("No model ships with this version; `snowmelt train` makes one.")
    patience = float("inf") if options.time else PATIENCE
    for name, path in sorted(files.items(), key=lambda item: item[1].stat().st_size):
        seconds, speed = _speed(path, patience)
        patience -= seconds
        print("\n".join(_lines(name, modelfile.read(path), speed, options.verbose)), flush=True)
    return DONE


def _lines(name: str, model: ModelFile, speed: str, verbose: bool) -> Iterator[str]:
    header = model.header
    kind = KINDS.get(header.channels, f"{header.channels} channels")
    parameters = sum(array.size for array in model.weights.values())
    yield f"{name:<17}{kind:<9}{parameters:>11,} parameters{len(model.raw) / 1e6:>8.1f} MB   {speed}"
    yield from _wrapped("noise", header.noise or "not stated")
    scores = ", ".join(map(_score, header.scores))
    yield from _wrapped("scores", scores or "not stated")
    yield from _wrapped("licence", header.licence or "not stated")
    if verbose:
        protocols = dict.fromkeys(
            str(row["protocol"]) for row in header.scores if "protocol" in row
        )
        yield from _wrapped("protocol", "; ".join(protocols) or "not stated")
        names = (str(row.get("name", "unnamed")) for row in header.data)
        yield from _wrapped("data", ", ".join(names) or "not stated")
        yield from _wrapped("sha256", model.sha256)


def _score(row: dict[str, Any]) -> str:
    """Such as "psnr 29.30 (BSD68, sigma 25)"."""
    value = row.get("value")
    number = f"{value:#.4g}" if isinstance(value, float) else str(value)
    rest = [
        str(item) if isinstance(item, str) else f"{key} {item}"
        for key, item in row.items()
        if key not in ("metric", "value", "protocol")
    ]
    return f"{row.get('metric', 'score')} {number}" + (f" ({', '.join(rest)})" if rest else "")


def _wrapped(key: str, text: str) -> list[str]:
    lines = textwrap.wrap(text, WIDTH - INDENT)
    return [f"  {'' if index else key:<{INDENT - 2}}{line}" for index, line in enumerate(lines)]


def _speed(path: Path, patience: float) -> tuple[float, str]:
    """Seconds spent, and the speed in words; a small picture says whether a large one is worth the wait."""
    import time

    from snowmelt.denoiser import load

    began = time.perf_counter()
    denoise = load(path)
    trial = _seconds(denoise, TRIAL_SIDE)
    if (SIDE / TRIAL_SIDE) ** 2 * trial > patience:
        return time.perf_counter() - began, "- Mpx/s (--time)"
    speed = SIDE**2 / 1e6 / _seconds(denoise, SIDE)
    return time.perf_counter() - began, f"{speed:.3g} Mpx/s ({denoise.engine.precision})"


def _seconds(denoise: Any, side: int) -> float:
    """Time of the second call: the first one compiles."""
    import time

    import numpy as np

    header = denoise.header
    picture = np.random.default_rng(0).integers(0, 255, (side, side, header.channels), np.uint8)
    sigma = 25 if header.conditioned else "auto"
    for _ in range(2):
        began = time.perf_counter()
        denoise(picture, channel_axis=-1, sigma=sigma)
    return time.perf_counter() - began
