"""Training: one loop, from a recipe to a run folder, exactly resumable.

Which pictures a step sees depends on (seed, step) alone, so that to resume is to start at that step, and a
run that was stopped ends with the same weights, bit for bit, as one that was not (on a CPU, with as many
threads).

A run folder holds `recipe.toml`, `log.jsonl` (a row an epoch), `model.onnx`, `last.ckpt` (the resumable
state, private to this module), `curves.png`, `pair.png`, `photos.png`, `epoch-NNN.png`, and the numbers
behind the pictures (module `looks`). Each file appears whole or not at all.

Shapes: B batch, H height, W width; pictures are (B, 1, H, W) float32 in [0, 1].
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import math
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from snowmelt import figures, looks, modelfile
from snowmelt import recipe as recipes
from snowmelt.data import Dataset, Pairs, check_sha256, fetch, is_url, read_dataset
from snowmelt.errors import UserError
from snowmelt.files import replacing
from snowmelt.models import RecipeCNN, is_finite, summary
from snowmelt.photos import NoisyPhoto, read_photos
from snowmelt.recipe import Optimizer, Recipe
from snowmelt.shapes import write_dataset

PSNR_PROTOCOL = "mean over the pictures of PSNR, output clipped to [0, 1], data range 1"
STATE_FORMAT = 1
LEFT_BY_A_RUN = (
    "epoch-[0-9]*.png", "epoch-[0-9]*.npz", "pictures.npz", "curves.png", "pair.png", "photos.png",
    "last.ckpt", "model.onnx", "scores.json", "report.html",
)  # fmt: skip
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": functional.mse_loss,
    "l1": functional.l1_loss,
}


@dataclass(frozen=True)
class Stack:
    """Noisy and clean pictures on the device, each (N, 1, H, W) float32."""

    noisy: Tensor
    clean: Tensor

    @classmethod
    def of(cls, pairs: Pairs) -> Stack:
        """Take them over from numpy."""
        return cls(torch.from_numpy(pairs.noisy)[:, None], torch.from_numpy(pairs.clean)[:, None])

    def __len__(self) -> int:
        return len(self.noisy)


@dataclass
class State:
    """All that changes while training; what `last.ckpt` holds."""

    network: RecipeCNN
    optimizer: torch.optim.Optimizer
    step: int = 0
    epoch_loss: float = 0.0  # sum over the pictures seen in the epoch under way
    epoch_seconds: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)


def train(recipe: Recipe, folder: Path, *, quiet: bool = False, force: bool = False) -> bool:
    """Train from the beginning into a new run folder; see `resume` to go on with one.

    Returns:
        Whether it ran to its end; False after Ctrl-C, which finishes the step and leaves a usable run.

    Raises:
        UserError: The folder holds a run already (unless ``force``), the data, the photos or the recipe
            cannot be used, or the loss is no longer a number.
    """
    if holds_run(folder) and not force:
        raise UserError(
            f"{folder} holds a run already; go on with it by --resume, choose another folder, or "
            "replace it with --force"
        )
    run = Run.prepare(recipe, folder, quiet=quiet)
    for pattern in LEFT_BY_A_RUN:
        for old in folder.glob(pattern):
            old.unlink()
    recipes.write(run.recipe, folder / "recipe.toml")
    return run.go()


def resume(folder: Path, *, quiet: bool = False) -> bool:
    """Go on with the run in ``folder`` from its last state; returns as `train` does.

    Raises:
        UserError: There is no run, its state is damaged, or its recipe or data are not those it began with.
    """
    if not holds_run(folder):
        raise UserError(f"{folder}: no last.ckpt there, so there is no run to resume")
    run = Run.prepare(recipes.read(str(folder / "recipe.toml")), folder, quiet=quiet)
    restore(run.state, folder / "last.ckpt", run.recipe)
    return run.go()


def holds_run(folder: Path) -> bool:
    """Whether there is a run to resume."""
    return (folder / "last.ckpt").is_file()


def check_same(recipe: Recipe, folder: Path) -> None:
    """Refuse to go on with the run in ``folder`` where another recipe is asked for."""
    known = recipes.to_dict(recipes.read(str(folder / "recipe.toml")))
    asked = recipes.to_dict(recipe)
    asked["data"]["sha256"] = asked["data"]["sha256"] or known["data"]["sha256"]
    for table, values in asked.items():
        for key, value in values.items():
            if value != known[table][key]:
                raise UserError(
                    f"{folder} holds a run with {table}.{key} = {known[table][key]!r}, not {value!r}; choose "
                    "another folder with -o, or replace the run with --force"
                )


def prepare_data(recipe: Recipe, folder: Path, *, quiet: bool = False) -> Dataset:
    """Make, fetch or open the data that a recipe names, and check the hash if it gives one."""
    source, sha256 = recipe.data.source, recipe.data.sha256
    if source == "shapes":
        path = folder / "demo-dataset.h5"
        if not path.exists():
            _say(quiet, f"making the data set {path}")
            write_dataset(path, seed=recipe.data.seed)
    elif is_url(source):
        path = fetch(source, sha256=sha256 or None, quiet=quiet)
    else:
        path = Path(source)
    dataset = read_dataset(path)
    if sha256:
        check_sha256(path, sha256, dataset.sha256)
    return dataset


def build_network(recipe: Recipe) -> RecipeCNN:
    """Make the recipe's network, or load the one that it goes on from; weights depend on the seed alone."""
    if recipe.network.start:
        network = modelfile.load_network(Path(recipe.network.start))
        if not isinstance(network, RecipeCNN) or network.config["channels"] != 1:
            raise UserError(
                f"{recipe.network.start}: expected a {RecipeCNN.architecture} of one channel, as the "
                "pairs have"
            )
    else:
        with torch.random.fork_rng():
            torch.manual_seed(recipe.training.seed)
            network = RecipeCNN(
                recipe.network.widths, recipe.network.kernel_size, recipe.network.activation
            )
    # torch's type stubs lack the argument
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def make_optimizer(network: nn.Module, optimizer: Optimizer) -> torch.optim.Optimizer:
    """Make the optimizer; Adam's epsilon is Keras's 1e-7, as in the tutorial."""
    parameters = network.parameters()
    if optimizer.name == "sgd":
        return torch.optim.SGD(parameters, optimizer.lr, momentum=0.9, fused=True)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer.name]
    return kind(parameters, optimizer.lr, eps=1e-7, fused=True)


