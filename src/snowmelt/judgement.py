"""The evaluation that ends a run: its model on the held-out pictures, compared with filters and `base`."""

from __future__ import annotations

from pathlib import Path

from snowmelt import cases, denoiser, evaluation, levels, recipe, training
from snowmelt.cases import PAIR
from snowmelt.results import Results

NETWORK = "the network"


def judge(folder: Path) -> Results:
    """Compare a finished run's model with the filters on its held-out pictures; saves scores.json there.

    The filters are tuned on training pictures, or without a reference on the centres of the held-out ones.
    """
    network = denoiser.load(folder / "model.onnx", precision="f32")
    samples, _ = training.open_samples(recipe.read(str(folder / "recipe.toml")), folder, quiet=True)
    channels = samples.channels
    ours = evaluation.contender(network, NETWORK, channels, levels.AUTO)
    # The bundled model is conditioned on the noise level that the run's network is conditioned on.
    sigma = network.header.told or levels.AUTO
    contenders = evaluation.with_bundled(
        [ours], evaluation.AGAINST, channels, sigma, precision="f32"
    )
    test = cases.from_pictures(
        samples.test(), samples.roles, title=f"test pictures of {samples.title}"
    )
    tuning = None
    if samples.roles == PAIR:
        title = f"training pictures of {samples.title}"
        tuning = cases.from_pictures(samples.tuning(), samples.roles, title=title)
    results = evaluation.measure(test, contenders, tuning=tuning)
    results.save(folder / "scores.json")
    return results
