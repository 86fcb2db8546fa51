"""Train the level estimator through `base`, and fine-tune the bundled networks with it, on simulated acquisition.

Two programs that run at the same time: several makers of samples (`make`), and one trainer for grey and one
for colour (`train`). They share ring buffers in a folder in memory, so that a GPU never waits for samples:

    python benchmarks/train_real.py make --data FOLDER --ring /dev/shm/ring --workers 14 &
    python benchmarks/train_real.py train --ring /dev/shm/ring --channels 3 --seconds 90 200 60 200 --out OUT

Stages: the estimator alone through the frozen `base`; `base` and the estimator together; `fast`, then
`large`, with the estimator frozen. Half of each batch is white noise of known level, so that the networks
keep what they know. The loss is the mean logarithm of the squared error: what the mean PSNR counts.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from snowmelt import acquisition, modelfile, optimizers, processor, recorded
from snowmelt.levelnet import LevelEstimator, hats, level_map
from snowmelt.recipe import Optimizer

SIDE, PATCH = 160, 128  # of the samples in the rings, and of what is cut out of them
SLOTS = {3: 6000, 1: 8000}
CLEAN_SLOTS = 3000
LOW, SPAN = -0.5, 2.0  # stored values: int16 over this range
FLOOR = 2e-6  # added to a mean squared error: 57 dB
HARM = 1.0  # weight of what is worse than the noisy image, beside the loss itself


# --- makers ----------------------------------------------------------------------------------------


def buffers(ring: Path, channels: int, mode: str) -> tuple[np.memmap, np.memmap]:
    """Samples (N, 2, SIDE, SIDE, C): noisy and reference; and clean crops (N, SIDE, SIDE, C); both int16."""
    shape = (SIDE, SIDE, channels)
    samples = np.memmap(
        ring / f"samples-{channels}", np.int16, mode, shape=(SLOTS[channels], 2, *shape)
    )
    clean = np.memmap(ring / f"clean-{channels}", np.int16, mode, shape=(CLEAN_SLOTS, *shape))
    return samples, clean


def packed(values: np.ndarray) -> np.ndarray:
    scaled = (values.clip(LOW, LOW + SPAN) - LOW) / SPAN * 65535 - 32768
    return np.round(scaled).astype(np.int16)


def read_images(folders: list[Path]) -> list[np.ndarray]:
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

    def __init__(self, images: list[np.ndarray]) -> None:
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


def make(worker: int, workers: int, images: list[np.ndarray], ring: Path) -> None:
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


def start_makers(data: list[Path], ring: Path, workers: int) -> None:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    images = read_images(data)
    print(
        f"{len(images)} images, {sum(i.shape[0] * i.shape[1] for i in images) / 1e6:.0f} Mpx",
        flush=True,
    )
    ring.mkdir(parents=True, exist_ok=True)
    for channels in (1, 3):
        buffers(ring, channels, "w+")
    started = [
        multiprocessing.Process(target=make, args=(each, workers, images, ring))
        for each in range(workers)
    ]
    for each in started:
        each.start()
    for each in started:
        each.join()


# --- the trainer -----------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Batch:
    """What one step sees; fields that a stage does not use are empty."""

    noisy: Tensor
    reference: Tensor
    known_noisy: Tensor
    known_clean: Tensor
    known_level: Tensor


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


def log_error(denoised: Tensor, reference: Tensor) -> Tensor:
    """(B,): log10 of the mean squared error."""
    return torch.log10((denoised.float() - reference).square().mean((1, 2, 3)) + FLOOR)


def zoo_loss(denoised: Tensor, noisy: Tensor, reference: Tensor) -> Tensor:
    """Mean over images of the log error, and once more of what exceeds that of the noisy image."""
    error = log_error(denoised, reference)
    harm = (error - log_error(noisy.clamp(0, 1), reference)).clamp(min=0)
    return (error + HARM * harm).mean()


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


class Regression:
    """The estimator alone, on `wanted_curve`: from there on the level does not collapse to zero."""

    zoo, known = 16, 0

    def __init__(self, estimator: nn.Module, device: torch.device) -> None:
        self.optimizer = torch.optim.AdamW(estimator.parameters(), 2e-3, weight_decay=1e-3)
        self.estimator, self.device = estimator, device

    def run(self, ring: Ring, seconds: float, say: Callable[[str], None]) -> None:
        begin, told, losses = time.time(), time.time(), []
        while (progress := (time.time() - begin) / seconds) < 1:
            for group in self.optimizer.param_groups:
                group["lr"] = 2e-3 * min(1.0, len(losses) / 60, (1 - progress) / 0.5)
            noisy, reference = ring.samples(self.zoo)
            wanted, share = wanted_curve(noisy, reference)
            with torch.autocast(self.device.type, torch.bfloat16):
                curve = self.estimator(noisy)
            off = (torch.log(curve) - torch.log(wanted)).abs()
            loss = (
                (functional.huber_loss(off, torch.zeros_like(off), reduction="none") * share)
                .sum(1)
                .mean()
            )
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.estimator.parameters(), 1.0)
            self.optimizer.step()
            losses.append((off * share).sum(1).mean().item())
            if len(losses) % 5 == 0:
                ring.refresh()
            if time.time() - told > 30:
                say(
                    f"regression step {len(losses)}: mean distance {np.mean(losses[-50:]):.3f} of log level"
                )
                told = time.time()


class Stage:
    """One network and the estimator, one of them or both in training."""

    def __init__(
        self,
        name: str,
        network: nn.Module,
        estimator: nn.Module,
        *,
        learn_network: float,
        learn_estimator: float,
        zoo: int,
        known: int,
        device: torch.device,
    ) -> None:
        self.name, self.network, self.estimator = name, network, estimator
        self.rates = {"network": learn_network, "estimator": learn_estimator}
        self.zoo, self.known = zoo, known
        self.device = device
        network.requires_grad_(learn_network > 0)
        estimator.requires_grad_(learn_estimator > 0)
        self.rate = torch.zeros((), device=device)
        self.estimator_rate = torch.zeros((), device=device)
        self.optimizers: list[tuple[torch.optim.Optimizer, Tensor]] = []
        self.means: dict[str, tuple[nn.Module, Any]] = {}
        if learn_network:
            recipe = Optimizer(name="muon", lr=learn_network, schedule="trapezoid", decay=0.8)
            self.optimizers += [
                (each, self.rate)
                for each in optimizers.make(network, recipe, bf16=device.type == "cuda")
            ]
            self.means["network"] = (network, optimizers.averaged(network, 0.999))
        if learn_estimator:
            adam = torch.optim.AdamW(
                estimator.parameters(),
                learn_estimator,
                weight_decay=1e-3,
                fused=device.type == "cuda",
            )
            self.optimizers.append((adam, self.estimator_rate))
            self.means["estimator"] = (estimator, optimizers.averaged(estimator, 0.998))
        self.change: Callable[[Batch], Tensor] = (
            recorded.Recorded(self._change, device) if device.type == "cuda" else self._change
        )

    def _change(self, batch: Batch) -> Tensor:
        for each, _ in self.optimizers:
            each.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16):
            curve = self.estimator(batch.noisy)
        level = level_map(curve, batch.noisy)
        noisy, levels = batch.noisy, level
        if self.known:
            noisy = torch.cat((batch.noisy, batch.known_noisy))
            levels = torch.cat((level, batch.known_level))
        with torch.autocast(self.device.type, torch.bfloat16):
            denoised = self.network(noisy.contiguous(memory_format=torch.channels_last), levels)
        zoo = zoo_loss(denoised[: self.zoo], batch.noisy, batch.reference)
        known = denoised.new_zeros(())
        loss = zoo
        if self.known:
            known = log_error(denoised[self.zoo :], batch.known_clean).mean()
            loss = zoo * (self.zoo / (self.zoo + self.known)) + known * (
                self.known / (self.zoo + self.known)
            )
        loss.backward()
        for module in (self.network, self.estimator):
            found = [each for each in module.parameters() if each.grad is not None]
            if found:
                torch.nn.utils.clip_grad_norm_(found, 1.0)
        for each, _ in self.optimizers:
            for group in each.param_groups:
                group["capturable"] = recorded.is_recording()
            each.step()
        return torch.stack((loss.detach(), zoo.detach(), known.detach().float()))

    def run(
        self,
        ring: Ring,
        seconds: float,
        say: Callable[[str], None],
        save: Callable[[], None],
        seed: int,
    ) -> None:
        """Train for so many seconds; what is kept in the end is the running mean."""
        rng = np.random.default_rng((1, seed))
        generator = torch.Generator(self.device)
        generator.manual_seed(seed)
        begin, step, told, saved = time.time(), 0, time.time(), time.time()
        recent: list[Tensor] = []
        while (progress := (time.time() - begin) / seconds) < 1:
            scale = min(1.0, step / 60, (1 - progress) / 0.8)
            self.rate.fill_(self.rates["network"] * scale)
            self.estimator_rate.fill_(self.rates["estimator"] * scale)
            for each, rate in self.optimizers:
                for group in each.param_groups:
                    group["lr"] = rate
            noisy, reference = ring.samples(self.zoo)
            empty = noisy.new_zeros((0, *noisy.shape[1:]))
            known = (
                known_batch(ring, self.known, rng, generator)
                if self.known
                else (empty, empty, empty[:, :1])
            )
            recent.append(self.change(Batch(noisy, reference, *known)).clone())
            for module, mean in self.means.values():
                mean.update_parameters(module)
            step += 1
            if step % 20 == 0:
                ring.refresh()
            if time.time() - told > 30:
                loss, zoo, white = torch.stack(recent[-200:]).mean(0).tolist()
                rate = step / (time.time() - begin)
                say(
                    f"{self.name} {time.time() - begin:.0f} s, step {step}, {rate:.1f} steps/s: zoo {-10 * zoo:.2f}, known {-10 * white:.2f} dB"
                )
                told, recent = time.time(), recent[-200:]
            if time.time() - saved > 30:
                save()
                saved = time.time()
        for module, mean in self.means.values():
            module.load_state_dict(mean.module.state_dict())
        save()


def bundled(name: str, channels: int) -> nn.Module:
    end = "colour" if channels == 3 else "grey"
    folder = Path(modelfile.__file__).parent / "weights"
    return modelfile.load_network(folder / f"{name}-{end}.onnx")


def halves(state: dict[str, Tensor], out: Path, name: str) -> None:
    """A large state in float16, in two files."""
    names = list(state)
    for part in range(2):
        torch.save({key: state[key].half() for key in names[part::2]}, out / f"{name}-{part}.pt")


def train(arguments: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    processor.keep_freed_memory()
    channels, out = arguments.channels, arguments.out
    out.mkdir(parents=True, exist_ok=True)
    log = (out / f"log-{channels}.txt").open("a")

    def say(text: str) -> None:
        print(f"[{channels}] {text}", flush=True)
        print(text, file=log, flush=True)

    torch.manual_seed(arguments.seed)
    estimator = LevelEstimator(channels).to(device, memory_format=torch.channels_last)
    if arguments.start:
        estimator.load_state_dict(torch.load(arguments.start, map_location=device)["estimator"])
    ring = Ring(arguments.ring, channels, device, arguments.seed)
    ring.fill()
    say(f"rings filled: {ring._filled}")
    found: dict[str, Any] = {}
    zoo, known = arguments.batch
    first, second, third, fourth = arguments.seconds

    def keep(name: str, network: nn.Module, stage: Stage) -> Callable[[], None]:
        def save() -> None:
            for key, (_, mean) in stage.means.items():
                label = "estimator" if key == "estimator" else name
                found[label] = {
                    k: v.detach().cpu().clone() for k, v in mean.module.state_dict().items()
                }
            if name == "large":
                halves(found.pop("large"), out, f"large-{channels}")
            else:
                torch.save(found, out / f"small-{channels}.pt")

        return save

    name = arguments.through
    base = bundled(name, channels).to(device, memory_format=torch.channels_last)
    plan = [
        (name, base, 0.0, 1e-3, first),
        (name, base, arguments.rate, 5e-4, second),
        ("fast", None, arguments.rate, 0.0, third),
        ("large", None, arguments.rate * 0.8, 0.0, fourth),
    ]
    if arguments.regression:
        Regression(estimator, device).run(ring, arguments.regression, say)
        torch.save({"estimator": estimator.state_dict()}, out / f"regression-{channels}.pt")
    for index, (name, network, rate, estimator_rate, seconds) in enumerate(plan):
        if not seconds:
            continue
        if network is None:
            network = bundled(name, channels).to(device, memory_format=torch.channels_last)
        network.train(rate > 0)
        counts = (zoo + known, 0) if rate == 0 else (zoo, known)
        stage = Stage(
            f"{index} {name}",
            network,
            estimator,
            learn_network=rate,
            learn_estimator=estimator_rate,
            zoo=counts[0],
            known=counts[1],
            device=device,
        )
        stage.run(ring, seconds, say, keep(name, network, stage), arguments.seed + index)
    say("done")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    maker = commands.add_parser("make")
    maker.add_argument("--data", type=Path, nargs="+", required=True)
    maker.add_argument("--ring", type=Path, required=True)
    maker.add_argument("--workers", type=int, default=2)
    trainer = commands.add_parser("train")
    trainer.add_argument("--ring", type=Path, required=True)
    trainer.add_argument("--channels", type=int, choices=(1, 3), required=True)
    trainer.add_argument("--seconds", type=float, nargs=4, default=(90, 200, 60, 200))
    trainer.add_argument("--regression", type=float, default=60, help="seconds, first")
    trainer.add_argument(
        "--batch", type=int, nargs=2, default=(16, 14), help="of the zoo, of known level"
    )
    trainer.add_argument("--rate", type=float, default=6e-4)
    trainer.add_argument("--seed", type=int, default=0)
    trainer.add_argument(
        "--through", default="base", help="the model that the estimator is trained through"
    )
    trainer.add_argument("--start", type=Path)
    trainer.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "make":
        start_makers(arguments.data, arguments.ring, arguments.workers)
    else:
        train(arguments)


if __name__ == "__main__":
    main()
