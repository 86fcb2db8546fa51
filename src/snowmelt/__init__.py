"""Snowmelt removes noise from images with convolutional neural networks.

The names below are imported when they are first used, so that `import snowmelt` costs nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# GNU's OpenMP, which torch brings along, lets threads that wait spin for ever if there are as many cores as
# threads. Beside one busy process for each core an epoch of the tutorial then takes 4.6 to 12 s instead of
# 1.1; with so many turns 2.4 to 2.7 s, and as long as before on an idle machine. It is read once, when torch
# is loaded, so this must come first. Who sets it or OMP_WAIT_POLICY is followed.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"

_HOMES = {
    "Denoiser": "snowmelt.denoiser",
    "load": "snowmelt.denoiser",
    "open_image": "snowmelt.images",
    "read": "snowmelt.images",
    "write": "snowmelt.images",
    "psnr": "snowmelt.metrics",
    "ssim": "snowmelt.metrics",
    "Recipe": "snowmelt.recipe",
    "UserError": "snowmelt.errors",
    "train": "snowmelt.training",
    "resume": "snowmelt.training",
    "compare": "snowmelt.evaluation",
    "estimate_sigma": "snowmelt.diagnosis",
    "inspect": "snowmelt.inspection",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'snowmelt' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
