"""The network that estimates the noise level of an image; for training it, and for writing it as ONNX.

`estimator` runs what is written here, without torch.

It is trained through a denoiser: its loss is the error of what the denoiser makes with the level that it
estimates. So it needs no notion of what noise is white, correlated or a camera's: the level is the one that
gives the best image, and near zero where every denoising would harm.

The estimate is a curve: the noise level at a few brightnesses (`KNOTS`), between which it is interpolated.
The level of a pixel is the curve's at the local brightness, the noisy image's mean over channels, smoothed.

Shapes: images (B, C, H, W) float32 in [0, 1]; curves (B, K) standard deviations in the same units.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from snowmelt import onnxfile
from snowmelt.estimator import BLUR, BLUR_REACH, HEADER, KNOTS
from snowmelt.export import FLOAT, IR_VERSION, OPSET, Graph, tensor

SCALES = 4  # of the image: 1, 1/2, 1/4, 1/8
HIGH_PASS = (
    17  # side in pixels of the local mean that is subtracted; a narrower one removes coarse noise
)
BLOCKS = (8, 8, 4, 2)  # side of the blocks whose energy is taken, in pixels of each scale
FAINTEST = 0.1 / 255  # added to every energy, so that its logarithm exists
PRIOR = (
    0.01  # weight of the whole image in each brightness's statistics, so that rare ones have some
)
LEAST, MOST = math.log(0.05 / 255), math.log(120 / 255)


class LevelEstimator(nn.Module):
    """(B, C, H, W) -> (B, KNOTS): the noise level at each brightness; H and W at least 32.

    A small convolutional network looks at the image's detail at four scales. The energies of its features
    in blocks of 8 to 16 pixels are averaged in three ways (arithmetic, geometric, harmonic: the last looks
    at the flattest blocks), over blocks of similar brightness. From the logarithms of these a perceptron
    makes the logarithm of the level at that brightness. No convolution has a bias, so that all of this
    scales with the contrast of the image.
    """

    def __init__(
        self, channels: int = 1, width: int = 24, features: int = 32, hidden: int = 96
    ) -> None:
        super().__init__()
        self.config = {"channels": channels, "width": width, "features": features, "hidden": hidden}
        self.towers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, width, 5, bias=False),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, bias=False),
                nn.ReLU(),
                nn.Conv2d(width, features, 3, bias=False),
            )
            for _ in range(SCALES)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.orthogonal_(layer.weight, gain=1.5)
        statistics = 3 * SCALES * features
        last = nn.Linear(hidden // 2, 1)
        nn.init.normal_(last.weight, std=0.02)
        nn.init.zeros_(last.bias)  # a level of about 12 on a 0–255 scale, see `forward`
        self.head = nn.Sequential(
            nn.Linear(2 * statistics + KNOTS + 1, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden // 2),
            nn.ReLU(),
            last,
        )

    def forward(self, image: Tensor) -> Tensor:
        """Curves of noise levels."""
        statistics, whole, occupied = self.statistics(image)
        batch = image.shape[0]
        spread = whole[:, None].expand(-1, KNOTS, -1)
        knots = torch.eye(KNOTS, device=image.device)[None].expand(batch, -1, -1)
        inputs = torch.cat((statistics - spread, spread, knots, occupied[..., None]), 2)
        raw = self.head(inputs)[..., 0] + math.log(12 / 255)
        raw = raw.float()
        return torch.exp(LEAST + functional.softplus(raw - LEAST) - functional.softplus(raw - MOST))

    def statistics(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log energies by brightness (B, K, F) and of the whole image (B, F); log share of blocks (B, K)."""
        found: list[Tensor] = []
        whole: list[Tensor] = []
        occupied = None
        for tower, block in zip(self.towers, BLOCKS, strict=True):
            features = tower(detail(image)).float()
            energy = functional.avg_pool2d(features.square(), block).flatten(2) + FAINTEST**2
            shares = memberships(image, block)  # (B, K, N)
            if occupied is None:
                occupied = torch.log(shares.mean(2) + PRIOR)
            shares = shares + PRIOR
            shares = shares / shares.sum(2, keepdim=True)
            even = torch.full_like(shares[:, :1], 1 / shares.shape[2])
            for weights, into in ((shares, found), (even, whole)):
                into += [
                    torch.log(torch.einsum("bkn,bfn->bkf", weights, energy)) / 2,
                    torch.einsum("bkn,bfn->bkf", weights, torch.log(energy)) / 2,
                    -torch.log(torch.einsum("bkn,bfn->bkf", weights, 1 / energy)) / 2,
                ]
            image = functional.avg_pool2d(image, 2)
        assert occupied is not None
        # Centred near the energies of a level of 12 on a 0-255 scale, so that the perceptron starts well.
        return torch.cat(found, 2) + 3, torch.cat(whole, 2)[:, 0] + 3, occupied


