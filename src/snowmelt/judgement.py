"""What a finished run is worth: its model against the classical filters, on the pictures held out from it.

Where the truth is known it judges; else what can be said without it (module `truthless`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from snowmelt import cases, denoiser, evaluation, recipe, results, training, truthless
from snowmelt.cases import PAIR, Case, Collection, Picture, Scale
from snowmelt.evaluation import Contender
from snowmelt.results import MODEL
from snowmelt.samples import Samples

NETWORK = "the network"
SCALE = Scale(0, 1, whole=False)


@dataclass(frozen=True)
class Judgement:
    """A table of scores as text, and a line that says what they mean."""

    table: str
    verdicts: list[str]


def judge(folder: Path) -> Judgement:
    """Hold a finished run's model against the filters on its held-out pictures; kept as `scores.json` there.

    The filters are tuned on training pictures, or without a truth on the centres of the held-out ones.
    """
    network = denoiser.load(folder / "model.onnx", precision="f32")
    chosen, _ = training.open_samples(recipe.read(str(folder / "recipe.toml")), folder, quiet=True)
    axis = None if chosen.channels == 1 else -1

    def denoise(picture: Picture) -> Picture:
        return network(picture, value_range=(0, 1), channel_axis=axis)

    test = _collection("test", chosen, chosen.test())
    if chosen.roles == PAIR:
        tuning = _collection("training", chosen, chosen.tuning())
        judged = evaluation.compare(test, {NETWORK: denoise}, tuning=tuning)
        results.save(results.content(judged), folder / "scores.json")
        return Judgement(results.table(judged), results.verdicts(judged))
    found = truthless.compare(test, [Contender(NETWORK, denoise, MODEL, {})])
    results.save(truthless.content(found), folder / "scores.json")
    return Judgement(truthless.table(found), truthless.verdicts(found))


def _collection(part: str, chosen: Samples, pictures: list[cases.Pictures]) -> Collection:
    """Pictures in memory as cases."""
    return Collection(
        title=f"{part} pictures of {chosen.title}",
        roles=chosen.roles,
        cases=tuple(
            Case(f"{index:04d}", partial(tuple, each)) for index, each in enumerate(pictures)
        ),
        scale=SCALE,
    )
