"""All limits that guard against hostile or damaged files, in one place: bytes, pixels, seconds.

They bound what a file can cost before anybody has asked for that much; none of them bounds what an ordinary
file may hold. Limits that follow from a format itself stand with that format.
"""

from __future__ import annotations

# Pixels of an image that are decoded unasked; --max-pixels raises it for files that are trusted.
MAX_PIXELS = 2**28
# A file may claim this many bytes for each of its own before it counts as a bomb: deflate reaches
# 1000 on an empty image, photographs and micrographs hardly 10.
EXPANSION = 100

# A child process (see `children`) may take so much for one request, unless the caller knows better: bytes
# beyond those that it has at rest, seconds of computing, and seconds on the clock, which pass while a slow
# disk is waited for, too.
CHILD_BYTES = 2**29
CHILD_SECONDS = 10.0
CHILD_PATIENCE_SECONDS = 60.0

# Model files. Protobuf itself ends at 2 GiB; a U-Net of 100 layers has about 5,000 fields.
MAX_BYTES = 2**31 - 1
MAX_HEADER_CHARACTERS = 1_000_000
MAX_FIELDS = 1_000_000
MAX_DIMENSIONS = 8
# Numbers in one layer of a Keras model; the tutorial's largest has 1,152.
MAX_WEIGHTS = 100_000_000
