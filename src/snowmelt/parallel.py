"""Training on several GPUs or machines: what `torchrun` starts, rank by rank.

Each rank takes every so-manieth sample of a step's batch, and gradients are averaged (torch's own
DistributedDataParallel), so that several ranks give the weights of one, to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed, nn

from snowmelt.errors import UserError
from snowmelt.samples import Samples, Share


@contextmanager
def ranks() -> Iterator[Share]:
    """This process's share of the work: all of it, unless `torchrun` started several."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Share()
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Share(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()


def choose_device(name: str, share: Share) -> torch.device:
    """The device by its name; "auto" is a GPU where there is one. Ranks of one machine take one GPU each.

    Raises:
        UserError: There is no such device here.
    """
    found = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(each for each, there in found.items() if there)
    if not found[name]:
        raise UserError(f"training.device = {name!r}: torch finds none here; use --device cpu")
    if name == "cuda":
        place = int(os.environ.get("LOCAL_RANK", share.rank))
        torch.cuda.set_device(place % torch.cuda.device_count())
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(name)


def together(network: nn.Module, share: Share) -> nn.Module:
    """The network whose gradients are those of all ranks."""
    if share.ranks == 1:
        return network
    return nn.parallel.DistributedDataParallel(network)


def check_batches(samples: Samples, share: Share) -> None:
    """Raise UserError where a batch has no picture for some rank."""
    smallest = min(samples.sizes)
    if smallest < share.ranks:
        raise UserError(
            f"{share.ranks} ranks, and a batch of {smallest}: each needs a picture of every batch; choose "
            "another --batch, or fewer ranks"
        )


def mean(value: float, share: Share) -> float:
    """The mean of a number over the ranks."""
    if share.ranks == 1:
        return value
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return float(total) / share.ranks


def of_first(value: float, share: Share) -> float:
    """The first rank's number, on every rank."""
    return mean(value * share.ranks if share.rank == 0 else 0.0, share)


def leads() -> bool:
    """Whether this process is the one that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def any_of(flag: bool, share: Share) -> bool:
    """Whether it is so on any rank."""
    return mean(float(flag), share) > 0
