"""Training: one loop, from a recipe to a run folder, exactly resumable.

Which pictures a step sees depends on (seed, step) alone, so that to resume is to start at that step, and a
run that was stopped ends with the same weights, bit for bit, as one that was not (on a CPU, with as many
threads).

A run folder holds `recipe.toml`, `log.jsonl` (a row an epoch), `model.onnx`, `last.ckpt` (the resumable
state, see `checkpoint`), `curves.png`, `pair.png`, `photos.png`, `epoch-NNN.png`, and the numbers
behind the pictures (module `looks`). Each file appears whole or not at all.

Shapes: B batch, H height, W width; pictures are (B, 1, H, W) float32 in [0, 1].
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from snowmelt import (
    board,
    calibration,
    checkpoint,
    children,
    figures,
    looks,
    modelfile,
    models,
    ondevice,
    optimizers,
    parallel,
    processor,
    recorded,
    samples,
    zoo,
)
from snowmelt import recipe as recipes
from snowmelt.checkpoint import State
from snowmelt.data import Dataset, check_different, check_sha256, fetch, is_url, read_dataset
from snowmelt.errors import UserError
from snowmelt.files import replacing
from snowmelt.models import Network, is_finite, summary
from snowmelt.photos import AS_IT_CAME, ORIGINAL, SECOND_TAKE, NoisyPhoto, read_photos
from snowmelt.recipe import Recipe
from snowmelt.samples import Ahead, Batch, Next, Samples, Share
from snowmelt.shapes import write_dataset
from snowmelt.supervision import USUAL_LEVEL

LEVELS = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 18.0, 25.0, 35.0, 50.0)  # of 255, that are tried
PSNR_PROTOCOL = "mean over the pictures of PSNR, output clipped to [0, 1], data range 1"
LEFT_BY_A_RUN = (
    "epoch-[0-9]*.png", "epoch-[0-9]*.npz", "pictures.npz", "curves.png", "pair.png", "photos.png",
    "last.ckpt", "model.onnx", "scores.json", "report.html",
)  # fmt: skip
LOSSES: dict[str, Callable[..., Tensor]] = {"mse": functional.mse_loss, "l1": functional.l1_loss}
SMALLER, MOST_SETBACKS = 0.3, 3  # after a loss that is no number, or
BLOWN_UP = 10  # times as large as in the epoch before
Picture = NDArray[np.float32]


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
    with parallel.ranks() as share:
        run = Run.prepare(recipe, folder, quiet=quiet, share=share)
        if run.leads:
            for pattern in LEFT_BY_A_RUN:
                for old in folder.glob(pattern):
                    old.unlink()
            recipes.write(run.recipe, folder / "recipe.toml")
        return run.go()


def resume(folder: Path, *, epochs: int | None = None, quiet: bool = False) -> bool:
    """Go on with the run in ``folder`` from its last state; returns as `train` does.

    The number of ranks may be another than before, and so may ``epochs``, those of the whole run: it ends
    sooner or later than its recipe said, and the learning rate is what that number makes it from here on.

    Raises:
        UserError: There is no run, its state is damaged, its recipe or data are not those it began with, or
            it has more epochs behind it.
    """
    if not holds_run(folder):
        raise UserError(f"{folder}: no last.ckpt there, so there is no run to resume")
    with parallel.ranks() as share:
        recipe = recipes.read(str(folder / "recipe.toml"))
        if epochs is not None:
            training = dataclasses.replace(recipe.training, epochs=epochs)
            recipe = dataclasses.replace(recipe, training=training)
        run = Run.prepare(recipe, folder, quiet=quiet, share=share)
        checkpoint.restore(run.state, folder / "last.ckpt", run.recipe)
        if run.state.step > run.steps:
            raise UserError(
                f"{folder} has {run.state.step / run.samples.steps:.3g} epochs behind it, more than "
                f"{recipe.training.epochs}; give it as many or more"
            )
        if run.leads and epochs is not None:
            recipes.write(run.recipe, folder / "recipe.toml")
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
    children.stop(read_dataset.__module__)  # its memory is not needed for hours
    if sha256:
        check_sha256(path, sha256, dataset.sha256)
    check_different(dataset)
    return dataset


def open_samples(recipe: Recipe, folder: Path, *, quiet: bool = False) -> tuple[Samples, str]:
    """The pictures of a recipe, and their hash."""
    network = build_network(recipe)
    chosen = samples.prepare(
        recipe,
        lambda: prepare_data(recipe, folder, quiet=quiet),
        conditioned=network.conditioned,
        multiple=network.multiple,
    )
    sha256 = chosen.sha256
    if recipe.data.own and recipe.data.sha256:
        check_sha256(Path(chosen.title), recipe.data.sha256, sha256)
    return chosen, sha256


def build_network(recipe: Recipe, channels: int = 1) -> Network:
    """Make the recipe's network, or load the one that it goes on from; weights depend on the seed alone."""
    network = recipe.network
    with torch.random.fork_rng():
        torch.manual_seed(recipe.training.seed)
        return _begun(network, channels) if network.start else _new(network, channels)


