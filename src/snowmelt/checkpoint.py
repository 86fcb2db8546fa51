"""All that changes while training, and the file that a stopped run goes on from.

``last.ckpt`` is private: read by the version that wrote it, with torch's reader that runs no code.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from snowmelt import recipe as recipes
from snowmelt.errors import UserError
from snowmelt.files import replacing
from snowmelt.models import Network
from snowmelt.recipe import Recipe

FORMAT = 2
PLAIN = (
    "step", "epoch_loss", "epoch_seconds", "epoch_pictures", "setbacks", "rate_factor", "best", "rows",
)  # fmt: skip


@dataclass
class State:
    """All that changes while training."""

    network: Network
    optimizers: list[torch.optim.Optimizer]
    mean: AveragedModel | None = None  # of the weights
    step: int = 0
    epoch_loss: float = 0.0  # sum over the pictures seen in the epoch under way
    epoch_seconds: float = 0.0
    epoch_pictures: int = 0
    setbacks: int = 0
    rate_factor: float = 1.0
    best: dict[str, Any] = field(default_factory=dict)  # epoch, psnr, network: its weights
    rows: list[dict[str, float]] = field(default_factory=list)

    @property
    def result(self) -> Network:
        """The network that is scored and kept."""
        return self.network if self.mean is None else self.mean.module  # type: ignore[return-value]

    def content(self) -> dict[str, Any]:
        """A copy as plain values."""
        values = {name: getattr(self, name) for name in PLAIN} | {
            "network": self.network.state_dict(),
            "optimizers": [each.state_dict() for each in self.optimizers],
            "mean": None if self.mean is None else self.mean.state_dict(),
        }
        return copy.deepcopy(values)

    def fill(self, values: dict[str, Any]) -> None:
        """Go back to what `content` gave."""
        values = copy.deepcopy(values)
        self.network.load_state_dict(values["network"])
        for each, known in zip(self.optimizers, values["optimizers"], strict=True):
            each.load_state_dict(known)
        if self.mean is not None:
            self.mean.load_state_dict(values["mean"])
        for name in PLAIN:
            setattr(self, name, values[name])


def store(state: State, path: Path, recipe: Recipe) -> None:
    """Write a state, atomically."""
    values = {"format": FORMAT, "recipe": recipes.to_dict(recipe), **state.content()}
    with replacing(path) as part:
        torch.save(values, part)


def restore(state: State, path: Path, recipe: Recipe) -> None:
    """Read a state back.

    Raises:
        UserError: The file is damaged, or of another version, or of a run with another recipe, but for its
            number of epochs.
    """
    try:
        with warnings.catch_warnings(action="error"):
            # weights_only keeps a stranger's file from running code
            values: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        form, known = values["format"], values["recipe"]
    except Exception as error:  # a damaged pickle fails in every way there is
        raise UserError(
            f"{path}: not a state that a run can resume from ({error}); train anew with --force"
        ) from error
    if form != FORMAT:
        raise UserError(f"{path}: state format {form}; this version reads {FORMAT}")
    asked = recipes.to_dict(recipe)
    asked["training"]["epochs"] = known.get("training", {}).get("epochs")  # it may end at another
    if known != asked:
        raise UserError(
            f"{path.parent}: recipe.toml is not the one this run began with; put it back, or train anew "
            "into another folder"
        )
    state.fill(values)
