"""`snowmelt denoise`: images of any kind and size, each becoming a file of its own kind."""

from __future__ import annotations

import argparse

from snowmelt.commands import Commands


def add(commands: Commands) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "denoise",
        help="denoise images",
        description="Denoise images. Each result is a file of its input's kind, NAME_denoised.EXT beside it; "
        "inputs are never changed.",
    )
    add_ = parser.add_argument
    add_(
        "inputs", nargs="+", metavar="INPUT",
        help="files, folders, patterns in quotes, file.h5:/dataset, Zarr stores",
    )  # fmt: skip
    add_("-o", "--output", metavar="PATH", help="a file for a single input, else a folder")
    add_(
        "--model",
        metavar="MODEL",
        help="name of a model (snowmelt models), or a file; default: base",
    )
    add_("--device", default="auto", help="auto, cpu, cuda or mps")
    add_(
        "--precision", default="auto",
        help="auto, bf16 (fast), f32 (the same bits every time), or int8 (fastest, for 8-bit images)",
    )  # fmt: skip
    add_("--axes", help="what the dimensions are where the file is silent, such as ZYX or YXC")
    add_(
        "--range", dest="value_range", nargs=2, type=float, metavar=("LOW", "HIGH"),
        help="values that stand for black and white; floats need it",
    )  # fmt: skip
    add_(
        "--sigma", metavar="LEVEL",
        help="noise level on a 0–255 scale, whatever the depth; default: auto, measured on each image",
    )  # fmt: skip
    add_(
        "--noise", metavar="KIND:NUMBER",
        help="instead of --sigma, noise that grows with brightness: poisson:PEAK (photons at white) or "
        "poisson-gaussian:PEAK:SIGMA, as snowmelt inspect and evaluate say it",
    )  # fmt: skip
    add_(
        "--repair", action="store_true",
        help="first replace lost pixels (salt and pepper), and take off shifts of whole rows and columns; "
        "with --strength 0 nothing else is done",
    )  # fmt: skip
    add_("--strength", type=float, default=1.0, help="0 (the input) to 1 (denoised)")
    add_("--nan", default="keep", help="keep: NaN and infinite values stay; fail: an error")
    add_(
        "--nodata", type=float, metavar="VALUE",
        help="value that stands for missing data and stays; default: what the file says",
    )  # fmt: skip
    add_(
        "--tile", type=int, metavar="PIXELS", help="largest side of a tile; the result is the same"
    )
    add_("--threads", type=int, help="of the processor; default: all")
    add_(
        "--max-pixels", type=int, metavar="N", help="accept images that claim up to so many pixels"
    )
    add_(
        "--to", choices=["tif", "png"],
        help="kind of file to write, lossless; default: that of each input",
    )  # fmt: skip
    add_("--force", action="store_true", help="replace results that are there")
    add_("--quiet", action="store_true", help="print errors and warnings only")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Denoise all; returns 1 if some failed."""
    from snowmelt import batch, processor

    processor.keep_freed_memory()
    given = {
        key: value for key, value in vars(options).items() if key != "run" and value is not None
    }
    if options.value_range is not None:
        given["value_range"] = tuple(options.value_range)
    return batch.run(batch.Options(**given))
