"""The one OpenVINO of this process, what the processor can do, its cores, and memory that is kept.

There is one ``openvino.Core`` and it is never let go. OpenVINO's CPU plugin gives the thread that loads it a
signal stack, and takes it back when its Core goes: of two Cores the second hands back the first one's, which
is no memory any more, and the next signal, say Ctrl-C, ends Python with a segmentation fault (2026.4, Linux).
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from snowmelt.errors import printable

if TYPE_CHECKING:
    import openvino

_FIRST = threading.Lock()


def core() -> openvino.Core:
    """Return OpenVINO's Core. It takes 50 ms to load, at the first call, and may be used from any thread."""
    with _FIRST:
        return _core()


@functools.cache
def _core() -> openvino.Core:
    import openvino

    # The Python binding sets up its table of number types with the first tensor, and two threads that come
    # there at once wait for each other for ever: one holds the table, the other the interpreter's lock.
    # (2026.4; without this line 4 of 52 first calls from 4 threads hung.)
    openvino.Tensor(np.zeros(1, np.float32), shared_memory=True).data  # noqa: B018
    return openvino.Core()


def in_words(error: Exception) -> str:
    """What OpenVINO says is wrong, in one line without places in its source; safe to print."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("Exception from ")]
    return printable(" ".join(said) or type(error).__name__)[:300]


def has_bf16() -> bool:
    """Whether the processor has instructions for bfloat16."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@functools.cache
def has_int8() -> bool:
    """Whether the processor sums products of 8 bits exactly: without VNNI or the like, large ones overflow.

    A layer of the largest numbers is computed, since OpenVINO says of every processor that it has INT8.
    """
    from openvino import Model, opset13

    channels, side = 64, 8
    image = opset13.parameter([1, channels, side, side], np.float32)
    bounds = [opset13.constant(np.float32(each)) for each in (0, 255, -127, 127)]
    ones = opset13.fake_quantize(image, *bounds[:2], *bounds[:2], 256)
    kernel = opset13.constant(np.full((channels, channels, 3, 3), 127, np.float32))
    kernel = opset13.fake_quantize(kernel, *bounds[2:], *bounds[2:], 255)
    layer = opset13.convolution(ones, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core().compile_model(Model([layer], [image]), "CPU", options)
    found = compiled(np.full((1, channels, side, side), 255, np.float32))[0]
    return bool(np.allclose(found, 9 * channels * 255 * 127, rtol=1e-4))


def keep_freed_memory() -> None:
    """Let glibc keep the memory that a step or a tile frees for the next one.

    Each frees and takes tens of megabytes; given back to the system and taken anew, every page faults: a
    third of the time of a step of the tutorial network, a tenth of denoising a photo. Other C libraries are
    left alone.
    """
    mmap_threshold, trim_threshold, limit = -3, -1, 1 << 30  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(mmap_threshold, limit)
        mallopt(trim_threshold, limit)


def usable_cores() -> int:
    """How many cores this process may use: those it is bound to, and no more than its cgroup's quota.

    In a container with a quota (`docker run --cpus 2` on a large host) all cores are seen, and a thread for
    each of them would mostly wait for the others.
    """
    bound = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if bound else os.cpu_count() or 1
    return min(cores, _quota(Path("/sys/fs/cgroup")) or cores)


def _quota(folder: Path) -> int | None:
    """The cores of a quota, rounded up; None where there is none."""
    for read in (_quota_of_version_2, _quota_of_version_1):
        try:
            quota, period = read(folder)
        except (OSError, ValueError):  # another version of cgroups, or "max": no limit
            continue
        if quota > 0 and period > 0:
            return max(1, math.ceil(quota / period))
    return None


def _quota_of_version_2(folder: Path) -> tuple[int, int]:
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota), int(period)


def _quota_of_version_1(folder: Path) -> tuple[int, int]:
    files = (folder / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
    quota, period = (int(file.read_text()) for file in files)
    return quota, period
