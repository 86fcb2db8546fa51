"""Many images: which files are meant, where their results go, and what becomes of failures.

All names are settled, and checked against each other, before the first file is read. Nothing here ever writes
onto an input.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from snowmelt.defects import Repaired
from snowmelt.denoiser import Denoiser, Settings, check_noise, load
from snowmelt.errors import UserError, did_you_mean, printable
from snowmelt.finding import (
    RESULT,
    Found,
    OnError,
    check_name,
    find_all,
    is_folder,
    is_several,
    passed_over,
    without_results,
)
from snowmelt.images import SUFFIXES, open_image
from snowmelt.images.base import MAX_PIXELS
from snowmelt.images.converted import converted
from snowmelt.levels import AUTO, Noise
from snowmelt.zoo import DEFAULT

DONE, FAILED = 0, 1
LONGEST_NAME = 255  # bytes


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``snowmelt denoise`` was asked for.

    Attributes:
        inputs: Files, folders, patterns such as ``scans/**/*.tif``, ``file.h5:/dataset``, Zarr stores.
        output: A file for a single input, else a folder; None: beside each input.
        model: Path or name of a model.
        sigma: Noise level on a 0–255 scale, a number or "auto".
        noise: Instead, a kind of noise as `snowmelt.noise.parse` reads it.
        nodata: Value that stands for missing data, where the files do not say it themselves.
        repair: Whether lost pixels and shifted rows are put right first, see `defects`.
        max_pixels: See ``images.open_image``.
        to: Kind of file that results are written as, "tif" or "png"; None: that of each input.

    The others are those of ``denoiser.load`` and ``denoiser.Settings``.
    """

    inputs: Sequence[str]
    model: str = DEFAULT
    output: str | None = None
    device: str = "auto"
    precision: str = "auto"
    tile: int | None = None
    threads: int | None = None
    axes: str | None = None
    value_range: tuple[float, float] | None = None
    sigma: str | float = AUTO
    noise: str | None = None
    repair: bool = False
    strength: float = 1.0
    nan: str = "keep"
    nodata: float | None = None
    max_pixels: int | None = MAX_PIXELS
    to: str | None = None
    force: bool = False
    quiet: bool = False

    @property
    def settings(self) -> Settings:
        """What concerns a single image."""
        return Settings(
            noise=self._level,
            strength=self.strength,
            value_range=self.value_range,
            nan=self.nan,
            nodata=self.nodata,
        )

    @property
    def _level(self) -> Noise:
        if self.noise is not None:
            if self.sigma != AUTO:
                raise UserError("--sigma and --noise say the same thing; leave one out")
            return self.noise
        try:
            return AUTO if self.sigma == AUTO else float(self.sigma) / 255
        except ValueError as error:
            raise UserError(
                f"--sigma {self.sigma}: expected a level on a 0–255 scale, such as 25, or {AUTO}; "
                "noise that grows with brightness is given with --noise"
            ) from error


@dataclass(frozen=True)
class Job:
    """An input and the file that its result becomes."""

    source: str
    target: Path


def run(options: Options) -> int:
    """Denoise all inputs; returns the exit code, 1 if some failed.

    A file that fails, or a folder that cannot be looked into, is reported and the others go on. Raises
    UserError, before anything is written, for what is wrong with the request as a whole.
    """
    settings = options.settings
    closed: list[str] = []

    def note(error: OSError) -> None:
        closed.append(str(error.filename))
        _say(f"snowmelt: error: {error.filename}: cannot be looked into: {error.strerror}")

    jobs = plan(options.inputs, options.output, note, to=options.to)
    denoiser = load(
        options.model,
        device=options.device,
        precision=options.precision,
        tile=options.tile,
        threads=options.threads,
    )
    check_noise(denoiser.header, settings.noise)
    if not options.quiet:
        _tell_passed_over(options, jobs)
    failed = [job for job in jobs if not _try(denoiser, job, options)]
    if failed and len(jobs) > 1:
        names = ", ".join(job.source for job in failed)
        _say(f"snowmelt: {len(failed)} of {len(jobs)} images failed: {names}")
    if closed:
        _say(f"snowmelt: not looked into: {', '.join(closed)}")
    return FAILED if failed or closed else DONE


def _tell_passed_over(options: Options, jobs: Sequence[Job]) -> None:
    """Pictures in the folders that are of kinds that are not read."""
    folder = _output_folder(options.inputs, options.output)
    for others in passed_over(options.inputs, [Path(job.source) for job in jobs], folder):
        _say(f"snowmelt: passed over {others}")


def _try(denoiser: Denoiser, job: Job, options: Options) -> bool:
    """Denoise one image; whether it worked."""
    try:
        _denoise(denoiser, job, options)
    except UserError as error:
        _say(f"snowmelt: error: {_named(str(error), job)}")
    except MemoryError:
        _say(f"snowmelt: error: {job.source}: not enough memory; a smaller --tile needs less")
    except OSError as error:
        _say(f"snowmelt: error: {error.filename or job.source}: {error.strerror or error}")
    except Exception as error:
        kind = type(error).__name__
        _say(f"snowmelt: error: {job.source}: {kind}: {error}. This is a fault; please report it")
    else:
        if not options.quiet:
            print(printable(f"{job.source} -> {job.target}"), flush=True)
        return True
    return False


