"""`snowmelt evaluate`: how good is a denoiser on your data?"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snowmelt.commands import DONE, Commands
from snowmelt.errors import UserError

if TYPE_CHECKING:
    from snowmelt.cases import Collection
    from snowmelt.evaluation import Contender
    from snowmelt.noise import Noise

AGAINST = "gaussian,median,nlm,tv,wavelet,base"
WAYS = ("data", "noisy clean", "clean noise", "noisy noisy_too", "noisy")
DESCRIPTION = """\
Score denoisers on images, compared with the noisy input, tuned classical filters and a bundled model:

  --data pairs.h5                    test arrays of a file of pairs; its training arrays tune the filters
  --noisy DIR --clean DIR            pairs of files of equal names, or two stacks
  --clean DIR --noise gaussian:25    clean images with added noise, by the published protocol
  --noisy DIR --noisy-too DIR        no reference, but two noisy exposures of each scene
  --noisy DIR                        no reference, noisy images alone: the fewest conclusions
  --results A B                      results saved earlier by -o, in one table where they are comparable

DIR is a folder, a file, or a pattern such as 'scans/*_real.jpg', whose star stands for the image's name."""
SAVED = "results.json"


def add(commands: Commands) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "evaluate",
        help="score denoisers, compared with classical filters and the noisy input",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_images(parser)
    _add_denoisers(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER",
        help="folder for results.json, images.jsonl and images.csv (a row for each image), and the "
        "pictures that `snowmelt report` shows",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace existing results")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def _add_images(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("images")
    group.add_argument(
        "--data", metavar="FILE.h5", help="file of train_ns, train_gt, test_ns, test_gt"
    )
    group.add_argument("--noisy", metavar="DIR", help="noisy images")
    group.add_argument("--clean", metavar="DIR", help="reference images")
    group.add_argument("--noisy-too", metavar="DIR", help="second noisy exposure of each scene")
    group.add_argument(
        "--noise", metavar="KIND:NUMBER",
        help="noise to add to clean images: gaussian:SIGMA (on a 0–255 scale), poisson:PEAK (photons at "
        "white), poisson-gaussian:PEAK:SIGMA, speckle:SIGMA (fraction of the value), "
        "salt-and-pepper:AMOUNT (fraction of the pixels)",
    )  # fmt: skip
    group.add_argument("--seed", type=int, default=0, help="random seed of the noise of each image")
    group.add_argument(
        "--clip-noisy", action="store_true",
        help="clip and round noisy images, as a file would (published protocols do not)",
    )  # fmt: skip
    group.add_argument(
        "--range", nargs=2, type=float, metavar=("LOW", "HIGH"),
        help="stored values of black and white (default: all of an 8 or 16-bit type, 0 to 1 for floats)",
    )  # fmt: skip
    group.add_argument(
        "--axes",
        metavar="LETTERS",
        help="axes, such as ZYX, of files that do not state them",
    )
    group.add_argument(
        "--results", nargs="+", type=Path, metavar="FOLDER",
        help="folders of saved results (-o), or their results.json",
    )  # fmt: skip


def _add_denoisers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("denoisers")
    group.add_argument(
        "--model", "--model-2", nargs="+", action="extend", default=[], metavar="MODEL",
        help="model files or names of bundled models",
    )  # fmt: skip
    group.add_argument(
        "--sigma", metavar="SIGMA",
        help="noise level on a 0–255 scale for conditioned models, or auto: estimated on each image "
        "(default: that of --noise gaussian, else auto)",
    )  # fmt: skip
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    group.add_argument("--precision", default="auto", help="auto, bf16 or f32")
    group.add_argument(
        "--against", default=AGAINST, metavar="NAMES",
        help=f"baselines, or none (default: {AGAINST}): classical filters, and base, the bundled model, "
        "which is compared with a --model; also bm3d, if it is installed (its licence is non-commercial)",
    )  # fmt: skip
    group.add_argument(
        "--tune", nargs="+", metavar="DIR",
        help="images to tune the filters on: a file of pairs, a noisy and a clean folder, or a clean one "
        "with --noise (default: the training arrays, else one scene in five, which is not scored)",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Score, print, save."""
    from snowmelt import cases, evaluation, looks, results

    if options.results:
        if _given(options) or options.model:
            raise UserError("--results shows saved results; leave images and models out")
        print(results.tables([results.load(_saved(path)) for path in options.results]))
        return DONE
    _check(options)
    against = _against(options.against)
    collection, tuning = _collections(options)
    album: list[looks.Seen] | None = [] if options.output else None
    found = evaluation.measure(
        collection,
        _contenders(options, cases.count_channels(collection), against),
        tuning=tuning,
        against=against,
        progress=evaluation.in_silence if options.quiet else _show,
        album=album,
    )
    print(found)
    if options.output:
        found.save_all(options.output)
        looks.write_pictures(options.output, album or [])
    return DONE


def _saved(path: Path) -> Path:
    """The file of results, also where its folder is named."""
    return path / SAVED if path.is_dir() else path


def _given(options: argparse.Namespace) -> set[str]:
    """Which of the words in WAYS the command line has."""
    return {word for word in " ".join(WAYS).split() if vars(options)[word]}


def _check(options: argparse.Namespace) -> None:
    """One way of giving images, a precision for floats, and an output folder that can be written."""
    if _given(options) not in [set(way.split()) for way in WAYS]:
        ways = "; ".join(f"--{way}".replace(" ", " --").replace("_", "-") for way in WAYS)
        raise UserError(
            f"which images? expected one of: {ways}; `snowmelt evaluate --help` says more"
        )
    _names(options.model or [])
    if options.precision == "int8":
        raise UserError(
            "precision 'int8' is for images of 8 bits, and these are floats; use auto, bf16 or f32"
        )
    if options.data and (options.range or options.axes):
        raise UserError(
            "--data: a file of pairs holds floats from 0 to 1, or integers that span their type; leave "
            "--range and --axes out"
        )
    if options.tune and not (options.data or options.clean):
        raise UserError(
            "--tune needs reference images; without them, filters are tuned on the images themselves"
        )
    if options.output:
        _check_output(options.output, options.force)


def _check_output(folder: Path, force: bool) -> None:
    if (folder / "results.json").exists() and not force:
        raise UserError(
            f"{folder} holds results already; choose another folder, or replace them: --force"
        )


def _against(names: str) -> list[str]:
    from snowmelt import evaluation

    chosen = [] if names == "none" else [name.strip() for name in names.split(",") if name.strip()]
    evaluation.choose_filters(chosen)
    return chosen


def _collections(options: argparse.Namespace) -> tuple[Collection, Collection | None]:
    """What is scored, and what the filters are tuned on."""
    from snowmelt import cases
    from snowmelt.data import fetch, is_url

    tune = options.tune
    if options.data:
        path = (
            fetch(options.data, quiet=options.quiet) if is_url(options.data) else Path(options.data)
        )
        tuning = _pairs(options, tune) if tune else cases.from_hdf5(path, "train")
        return cases.from_hdf5(path, "test"), tuning
    if options.clean:
        given = [options.clean] if options.noise else [options.noisy, options.clean]
        scored = _pairs(options, given)
        return scored, _pairs(options, tune, like=scored) if tune else None
    sources = [each for each in (options.noisy, options.noisy_too) if each]
    roles = cases.TAKES if options.noisy_too else cases.ALONE
    collection = cases.from_files(sources, roles, axes=options.axes, value_range=options.range)
    return collection, None


def _pairs(
    options: argparse.Namespace, sources: Sequence[str], like: Collection | None = None
) -> Collection:
    """Pairs from a noisy and a clean source, from a clean one with noise, or from a file of pairs.

    Clean images in colour are made grey where those to be ``like`` are grey.
    """
    from snowmelt import cases, noise

    if len(sources) == 1 and not options.noise:
        if Path(sources[0]).suffix.lower() not in (".h5", ".hdf5"):
            raise UserError(
                f"{sources[0]}: expected a noisy and a clean source, or a file of pairs (.h5)"
            )
        return cases.from_hdf5(Path(sources[0]), "train")
    expected = 1 if options.noise else 2
    if len(sources) != expected:
        wanted = "one clean source" if options.noise else "a noisy and a clean source"
        raise UserError(f"--tune {' '.join(sources)}: expected {wanted}")
    roles = ("clean",) if options.noise else cases.PAIR
    found = cases.from_files(sources, roles, axes=options.axes, value_range=options.range)
    if not options.noise:
        return found
    kind = noise.parse(options.noise)
    if like and cases.is_colour(found) and not cases.is_colour(like):
        found = cases.made_grey(found)
    return cases.with_noise(found, kind, seed=options.seed, stored=options.clip_noisy)


def _contenders(
    options: argparse.Namespace, channels: int, against: Sequence[str]
) -> list[Contender]:
    from snowmelt import denoiser, evaluation, noise

    sigma = _sigma(options, noise.parse(options.noise) if options.noise else None)
    how = {"device": options.device, "precision": options.precision}
    contenders = [
        evaluation.contender(denoiser.load(model, **how), name, channels, sigma)
        for model, name in zip(options.model, _names(options.model), strict=True)
    ]
    return evaluation.with_bundled(contenders, against, channels, sigma, **how)


def _names(models: Sequence[str]) -> list[str]:
    """File names, or whole paths where those are not all different."""
    short = [Path(model).name for model in models]
    names = short if len(set(short)) == len(short) else [*models]
    if len(set(names)) < len(names):
        raise UserError(f"--model {' '.join(models)}: one of them is given twice")
    return names


def _sigma(options: argparse.Namespace, kind: Noise | None) -> float | str:
    """Noise level for conditioned models, as a part of the range, or "auto"."""
    from snowmelt.levels import AUTO
    from snowmelt.noise import Gaussian

    if options.sigma is None:
        return kind.sigma if isinstance(kind, Gaussian) else AUTO
    try:
        return AUTO if options.sigma == AUTO else float(options.sigma) / 255
    except ValueError as error:
        raise UserError(
            f"--sigma {options.sigma}: expected a noise level on a 0–255 scale, such as 25, or {AUTO}"
        ) from error


def _show(items: Sequence[Any], what: str) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(items, desc=what, leave=False, disable=None)
