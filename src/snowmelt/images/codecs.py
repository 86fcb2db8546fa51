"""Images that a codec written in C decodes as a whole, in a guarded child process (see ``children``).

Before anything is decoded, the header must say the size. Encoding happens in this process: what is encoded is
our own. Every encoded file is decoded again and compared before it is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from snowmelt import children
from snowmelt.errors import UserError
from snowmelt.images.base import Array, check_pixels
from snowmelt.images.raster import RasterImage
from snowmelt.limits import CHILD_BYTES, CHILD_SECONDS, MAX_PIXELS

# Photographs of the lowest quality take one byte for 200 pixels; what claims more than 1000, beyond a size
# that any computer can hold, is a bomb or an empty image.
_PIXELS_PER_BYTE = 1000
_HARMLESS = 2**24
# Address space and computing time of a decoder: OpenJPEG and libjxl hold several 32-bit copies of a value.
# OpenJPEG decodes 12 Mpx of pure noise in colour, 33 MB, in 13 s; slower computers get five times as long.
BYTES_PER_VALUE = 64
SECONDS_PER_VALUE = 1e-6
_SECONDS_PER_BYTE = 1e-6
# A note with --to, for an image whose colours are said by numbers, not by a profile that could come along.
OTHER_SPACE = (
    "its colours are of another space than sRGB, which a TIFF or PNG made of it would not say"
)


class CodecImage(RasterImage):
    """An image that is decoded in a child process; see ``RasterImage`` for what a format fills in."""

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        super().__init__(path, axes=axes, max_pixels=max_pixels)
        pixels = self.layout.height * self.layout.width * -(-self._count_channels() // 4)
        check_pixels(self.path, pixels, max_pixels)
        check_claim(self.path, pixels, max_pixels)

    def _count_channels(self) -> int:
        """How many channels a decoder gives, wanted or not."""
        return self.layout.channels

    def _decoded_by(
        self, codec: str, data: bytes, *, channels: int | None = None, **options: Any
    ) -> Array:
        """The pixels (H, W, channels) as ``imagecodecs`` decodes them, of the announced shape and type."""
        layout = self.layout
        channels = layout.channels if channels is None else channels
        values = layout.height * layout.width * channels
        found, raw = children.call(
            decode,
            codec,
            options,
            payload=data,
            memory=CHILD_BYTES + BYTES_PER_VALUE * values,
            seconds=CHILD_SECONDS + SECONDS_PER_VALUE * values + _SECONDS_PER_BYTE * len(data),
        )
        pixels = np.frombuffer(raw, found["dtype"]).reshape(found["shape"])
        if pixels.size != values or pixels.dtype != layout.dtype:
            raise ValueError(
                f"pixels of {pixels.dtype} {pixels.shape}, where {layout.dtype} {layout.shape} were announced"
            )
        return pixels.reshape(layout.height, layout.width, channels)

    def _check_encoded(self, codec: str, encoded: bytes, pixels: Array, **options: Any) -> None:
        """Raise UserError unless the encoded file holds these pixels."""
        import imagecodecs

        found = getattr(imagecodecs, f"{codec}_decode")(encoded, **options)
        if found.size != pixels.size or not np.array_equal(found.reshape(pixels.shape), pixels):
            raise UserError(
                f"{self.path}: this {self.kind} encoder cannot hold the result without loss; say --to tif"
            )


def check_claim(
    path: Path, pixels: int, max_pixels: int | None, per_byte: int | None = None
) -> None:
    """Refuse a file that claims far more pixels than one of its length holds, unless somebody trusts it.

    ``per_byte`` is how many pixels a byte may stand for.
    """
    if max_pixels == MAX_PIXELS:  # the default: nobody said that more is expected
        each = _PIXELS_PER_BYTE if per_byte is None else per_byte
        most = max(_HARMLESS, path.stat().st_size * each)
        check_pixels(path, pixels, min(most, max_pixels))


@children.served
def decode(codec: str, options: dict[str, Any], payload: bytearray) -> tuple[Any, Any]:
    """Shape and type of the pixels, and their bytes; runs in the child."""
    import imagecodecs

    pixels = np.ascontiguousarray(getattr(imagecodecs, f"{codec}_decode")(payload, **options))
    return {"shape": pixels.shape, "dtype": pixels.dtype.str}, pixels
