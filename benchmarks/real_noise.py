"""The automatic noise level on noise that is not white: against the best of 12 fixed levels, image by image.

    python benchmarks/real_noise.py --model base
    python benchmarks/real_noise.py --sets zoo clean --limit 4      a look at some
    python benchmarks/real_noise.py --quick                         without the fixed levels
    python benchmarks/real_noise.py --denoiser mine:denoise         any function (array) -> array, automatic

Sets: polyu (100 camera crops), fmd (24 micrographs, by microscope), zoo (`noise_zoo`), clean (images that
should come back unchanged), white (white noise of known level: automatic against given), colour (given level,
saturated colours, against FFDNet). Nothing may be fitted to any of them. The images lie outside of the
project: the folder of ``SNOWMELT_DATA`` and, with clean photographs of its own and drawings in
``graphics`` below it, that of ``SNOWMELT_CLEAN``. What is not there is skipped, with a word.
Scores of fixed levels are kept in a cache, by the hashes of model and image.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

import noise_zoo
from snowmelt import denoiser
from snowmelt.metrics import psnr, ssim

DATA = Path(os.environ.get("SNOWMELT_DATA", Path(__file__).parents[2] / "shared" / "data"))
CLEAN = Path(os.environ.get("SNOWMELT_CLEAN", DATA / "clean"))
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "snowmelt-benchmarks"
LEVELS = (1.5, 3, 5, 7, 10, 13, 17, 22, 28, 35, 44, 55)  # on a 0–255 scale
WHITE = (5, 10, 15, 25, 35, 50)
COLOUR = (15, 25, 50)
LEVELLED = ("polyu", "fmd", "zoo")
WITHIN, BELOW, CLOSE = 0.3, 0.05, 45.0  # dB: to the best level, to the noisy image, to a clean one
EACH = 8  # images of each kind of the zoo
SIDE = 256

Array = NDArray[Any]
Automatic = Callable[[Array], Array]


@dataclass(frozen=True)
class Item:
    """An image as it is stored, (H, W) or (H, W, 3), and its reference on the same scale."""

    group: str
    name: str
    noisy: Array
    reference: Array
    level: float | None = None  # of white noise, in the image's units

    @property
    def axis(self) -> int | None:
        """Where the colours are."""
        return -1 if self.noisy.ndim == 3 else None

    @property
    def span(self) -> float:
        """From black to white."""
        return 1.0 if self.noisy.dtype.kind == "f" else float(np.iinfo(self.noisy.dtype).max)

    @cached_property
    def digest(self) -> str:
        """Hash of both images."""
        parts = (self.noisy, self.reference.astype(np.float64))
        text = b"".join(str((each.dtype, each.shape)).encode() + each.tobytes() for each in parts)
        return hashlib.sha256(text).hexdigest()[:24]

    def psnr(self, image: Array) -> float:
        """In dB; of floats clipped and rounded to 8 bits, as is published."""
        if self.noisy.dtype.kind == "f":
            image = np.rint(np.clip(image, 0, 1) * 255) / 255
        return float(psnr(self.reference, image, data_range=self.span))


@dataclass(frozen=True)
class Score:
    """What was measured on an image; PSNR in dB."""

    group: str
    name: str
    noisy: float
    automatic: float
    unchanged: bool
    change: float  # PSNR of the result with the noisy image as reference
    seconds: float  # of processor time
    levels: tuple[float, ...] = ()
    given: float | None = None
    peer: float | None = None
    ssim: tuple[float, float] | None = None  # noisy, automatic


@dataclass(frozen=True)
class Summary:
    """A line of the table of noisy sets."""

    group: str
    images: int
    noisy: float
    automatic: float
    one_level: float
    the_level: float
    best: float
    within: float  # percent of the images
    worst: float  # against the best level of the image
    below: float  # percent of the images
    worst_to_noisy: float
    seconds: float
    ssim: tuple[float, float] | None = field(default=None)


def summarise(group: str, scores: Sequence[Score]) -> Summary:
    """The criteria of a set of noisy images; NaN where they were not scored at all `LEVELS`."""
    unknown = (np.nan,) * len(LEVELS)
    levels = np.array([each.levels or unknown for each in scores])
    automatic, noisy = _columns(scores, "automatic", "noisy")
    to_best, to_noisy = automatic - levels.max(axis=1), automatic - noisy
    one = int(levels.mean(axis=0).argmax())
    known = not np.isnan(levels).any()
    return Summary(
        group=group,
        images=len(scores),
        noisy=float(noisy.mean()),
        automatic=float(automatic.mean()),
        one_level=float(levels[:, one].mean()),
        the_level=LEVELS[one] if known else np.nan,
        best=float(levels.max(axis=1).mean()),
        within=100 * float((to_best >= -WITHIN).mean()) if known else np.nan,
        worst=float(to_best.min()),
        below=100 * float((to_noisy < -BELOW).mean()),
        worst_to_noisy=float(to_noisy.min()),
        seconds=float(np.mean([each.seconds for each in scores])),
        ssim=_mean_ssim(scores),
    )


def _mean_ssim(scores: Sequence[Score]) -> tuple[float, float] | None:
    found = [each.ssim for each in scores if each.ssim is not None]
    if not found:
        return None
    noisy, automatic = np.mean(found, axis=0)
    return float(noisy), float(automatic)


def by_group(scores: Sequence[Score], total: str) -> dict[str, list[Score]]:
    """Scores of each group, then, where there is more than one, those of all."""
    groups: dict[str, list[Score]] = {}
    for each in scores:
        groups.setdefault(each.group, []).append(each)
    return groups | ({total: list(scores)} if len(groups) > 1 else {})


class Cache:
    """Scores that need not be measured again, one JSON line each; see `key`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "real_noise.jsonl"
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self._known: dict[str, list[float]] = dict(map(json.loads, filter(_is_whole, lines)))

    def get(self, key: str, measure: Callable[[], list[float]]) -> list[float]:
        """The scores of a key, measured if they are not there."""
        if key not in self._known:
            self._known[key] = measure()
            with self._file.open("a") as file:
                file.write(json.dumps([key, self._known[key]]) + "\n")
        return self._known[key]