def learning_rate(optimizer: Optimizer, progress: float) -> float:
    """The rate at a part ``progress`` (0 to 1) of all steps."""
    if progress < optimizer.warmup:
        return optimizer.lr * progress / optimizer.warmup
    if optimizer.schedule == "constant":
        return optimizer.lr
    fallen = (progress - optimizer.warmup) / (1 - optimizer.warmup)
    return optimizer.lr * (1 + math.cos(math.pi * fallen)) / 2


def noisy_photos(recipe: Recipe) -> list[NoisyPhoto]:
    """The photos that a recipe names, noised."""
    pictures = recipe.pictures
    return read_photos(pictures.photos, variance=pictures.noise_variance, seed=recipe.training.seed)


def batch_of(pairs: Stack, recipe: Recipe, step: int) -> tuple[Tensor, Tensor]:
    """The noisy and clean pictures of a step: a function of (seed, step) alone.

    Every epoch passes over every picture once in an order of its own; its last batch may be smaller.
    """
    training = recipe.training
    epoch, position = divmod(step, math.ceil(len(pairs) / training.batch))
    order = np.random.default_rng((training.seed, 0, epoch)).permutation(len(pairs))
    chosen = torch.from_numpy(order[position * training.batch :][: training.batch])
    if training.patch == 0:
        return pairs.noisy[chosen], pairs.clean[chosen]
    rng = np.random.default_rng((training.seed, 1, step))
    rows, columns = (_random_slice(length, training.patch, rng) for length in pairs.noisy.shape[2:])
    return pairs.noisy[..., rows, columns][chosen], pairs.clean[..., rows, columns][chosen]


def _random_slice(length: int, side: int, rng: np.random.Generator) -> slice:
    start = int(rng.integers(0, max(1, length - side + 1)))
    return slice(start, min(start + side, length))