def detail(image: Tensor) -> Tensor:
    """The image less its local mean, mirrored beyond the border so that all convolutions fit."""
    half = HIGH_PASS // 2
    padded = functional.pad(image, (half,) * 4, mode="reflect")
    mean = functional.avg_pool2d(
        functional.avg_pool2d(padded, (HIGH_PASS, 1), 1), (1, HIGH_PASS), 1
    )
    return functional.pad(image - mean, (4,) * 4, mode="reflect")


def memberships(image: Tensor, block: int) -> Tensor:
    """How much each block belongs to each brightness (B, K, N); sums to 1 over the K brightnesses."""
    mean = functional.avg_pool2d(image.mean(1, keepdim=True), block).flatten(1)
    return hats(mean)


def hats(brightness: Tensor) -> Tensor:
    """Weights (B, K, N) of linear interpolation between the knots, at brightnesses (B, N)."""
    place = (KNOTS - 1) * brightness.clamp(0, 1).sqrt()
    knots = torch.arange(KNOTS, device=brightness.device)[None, :, None]
    return (1 - (place[:, None] - knots).abs()).clamp(min=0)


def local_brightness(image: Tensor) -> Tensor:
    """(B, 1, H, W): the mean over channels, smoothed by a Gaussian; as `levels` does it in numpy."""
    offsets = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=image.device, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * BLUR**2))
    kernel = kernel / kernel.sum()
    grey = functional.pad(image.mean(1, keepdim=True), (BLUR_REACH,) * 4, mode="replicate")
    blurred = functional.conv2d(grey, kernel.view(1, 1, -1, 1))
    return functional.conv2d(blurred, kernel.view(1, 1, 1, -1))


def level_map(curve: Tensor, image: Tensor) -> Tensor:
    """(B, 1, H, W): the level of every pixel, by its local brightness."""
    batch, _, height, width = image.shape
    weights = hats(local_brightness(image).flatten(1))
    return torch.einsum("bk,bkn->bn", curve, weights).view(batch, 1, height, width)


def to_onnx(network: LevelEstimator, header: Mapping[str, Any]) -> bytes:
    """The network as the bytes of an ONNX file, with a JSON header in its metadata.

    The input "image" is (N, C, H, W): N pieces of *one* image, all of one size. The output "curve" is
    (KNOTS,): all pieces are pooled, so that it is the network's own result where N is 1.
    """
    graph = Graph()
    image, found, whole, occupied = "image", [], [], ""
    for scale, block in enumerate(BLOCKS):
        graph.step = f"/scale{scale}"
        shares = _emit_memberships(graph, image, block)
        if not occupied:
            mean = graph.add("ReduceMean", shares, axes=[0, 2], keepdims=0)
            occupied = graph.add("Log", graph.add("Add", mean, graph.constant(PRIOR)))
        energy = _emit_energy(graph, network, scale, image, block)
        found += _emit_pooled(graph, shares, energy)
        whole += _emit_pooled(graph, "", energy)
        image = graph.add("AveragePool", image, kernel_shape=[2, 2], strides=[2, 2])
    graph.step = "/head"
    curve = _emit_head(graph, found, whole, occupied)
    graph.nodes.append(
        {"input": [curve], "output": ["curve"], "name": "curve", "op_type": "Identity"}
    )
    state = {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}
    return onnxfile.encode(
        {
            "ir_version": IR_VERSION,
            "producer_name": "snowmelt",
            "graph": {
                "node": graph.nodes,
                "name": type(network).__name__,
                "initializer": [tensor(name, array) for name, array in state.items()],
                "input": [_input(network.config["channels"])],
                "output": [_output()],
            },
            "opset_import": [{"domain": "", "version": OPSET}],
            "metadata_props": [{"key": HEADER, "value": json.dumps(header)}],
        }
    )


def _input(channels: int) -> onnxfile.Message:
    free = [{"dim_param": name} for name in ("pieces", "H", "W")]
    shape = {"dim": [free[0], {"dim_value": channels}, *free[1:]]}
    return {"name": "image", "type": {"tensor_type": {"elem_type": FLOAT, "shape": shape}}}


def _output() -> onnxfile.Message:
    shape = {"dim": [{"dim_value": KNOTS}]}
    return {"name": "curve", "type": {"tensor_type": {"elem_type": FLOAT, "shape": shape}}}


