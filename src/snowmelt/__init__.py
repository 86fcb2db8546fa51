"""Snowmelt removes noise from images with convolutional neural networks.

The names below are imported when they are first used, so that `import snowmelt` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

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
