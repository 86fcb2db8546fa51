"""Train the level estimator, and fine-tune the bundled networks with it, on simulated acquisition.

Makers of samples and one trainer for grey, one for colour run at the same time and share ring buffers in a
folder in memory, so that a GPU never waits for samples:

    python benchmarks/train_real.py make --data FOLDER ... --ring RING --workers 14 &
    python benchmarks/train_real.py train --ring RING --channels 3 --seconds 60 90 200 60 200 --out OUT
    python benchmarks/train_real.py release --trained OUT/small-3.pt --channels 3 --data FOLDER ...

Stages, with their seconds: the estimator on a first guess of the right level; the estimator through the
frozen `base` (or --through fast); `base` and the estimator together; `fast`, then `large`, with the estimator
frozen. In the last three about half of each batch is white noise of known level, so that the networks keep
what they know. The loss is the mean logarithm of the squared error: what a mean PSNR counts.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import snowmelt
from snowmelt import acquisition, estimator, modelfile, optimizers, processor, recorded
from snowmelt.levelnet import LevelEstimator, hats, level_map, to_onnx
from snowmelt.recipe import Optimizer

SIDE, PATCH = 160, 128  # of the samples in the rings, and of what is cut out of them
SLOTS = {3: 6000, 1: 8000}
CLEAN_SLOTS = 3000
Stored: TypeAlias = NDArray[np.int16]
Pixels: TypeAlias = NDArray[np.uint8]
LOW, SPAN = -0.5, 2.0  # stored values: int16 over this range
FLOOR = 1.2e-5  # added to a mean squared error: what is better than 49 dB counts little
GUESS, OTHER = (
    1.0,
    0.3,
)  # weights of the level's distance from a first guess, for white noise and other
HARM = 0.5  # weight of what is worse than the noisy image, beside the loss itself


def buffers(ring: Path, channels: int, mode: Any) -> tuple[Stored, Stored]:
    """Samples (N, 2, SIDE, SIDE, C): noisy and reference; and clean crops (N, SIDE, SIDE, C); both int16."""
    shape = (SIDE, SIDE, channels)
    samples = np.memmap(
        ring / f"samples-{channels}", np.int16, mode, shape=(SLOTS[channels], 2, *shape)
    )
    clean = np.memmap(ring / f"clean-{channels}", np.int16, mode, shape=(CLEAN_SLOTS, *shape))
    return samples, clean


def packed(values: acquisition.Scene) -> Stored:
    """Values as they are stored."""
    scaled = (values.clip(LOW, LOW + SPAN) - LOW) / SPAN * 65535 - 32768
    return np.round(scaled).astype(np.int16)


def read_images(folders: list[Path]) -> list[Pixels]:
    """All clean images below these folders, the large ones reduced."""
    from PIL import Image

    files = [
        f
        for folder in folders
        for f in sorted(folder.rglob("*"))
        if f.suffix.lower() in (".jpg", ".png", ".webp")
    ]
    images = []
    for file in files:
        image = Image.open(file).convert("RGB")
        factor = max(1.0, min(image.size) / 1000)  # large photographs hide their noise when reduced
        if factor > 1:
            image = image.resize(
                [round(side / factor) for side in image.size], Image.Resampling.LANCZOS
            )
        images.append(np.asarray(image))
    return images


class Crops:
    """Clean crops; large images are seen more often, and some at half of their size."""

    def __init__(self, images: list[Pixels]) -> None:
        self._images = images
        areas = np.sqrt([image.shape[0] * image.shape[1] for image in images])
        self._odds = np.cumsum(areas / areas.sum())

    def __call__(self, side: int, rng: np.random.Generator) -> acquisition.Scene:
        image = self._images[
            min(int(np.searchsorted(self._odds, rng.random())), len(self._images) - 1)
        ]
        factor = (
            float(rng.choice([1.0, rng.uniform(0.5, 1)])) if min(image.shape[:2]) > side else 1.0
        )
        wanted = (
            min(math.ceil(side / factor), *image.shape[:2])
            if min(image.shape[:2]) >= side
            else side
        )
        short = [max(0, wanted - length) for length in image.shape[:2]]
        if any(short):
            image = np.pad(image, [(0, short[0]), (0, short[1]), (0, 0)], mode="symmetric")
        y, x = (int(rng.integers(length - wanted + 1)) for length in image.shape[:2])
        crop = image[y : y + wanted, x : x + wanted].astype(np.float32) / np.float32(255)
        if wanted != side:
            crop = acquisition.resized(crop, side, side, "lanczos").clip(0, 1)
        turns = int(rng.integers(8))
        crop = np.rot90(crop, turns % 4)
        return np.ascontiguousarray(crop[:, ::-1] if turns > 3 else crop)


def make(worker: int, workers: int, images: list[Pixels], ring: Path) -> None:
    """Fill this worker's part of the rings, for ever: samples of both kinds, and clean crops."""
    rng = np.random.default_rng((0, worker, int(time.time())))
    crops = Crops(images)
    rings = {channels: buffers(ring, channels, "r+") for channels in (1, 3)}
    for turn in itertools.count():
        for channels, (samples, clean) in rings.items():
            for count in (2 * turn, 2 * turn + 1):
                slot = worker + workers * (count % (len(samples) // workers))
                sample = acquisition.acquire(crops, SIDE, channels, rng)
                samples[slot, 0], samples[slot, 1] = packed(sample.noisy), packed(sample.reference)
            scene = crops(SIDE, rng)
            if channels == 1:
                scene = (scene @ acquisition.LUMA)[..., None]
            elif rng.random() < 0.5:
                scene = acquisition.recoloured(scene, rng)
            clean[worker + workers * (turn % (len(clean) // workers))] = packed(scene)
        (ring / f"count-{worker}").write_text(f"{turn + 1:9d}")


def start_makers(arguments: argparse.Namespace) -> None:
    """Begin the rings anew and fill them until stopped."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    ring, workers = arguments.ring, arguments.workers
    images = read_images(arguments.data)
    pixels = sum(image.shape[0] * image.shape[1] for image in images)
    print(f"{len(images)} images, {pixels / 1e6:.0f} Mpx", flush=True)
    ring.mkdir(parents=True, exist_ok=True)
    for channels in (1, 3):
        buffers(ring, channels, "w+")
    started = [
        multiprocessing.Process(target=make, args=(each, workers, images, ring))
        for each in range(workers)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()


class Ring:
    """The rings on the device, refreshed as the makers go on."""

    def __init__(self, ring: Path, channels: int, device: torch.device, seed: int) -> None:
        self._host = buffers(ring, channels, "r")
        self._counts = ring
        self._held = [
            torch.zeros(host.shape, dtype=torch.int16, device=device) for host in self._host
        ]
        self._device, self._rng, self._at = device, np.random.default_rng(seed), [0, 0]
        self._filled = [0, 0]

    def fill(self) -> None:
        """Wait until a first part is made, and take all there is."""
        while min(self._made()) < 128:
            time.sleep(1)
        for _ in range(max(map(len, self._held)) // 128):
            self.refresh(128)

    def _made(self) -> list[int]:
        """How many of each ring there are; the makers fill the rings from their beginnings."""
        turns = [int(file.read_text() or 0) for file in self._counts.glob("count-*")]
        made = min(turns, default=0) * len(turns)
        return [min(len(held), made * each) for held, each in zip(self._held, (2, 1), strict=True)]

    def refresh(self, share: int = 64) -> None:
        """Take the next part of the rings; by and by all of them."""
        for which, (held, made) in enumerate(zip(self._held, self._made(), strict=True)):
            start = self._at[which] if self._at[which] < made else 0
            stop = min(made, start + share)
            held[start:stop].copy_(torch.from_numpy(self._host[which][start:stop].copy()))
            self._at[which] = stop
            self._filled[which] = max(self._filled[which], stop)

    def samples(self, count: int) -> tuple[Tensor, Tensor]:
        """Noisy and reference (B, C, PATCH, PATCH)."""
        chosen = self._draw(0, count)
        noisy, reference = (
            chosen[:, each].contiguous(memory_format=torch.channels_last) for each in (0, 1)
        )
        return noisy, reference

    def clean(self, count: int) -> Tensor:
        """Clean crops (B, C, PATCH, PATCH)."""
        return self._draw(1, count)[:, 0].contiguous(memory_format=torch.channels_last)

    def _draw(self, which: int, count: int) -> Tensor:
        index = torch.from_numpy(self._rng.integers(self._filled[which], size=count)).to(
            self._device
        )
        y, x = (int(each) for each in self._rng.integers(SIDE - PATCH + 1, size=2))
        held = self._held[which][index]
        held = held[:, None] if which else held
        held = held[:, :, y : y + PATCH, x : x + PATCH]
        values = (held.float() + 32768) * (SPAN / 65535) + LOW
        turn = int(self._rng.integers(8))
        values = torch.rot90(values, turn % 4, (2, 3))
        values = values.flip(3) if turn > 3 else values
        return values.movedim(-1, 2)


def known_batch(
    ring: Ring, count: int, rng: np.random.Generator, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Clean crops with white noise of known level: constant, and for one in eight growing with brightness."""
    clean = ring.clean(count)
    sigma = (
        torch.from_numpy(rng.uniform(0, 55, count) / 255)
        .float()
        .to(clean.device)[:, None, None, None]
    )
    level = sigma.expand_as(clean[:, :1]).clone()
    photons = count // 8
    if photons:
        brightness = clean[:photons].mean(1, keepdim=True)
        level[:photons] = sigma[:photons] * torch.sqrt(0.05 + brightness.clamp(0, 1))
    noise = torch.randn(clean.shape, generator=generator, device=clean.device) * level
    return clean + noise, clean, level


def wanted_curve(noisy: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """A first guess of the right level from the noise itself, (B, K), and the share of each brightness.

    The geometric mean of the noise's standard deviation and of what that would be, were the noise white, by
    its means over 4 x 4 pixels: correlated noise needs a higher level than its standard deviation.
    """
    noise = noisy - reference
    shares = hats(functional.avg_pool2d(reference.mean(1, keepdim=True), 4).flatten(1))
    fine = functional.avg_pool2d(noise.square().mean(1, keepdim=True), 4).flatten(1)
    coarse = 16 * functional.avg_pool2d(noise, 4).square().mean(1).flatten(1)
    total = shares.sum(2) + 1e-3
    variances = [torch.einsum("bkn,bn->bk", shares, each) / total for each in (fine, coarse)]
    level = (variances[0] * variances[1]).clamp(min=0) ** 0.25
    return level.clamp(min=0.3 / 255), shares.mean(2)


def whiteness(noisy: Tensor, reference: Tensor) -> Tensor:
    """(B,): 1 where the noise is white, so that its standard deviation is the right level; else towards 0."""
    noise = noisy - reference
    fine = noise.square().mean((1, 2, 3)) + 1e-9
    coarse = 16 * functional.avg_pool2d(noise, 4).square().mean((1, 2, 3)) + 1e-9
    return torch.exp(-10 * torch.log(coarse / fine).square()) * (fine > (0.5 / 255) ** 2)


def log_error(denoised: Tensor, reference: Tensor) -> Tensor:
    """(B,): log10 of the mean squared error."""
    return torch.log10((denoised.float() - reference).square().mean((1, 2, 3)) + FLOOR)


def zoo_loss(denoised: Tensor, noisy: Tensor, reference: Tensor) -> Tensor:
    """Mean over images of the log error, and once more of what exceeds that of the noisy image."""
    error = log_error(denoised, reference)
    harm = (error - log_error(noisy.clamp(0, 1), reference)).clamp(min=0)
    return (error + HARM * harm).mean()


def guess_loss(curve: Tensor, wanted: Tensor, share: Tensor) -> Tensor:
    """(B,): how far the logarithms of levels are from those of `wanted_curve`."""
    off = torch.log(curve) - torch.log(wanted)
    errors = functional.huber_loss(off, torch.zeros_like(off), reduction="none")
    return (errors * share).sum(1)


@dataclass(frozen=True)
class Stage:
    """A part of the training: what learns, at which rates, for how long, and on how much of what."""

    name: str  # of the bundled model that denoises; empty: the estimator alone, on a first guess
    seconds: float
    rate: float  # of the network; 0: it is frozen
    estimator_rate: float
    zoo: int
    known: int


@dataclass(frozen=True)
class Batch:
    """What one step sees; ``known`` parts are empty where a stage has none."""

    noisy: Tensor
    reference: Tensor
    known_noisy: Tensor
    known_clean: Tensor
    known_level: Tensor


class Trainer:
    """The networks and the estimator for one number of channels."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.channels, self.out, self.seed = arguments.channels, arguments.out, arguments.seed
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(self.seed)
        self.estimator: Any = self._placed(LevelEstimator(self.channels))
        if arguments.start:
            state = torch.load(arguments.start, map_location=self.device)
            self.estimator.load_state_dict(state["estimator"])
        self.ring = Ring(arguments.ring, self.channels, self.device, self.seed)
        self.ring.fill()
        self.networks: dict[str, Any] = {}
        self.found: dict[str, Any] = {}

    def _placed(self, network: Any) -> Any:
        return network.to(self.device, memory_format=torch.channels_last)

    def say(self, text: str) -> None:
        """One line, to the screen and to the log."""
        print(f"[{self.channels}] {text}", flush=True)
        with (self.out / f"log-{self.channels}.txt").open("a") as log:
            print(text, file=log)

    def run(self, stage: Stage) -> None:
        """Train for a stage's time; what is kept is the running mean of what learns."""
        step = Step(stage, self._network(stage), self.estimator, self.device)
        rng = np.random.default_rng((1, self.seed))
        generator = torch.Generator(self.device).manual_seed(self.seed)
        begin = said = saved = time.time()
        losses: list[Tensor] = []
        while (progress := (time.time() - begin) / stage.seconds) < 1:
            scale = min(1.0, len(losses) / 60, (1 - progress) / 0.8)
            losses.append(step(self._batch(stage, rng, generator), scale))
            if len(losses) % 20 == 0:
                self.ring.refresh()
            if time.time() - said > 30:
                zoo, known = torch.stack(losses[-200:]).mean(0).tolist()
                self.say(
                    f"{stage.name or 'guess'} {time.time() - begin:.0f} s, step {len(losses)}: "
                    f"zoo {zoo:.4f}, known {known:.4f}"
                )
                said = time.time()
            if time.time() - saved > 30:
                self._save(stage, step)
                saved = time.time()
        step.keep_means()
        self._save(stage, step)

    def _network(self, stage: Stage) -> Any:
        if not stage.name:
            return None
        if stage.name not in self.networks:
            end = "colour" if self.channels == 3 else "grey"
            file = Path(modelfile.__file__).parent / "weights" / f"{stage.name}-{end}.onnx"
            self.networks = {stage.name: self._placed(modelfile.load_network(file))}
        return self.networks[stage.name]

    def _batch(self, stage: Stage, rng: np.random.Generator, generator: torch.Generator) -> Batch:
        noisy, reference = self.ring.samples(stage.zoo)
        if stage.known:
            return Batch(noisy, reference, *known_batch(self.ring, stage.known, rng, generator))
        empty = noisy[:0]
        return Batch(noisy, reference, empty, empty, empty[:, :1])

    def _save(self, stage: Stage, step: Step) -> None:
        states = step.states()
        if stage.name == "large" and "network" in states:
            halves(states.pop("network"), self.out, f"large-{self.channels}")
        for name, state in states.items():
            self.found[stage.name if name == "network" else name] = state
        torch.save(self.found, self.out / f"small-{self.channels}.pt")


class Step:
    """One step of what learns in a stage; on a GPU recorded as one launch."""

    def __init__(self, stage: Stage, network: Any, estimator: Any, device: torch.device) -> None:
        self.stage, self.network, self.estimator = stage, network, estimator
        self.device = device
        cuda = device.type == "cuda"
        self._optimizers: list[tuple[Any, Tensor, float]] = []
        self._means: dict[str, tuple[Any, Any]] = {}
        estimator.requires_grad_(stage.estimator_rate > 0)
        if network is not None:
            network.requires_grad_(stage.rate > 0).train(stage.rate > 0)
        if stage.rate:
            recipe = Optimizer(name="muon", lr=stage.rate)
            for each in optimizers.make(network, recipe, bf16=cuda):
                self._optimizers.append((each, torch.zeros((), device=device), stage.rate))
            self._means["network"] = (network, optimizers.averaged(network, 0.999))
        if stage.estimator_rate:
            adam = torch.optim.AdamW(
                estimator.parameters(), stage.estimator_rate, weight_decay=1e-3, fused=cuda
            )
            self._optimizers.append((adam, torch.zeros((), device=device), stage.estimator_rate))
            self._means["estimator"] = (estimator, optimizers.averaged(estimator, 0.998))
        change: Any = self._change
        self._learn: Any = recorded.Recorded(change, device) if cuda else change

    def __call__(self, batch: Batch, scale: float) -> Tensor:
        """Change what learns, at a part ``scale`` of its rates; the losses on the zoo and on known levels."""
        for optimizer, rate, full in self._optimizers:
            rate.fill_(full * scale)
            for group in optimizer.param_groups:
                group["lr"] = rate
        losses: Tensor = self._learn(batch)
        for module, mean in self._means.values():
            mean.update_parameters(module)
        return losses.clone()

    def _change(self, batch: Batch) -> Tensor:
        for optimizer, *_ in self._optimizers:
            optimizer.zero_grad()
        zoo, known = self._losses(batch)
        share = self.stage.zoo / (self.stage.zoo + self.stage.known)
        loss: Any = share * zoo + (1 - share) * known
        loss.backward()
        for module, _ in self._means.values():
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for optimizer, *_ in self._optimizers:
            for group in optimizer.param_groups:
                group["capturable"] = recorded.is_recording()
            optimizer.step()
        return torch.stack((zoo.detach(), known.detach()))

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        nothing = batch.noisy.new_zeros(())
        with torch.autocast(self.device.type, torch.bfloat16):
            curve = self.estimator(batch.noisy)
        guess = guess_loss(curve, *wanted_curve(batch.noisy, batch.reference))
        if self.network is None:
            return guess.mean(), nothing
        noisy = torch.cat((batch.noisy, batch.known_noisy))
        level = torch.cat((level_map(curve, batch.noisy), batch.known_level))
        with torch.autocast(self.device.type, torch.bfloat16):
            denoised = self.network(noisy.contiguous(memory_format=torch.channels_last), level)
        count = self.stage.zoo
        zoo = zoo_loss(denoised[:count], batch.noisy, batch.reference)
        sure = OTHER + (GUESS - OTHER) * whiteness(batch.noisy, batch.reference)
        zoo = zoo + (guess * sure).mean()
        if not self.stage.known:
            return zoo, nothing
        return zoo, log_error(denoised[count:], batch.known_clean).mean()

    def states(self) -> dict[str, dict[str, Tensor]]:
        """The running means of what learns, on the processor."""
        return {
            name: {
                key: value.detach().cpu().clone() for key, value in mean.module.state_dict().items()
            }
            for name, (_, mean) in self._means.items()
        }

    def keep_means(self) -> None:
        """Go on with the running means."""
        for module, mean in self._means.values():
            module.load_state_dict(mean.module.state_dict())


def halves(state: dict[str, Tensor], out: Path, name: str) -> None:
    """A large state in float16, in two files."""
    names = list(state)
    for part in range(2):
        torch.save({key: state[key].half() for key in names[part::2]}, out / f"{name}-{part}.pt")


def train(arguments: argparse.Namespace) -> None:
    """All stages, one after another."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    processor.keep_freed_memory()
    arguments.out.mkdir(parents=True, exist_ok=True)
    zoo, known = arguments.batch
    rate, through = arguments.rate, arguments.through
    guess, frozen, together, fast, large = arguments.seconds
    trainer = Trainer(arguments)
    for stage in (
        Stage("", guess, 0, 2e-3, 2 * zoo, 0),
        Stage(through, frozen, 0, 1e-3, zoo + known, 0),
        Stage(through, together, rate, 5e-4, zoo, known),
        Stage("fast", fast, rate, 0, zoo, known),
        Stage("large", large, 0.8 * rate, 0, zoo, known),
    ):
        if stage.seconds:
            trainer.run(stage)
    trainer.say("done")


def release(arguments: argparse.Namespace) -> None:
    """Write the estimator as the package's file, with a header that says what it is."""
    state = torch.load(arguments.trained, map_location="cpu")["estimator"]
    network = LevelEstimator(arguments.channels)
    network.load_state_dict(state)
    files = sorted(f for folder in arguments.data for f in folder.rglob("*") if f.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    target = estimator.path(arguments.channels)
    header = {
        "name": target.stem,
        "version": arguments.version,
        "created_with": f"snowmelt {snowmelt.__version__}",
        "network": network.config,
        "parameters": sum(each.numel() for each in network.parameters()),
        "trained_through": arguments.through,
        "recipe": arguments.recipe,
        "data": {"files": len(files), "sha256": digest.hexdigest()},
        "licence": arguments.licence,
    }
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(to_onnx(network.eval(), header))
    print(target.name, hashlib.sha256(target.read_bytes()).hexdigest())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    maker, trainer, releaser = (commands.add_parser(name) for name in ("make", "train", "release"))
    maker.add_argument(
        "--data", type=Path, nargs="+", required=True, help="folders of clean images"
    )
    maker.add_argument("--ring", type=Path, required=True)
    maker.add_argument("--workers", type=int, default=2)
    maker.set_defaults(run=start_makers)
    trainer.add_argument("--ring", type=Path, required=True)
    trainer.add_argument("--channels", type=int, choices=(1, 3), required=True)
    trainer.add_argument("--seconds", type=float, nargs=5, default=(60, 90, 200, 60, 200))
    trainer.add_argument("--through", default="base")
    trainer.add_argument("--batch", type=int, nargs=2, default=(16, 14), help="zoo, known level")
    trainer.add_argument("--rate", type=float, default=6e-4)
    trainer.add_argument("--seed", type=int, default=0)
    trainer.add_argument("--start", type=Path, help="an earlier small-*.pt")
    trainer.add_argument("--out", type=Path, required=True)
    trainer.set_defaults(run=train)
    releaser.add_argument("--trained", type=Path, required=True)
    releaser.add_argument("--channels", type=int, choices=(1, 3), required=True)
    releaser.add_argument("--data", type=Path, nargs="+", required=True)
    releaser.add_argument("--through", default="base")
    releaser.add_argument("--version", type=int, default=1)
    releaser.add_argument("--recipe", default="", help="how it was trained, in words")
    releaser.add_argument("--licence", default="MIT")
    releaser.set_defaults(run=release)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