def _is_whole(line: str) -> bool:
    """Not one that was cut off when a run was ended."""
    return line.startswith("[") and line.endswith("]]")


@dataclass
class Bench:
    """A model, what denoises automatically, and the cache."""

    model: denoiser.Denoiser
    automatic: Automatic
    cache: Cache
    full: bool
    seen: set[tuple[int, ...]] = field(default_factory=set)

    def score(self, item: Item, *, levels: bool, peer: bool = False) -> Score:
        """Everything about an image; the fixed levels only where asked for, else the given one."""
        network = self.model.for_channels(3 if item.axis is not None else 1)
        name = f"{network.model.sha256[:24]} {network.engine.precision} {item.digest}"
        fixed = self.cache.get(f"{name} {LEVELS}", lambda: self._fixed(item)) if levels else []
        given = None
        if item.level is not None:
            given = self.cache.get(f"{name} {item.level}", lambda: [self._at(item, item.level)])[0]
        if self.full and item.noisy.shape not in self.seen:
            self.seen.add(item.noisy.shape)
            self.automatic(item.noisy)  # the first image of a size pays for the preparation
        started = time.process_time()
        result = self.automatic(item.noisy) if not peer else item.noisy
        seconds = time.process_time() - started
        both = (item.noisy, result)
        return Score(
            group=item.group,
            name=item.name,
            noisy=item.psnr(item.noisy),
            automatic=item.psnr(result),
            unchanged=bool(np.array_equal(item.noisy, result)),
            change=float(psnr(item.noisy, result, data_range=item.span)),
            seconds=seconds,
            levels=tuple(fixed),
            given=given,
            peer=self._peer(item) if peer else None,
            ssim=tuple(self._ssim(item, each) for each in both) if self.full else None,  # type: ignore[arg-type]
        )

    def _at(self, item: Item, level: float | None) -> float:
        assert level is not None
        return item.psnr(
            self.model(item.noisy, sigma=level, value_range=(0, item.span), channel_axis=item.axis)
        )

    def _fixed(self, item: Item) -> list[float]:
        return [self._at(item, level / 255 * item.span) for level in LEVELS]

    @staticmethod
    def _ssim(item: Item, image: Array) -> float:
        return float(ssim(item.reference, image, data_range=item.span, channel_axis=item.axis))

    def _peer(self, item: Item) -> float:
        import torch

        from quality import peer

        @torch.inference_mode()
        def measure() -> list[float]:
            assert item.level is not None
            denoise = peer("ffdnet", item.level * 255, True)
            return [item.psnr(denoise(item.noisy.astype(np.float32)))]

        return self.cache.get(f"ffdnet {item.digest} {item.level}", measure)[0]


