"""Speed of models against peers on one picture, all in OpenVINO in the same precision, in one run.

    python benchmarks/speed.py --model base-grey base-colour --side 1024 --rounds 5

Each round times every contender once; what is printed are medians, one JSON line each. DnCNN is also run as
people run it, in torch in float32. The peers have random weights, which are as fast as the published ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from snowmelt import engines, modelfile, onnxfile, processor, zoo
from snowmelt.export import to_onnx

LAYERS = {
    ("dncnn", 1): (17, 64),
    ("dncnn", 3): (20, 64),
    ("ffdnet", 1): (15, 64),
    ("ffdnet", 3): (12, 96),
}


class DnCNN(nn.Module):
    """Zhang et al., 2017, batch norm folded away as in the published files."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = chain(channels, channels, *LAYERS["dncnn", channels])

    def forward(self, image: Tensor) -> Tensor:
        return image - self.layers(image)


class FFDNet(nn.Module):
    """Zhang et al., 2018: at half the size, with the noise level as one more plane."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = chain(4 * channels + 1, 4 * channels, *LAYERS["ffdnet", channels])

    def forward(self, image: Tensor, noise_level: Tensor) -> Tensor:
        level = functional.avg_pool2d(noise_level, 2)
        packed = torch.cat((functional.pixel_unshuffle(image, 2), level), 1)
        return functional.pixel_shuffle(self.layers(packed), 2)


def chain(channels: int, outputs: int, count: int, width: int) -> nn.Sequential:
    sizes = [channels, *[width] * (count - 1), outputs]
    layers: list[nn.Module] = []
    for i in range(count):
        layers += [nn.Conv2d(sizes[i], sizes[i + 1], 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def compiled(
    graph: bytes,
    inputs: list[Any],
    precision: str,
    threads: int,
    ranges: dict[str, list[float]],
) -> Callable[[list[Any]], Any]:
    """Compiled for the inputs' shapes, as `engines.OpenVino` does; open shapes cost each call memory anew."""
    core = processor.core()
    read = core.read_model(graph)
    if precision == "int8":
        engines.round_to_8_bits(read, ranges, onnxfile.parse(graph).initializers)
    read.reshape({place: list(array.shape) for place, array in enumerate(inputs)})
    floats = "bf16" if processor.has_bf16() else "f32"  # of what is not in 8 bits
    settings = {
        "INFERENCE_PRECISION_HINT": floats if precision == "int8" else precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    model: Callable[[list[Any]], Any] = core.compile_model(read, "CPU", settings)
    return model


def contenders(options: argparse.Namespace, channels: int) -> dict[str, Callable[[], Any]]:
    """What there is to time, by name: calls without arguments."""
    random = np.random.default_rng(0)
    picture = random.random((1, channels, options.side, options.side), np.float32)
    inputs = {"image": picture, "noise_level": np.full_like(picture[:, :1], 0.1)}
    found: dict[str, Callable[[], Any]] = {}

    def add(name: str, graph: bytes, count: int, ranges: dict[str, list[float]]) -> None:
        given = [*inputs.values()][:count]
        for precision in options.precisions:
            if precision == "int8" and not ranges:
                continue
            run = compiled(graph, given, precision, options.threads, ranges)
            found[f"{name} {precision}"] = partial(run, given)

    for network in (DnCNN(channels), FFDNet(channels)):
        count = 1 if isinstance(network, DnCNN) else 2
        example = {
            name: torch.zeros(1, array.shape[1], 16, 16)
            for name, array in [*inputs.items()][:count]
        }
        inner = range(2, len(network.layers) - 1, 2)
        ranges = {f"layers.{place}": [0.0, 1.0] for place in inner}
        add(type(network).__name__, to_onnx(network.eval(), example, "denoised", {}), count, ranges)
    for name in options.model:
        model = modelfile.read(zoo.find_model(name, channels=channels))
        if model.header.channels == channels:
            add(name, model.raw, len(model.header.inputs), model.header.int8)
    torch.set_num_threads(options.threads)
    whole, tensor = DnCNN(channels).eval(), torch.from_numpy(picture)
    found["DnCNN in torch f32"] = partial(whole, tensor)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__))
    parser.add_argument("--model", nargs="*", default=["base"], help="models that ship, or files")
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--channels", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--precisions", nargs="+", default=["int8", "bf16", "f32"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    for channels in options.channels:
        found = contenders(options, channels)
        times: dict[str, list[float]] = {name: [] for name in found}
        for turn in range(options.rounds + 1):  # the first one warms up
            for name, run in found.items():
                began = time.perf_counter()
                run()
                if turn:
                    times[name].append(time.perf_counter() - began)
        for name, seconds in times.items():
            median = statistics.median(seconds)
            row = {"channels": channels, "contender": name, "ms": round(1000 * median, 1)}
            print(
                json.dumps(row | {"Mpx_per_s": round(options.side**2 / 1e6 / median, 2)}),
                flush=True,
            )


if __name__ == "__main__":
    main()
