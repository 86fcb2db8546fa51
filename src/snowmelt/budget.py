"""A recipe that ends in a given time: which network, and how many steps, by trying them on this machine."""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from snowmelt.errors import UserError
from snowmelt.models import UNet, count_parameters
from snowmelt.recipe import Recipe
from snowmelt.training import Run

UNITS = {"s": 1, "m": 60, "h": 3600}
LEAST_SECONDS = 10
# Widths, blocks and their kind of U-Nets, the largest first. A network that sees fewer pixels than these is
# better replaced by a smaller one, which sees more. Separable blocks pay in the largest alone, and plain ones
# learn better where Muon takes a part of the weights away: docs/experiments.
NETWORKS: Sequence[tuple[tuple[int, ...], tuple[int, ...], str]] = (
    ((48, 64, 96, 128), (2, 4, 2, 2), "separable"),
    ((32, 48, 64, 96), (1, 1, 1, 1), "plain"),
    ((16, 32, 48, 64), (1, 1, 1, 1), "plain"),
)
WEIGHT_DECAY = 1.0  # of plain blocks
ENOUGH_PIXELS = 60e6
# Of a short time, more and smaller steps are made: patches are cut smaller until there are so many.
ENOUGH_STEPS = 1500
SMALLER_PATCHES = (96, 64)
EPOCHS = 20
TRIAL_SECONDS = 3.0  # of steps that are timed, after two that are not
RESERVE = 0.15  # of the time: steps were up to 40 percent slower later than in a trial


@dataclass(frozen=True)
class Trial:
    """What a recipe's step and its look at held-out pictures take here, in seconds."""

    step: float
    score: float
    pixels: int  # of a step
    parameters: int

    def steps(self, seconds: float) -> int:
        """How many fit into the time, with the held-out pictures scored after each epoch."""
        return int((seconds * (1 - RESERVE) - EPOCHS * self.score) / self.step)


def parse(text: str) -> float:
    """Seconds in "90s", "10m" or "1.5h".

    Raises:
        UserError: It is none of these, or too short a time to train in.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip().lower())
    if match is None:
        raise UserError(f"budget {text!r}: expected a time such as 90s, 10m or 1.5h")
    seconds = float(match[1]) * UNITS[match[2]]
    if seconds < LEAST_SECONDS:
        raise UserError(f"budget {text!r}: expected {LEAST_SECONDS} seconds or more")
    return seconds


def fit(recipe: Recipe, seconds: float, *, free_network: bool = True) -> tuple[Recipe, str]:
    """The recipe with as many steps as end in time, and a sentence that says what was chosen and why.

    Args:
        recipe: Its network is replaced by a U-Net that fits, its epochs and steps too.
        seconds: For the training, pictures and scores after each epoch included.
        free_network: False keeps the recipe's network.

    Raises:
        UserError: The data cannot be used, or not even a few steps fit into the time.
    """
    tried: list[str] = []
    for candidate in _candidates(recipe, free_network):
        trial = _try(candidate)
        steps = trial.steps(seconds)
        tried.append(f"{trial.parameters:,} parameters: {steps * trial.pixels / 1e6:.0f} Mpx")
        if steps * trial.pixels >= ENOUGH_PIXELS:
            break
    for patch in SMALLER_PATCHES:
        if steps < ENOUGH_STEPS and patch < candidate.training.patch:
            training = dataclasses.replace(candidate.training, patch=patch)
            candidate = dataclasses.replace(candidate, training=training)
            trial = _try(candidate)
            steps = trial.steps(seconds)
    if steps < EPOCHS:
        raise UserError(
            f"a budget of {seconds:.0f} s is {max(steps, 0)} steps of {trial.step:.2g} s here; expected time "
            f"for {EPOCHS} or more"
        )
    training = dataclasses.replace(candidate.training, epochs=EPOCHS, steps=steps // EPOCHS)
    return dataclasses.replace(candidate, training=training), (
        f"{seconds:.0f} s: {_name(candidate)}, {EPOCHS} epochs of {training.steps} steps, each "
        f"{trial.step * 1000:.0f} ms on {trial.pixels:,} pixels here. With patches as in the recipe it would "
        f"see, largest network first: {'; '.join(tried)} ({ENOUGH_PIXELS / 1e6:.0f} are enough, the last one "
        f"is taken); for {ENOUGH_STEPS:,} steps patches are cut as small as {training.patch} pixels"
    )


def _candidates(recipe: Recipe, free_network: bool) -> Iterator[Recipe]:
    if not free_network or recipe.network.start:
        yield recipe
        return
    for widths, blocks, block in NETWORKS:
        network = dataclasses.replace(
            recipe.network,
            architecture=UNet.architecture,
            widths=widths,
            blocks=blocks,
            block=block,
        )
        optimizer = recipe.optimizer
        if block == "plain" and optimizer.name == "muon" and not optimizer.weight_decay:
            optimizer = dataclasses.replace(optimizer, weight_decay=WEIGHT_DECAY)
        yield dataclasses.replace(recipe, network=network, optimizer=optimizer)


def _name(recipe: Recipe) -> str:
    network = recipe.network
    return f"{network.architecture} {list(network.widths)}" if not network.start else network.start


def _try(recipe: Recipe) -> Trial:
    with TemporaryDirectory() as folder:
        run = Run.prepare(recipe, Path(folder), quiet=True)
        times: list[float] = []
        while sum(times[2:]) < TRIAL_SECONDS:
            began = time.perf_counter()
            batch = run.samples.batch(len(times), run.share)
            run.step(batch)
            times.append(time.perf_counter() - began)
        began = time.perf_counter()
        run.score()
        score = time.perf_counter() - began
    pixels = len(batch) * math.prod(batch.noisy.shape[2:])
    parameters = count_parameters(run.state.network)
    return Trial(statistics.mean(times[2:]), score, pixels, parameters)
