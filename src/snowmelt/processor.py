"""The one OpenVINO of this process, what the processor can do, and memory that is kept.

There is one ``openvino.Core`` and it is never let go. OpenVINO's CPU plugin gives the thread that loads it a
signal stack, and takes it back when its Core goes: of two Cores the second hands back the first one's, which
is no memory any more, and the next signal, say Ctrl-C, ends Python with a segmentation fault (2026.4, Linux).
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from typing import TYPE_CHECKING

import numpy as np

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


def has_bf16() -> bool:
    """Whether the processor has instructions for bfloat16."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


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
