"""Speed and memory of the engine against plain torch and ONNX Runtime, on the same network in one run.

    python benchmarks/engine.py networks                  all contenders, interleaved, medians
    python benchmarks/engine.py sizes                     files from 1 to 400 Mpx (2 GB of disk)
    python benchmarks/engine.py photos MODEL CLEAN_DIR    what bf16 costs, in dB

Each prints one JSON line a result. Seconds of processor time are given beside the wall clock, because they
say more where others use the machine too. ONNX Runtime takes part where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]
Denoise = Callable[[Picture], Picture]

NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "recipe (8, 16, 8, 4)": ({}, 2048),
    "chain (64,) * 6": ({"widths": (64,) * 6}, 768),
}
SIDES = (1000, 2000, 5000, 10000, 20000)


def snowmelt(precision: str) -> Callable[[Path], Denoise]:
    def make(path: Path) -> Denoise:
        from snowmelt import load

        denoise = load(path, precision=precision, device="cpu")
        return lambda image: denoise(image, value_range=(0, 1))

    return make


def torch_whole(path: Path) -> Denoise:
    import torch

    from snowmelt.modelfile import load_network

    network = load_network(path)

    def denoise(image: Picture) -> Picture:
        with torch.inference_mode():
            return np.asarray(network(torch.from_numpy(image)[None, None])[0, 0].numpy())

    return denoise


def torch_bf16(path: Path) -> Denoise:
    import torch

    from snowmelt.modelfile import load_network

    network: Any = load_network(path)
    network = network.to(memory_format=torch.channels_last, dtype=torch.bfloat16)

    def denoise(image: Picture) -> Picture:
        with torch.inference_mode():
            tensor = torch.from_numpy(image)[None, None].bfloat16()
            result = network(tensor.to(memory_format=torch.channels_last))
            return np.asarray(result[0, 0].float().numpy())

    return denoise


def onnx_runtime(path: Path) -> Denoise:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: np.asarray(session.run(None, {"image": image[None, None]})[0][0, 0])


CONTENDERS: dict[str, Callable[[Path], Denoise]] = {
    "snowmelt bf16": snowmelt("bf16"),
    "snowmelt f32": snowmelt("f32"),
    "torch f32, whole": torch_whole,
    "torch bf16 channels-last, whole": torch_bf16,
    "onnxruntime f32, whole": onnx_runtime,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    networks = commands.add_parser("networks")
    networks.add_argument("--rounds", type=int, default=7)
    networks.set_defaults(run=lambda options: compare(options.rounds))
    sizes = commands.add_parser("sizes")
    sizes.add_argument("--sides", type=int, nargs="+", default=SIDES)
    sizes.add_argument("--rounds", type=int, default=3)
    sizes.set_defaults(run=lambda options: grow(options.sides, options.rounds))
    photos = commands.add_parser("photos")
    photos.add_argument("model", type=Path)
    photos.add_argument("clean", type=Path)
    photos.add_argument("--sigma", type=float, default=25)
    photos.set_defaults(run=lambda options: lose(options.model, options.clean, options.sigma))
    alone = commands.add_parser("alone")  # one contender in a process of its own, for its memory
    alone.add_argument("contender")
    alone.add_argument("model", type=Path)
    alone.add_argument("side", type=int)
    alone.set_defaults(run=run_alone)
    file = commands.add_parser("file")
    file.add_argument("model", type=Path)
    file.add_argument("image", type=Path)
    file.set_defaults(run=lambda options: run_file(options.model, options.image))
    options = parser.parse_args()
    options.run(options)


def report(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def write_model(path: Path, **config: Any) -> Path:
    import torch

    from snowmelt import modelfile
    from snowmelt.models import RecipeCNN

    torch.manual_seed(0)
    network = RecipeCNN(**config)
    modelfile.write(path, network, modelfile.make_header(network))
    return path


def timed(work: Callable[..., object], *arguments: object) -> tuple[float, float]:
    """Seconds by the wall clock and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    work(*arguments)
    return time.perf_counter() - wall, time.process_time() - processor


def present(contender: str) -> bool:
    if "onnxruntime" in contender and importlib.util.find_spec("onnxruntime") is None:
        report(skipped=contender, why="not installed: pip install onnxruntime")
        return False
    return True