# The sets


def read(path: Path) -> Array:
    """An image file as it is stored, (H, W) or (H, W, 3)."""
    image = Image.open(path)
    return np.asarray(image if image.mode == "L" else image.convert("RGB"))


def spread(items: Sequence[Any], count: int | None) -> list[Any]:
    """So many of them, evenly spread; all for None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, count)]


def middle(image: Array, side: int) -> Array:
    """The middle of an image, at most ``side`` pixels wide and high, in multiples of 8."""
    height, width = (min(each, side) // 8 * 8 for each in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def polyu(limit: int | None) -> Iterator[Item]:
    """Crops of five cameras: a shot, and the mean of many."""
    for path in spread(_files(DATA / "polyu", "*_real.JPG"), limit):
        mean = path.with_name(path.name.replace("_real", "_mean"))
        yield Item("PolyU", path.stem, read(path), read(mean).astype(float))


def fmd(limit: int | None) -> Iterator[Item]:
    """Micrographs, one exposure and the mean of 50."""
    kinds: dict[str, list[Path]] = {}
    for path in _files(DATA / "fmd" / "noisy", "*.png"):
        kinds.setdefault("FMD " + path.stem.split("_")[0], []).append(path)
    for kind, paths in kinds.items():
        for path in spread(paths, limit):
            clean = DATA / "fmd" / "clean" / path.name
            yield Item(kind, path.stem, read(path), read(clean).astype(float))


def zoo(limit: int | None) -> Iterator[Item]:
    """Simulated noise on CBSD68 and BSD68, every other one from photographs of their own if there are."""
    scenes = spread(_files(DATA / "cbsd68", "*.png"), None)
    photos = [path for path in _photos() if min(Image.open(path).size) >= SIDE]
    for number, (kind, each) in enumerate(noise_zoo.KINDS.items()):
        for place in spread(range(EACH), limit):
            chosen = photos if photos and place % 2 else scenes
            path = chosen[(number * 5 + place * 7) % len(chosen)]
            clean = middle(read(path), SIDE) / 255
            noisy, reference = noise_zoo.make(
                kind, clean if each.colour else clean @ noise_zoo.LUMA, place
            )
            yield Item(kind, f"{path.stem} {place}", noisy, reference)


def clean(limit: int | None) -> Iterator[Item]:
    """Images that should come back unchanged."""
    scenes = _files(DATA / "bsds500" / "test", "*.jpg")
    photos = _photos() or scenes
    groups: dict[str, list[tuple[str, Array]]] = {
        "BSDS500": [(path.stem, read(path)) for path in spread(scenes, limit or 24)],
        "photographs": [(path.stem, read(path)) for path in spread(_photos(), limit or 24)],
        "drawings": [(path.stem, read(path)) for path in spread(_drawings(), limit or 24)],
        "JPEG 30-95": [],
        "enlarged": [],
        "film grain": [],
        "scanned text": [],
        "screenshots": [],
    }
    qualities = (30, 45, 60, 70, 80, 87, 92, 95)
    for place, path in enumerate(spread(photos, limit or 24)):
        quality = qualities[place % len(qualities)]
        groups["JPEG 30-95"].append((f"{path.stem} {quality}", as_jpeg(read(path), quality)))
    rng = np.random.default_rng(0)
    for path in spread(photos, limit or 12):
        source = middle(read(path), SIDE)
        groups["enlarged"].append((path.stem, enlarge(source, rng.uniform(1.4, 3))))
        groups["film grain"].append((path.stem, faint_grain(source, rng)))
    for place in range(limit or 12):
        page = draw_text(rng, dark=place % 3 == 1)
        groups["screenshots"].append((f"screen {place}", page))
        groups["scanned text"].append((f"page {place}", as_scanned(draw_text(rng), rng)))
    for group, images in groups.items():
        for name, image in images:
            yield Item(group, name, image, image.astype(float))


def white(limit: int | None) -> Iterator[Item]:
    """White Gaussian noise of known level, by the published protocol: not clipped, one seed."""
    for folder in ("bsd68", "set12", "cbsd68"):
        for level in WHITE:
            for path in spread(_files(DATA / folder, "*.png"), limit):
                image = read(path)
                if folder != "cbsd68" and image.ndim == 3:
                    image = image[..., 0]
                yield _with_white(f"{folder} {level}", path.stem, image, level)


def colour(limit: int | None) -> Iterator[Item]:
    """White noise of known level on colours that are not those of BSDS500."""
    photos, drawings = _photos(), _drawings()
    count = limit or 12
    for level in COLOUR:
        for path in spread(photos, count):
            image = middle(read(path), SIDE)
            yield _with_white(f"photographs {level}", path.stem, image, level)
            yield _with_white(f"saturated {level}", path.stem, saturate(image, 2.0), level)
            yield _with_white(f"hues turned {level}", path.stem, image[..., [2, 0, 1]], level)
        for path in spread(drawings, count):
            image = middle(read(path), SIDE)
            if image.ndim == 3:
                yield _with_white(f"drawings {level}", path.stem, image, level)


def _with_white(group: str, name: str, image: Array, level: float) -> Item:
    reference = image / 255
    noise = np.random.default_rng(0).normal(0, level / 255, image.shape)
    return Item(group, name, (reference + noise).astype(np.float32), reference, level / 255)


def _files(folder: Path, pattern: str) -> list[Path]:
    found = sorted(folder.glob(pattern))
    if not found:
        raise FileNotFoundError(f"no {pattern} in {folder}")
    return found


def _photos() -> list[Path]:
    return sorted(path for path in CLEAN.glob("*.png") if _is_colour(path))


def _drawings() -> list[Path]:
    return sorted(CLEAN.glob("graphics/*.png"))


def _is_colour(path: Path) -> bool:
    return Image.open(path).mode == "RGB"


def as_jpeg(image: Array, quality: int) -> Array:
    """An image as it is read from a JPEG file of it."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def enlarge(image: Array, scale: float) -> Array:
    """Bicubic, in 8 bits."""
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def faint_grain(image: Array, rng: np.random.Generator) -> Array:
    """Film grain of 1 to 2.5 on a 0–255 scale: part of the image.

    Grain of 8 and more is noise, see `noise_zoo`.
    """
    from scipy.ndimage import gaussian_filter

    grain = gaussian_filter(rng.standard_normal(image.shape[:2]), rng.uniform(0.4, 0.8))
    grain *= rng.uniform(1, 2.5) / grain.std()
    grain = grain if image.ndim == 2 else grain[..., None]
    return noise_zoo.to_bytes((image + grain) / 255)


