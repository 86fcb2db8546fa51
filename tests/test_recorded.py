"""Steps recorded and replayed on a GPU, and batches made while it works."""

import pytest
import torch

from snowmelt import recorded
from snowmelt.recorded import UNRECORDED, Recorded
from snowmelt.samples import Batch, Next


def batch(count: int, seed: int = 0) -> Batch:
    pictures = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return Batch(pictures, pictures.square())


def test_what_a_step_sees_is_made_once() -> None:
    made: list[int] = []

    def make(step: int) -> Batch:
        made.append(step)
        return batch(1, step)

    coming = Next(make)
    first = coming.batch(0)
    assert torch.equal(first.noisy, batch(1, 0).noisy)
    coming.prepare(1)
    assert made == [0, 1]
    assert torch.equal(coming.batch(1).noisy, batch(1, 1).noisy)
    assert made == [0, 1]
    assert torch.equal(
        coming.batch(0).noisy, first.noisy
    )  # a step back: what was prepared is not for it
    assert made == [0, 1, 0]


def test_nothing_is_recorded_on_a_processor() -> None:
    assert not recorded.is_recording()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_recording_does_what_the_function_does() -> None:
    device = torch.device("cuda")
    total = torch.zeros((), device=device)
    calls = 0

    def add(given: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        total.add_((given.noisy * given.target).sum())
        return total * 2

    replayed, expected, results = Recorded(add, device), 0.0, []
    for seed in range(UNRECORDED + 4):
        for count in (2, 3):  # sizes that take turns
            given = batch(count, seed)
            expected += float((given.noisy * given.target).sum())
            results.append((replayed(given.to(device)), 2 * expected))
    assert calls == 2 * (UNRECORDED + 1)
    for result, value in results:  # each result is its own, not that of the last replay
        assert float(result) == pytest.approx(value, rel=1e-5)
