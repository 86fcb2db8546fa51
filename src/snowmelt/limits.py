"""All limits that guard against hostile or damaged files, in one place: bytes, pixels, seconds.

They bound what a file can cost before anybody has asked for that much; none of them bounds what an ordinary
file may hold. Limits that follow from a format itself stand with that format.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# Pixels of an image that are decoded unasked; --max-pixels raises it for files that are trusted.
MAX_PIXELS = 2**28
# Values of a pixel (channels) that are read unasked: instruments have some hundreds of bands at most. Up to
# so many of them count as one pixel: RGB with opacity.
MAX_CHANNELS = 4096
CHANNELS_OF_A_PIXEL = 4
# A file may claim this many bytes for each of its own before it counts as a bomb: deflate reaches
# 1000 on an empty image, photographs and micrographs hardly 10.
EXPANSION = 100

# What one array of a damaged HDF5 file may take to decode, where the file itself is small: bytes of a chunk,
# bytes and words of an attribute, bytes of Keras' description of a model (a U-Net's are 100 KB), seconds to
# read it.
CHUNK_BYTES = 2**27
ATTRIBUTE_BYTES = 2**16
ATTRIBUTE_WORDS = 32
KERAS_CONFIG_BYTES = 2**24
KERAS_SECONDS = 5.0
# Bytes of weights, and of training data, that a file may claim whatever it holds.
KERAS_BYTES = 2**24
DATA_BYTES = 2**28

# Files of a run folder: bytes of texts (a log has 100 an epoch), and of arrays when they are unpacked, unless
# their file itself is large.
SAVED_BYTES = 2**27
SAVED_ARRAYS_BYTES = 2**28

# Downloads: seconds until the answer has begun; seconds to wait for more of it, and over which the fewest
# bytes a second are counted; bytes of the disk that stay free.
FETCH_ANSWER_SECONDS = 15
FETCH_PATIENCE_SECONDS = 12
FETCH_SLOWEST = 1000
FETCH_SPARE_BYTES = 2**28

# A child process (see `children`) may take so much for one request, unless the caller knows better: bytes
# beyond those that it has at rest, seconds of computing, and seconds on the clock, which pass while a slow
# disk is waited for, too.
CHILD_BYTES = 2**29
CHILD_SECONDS = 10.0
CHILD_PATIENCE_SECONDS = 60.0
# Decoders are faster than this (bzip2 on an old computer), encoders than a tenth of it; by it large
# requests get more time.
CHILD_BYTES_PER_SECOND = 5e6

# Model files. Protobuf itself ends at 2 GiB; a U-Net of 100 layers has about 5,000 fields.
MAX_BYTES = 2**31 - 1
MAX_HEADER_CHARACTERS = 1_000_000
MAX_FIELDS = 1_000_000
MAX_DIMENSIONS = 8
# Numbers in one layer of a Keras model; the tutorial's largest has 1,152.
MAX_WEIGHTS = 100_000_000


def available_memory() -> int | None:
    """Bytes of memory that programs may still take, here or in this container; None where nobody knows."""
    known: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        known.append(1024 * int(free))
    for most in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
            known.append(int(Path(most).read_text()))
    if not known:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(known) if known else None