def saturate(image: Array, factor: float) -> Array:
    """Colours drawn apart from their brightness."""
    scaled = image / 255
    luma = (scaled @ noise_zoo.LUMA)[..., None]
    return noise_zoo.to_bytes(luma + factor * (scaled - luma))


def draw_text(rng: np.random.Generator, *, dark: bool = False) -> Array:
    """A window with a bar, a panel and lines of words, 400 x 320, (320, 400, 3)."""
    paper, ink = ((32, 34, 40), (215, 218, 220)) if dark else ((255, 255, 255), (20, 20, 24))
    page = Image.new("RGB", (400, 320), paper)
    pen = ImageDraw.Draw(page)
    accent = tuple(int(each) for each in rng.integers(0, 256, 3))
    pen.rectangle((0, 0, 400, 22), fill=accent)
    pen.rectangle((300, 40, 380, 120), fill=tuple(255 - each for each in accent), outline=ink)
    height = int(rng.integers(10, 18))
    font = ImageFont.load_default(size=height)
    letters = "aaabcdeeeefghiiijklmnnnoooprrsstttuuvwxyz"
    for top in range(30, 310, int(height * 1.4)):
        words = [
            "".join(rng.choice(list(letters), rng.integers(2, 10)))
            for _ in range(int(rng.integers(4, 9)))
        ]
        pen.text((10, top), " ".join(words), fill=accent if rng.random() < 0.2 else ink, font=font)
    return np.asarray(page)