def _denoise(denoiser: Denoiser, job: Job, options: Options) -> None:
    image = open_image(job.source, axes=options.axes, max_pixels=options.max_pixels)
    target = job.target
    image = converted(image, options.to)
    for note in (*image.notes, *([image.rounding] if image.rounding else [])):
        _level_line(job, options.quiet, note)
    if options.repair:
        image = Repaired(image, options.nodata)
        _level_line(job, options.quiet, image.describe())
    if len(os.fsencode(target.name)) > LONGEST_NAME:
        raise UserError(
            f"{job.source}: the result's name, ending in {target.name[-20:]}, is longer than {LONGEST_NAME} "
            "bytes; give it another one: -o"
        )
    if os.path.lexists(target) and not options.force:
        raise UserError(f"{target}: is there already; --force replaces it")
    image.check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    layout = image.layout
    with _progress(job, layout.planes * layout.height * layout.width, options.quiet) as bar:
        denoiser.denoise_image(
            image,
            target,
            options.settings,
            progress=bar.update,
            say=partial(_level_line, job, options.quiet),
            warn=partial(_warn, job),
        )


def _level_line(job: Job, quiet: bool, level: str) -> None:
    """What was taken for noise, among the messages: standard output is for results."""
    if not quiet:
        _say(f"{job.source}: {level}")


def _warn(job: Job, message: str) -> None:
    """What somebody should know who trusts the result, said with --quiet, too."""
    _say(f"snowmelt: {job.source}: {message}")


def _progress(job: Job, pixels: int, quiet: bool) -> Any:
    from tqdm import tqdm

    hidden = True if quiet else None  # None: hidden where nobody looks
    name = printable(Path(job.source).name)
    return tqdm(total=pixels, unit="px", unit_scale=True, desc=name, leave=False, disable=hidden)


def _named(message: str, job: Job) -> str:
    """Most messages begin with the file they are about; those on the values of an image do not."""
    names = (Path(job.source).name, job.target.name)
    return message if any(name in message for name in names) else f"{job.source}: {message}"


def _say(message: str) -> None:
    print(printable(message), file=sys.stderr, flush=True)


def _refuse(error: OSError) -> None:
    raise error


def plan(
    inputs: Sequence[str],
    output: str | None = None,
    on_error: OnError = _refuse,
    *,
    to: str | None = None,
) -> list[Job]:
    """Every input once, and where its result goes; ``to`` is the suffix of results that are of another kind.

    ``on_error`` is called with the error of a folder that cannot be looked into; unless it raises, the rest
    goes on.

    Raises:
        UserError: Nothing is found, two results would have one name, a result would replace an input, or a
            link leads out of the output folder.
    """
    if output is not None:
        check_name(output, "-o")
    folder = _output_folder(inputs, output)
    found: dict[str, Found] = {}
    for entry in find_all(inputs, folder, on_error):
        found.setdefault(os.path.abspath(entry.source), entry)  # noqa: PTH100 (keeps links)
    _check_any_there(list(found.values()))
    entries = without_results(list(found.values()))
    jobs = [Job(entry.source, _target(entry, output, folder, to)) for entry in entries]
    _check_targets(jobs, entries, folder)
    return jobs


def _check_any_there(entries: Sequence[Found]) -> None:
    """Refuse a request of which nothing is there; where only a part is missing the rest goes on."""
    if any(os.path.lexists(entry.file) for entry in entries):
        return
    hints = [f"{entry.source}: no such file" + _hint(entry.file) for entry in entries]
    raise UserError("; ".join(hints))


def _hint(missing: Path) -> str:
    """The image beside it that is called nearly so."""
    try:
        stems = {path.stem for path in missing.parent.iterdir() if path.suffix.lower() in SUFFIXES}
    except OSError:
        return "" if missing.parent.is_dir() else f", nor a folder {missing.parent}"
    hint = did_you_mean(missing.stem, stems).strip()
    return f"; {hint}" if hint else ""


def _output_folder(inputs: Sequence[str], output: str | None) -> Path | None:
    """``output`` if it names a folder, None if it names a file or nothing."""
    if output is None:
        return None
    path = Path(output)
    is_file = path.exists() and not path.is_dir()
    if is_folder(path) or output.endswith(("/", os.sep)) or not (path.suffix or is_file):
        return path
    if len(inputs) > 1 or is_several(inputs[0]):
        raise UserError(
            f"-o {output}: several inputs need a folder; end its name in / if it has a dot"
        )
    return None


def _target(entry: Found, output: str | None, folder: Path | None, to: str | None) -> Path:
    if folder is not None:
        target = folder / entry.place
    elif output:
        return Path(output)
    else:
        target = entry.file.with_stem(entry.file.stem + RESULT)
    return target.with_suffix(f".{to}") if to else target


def _check_targets(jobs: list[Job], entries: list[Found], folder: Path | None) -> None:
    inputs = {_identity(entry.file) for entry in entries} - {None}
    taken: dict[Path, str] = {}
    for job in jobs:
        target, parent = job.target, _real(job.target.parent)
        other = taken.setdefault(parent / target.name, job.source)
        if other != job.source:
            raise UserError(
                f"{other} and {job.source} would both become {target}; do one after the other, or name the "
                "folder that holds both: -o DIR then keeps the folders below it"
            )
        if _identity(target) in inputs:
            raise UserError(
                f"{target}: is an input, and no input is ever replaced; choose another -o"
            )
        if folder is not None and not parent.is_relative_to(_real(folder)):
            raise UserError(f"{target}: a link leads out of the output folder {folder}; remove it")


def _real(path: Path) -> Path:
    """Where it leads; other than Path.resolve it takes links that lead in a circle."""
    return Path(os.path.realpath(path))


def _identity(path: Path) -> tuple[int, int] | None:
    """What all links to a file have in common; None where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