def _new(network: recipes.Network, channels: int) -> Network:
    config: dict[str, Any] = {"widths": network.widths, "channels": channels}
    if network.architecture == models.UNet.architecture:
        config |= {"blocks": network.blocks, "block": network.block}
    else:
        config |= {"kernel_size": network.kernel_size, "activation": network.activation}
    return models.build(network.architecture, config)


def _begun(network: recipes.Network, channels: int) -> Network:
    found = models.with_channels(_load(network.start, channels), channels)
    found = models.with_widths(found, network.widen) if network.widen else found
    return models.with_blocks(found, network.grow) if network.grow else found


def _load(model: str, channels: int) -> Network:
    """The network of a model, by name or file; of a pair the one for so many channels."""
    found = modelfile.load_network(zoo.find_model(model, channels=channels))
    assert isinstance(found, Network)
    return found


def load_teacher(recipe: Recipe, chosen: Samples, device: torch.device) -> Network | None:
    """The model whose results are learnt, if the recipe names one.

    Raises:
        UserError: It cannot do these pictures: their channels, their size, or their level is not known.
    """
    name = recipe.training.teacher
    if not name:
        return None
    teacher = _load(name, chosen.channels)
    batch = chosen.batch(0, Share())
    where = f"training.teacher = {name!r}"
    if teacher.config["channels"] != chosen.channels:
        raise UserError(
            f"{where} is for {teacher.config['channels']} channels; these pictures have {chosen.channels}"
        )
    if any(side % teacher.multiple for side in batch.noisy.shape[2:]):
        raise UserError(
            f"{where} takes squares whose sides divide by {teacher.multiple}; give such a --patch"
        )
    if teacher.conditioned and batch.level is None:
        raise UserError(f"{where} has to be told the noise level, which the network here is not")
    return teacher.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _with_level(recipe: Recipe, network: Network, chosen: Samples) -> Recipe:
    """Settle the level that the network is told, where the pictures' own is not known."""
    if chosen.level is None or not network.conditioned:
        return recipe
    told = recipe.network.told
    if not told:
        told = _best_level(network, chosen) if recipe.network.start else USUAL_LEVEL * 255
    chosen.tell(told / 255)
    return dataclasses.replace(recipe, network=dataclasses.replace(recipe.network, told=told))


def _best_level(network: Network, chosen: Samples) -> float:
    """The level (of 255) at which a trained network is closest to the targets of two steps."""
    batches = [chosen.batch(step, Share()) for step in range(2)]

    def error(told: float) -> float:
        return sum(float(_weighed_error(network, batch, told / 255).mean()) for batch in batches)

    with torch.inference_mode():
        return min(LEVELS, key=error)