def _emit_padded(graph: Graph, image: str, by: int) -> str:
    pads = graph.constant([0, 0, by, by, 0, 0, by, by])
    return graph.add("Pad", image, pads, mode="reflect")


def _emit_energy(graph: Graph, network: LevelEstimator, scale: int, image: str, block: int) -> str:
    """(N, F, n): mean square of each feature in each block."""
    mean = _emit_padded(graph, image, HIGH_PASS // 2)
    for kernel in ([HIGH_PASS, 1], [1, HIGH_PASS]):
        mean = graph.add("AveragePool", mean, kernel_shape=kernel, strides=[1, 1])
    features = _emit_padded(graph, graph.add("Sub", image, mean), 4)
    for place, layer in enumerate(network.towers[scale].children()):
        if isinstance(layer, nn.Conv2d):
            features = graph.add("Conv", features, f"towers.{scale}.{place}.weight")
        else:
            features = graph.add("Relu", features)
    square = graph.add("Mul", features, features)
    blocks = graph.add("AveragePool", square, kernel_shape=[block] * 2, strides=[block] * 2)
    flat = graph.add("Reshape", blocks, graph.constant([0, 0, -1]))
    return graph.add("Add", flat, graph.constant(FAINTEST**2))


def _emit_memberships(graph: Graph, image: str, block: int) -> str:
    """(N, K, n): how much each block belongs to each brightness."""
    grey = graph.add("ReduceMean", image, axes=[1], keepdims=1)
    blocks = graph.add("AveragePool", grey, kernel_shape=[block] * 2, strides=[block] * 2)
    flat = graph.add("Reshape", blocks, graph.constant([0, 1, -1]))
    clipped = graph.add("Clip", flat, graph.constant(0.0), graph.constant(1.0))
    place = graph.add("Mul", graph.add("Sqrt", clipped), graph.constant(float(KNOTS - 1)))
    knots = graph.constant(np.arange(KNOTS, dtype=np.float32)[None, :, None])
    away = graph.add("Abs", graph.add("Sub", place, knots))
    return graph.add("Relu", graph.add("Sub", graph.constant(1.0), away))


def _emit_pooled(graph: Graph, shares: str, energy: str) -> list[str]:
    """Logarithms of the arithmetic, geometric and harmonic mean energy, (K, F); of all blocks (1, F)."""

    def pooled(values: str) -> str:
        if not shares:
            mean = graph.add("ReduceMean", values, axes=[0, 2], keepdims=0)
            return graph.add("Unsqueeze", mean, graph.constant([0]))
        weights = graph.add("Add", shares, graph.constant(PRIOR))
        total = graph.add("ReduceSum", weights, graph.constant([0, 2]), keepdims=1)
        turned = graph.add("Transpose", values, perm=[0, 2, 1])
        product = graph.add("MatMul", graph.add("Div", weights, total), turned)
        return graph.add("ReduceSum", product, graph.constant([0]), keepdims=0)

    half, less = graph.constant(0.5), graph.constant(-0.5)
    inverse = graph.add("Div", graph.constant(1.0), energy)
    return [
        graph.add("Mul", graph.add("Log", pooled(energy)), half),
        graph.add("Mul", pooled(graph.add("Log", energy)), half),
        graph.add("Mul", graph.add("Log", pooled(inverse)), less),
    ]


def _emit_head(graph: Graph, found: list[str], whole: list[str], occupied: str) -> str:
    offset = graph.constant(3.0)
    statistics = graph.add("Add", graph.add("Concat", *found, axis=1), offset)
    of_all = graph.add("Add", graph.add("Concat", *whole, axis=1), offset)
    spread = graph.add("Add", of_all, graph.constant(np.zeros((KNOTS, 1), np.float32)))
    knots = graph.constant(np.eye(KNOTS, dtype=np.float32))
    share = graph.add("Unsqueeze", occupied, graph.constant([1]))
    values = graph.add("Concat", graph.add("Sub", statistics, spread), spread, knots, share, axis=1)
    for place in (0, 2, 4):
        names = f"head.{place}.weight", f"head.{place}.bias"
        values = graph.add("Gemm", values, *names, transB=1)
        values = graph.add("Relu", values) if place < 4 else values
    raw = graph.add("Add", values, graph.constant(math.log(12 / 255)))
    above = graph.add("Softplus", graph.add("Sub", raw, graph.constant(LEAST)))
    beyond = graph.add("Softplus", graph.add("Sub", raw, graph.constant(MOST)))
    level = graph.add("Add", graph.add("Sub", above, beyond), graph.constant(LEAST))
    return graph.add("Reshape", graph.add("Exp", level), graph.constant([KNOTS]))
