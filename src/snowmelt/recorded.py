"""A training step on a GPU as one launch (a CUDA graph).

A small network's step is a thousand kernels of microseconds, and a GPU waits for each to be launched.
Recorded once and replayed they are launched together, with the same results.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from snowmelt.samples import Batch

UNRECORDED = 3  # first calls, in which libraries choose their kernels and states come into being
Sizes = tuple[tuple[str, torch.Size], ...]


class Recorded:
    """A function of batches that returns a tensor, recorded once for every size of batch.

    All else that it reads and changes has to stay where it is in memory, and it may not wait for the GPU.
    """

    def __init__(self, function: Callable[[Batch], Tensor], device: torch.device) -> None:
        self._function = function
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._calls: Counter[Sizes] = Counter()
        self._recordings: dict[Sizes, _Recording] = {}

    def __call__(self, batch: Batch) -> Tensor:
        """What the function returns."""
        sizes = tuple((name, each.shape) for name, each in _tensors(batch).items())
        self._calls[sizes] += 1
        if self._calls[sizes] <= UNRECORDED:
            return self._aside(batch)
        if sizes not in self._recordings:
            self._recordings[sizes] = _Recording(self._function, batch)
        return self._recordings[sizes](batch)

    def _aside(self, batch: Batch) -> Tensor:
        """Call the function on a stream of its own, as what is recorded later must be."""
        usual = torch.cuda.current_stream()
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream):
            result = self._function(batch)
        usual.wait_stream(self._stream)
        return result


class _Recording:
    """What a function does with batches of one size."""

    def __init__(self, function: Callable[[Batch], Tensor], batch: Batch) -> None:
        self._given = {name: each.clone() for name, each in _tensors(batch).items()}
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            given: Any = self._given
            self._result = function(dataclasses.replace(batch, **given))

    def __call__(self, batch: Batch) -> Tensor:
        for name, each in _tensors(batch).items():
            self._given[name].copy_(each)
        self._graph.replay()
        return self._result.clone()


def is_recording() -> bool:
    """Whether what is called now is being recorded."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _tensors(batch: Batch) -> dict[str, Tensor]:
    return {name: each for name, each in vars(batch).items() if isinstance(each, Tensor)}