def as_scanned(page: Array, rng: np.random.Generator) -> Array:
    """Grey, slightly turned and soft, unevenly lit, without noise."""
    from scipy.ndimage import gaussian_filter, rotate

    grey = page @ noise_zoo.LUMA
    turned = rotate(grey, rng.uniform(-2, 2), reshape=False, order=1, mode="nearest")
    light = np.linspace(1, rng.uniform(0.8, 0.95), grey.shape[1])
    soft = gaussian_filter(turned, rng.uniform(0.5, 1.0)) * light
    return noise_zoo.to_bytes((18 + soft * 0.88) / 255)


SETS = {"polyu": polyu, "fmd": fmd, "zoo": zoo, "clean": clean, "white": white, "colour": colour}


# The tables


def noisy_table(scores: Sequence[Score], total: str) -> str:
    """Markdown of sets with fixed levels."""
    full = any(each.ssim for each in scores)
    head = (
        "| | images | noisy | automatic | one level for all | best of 12 | within 0.3 dB | worst to best "
        "| below noisy | worst to noisy | CPU s |" + (" SSIM noisy, automatic |" if full else "")
    )
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for group, members in by_group(scores, total).items():
        each = summarise(group, members)
        line = (
            f"| {each.group} | {each.images} | {each.noisy:.2f} | **{each.automatic:.2f}** "
            f"| {each.one_level:.2f} ({each.the_level:g}) | {each.best:.2f} | {each.within:.0f} % "
            f"| {each.worst:.2f} | {each.below:.0f} % | {each.worst_to_noisy:+.2f} | {each.seconds:.2f} |"
        )
        lines.append(line + (f" {each.ssim[0]:.3f}, {each.ssim[1]:.3f} |" if each.ssim else ""))
    return "\n".join(lines)


def clean_table(scores: Sequence[Score]) -> str:
    """Markdown of images that should come back unchanged."""
    lines = [
        "| | images | unchanged bit for bit | at least 45 dB | lowest, dB | CPU s |",
        "|---|---|---|---|---|---|",
    ]
    for group, members in by_group(scores, "all clean").items():
        change = np.array([each.change for each in members])
        unchanged = np.array([each.unchanged for each in members])
        seconds = np.mean([each.seconds for each in members])
        lines.append(
            f"| {group} | {len(members)} | {100 * unchanged.mean():.0f} % "
            f"| {100 * (change >= CLOSE).mean():.0f} % | {change.min():.1f} | {seconds:.2f} |"
        )
    return "\n".join(lines)


