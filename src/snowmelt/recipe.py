"""A recipe says everything about a training: the same recipe runs again to the same numbers.

It is a TOML file of five tables. Every key has a default, an unknown key is an error, and what a run
writes beside its results is complete.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from snowmelt import saved
from snowmelt.errors import UserError, nearest, printable

T = TypeVar("T")

LOSSES = ("mse", "l1")
OPTIMIZERS = ("adam", "adamw", "muon", "sgd")
SCHEDULES = ("constant", "one-cycle", "trapezoid")
NETWORKS = ("recipe-cnn", "unet")
BLOCKS = ("plain", "separable")
PRECISIONS = ("auto", "bf16", "f32")
KEEP = ("last", "best")
SELF_SUPERVISIONS = ("auto", "recorrupted", "blind-spot")
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class Data:
    """Where the pictures come from: one file of pairs, or files and folders of one's own.

    ``source`` is "shapes" (the tutorial's pictures, made here from ``seed``), a path or a URL of an
    HDF5 file in the tutorial's layout; if ``sha256`` is given, the data must have it.

    Where ``noisy`` or ``clean`` name files, folders or stacks, ``source`` counts for nothing: noisy and clean
    are pairs; clean alone gets ``noise``, such as "gaussian:0-55", made anew for every sample; noisy and
    ``noisy_too`` are two takes of the same; noisy alone is learnt from by ``self_supervision``: "recorrupted"
    for noise whose level can be measured, "blind-spot" for any that differs from pixel to pixel, "auto" the
    first where it can be done. ``resize`` is a range of factors, such as [0.5, 2]: in the part ``resized`` of
    the samples a clean picture is made so many times as large before it gets noise, so that few pictures show
    more, and soft ones, too, as a camera's own pixels are. ``held_out`` is the part of the pictures to test
    on, ``check`` looks for pairs that do not fit, ``grey`` turns colours to grey, ``range`` are the values
    that stand for black and white, ``axes`` is as ``snowmelt denoise`` takes it.
    """

    source: str = "shapes"
    sha256: str = ""
    seed: int = 0
    noisy: tuple[str, ...] = ()
    clean: tuple[str, ...] = ()
    noisy_too: tuple[str, ...] = ()
    noise: str = ""
    self_supervision: str = "auto"
    resize: tuple[float, ...] = ()
    resized: float = 0.5
    held_out: float = 0.1
    check: bool = True
    grey: bool = False
    range: tuple[float, ...] = ()
    axes: str = ""

    @property
    def own(self) -> bool:
        """Whether files or folders are named, and not one HDF5 file of pairs."""
        return bool(self.noisy or self.clean or self.noisy_too)


@dataclass(frozen=True)
class Network:
    """What is trained: "recipe-cnn", the plain chain of convolutions (the last layer is linear with one
    channel), or "unet", with ``widths`` and residual ``blocks`` for each level; a ``block`` is "plain" or
    "separable", see `models.UNet`.

    ``start`` is a model file to go on from; the network is then that file's, whatever the other keys say, but
    for ``grow`` and ``widen``: residual blocks and channels for each level, as many as it has or more.
    ``told`` is the noise level (of 255) that a network is told of pictures whose level nobody knows; 0: that
    at which the network to go on from is best, or 25.
    """

    architecture: str = "recipe-cnn"
    widths: tuple[int, ...] = (8, 16, 8, 4)
    kernel_size: int = 3
    activation: str = "relu"
    blocks: tuple[int, ...] = (2, 2, 2)
    block: str = "plain"
    start: str = ""
    grow: tuple[int, ...] = ()
    widen: tuple[int, ...] = ()
    told: float = 0.0


@dataclass(frozen=True)
class Optimizer:
    """How weights change. ``one-cycle`` rises to ``lr`` over ``warmup`` (a part of all steps), then falls
    along a cosine to zero; ``trapezoid`` stays there and falls to zero on a straight line over the last
    ``decay`` of all steps; ``constant`` stays at ``lr``.

    ``weight_decay`` times the rate is the part of the weights that each step of "muon" or "adamw" takes away
    (Loshchilov & Hutter, ICLR 2019), of "muon" from the kernels inside alone.
    ``clip`` is the largest norm of a gradient, 0 for any. What is kept is the running mean of the weights
    that forgets all but a part ``ema`` at each step; 0: the weights themselves.
    """

    name: str = "adam"
    lr: float = 3e-4
    schedule: str = "constant"
    warmup: float = 0.0
    decay: float = 0.5
    weight_decay: float = 0.0
    clip: float = 0.0
    ema: float = 0.0


@dataclass(frozen=True)
class Training:
    """How long, how many pictures at a time, and what is minimized.

    An epoch is a pass over all pictures, or ``steps`` steps. ``patch`` is the side in pixels of the square
    cut at random from the pictures of a batch; 0 takes them whole. ``flips`` turns each by one of the eight
    flips and quarter turns. ``teacher`` is a model, by name or file, whose results on the noisy pictures are
    the targets in place of the clean ones: a small network learns from a better one (Hinton et al., 2015) the
    mean of all that a picture could be, not the one that it is. ``keep`` is "last" or "best", the epoch with
    the best held-out score; training ends where that is ``patience`` epochs ago, 0: never.
    """

    epochs: int = 200
    steps: int = 0
    batch: int = 8
    patch: int = 0
    flips: bool = False
    teacher: str = ""
    keep: str = "last"
    patience: int = 0
    loss: str = "mse"
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class Pictures:
    """What to look at: every so many epochs, a held-out pair and the user's photos.

    ``noise_variance`` is that of the Gaussian noise put on the photos, in units of [0, 1], clipped.
    ``tensorboard`` writes curves and pictures for TensorBoard too.
    """

    every: int = 50
    photos: tuple[str, ...] = ()
    noise_variance: float = 0.01
    tensorboard: bool = False


@dataclass(frozen=True)
class Recipe:
    """All of it; the defaults are the tutorial's."""

    data: Data = field(default_factory=Data)
    network: Network = field(default_factory=Network)
    optimizer: Optimizer = field(default_factory=Optimizer)
    training: Training = field(default_factory=Training)
    pictures: Pictures = field(default_factory=Pictures)

    def __post_init__(self) -> None:
        _check(self)


def _check(recipe: Recipe) -> None:
    optimizer, training, pictures = recipe.optimizer, recipe.training, recipe.pictures
    for key, value, known in (
        ("training.loss", training.loss, LOSSES),
        ("training.precision", training.precision, PRECISIONS),
        ("training.device", training.device, DEVICES),
        ("training.keep", training.keep, KEEP),
        ("data.self_supervision", recipe.data.self_supervision, SELF_SUPERVISIONS),
        ("network.architecture", recipe.network.architecture, NETWORKS),
        ("network.block", recipe.network.block, BLOCKS),
        ("optimizer.name", optimizer.name, OPTIMIZERS),
        ("optimizer.schedule", optimizer.schedule, SCHEDULES),
    ):
        if value not in known:
            raise UserError(f"{key} = {value!r} is unknown; {nearest(value, known)}")
    for key, number, least in (
        ("training.epochs", training.epochs, 1),
        ("training.steps", training.steps, 0),
        ("network.told", recipe.network.told, 0),
        ("training.batch", training.batch, 1),
        ("training.patience", training.patience, 0),
        ("training.patch", training.patch, 0),
        ("training.seed", training.seed, 0),
        ("optimizer.weight_decay", optimizer.weight_decay, 0),
        ("pictures.every", pictures.every, 1),
        ("pictures.noise_variance", pictures.noise_variance, 0),
    ):
        if not number >= least or math.isinf(number):
            raise UserError(f"{key} = {number}: expected {least} or more")
    if not 0 < optimizer.lr < math.inf:
        raise UserError(
            f"optimizer.lr = {optimizer.lr}: expected a number above 0, such as 3e-4 or 1e-2"
        )
    if optimizer.lr * optimizer.weight_decay >= 1:
        raise UserError(
            f"optimizer.weight_decay = {optimizer.weight_decay:g} at optimizer.lr = {optimizer.lr:g}: a step "
            "would take all of the weights away; expected less, such as 1"
        )
    for key, number in (
        ("decay", optimizer.decay),
        ("held_out", recipe.data.held_out),
        ("resized", recipe.data.resized),
    ):
        if not 0 < number <= 1:
            raise UserError(f"{key} = {number}: expected a part of 1, such as 0.1")
    if not (0 <= optimizer.ema < 1 and 0 <= optimizer.clip < math.inf):
        raise UserError(
            f"optimizer.ema = {optimizer.ema}, clip = {optimizer.clip}: expected 0 (none) or a part of 1, "
            "such as 0.999, and 0 (none) or a norm, such as 1.0"
        )
    if len(recipe.data.range) not in (0, 2):
        raise UserError(
            f"data.range = {list(recipe.data.range)}: expected two values, black and white"
        )
    resize = recipe.data.resize
    if resize and not (len(resize) == 2 and 0 < resize[0] <= resize[1] < math.inf):
        raise UserError(
            f"data.resize = {list(resize)}: expected the least and the greatest factor, such as [0.5, 2]"
        )
    if training.teacher and recipe.data.own and not recipe.data.clean:
        raise UserError(
            f"training.teacher = {training.teacher!r}: there is nothing to teach where pictures learn from "
            "themselves; give clean pictures, too"
        )
    network = recipe.network
    for key, more, own in (
        ("grow", network.grow, "blocks"),
        ("widen", network.widen, "widths"),
    ):
        if more and not network.start:
            raise UserError(
                f"network.{key} = {list(more)} is for a network to go on from (--from); a new one has "
                f"network.{own}"
            )
    if not 0 <= optimizer.warmup < 1:
        raise UserError(f"optimizer.warmup = {optimizer.warmup}: expected a part of 1, such as 0.3")


def from_dict(
    tables: Mapping[str, Any], *, base: Recipe | None = None, where: str = "recipe"
) -> Recipe:
    """Put the values of nested tables over those of ``base`` (the defaults, if none).

    Raises:
        UserError: An unknown table or key (the nearest is named), a value of another type or out of range.
    """
    base = base or Recipe()
    known = {item.name: getattr(base, item.name) for item in dataclasses.fields(Recipe)}
    parts = {}
    for name, values in tables.items():
        if name not in known:
            raise UserError(f"{where}: no table [{name}]; {nearest(name, known)}")
        if not isinstance(values, Mapping):
            raise UserError(f"{where}: {name} = {values!r}: expected a table [{name}] with keys")
        parts[name] = _replace(known[name], values, f"{where}: {name}.")
    return dataclasses.replace(base, **parts)


def _replace(table: T, values: Mapping[str, Any], where: str) -> T:
    kinds = typing.get_type_hints(type(table))
    for key in values:
        if key not in kinds:
            raise UserError(f"{where}{key} is unknown; {nearest(key, kinds)}")
    read = {key: _convert(value, kinds[key], where + key) for key, value in values.items()}
    return dataclasses.replace(table, **read)  # type: ignore[type-var]


def _convert(value: Any, kind: Any, where: str) -> Any:
    if isinstance(kind, types.GenericAlias):
        (item, _) = typing.get_args(kind)
        if isinstance(value, list | tuple):
            return tuple(_convert(each, item, where) for each in value)
    elif kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif type(value) is kind:
        return value
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    expected = names.get(kind, "a list")
    raise UserError(f"{where} = {value!r}: expected {expected}")


def to_dict(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The complete recipe as nested tables of plain values, as TOML and JSON take them."""
    tables = dataclasses.asdict(recipe)
    return {
        name: {
            key: list(value) if isinstance(value, tuple) else value for key, value in table.items()
        }
        for name, table in tables.items()
    }


def without_folders(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """`to_dict` for a model file that goes to others: files and folders by name, not where they lie here."""
    tables = to_dict(recipe)
    for table, key in (
        ("data", "noisy"),
        ("data", "clean"),
        ("data", "noisy_too"),
        ("pictures", "photos"),
    ):
        tables[table][key] = [Path(text).name for text in tables[table][key]]
    if "://" not in recipe.data.source:
        tables["data"]["source"] = Path(recipe.data.source).name
    for table, key in (("network", "start"), ("training", "teacher")):
        tables[table][key] = Path(text).name if (text := tables[table][key]) else ""
    return tables


def shipped() -> dict[str, str]:
    """Names of the recipes that come with Snowmelt, and the first line of each, which says what it is for."""
    folder = resources.files("snowmelt") / "recipes"
    return {
        item.name.removesuffix(".toml"): item.read_text("utf-8").splitlines()[0].lstrip("# ")
        for item in sorted(folder.iterdir(), key=lambda item: item.name)
        if item.name.endswith(".toml")
    }


def read(name: str) -> Recipe:
    """Read a recipe from a TOML file, or one that ships with Snowmelt by its name, such as "fast"."""
    if name in shipped():
        text = (resources.files("snowmelt") / "recipes" / f"{name}.toml").read_text("utf-8")
    else:
        text = _read_file(Path(name))
    try:
        tables = saved.from_toml(text)
    except ValueError as error:
        raise UserError(
            f"{name}: not a TOML file ({printable(str(error))}); `snowmelt recipes` lists examples"
        ) from error
    return from_dict(tables, where=name)


def _read_file(path: Path) -> str:
    try:
        return saved.read_text(path)
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such recipe, neither a file nor one that ships; {nearest(str(path), shipped())}"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a recipe ({error})") from error


def write(recipe: Recipe, path: Path) -> None:
    """Write the complete recipe as TOML, atomically."""
    import tomli_w

    from snowmelt.files import replacing

    with replacing(path) as part:
        part.write_text(tomli_w.dumps(to_dict(recipe)), encoding="utf-8")