def compare(rounds: int) -> None:
    names = [name for name in CONTENDERS if present(name)]
    with tempfile.TemporaryDirectory() as folder:
        for network, (config, side) in NETWORKS.items():
            path = write_model(Path(folder) / "model.onnx", **config)
            image = np.random.default_rng(0).random((side, side), np.float32)
            made = {name: CONTENDERS[name](path) for name in names}
            results = {name: denoise(image) for name, denoise in made.items()}
            times = interleaved(made, image, rounds)
            for name, (wall, processor) in times.items():
                difference = np.abs(results[name] - results["torch f32, whole"]).max()
                report(
                    network=network,
                    contender=name,
                    mpx=round(image.size / 1e6, 2),
                    mpx_per_second=round(image.size / 1e6 / wall, 2),
                    mpx_per_processor_second=round(image.size / 1e6 / processor, 2),
                    peak_mb=peak_alone(name, path, side),
                    difference_to_torch_f32=float(f"{difference:.2g}"),
                )


def interleaved(
    made: dict[str, Denoise], image: Picture, rounds: int
) -> dict[str, tuple[float, float]]:
    """Median seconds of each, by the wall clock and of the processor."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    for _ in range(rounds):
        for name, denoise in made.items():
            times[name].append(timed(denoise, image))
    return {
        name: (statistics.median(wall), statistics.median(processor))
        for name, found in times.items()
        for wall, processor in [zip(*found, strict=True)]
    }


def peak_alone(name: str, path: Path, side: int) -> int:
    command = [sys.executable, __file__, "alone", name, str(path), str(side)]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def run_alone(options: argparse.Namespace) -> None:
    image = np.random.default_rng(0).random((options.side, options.side), np.float32)
    CONTENDERS[options.contender](options.model)(image)
    print(peak_mb())


def peak_mb() -> int:
    # Not getrusage: its figure is inherited from the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def grow(sides: list[int], rounds: int) -> None:
    """16-bit TIFF files, read and written, each in a process of its own, sizes interleaved."""
    import tifffile

    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = write_model(Path(folder) / "model.onnx")
        tile = np.random.default_rng(0).integers(0, 2**16, (1000, 1000)).astype(np.uint16)
        rows: dict[int, list[dict[str, float]]] = {side: [] for side in sides}
        for side in sides:
            tifffile.imwrite(Path(folder) / f"{side}.tif", np.tile(tile, (side // 1000,) * 2))
        for _ in range(rounds):
            for side in sides:
                image = Path(folder) / f"{side}.tif"
                command = [sys.executable, __file__, "file", str(path), str(image)]
                done = subprocess.run(command, capture_output=True, check=True, text=True)
                rows[side].append(json.loads(done.stdout))
        for side, found in rows.items():
            medians = {key: statistics.median(row[key] for row in found) for key in found[0]}
            report(mpx=side**2 / 1e6, **medians)


def run_file(model: Path, path: Path) -> None:
    began = time.perf_counter()
    from snowmelt import load, open_image

    denoiser = load(model, device="cpu")
    target = path.with_stem(f"{path.stem}_denoised")
    mpx = path.stat().st_size / 2e6

    def denoise(times: int) -> None:
        for _ in range(times):
            denoiser.denoise_image(open_image(path, max_pixels=None), target)

    seconds = timed(denoise, 1)
    first = time.perf_counter() - began
    repeats = max(1, round(20 / mpx))
    if repeats > 1:  # small files again without what happens once
        seconds = timed(denoise, repeats)
    target.unlink()
    report(
        mpx_per_second=round(repeats * mpx / seconds[0], 1),
        mpx_per_processor_second=round(repeats * mpx / seconds[1], 1),
        peak_mb=peak_mb(),
        seconds_to_first_result=round(first, 2),
    )


def lose(model: Path, folder: Path, sigma: float) -> None:
    """PSNR of both precisions on noised grey photographs: noise not clipped, output rounded to 8 bits."""
    from snowmelt import load, psnr, read

    denoisers = {precision: load(model, precision=precision) for precision in ("f32", "bf16")}
    scores: dict[str, list[float]] = {precision: [] for precision in denoisers}
    for path in sorted(folder.glob("*.png")):
        clean = np.asarray(read(path), np.float32)
        noise = np.random.default_rng(0).normal(0, sigma, clean.shape).astype(np.float32)
        for precision, denoise in denoisers.items():
            found = denoise(clean + noise, value_range=(0, 255))
            scores[precision].append(psnr(clean, np.clip(np.rint(found), 0, 255), data_range=255))
    means = {precision: float(np.mean(each)) for precision, each in scores.items()}
    worst = np.abs(np.subtract(scores["f32"], scores["bf16"])).max()
    report(
        images=len(scores["f32"]),
        sigma=sigma,
        psnr={precision: round(mean, 4) for precision, mean in means.items()},
        difference_db=round(means["bf16"] - means["f32"], 4),
        largest_difference_db=round(float(worst), 4),
    )


if __name__ == "__main__":
    main()
