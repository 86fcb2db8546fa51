"""All that changes while training, and the file that a stopped run goes on from.

``last.ckpt`` is private: read by the version that wrote it, with torch's reader that runs no code.
"""

from __future__ import annotations

import copy
import math
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from snowmelt import recipe as recipes
from snowmelt.errors import UserError, printable
from snowmelt.files import replacing
from snowmelt.models import Network
from snowmelt.recipe import Recipe

FORMAT = 2
PLAIN = (
    "step", "epoch_loss", "epoch_seconds", "epoch_pictures", "setbacks", "rate_factor", "best", "rows",
)  # fmt: skip
ROW = {"epoch", "seconds", "loss", "psnr"}
REMEMBERED = {
    "Adam": {"step", "exp_avg", "exp_avg_sq"},
    "AdamW": {"step", "exp_avg", "exp_avg_sq"},
    "Muon": {"momentum"},
    "SGD": {"momentum_buffer"},
}
ANEW = {"lr", "capturable"}  # what optimizers are told at every step


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
        values = _load(path)
        form, known = values["format"], values["recipe"]
        if form == FORMAT and not isinstance(known["training"], dict):
            raise ValueError("its recipe is none")
    except Exception as error:  # a damaged pickle fails in every way there is
        raise _damaged(path, error) from error
    if form != FORMAT:
        raise UserError(f"{path}: state format {form!r}; this version reads {FORMAT}")
    asked = recipes.to_dict(recipe)
    asked["training"]["epochs"] = known["training"].get("epochs")  # it may end at another
    if known != asked:
        raise UserError(
            f"{path.parent}: recipe.toml is not the one this run began with; put it back, or train anew "
            "into another folder"
        )
    try:
        _check(values, state)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(path, error) from error
    state.fill(values)


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: not a state that a run can resume from ({printable(str(error))}); train anew with --force"
    )


def _load(path: Path) -> dict[str, Any]:
    """The values in a file of torch's, in which nothing may be compressed: little could become any size."""
    with zipfile.ZipFile(path) as file:
        entries = file.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or (
        sum(entry.file_size for entry in entries) > path.stat().st_size
    ):
        raise ValueError("it claims more bytes than it has")
    with warnings.catch_warnings(action="error"):
        # weights_only keeps a stranger's file from running code
        values: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return values


def _check(values: dict[str, Any], state: State) -> None:
    """Raise ValueError, or what damage leads to, unless ``values`` are a state of this very run."""
    like = state.content()
    if values.keys() - {"format", "recipe"} != like.keys():
        raise ValueError(f"it has {sorted(values)}")
    for name, value in like.items():
        if name in ("step", "epoch_pictures", "setbacks"):
            _require(type(values[name]) is int and values[name] >= 0, name)
        elif name in ("epoch_loss", "epoch_seconds", "rate_factor"):
            _require(_is_number(values[name]), name)
        elif name in ("network", "mean"):
            _check_weights(values[name], value, name)
    _check_best(values["best"], like["network"])
    _require(isinstance(values["rows"], list), "rows")
    for row in values["rows"]:
        numbers = all(type(each) in (int, float) for each in row.values())
        _require(row.keys() == ROW and numbers, "rows")
    _require(len(values["optimizers"]) == len(like["optimizers"]), "optimizers")
    for saved, optimizer in zip(values["optimizers"], state.optimizers, strict=True):
        _check_optimizer(saved, optimizer)


def _require(fits: bool, name: str) -> None:
    if not fits:
        raise ValueError(f"{name} is not what it was")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor whose values all lie in memory: not sparse, not one without values (meta)."""
    if not isinstance(value, torch.Tensor):
        return False
    return value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized


def _check_weights(saved: Any, like: Mapping[str, Any] | None, name: str) -> None:
    if saved is None or like is None:
        _require(saved is like, name)
        return
    _require(saved.keys() == like.keys(), name)
    for key, tensor in saved.items():
        fits = _is_plain(tensor) and tensor.shape == like[key].shape
        _require(fits and tensor.dtype == like[key].dtype, f"{name}.{key}")
        _require(bool(torch.isfinite(tensor).all()), f"{name}.{key}")


def _check_best(best: Any, like: Mapping[str, Any]) -> None:
    _require(isinstance(best, dict), "best")
    if best:
        _require(best.keys() == {"epoch", "psnr", "network"}, "best")
        _require(_is_number(best["epoch"]) and isinstance(best["psnr"], float), "best")
        _check_weights(best["network"], like, "best.network")


def _check_optimizer(saved: Any, optimizer: torch.optim.Optimizer) -> None:
    """Settings are those of the recipe; what it remembers of a weight is of its shape, or one number."""
    own = optimizer.state_dict()["param_groups"]
    groups = saved["param_groups"]
    _require(len(groups) == len(own), "optimizers")
    for group, known in zip(groups, own, strict=True):
        settings = group.keys() - ANEW
        _require(settings == known.keys() - ANEW, "optimizers")
        for key in settings:
            _require(type(group[key]) is type(known[key]) and group[key] == known[key], key)
    weights = [each for group in optimizer.param_groups for each in group["params"]]
    state, names = saved["state"], REMEMBERED[type(optimizer).__name__]
    # All begin to be remembered at the first step, but for weights that have no gradient.
    _require(all(type(place) is int and 0 <= place < len(weights) for place in state), "optimizers")
    for place, remembered in state.items():
        _require(remembered.keys() == names, "optimizers")
        for name, tensor in remembered.items():
            shape = () if name == "step" else weights[place].shape
            fits = _is_plain(tensor) and tensor.shape == shape
            fits = fits and tensor.is_floating_point() and bool(torch.isfinite(tensor).all())
            _require(fits, f"optimizers.{name}")