def white_table(scores: Sequence[Score]) -> str:
    """Markdown of white noise: automatic against the given level."""
    lines = [
        "| | images | noisy | given level | automatic | difference | worst |",
        "|---|---|---|---|---|---|---|",
    ]
    for group, members in by_group(scores, "all white").items():
        noisy, given, automatic = _columns(members, "noisy", "given", "automatic")
        lines.append(
            f"| {group} | {len(members)} | {noisy.mean():.2f} | {given.mean():.2f} | {automatic.mean():.2f} "
            f"| {(automatic - given).mean():+.3f} | {(automatic - given).min():+.2f} |"
        )
    return "\n".join(lines)


def colour_table(scores: Sequence[Score]) -> str:
    """Markdown of colours at a given level, against FFDNet."""
    lines = [
        "| | images | noisy | model | FFDNet | gain | lowest gain |",
        "|---|---|---|---|---|---|---|",
    ]
    for group, members in by_group(scores, "all colours").items():
        noisy, given, peer = _columns(members, "noisy", "given", "peer")
        lines.append(
            f"| {group} | {len(members)} | {noisy.mean():.2f} | {given.mean():.2f} | {peer.mean():.2f} "
            f"| {(given - peer).mean():+.2f} | {(given - peer).min():+.2f} |"
        )
    return "\n".join(lines)


def _columns(scores: Sequence[Score], *names: str) -> list[NDArray[np.float64]]:
    return [np.array([getattr(each, name) for each in scores], float) for name in names]


def table(name: str, scores: Sequence[Score]) -> str:
    """Markdown of a set of `SETS`."""
    if name == "clean":
        return clean_table(scores)
    if name == "white":
        return white_table(scores)
    return colour_table(scores) if name == "colour" else noisy_table(scores, f"all of {name}")


def main() -> None:
    options = _options()
    model = denoiser.load(options.model, precision=options.precision, threads=options.threads)
    automatic = _found(options.denoiser) if options.denoiser else _automatic(model)
    bench = Bench(model, automatic, Cache(options.cache), options.full)
    told: dict[str, list[dict[str, Any]]] = {}
    for name in options.sets:
        try:
            items = SETS[name](options.limit)
            scores = [
                bench.score(
                    each, levels=name in LEVELLED and not options.quick, peer=name == "colour"
                )
                for each in tqdm(items, desc=name, disable=None)
            ]
        except FileNotFoundError as error:
            print(f"{name}: skipped, {error}; SNOWMELT_DATA names the folder of images\n")
            continue
        if not scores:
            print(f"{name}: skipped, no images in {CLEAN}; SNOWMELT_CLEAN names their folder\n")
            continue
        told[name] = [asdict(each) for each in scores]
        print(
            f"## {name}, {options.denoiser or options.model}\n\n{table(name, scores)}\n", flush=True
        )
    if options.json:
        options.json.write_text(json.dumps({"levels": LEVELS, "scores": told}) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The automatic noise level on real noise.")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--model", default="base", help="bundled name, or file or pair of files")
    parser.add_argument("--denoiser", metavar="MODULE:FUNCTION", help="instead of the model's own")
    parser.add_argument("--limit", type=int, metavar="N", help="images of each group")
    parser.add_argument("--quick", action="store_true", help="automatic only, no fixed levels")
    parser.add_argument("--full", action="store_true", help="SSIM, too")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="FOLDER")
    return parser.parse_args()


def _automatic(model: denoiser.Denoiser) -> Automatic:
    def denoise(image: Array) -> Array:
        unit = (0.0, 1.0) if image.dtype.kind == "f" else None
        return model(image, value_range=unit, channel_axis=-1 if image.ndim == 3 else None)

    return denoise


def _found(name: str) -> Automatic:
    module, _, function = name.partition(":")
    if not function:
        sys.exit(f"--denoiser {name}: expected MODULE:FUNCTION, such as mine:denoise")
    sys.path.insert(0, str(Path.cwd()))
    found: Automatic = getattr(importlib.import_module(module), function)
    return found


if __name__ == "__main__":
    main()