def _weighed_error(network: Network, batch: Batch, level: float) -> Tensor:
    """Squared errors of a network that is told one level, times their weights."""
    device = next(network.parameters()).device
    batch = batch.to(device)
    told = torch.full_like(batch.noisy[:, :1], level)
    errors = (network(batch.noisy, told) - batch.target).square()
    return errors if batch.weight is None else errors * batch.weight


def noisy_photos(recipe: Recipe) -> list[NoisyPhoto]:
    """The photos that a recipe names, noised."""
    pictures = recipe.pictures
    return read_photos(pictures.photos, variance=pictures.noise_variance, seed=recipe.training.seed)


class Run:
    """A training under way: the loop, and what it leaves in its folder."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        chosen: Samples,
        photos: list[NoisyPhoto],
        state: State,
        *,
        teacher: Network | None = None,
        share: Share = Share(),  # noqa: B008 (frozen)
        quiet: bool = False,
    ) -> None:
        processor.keep_freed_memory()
        self.recipe, self.folder, self.samples, self.photos = recipe, folder, chosen, photos
        self.state, self.teacher, self.share = state, teacher, share
        self.leads = share.rank == 0  # the rank that writes and speaks
        self.quiet = quiet or not self.leads
        self.device = next(state.network.parameters()).device
        self.bf16 = use_bf16(recipe.training.precision, self.device)
        torch.backends.cudnn.benchmark = True  # batches are of one size
        self.error = LOSSES[recipe.training.loss]
        self.steps = chosen.steps * recipe.training.epochs
        self.trained: nn.Module = parallel.together(state.network, share)
        self._good = self._before = state.content()
        self._rate: Tensor | None = None
        self._record()
        self._meanwhile: Callable[[int], object] = lambda _: None
        self.board: board.Board = board.NoBoard()

    @classmethod
    def prepare(
        cls,
        recipe: Recipe,
        folder: Path,
        *,
        quiet: bool = False,
        share: Share = Share(),  # noqa: B008
    ) -> Run:
        """Read the photos and the data, build the network; the recipe gets the data's hash."""
        if recipe.pictures.tensorboard:
            board.need_tensorboard()
        photos = noisy_photos(recipe)
        chosen, sha256 = open_samples(recipe, folder, quiet=quiet)
        if photos and chosen.channels != 1:
            raise UserError(
                f"pictures.photos are looked at in grey, and these pictures have {chosen.channels} channels; "
                "leave --photos out"
            )
        parallel.check_batches(chosen, share)
        device = parallel.choose_device(recipe.training.device, share)
        torch.set_num_threads(min(torch.get_num_threads(), processor.usable_cores()))
        chosen = ondevice.moved(chosen, device)
        # torch's type stubs lack the argument
        network = build_network(recipe, chosen.channels).to(
            device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        bf16 = use_bf16(recipe.training.precision, device)
        recipe = _with_level(recipe, network, chosen)
        keep = recipe.optimizer.ema
        state = State(
            network,
            optimizers.make(network, recipe.optimizer, bf16=bf16),
            optimizers.averaged(network, keep) if keep else None,
        )
        folder.mkdir(parents=True, exist_ok=True)
        data = dataclasses.replace(recipe.data, sha256=sha256)
        recipe = dataclasses.replace(recipe, data=data)
        teacher = load_teacher(recipe, chosen, device)
        return cls(recipe, folder, chosen, photos, state, teacher=teacher, share=share, quiet=quiet)

    def go(self) -> bool:
        """Run to the end, or to Ctrl-C; returns whether it came to the end."""
        state = self.state
        self._good = self._before = state.content()  # of a resumed run, where it resumes
        if self.leads and self.recipe.pictures.tensorboard:
            self.board = board.TensorBoard(self.folder, after=state.step // self.samples.steps)
        if state.step == 0 and self.leads:
            self.introduce()
            self.look()
            self.save()
        stopped = False
        with interrupts() as interrupted, self._batches() as batches, self._progress() as bar:
            while state.step < self.steps and not (stopped or self.is_over()):
                began = time.perf_counter()
                self.step(batches(state.step))
                stopped = parallel.any_of(interrupted(), self.share)
                state.epoch_seconds += time.perf_counter() - began
                bar.update(state.step - bar.n)
                if state.step % self.samples.steps == 0 and state.epoch_pictures:
                    self.end_epoch(bar)
        if self.leads:
            self.save()
            self.export()
            self._draw_curves()
            self.board.close()
        return state.step == self.steps or self.is_over()

    def is_over(self) -> bool:
        """Whether the best epoch is so long ago that training ends early."""
        patience, rows = self.recipe.training.patience, self.state.rows
        return bool(patience and rows) and rows[-1]["epoch"] - self.state.best["epoch"] >= patience

    def introduce(self) -> None:
        """Say what will be trained, and draw what it will see."""
        pictures = self.pictures()
        height, width = pictures[0].noisy.shape[:2]
        _say(self.quiet, summary(self.state.network, height, width))
        looks.write_pictures(self.folder, [_seen(each) for each in pictures])
        first = dataclasses.replace(pictures[0], name=f"{pictures[0].name} of {self.samples.title}")
        figures.draw_pair(self.folder / "pair.png", first)
        if self.photos:
            figures.draw_photos(self.folder / "photos.png", self.photos)

    def step(self, batch: Batch) -> None:
        """One step of the optimizers, or back to the last good state."""
        state = self.state
        self._set_rate()
        loss = self._learn(batch.to(self.device))
        if state.mean is not None:
            state.mean.update_parameters(state.network)
        self._meanwhile(state.step + 1)
        value = parallel.mean(loss.item(), self.share)  # last: a GPU is waited for here
        if not math.isfinite(value):
            self.go_back(f"the loss is {value}")
            return
        state.step += 1
        state.epoch_loss += value * batch.whole
        state.epoch_pictures += batch.whole

    def _set_rate(self) -> None:
        """Tell the optimizers this step's learning rate; what is recorded reads it where it lies."""
        state, optimizer = self.state, self.recipe.optimizer
        rate: float | Tensor = (
            optimizers.learning_rate(optimizer, state.step / self.steps) * state.rate_factor
        )
        if self._rate is not None:
            rate = self._rate.fill_(rate)
        for each in state.optimizers:
            for group in each.param_groups:
                group["lr"] = rate

    def _record(self) -> None:
        """Have steps on a GPU recorded, from the next on."""
        self._learn: Callable[[Batch], Tensor] = self._change
        if self.device.type == "cuda" and self.share.ranks == 1:
            self._rate = torch.zeros((), device=self.device)
            self._learn = recorded.Recorded(self._change, self.device)

    def _change(self, batch: Batch) -> Tensor:
        """Change the weights by a batch; returns its loss."""
        for each in self.state.optimizers:
            each.zero_grad()
        loss = self.loss(batch) * (len(batch) * self.share.ranks / batch.whole)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.optimizer.clip:
            torch.nn.utils.clip_grad_norm_(
                self.state.network.parameters(), self.recipe.optimizer.clip
            )
        for each in self.state.optimizers:
            for group in each.param_groups:
                group["capturable"] = recorded.is_recording()
            each.step()
        return loss.detach()

    def loss(self, batch: Batch) -> Tensor:
        """The mean weighted error of a batch."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            denoised = models.apply(self.trained, batch.noisy, batch.level)
            target = batch.target if self.teacher is None else self._taught(batch)
        if batch.weight is None:
            return self.error(denoised.float(), target)
        errors = self.error(denoised.float(), target, reduction="none")
        return (errors * batch.weight).mean()

    @torch.no_grad()
    def _taught(self, batch: Batch) -> Tensor:
        """What the teacher makes of the noisy pictures."""
        assert self.teacher is not None
        return models.apply(self.teacher, batch.noisy, batch.level).float()

    def go_back(self, reason: str) -> None:
        """Return to the last good state and go on with smaller steps; after a few times give up."""
        state = self.state
        setbacks, factor = state.setbacks + 1, state.rate_factor * SMALLER
        epoch, lr = len(state.rows) + 1, self.recipe.optimizer.lr
        where = f"{reason} at step {state.step} (epoch {epoch}) with a learning rate of {lr:g}"
        if setbacks > MOST_SETBACKS:
            raise UserError(
                f"{where}, and smaller steps did not help; try a smaller one, such as --lr {lr / 10:g}. "
                f"{self.folder} holds the last good state"
            )
        state.fill(self._good)
        self._good = self._before  # the last step before may have done the harm
        state.setbacks, state.rate_factor = setbacks, factor
        self._record()  # the optimizers' states lie elsewhere now
        _say(
            self.quiet,
            f"{where}; going back to step {state.step}, with steps {factor:g} times as large",
        )

    def end_epoch(self, bar: tqdm[None]) -> None:
        """Score on held-out pictures, write the row and the state, look at pictures when it is time."""
        state = self.state
        epoch = state.step // self.samples.steps
        loss = state.epoch_loss / state.epoch_pictures
        if not is_finite(state.network):
            self.go_back("a weight is no longer a number")
            return
        if state.rows and loss > BLOWN_UP * (before := state.rows[-1]["loss"]):
            self.go_back(f"the loss rose from {before:.3g} to {loss:.3g}")
            return
        row = {
            "epoch": epoch,
            "seconds": round(state.epoch_seconds, 4),
            "loss": loss,
            "psnr": parallel.of_first(self.score() if self.leads else 0.0, self.share),
        }
        state.rows.append(row)
        if not state.best or row["psnr"] > state.best["psnr"]:
            weights = copy.deepcopy(state.result.state_dict())
            state.best = {"epoch": epoch, "psnr": row["psnr"], "network": weights}
        state.epoch_loss, state.epoch_seconds, state.epoch_pictures = 0.0, 0.0, 0
        self._before, self._good = self._good, state.content()
        if not self.leads:
            return
        rate = state.optimizers[0].param_groups[0]["lr"]
        self.board.numbers(epoch, row | {"lr": float(rate)})
        bar.set_postfix(loss=f"{row['loss']:.5f}", psnr=f"{row['psnr']:.2f} dB")
        if epoch % self.recipe.pictures.every == 0 or state.step == self.steps:
            self.look()
            if bar.disable:
                _say(
                    self.quiet,
                    f"epoch {epoch}: loss {row['loss']:.5f}, held out {row['psnr']:.2f} dB",
                )
        self.save()

    def denoise(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """Apply the network: (N, C, H, W) to the same shape, clipped to [0, 1]."""
        inputs = [None if each is None else each.to(self.device) for each in (noisy, level)]
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16),
        ):
            denoised = models.apply(self.state.result, *inputs)  # type: ignore[arg-type]
        return denoised.float().clamp(0, 1).cpu()

    def score(self) -> float:
        """Held-out PSNR in dB: the mean over the pictures, of the pixels that count."""
        errors = torch.cat([self._errors(each) for each in self.samples.held_out])
        return float((-10 * errors.clamp_min(1e-12).log10()).mean())

    def _errors(self, batch: Batch) -> Tensor:
        """Mean squared error of each picture, weighed."""
        squares = (self.denoise(batch.noisy, batch.level) - batch.target).square()
        weight = torch.ones_like(squares) if batch.weight is None else batch.weight
        weight = weight.expand_as(squares)
        return (squares * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))

    def look(self) -> None:
        """Draw what the network does now: a held-out pair and the photos."""
        epoch = self.state.step // self.samples.steps
        pictures = self.pictures()
        denoised = [self._denoise_picture(each) for each in pictures]
        looks.write_look(self.folder, epoch, denoised)
        triples = [*zip(pictures, denoised, strict=True)]
        path = self.folder / f"epoch-{epoch:03d}.png"
        figures.draw_epoch(path, epoch, triples)
        self.board.picture(epoch, path)

    def _denoise_picture(self, picture: NoisyPhoto) -> Picture:
        noisy = torch.from_numpy(picture.noisy)
        noisy = noisy[None, None] if noisy.ndim == 2 else noisy.movedim(-1, 0)[None]
        level = torch.tensor(picture.level).expand(1, 1, *noisy.shape[2:])
        return _plain(self.denoise(noisy, level)[0])

    def pictures(self) -> list[NoisyPhoto]:
        """What is looked at: a held-out pair and the photos."""
        first = self.samples.held_out[0]
        level = 0.0 if first.level is None else first.level[0].numpy()
        noisy, target = _plain(first.noisy[0]), _plain(first.target[0])
        reference = _reference(self.recipe)
        name = "held-out picture" if reference == AS_IT_CAME else "held-out pair"
        return [NoisyPhoto(name, noisy, target, level, reference), *self.photos]

    def save(self) -> None:
        """Write the log and then the state; after a crash between the two, the state counts."""
        rows = "".join(json.dumps(row) + "\n" for row in self.state.rows)
        with replacing(self.folder / "log.jsonl") as part:
            part.write_text(rows, encoding="utf-8")
        checkpoint.store(self.state, self.folder / "last.ckpt", self.recipe)

    def export(self) -> None:
        """Write the model file."""
        chosen, network = self.samples, self.state.result
        value = self.score()
        if self.recipe.training.keep == "best" and self.state.best:
            network, value = copy.deepcopy(network), self.state.best["psnr"]
            network.load_state_dict(self.state.best["network"])
        score = {"metric": "PSNR, dB", "value": value, "protocol": PSNR_PROTOCOL}
        count = sum(len(each) for each in chosen.held_out)
        header = modelfile.make_header(
            network,
            recipe=recipes.without_folders(self.recipe),
            data=chosen.data,
            noise=chosen.noise or None,
            told=chosen.told if network.conditioned else None,
            int8=calibration.ranges(network, chosen.held_out),
            value_range=chosen.value_range,
            scores=[score | {"data": f"{count} held-out pictures of {chosen.title}"}],
        )
        modelfile.write(self.folder / "model.onnx", network, header)

    def _draw_curves(self) -> None:
        if self.state.rows:
            figures.draw_curves(self.folder / "curves.png", self.state.rows)

    @contextmanager
    def _batches(self) -> Iterator[Callable[[int], Batch]]:
        """Batches by step; those that take time to make are made ahead."""

        def make(step: int) -> Batch:
            return self.samples.batch(step, self.share)

        if not self.samples.slow:
            following = Next(make)
            if self.device.type == "cuda":
                self._meanwhile = following.prepare
            yield following.batch
            return
        others = max(1, torch.get_num_threads() - 1)  # a GPU takes more than one core can make
        ahead = Ahead(make, threads=1 if self.device.type == "cpu" else others)
        try:
            yield ahead.batch
        finally:
            ahead.close()

    def _progress(self) -> tqdm[None]:
        return tqdm(
            total=self.steps,
            initial=self.state.step,
            desc="training",
            unit="step",
            disable=True if self.quiet else None,
        )


def _reference(recipe: Recipe) -> str:
    """What held-out pictures are held against."""
    data = recipe.data
    if data.clean or not data.own:
        return ORIGINAL
    return SECOND_TAKE if data.noisy_too else AS_IT_CAME


def _seen(picture: NoisyPhoto) -> looks.Seen:
    """A picture as it is kept for the report; what is no truth is not called one."""
    if picture.reference == AS_IT_CAME:
        return looks.Seen(picture.name, picture.clean)
    return looks.Seen(picture.name, picture.noisy, picture.clean, reference=picture.reference)


def _plain(picture: Tensor) -> Picture:
    """(C, H, W) as a picture to look at: (H, W, 3) where it is colour, else its first channel (H, W)."""
    return picture.movedim(0, -1).numpy() if len(picture) == 3 else picture[0].numpy()


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


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16; "auto" does where the hardware has instructions for it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and processor.has_bf16()


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        print(text, file=sys.stderr)