class Run:
    """A training under way: the loop, and what it leaves in its folder."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        dataset: Dataset,
        photos: list[NoisyPhoto],
        state: State,
        quiet: bool,
    ) -> None:
        keep_freed_memory()
        self.recipe, self.folder, self.dataset, self.photos = recipe, folder, dataset, photos
        self.state, self.quiet = state, quiet
        self.pairs, self.held_out = Stack.of(dataset.train), Stack.of(dataset.test)
        self.loss = LOSSES[recipe.training.loss]
        self.bf16 = use_bf16(recipe.training.precision)
        self.steps_per_epoch = math.ceil(len(self.pairs) / recipe.training.batch)
        self.steps = self.steps_per_epoch * recipe.training.epochs

    @classmethod
    def prepare(cls, recipe: Recipe, folder: Path, *, quiet: bool) -> Run:
        """Read the photos and the data, build the network; the recipe gets the data's hash."""
        photos = noisy_photos(recipe)
        network = build_network(recipe)
        dataset = prepare_data(recipe, folder, quiet=quiet)
        data = dataclasses.replace(recipe.data, sha256=dataset.sha256)
        state = State(network, make_optimizer(network, recipe.optimizer))
        folder.mkdir(parents=True, exist_ok=True)
        return cls(dataclasses.replace(recipe, data=data), folder, dataset, photos, state, quiet)

    def go(self) -> bool:
        """Run to the end, or to Ctrl-C; returns whether it came to the end."""
        state = self.state
        if state.step == 0:
            self.introduce()
            self.look()
            self.save()
        with interrupts() as interrupted, self._progress() as bar:
            while state.step < self.steps and not interrupted():
                began = time.perf_counter()
                loss, pictures = self.step()
                state.epoch_loss += loss * pictures
                state.epoch_seconds += time.perf_counter() - began
                bar.update()
                if state.step % self.steps_per_epoch == 0:
                    self.end_epoch(bar)
        self.save()
        self.export()
        self._draw_curves()
        return state.step == self.steps

    def introduce(self) -> None:
        """Say what will be trained, and draw what it will see."""
        test = self.dataset.test
        _say(self.quiet, summary(self.state.network, *test.noisy.shape[1:]))
        pair = NoisyPhoto(f"held-out pair of {self.dataset.name}", test.noisy[0], test.clean[0])
        seen = [looks.Seen(each.name, each.noisy, each.clean) for each in self.pictures()]
        looks.write_pictures(self.folder, seen)
        figures.draw_pair(self.folder / "pair.png", pair)
        if self.photos:
            figures.draw_photos(self.folder / "photos.png", self.photos)

    def step(self) -> tuple[float, int]:
        """One step of the optimizer; returns the loss and the number of pictures."""
        state = self.state
        noisy, clean = batch_of(self.pairs, self.recipe, state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe.optimizer, state.step / self.steps)
        state.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            denoised = state.network(noisy)
        loss = self.loss(denoised.float(), clean)
        value = loss.item()
        if not math.isfinite(value):
            epoch, lr = state.step // self.steps_per_epoch + 1, self.recipe.optimizer.lr
            raise UserError(
                f"the loss is {value} at step {state.step} (epoch {epoch}) with a learning rate of {lr:g}; "
                f"try a smaller one, such as --lr {lr / 10:g}. {self.folder} holds the last good state"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        state.step += 1
        return value, len(noisy)

    def end_epoch(self, bar: tqdm[None]) -> None:
        """Score on held-out pictures, write the row and the state, look at pictures when it is time."""
        state = self.state
        epoch = state.step // self.steps_per_epoch
        row = {
            "epoch": epoch,
            "seconds": round(state.epoch_seconds, 4),
            "loss": state.epoch_loss / len(self.pairs),
            "psnr": self.score(),
        }
        if not is_finite(state.network):
            raise UserError(
                f"a weight is no longer a number after epoch {epoch}; try a smaller --lr than "
                f"{self.recipe.optimizer.lr:g}. {self.folder} holds the last good state"
            )
        state.rows.append(row)
        state.epoch_loss = state.epoch_seconds = 0.0
        bar.set_postfix(loss=f"{row['loss']:.5f}", psnr=f"{row['psnr']:.2f} dB")
        if epoch % self.recipe.pictures.every == 0 or state.step == self.steps:
            self.look()
            if bar.disable:
                _say(
                    self.quiet,
                    f"epoch {epoch}: loss {row['loss']:.5f}, held out {row['psnr']:.2f} dB",
                )
        self.save()

    def denoise(self, noisy: Tensor) -> Tensor:
        """Apply the network: (N, 1, H, W) to the same shape, clipped to [0, 1]."""
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            parts = [self.state.network(p) for p in torch.split(noisy, self.recipe.training.batch)]
        return torch.cat(parts).float().clamp(0, 1)

    def score(self) -> float:
        """Held-out PSNR in dB: the mean over the pictures."""
        errors = (self.denoise(self.held_out.noisy) - self.held_out.clean).square().mean((1, 2, 3))
        return float((-10 * errors.clamp_min(1e-12).log10()).mean())

    def look(self) -> None:
        """Draw what the network does now: a held-out pair and the photos."""
        epoch = self.state.step // self.steps_per_epoch
        pictures = self.pictures()
        denoised = [
            self.denoise(torch.from_numpy(each.noisy)[None, None])[0, 0].numpy()
            for each in pictures
        ]
        looks.write_look(self.folder, epoch, denoised)
        triples = [*zip(pictures, denoised, strict=True)]
        figures.draw_epoch(self.folder / f"epoch-{epoch:03d}.png", epoch, triples)

    def pictures(self) -> list[NoisyPhoto]:
        """What is looked at: a held-out pair and the photos."""
        test = self.dataset.test
        return [NoisyPhoto("held-out pair", test.noisy[0], test.clean[0]), *self.photos]

    def save(self) -> None:
        """Write the log and then the state; after a crash between the two, the state counts."""
        rows = "".join(json.dumps(row) + "\n" for row in self.state.rows)
        with replacing(self.folder / "log.jsonl") as part:
            part.write_text(rows, encoding="utf-8")
        store(self.state, self.folder / "last.ckpt", self.recipe)

    def export(self) -> None:
        """Write the model file."""
        score = {"metric": "PSNR, dB", "value": self.score(), "protocol": PSNR_PROTOCOL}
        header = modelfile.make_header(
            self.state.network,
            recipe=recipes.to_dict(self.recipe),
            data=[{"name": self.dataset.name, "sha256": self.dataset.sha256}],
            scores=[
                score | {"data": f"{len(self.held_out)} held-out pictures of {self.dataset.name}"}
            ],
        )
        modelfile.write(self.folder / "model.onnx", self.state.network, header)

    def _draw_curves(self) -> None:
        if self.state.rows:
            figures.draw_curves(self.folder / "curves.png", self.state.rows)

    def _progress(self) -> tqdm[None]:
        return tqdm(
            total=self.steps,
            initial=self.state.step,
            desc="training",
            unit="step",
            disable=True if self.quiet else None,
        )


def store(state: State, path: Path, recipe: Recipe) -> None:
    """Write the resumable state, atomically."""
    content = {
        "format": STATE_FORMAT,
        "recipe": recipes.to_dict(recipe),
        "network": state.network.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "epoch_loss": state.epoch_loss,
        "epoch_seconds": state.epoch_seconds,
        "rows": state.rows,
    }
    with replacing(path) as part:
        torch.save(content, part)


def restore(state: State, path: Path, recipe: Recipe) -> None:
    """Read a resumable state back; ``weights_only`` keeps a stranger's file from running code."""
    try:
        with warnings.catch_warnings(action="error"):
            content: dict[str, Any] = torch.load(path, weights_only=True)
        form, known = content["format"], content["recipe"]
    except Exception as error:  # a damaged pickle fails in every way there is
        raise UserError(
            f"{path}: not a state that a run can resume from ({error}); train anew with --force"
        ) from error
    if form != STATE_FORMAT:
        raise UserError(f"{path}: state format {form}; this version reads {STATE_FORMAT}")
    if known != recipes.to_dict(recipe):
        raise UserError(
            f"{path.parent}: recipe.toml is not the one this run began with; put it back, or train anew "
            "into another folder"
        )
    state.network.load_state_dict(content["network"])
    state.optimizer.load_state_dict(content["optimizer"])
    for name in ("step", "epoch_loss", "epoch_seconds", "rows"):
        setattr(state, name, content[name])


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag, so that the step under way is finished; the second one raises."""
    pressed = False

    def note(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nfinishing this step; press Ctrl-C again to stop at once", file=sys.stderr)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread, where signals do not come
        yield lambda: False
        return
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def use_bf16(precision: str) -> bool:
    """Whether to compute in bfloat16; "auto" does where the processor has instructions for it."""
    if precision != "auto":
        return precision == "bf16"
    from openvino import Core

    return "BF16" in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def keep_freed_memory() -> None:
    """Let glibc keep the memory that a step frees for the next one.

    Every step frees and takes tens of megabytes; given back to the system and taken anew, each page faults:
    a third of the time of a step of the tutorial network. Other C libraries are left alone.
    """
    mmap_threshold, trim_threshold, limit = -3, -1, 1 << 30  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(mmap_threshold, limit)
        mallopt(trim_threshold, limit)


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        print(text, file=sys.stderr)
