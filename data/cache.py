"""Decoded images in memory, once for all processes that load them.

The memory is an `Arena` of multiprocessing, which forked workers inherit and spawned ones are
handed. On Linux it is an anonymous file (memfd): the size of /dev/shm, often 64 MB in containers,
does not limit it, and an image takes memory when it is written.
"""

import math
import os
import weakref
import zlib
from collections.abc import Mapping
from multiprocessing.heap import Arena
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.image_io import MAX_PIXELS, read_image

CHECKSUM_BYTES = 4  # before the pixels of each image; 0: not there yet


class ImageCache:
    """Reads images as `read_image` does, and keeps those that fit for whoever reads them next.

    The first process to need an image decodes and writes it, its checksum last. Another one
    believes the pixels when they agree with the checksum, which it makes sure of once: it never
    takes an image half written, whatever order another core's writes arrive in, and no lock can be
    left behind by a killed process. Two that decode an image at once write the same bytes.

    Args:
        sizes: (width, height) of each image, those to be kept first.
        max_bytes: of memory; images that do not fit are decoded whenever they are read.
        max_pixels: of an image; larger ones are refused.
    """

    def __init__(
        self,
        sizes: Mapping[Path, tuple[int, int]],
        max_bytes: float,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.max_pixels = max_pixels
        self.num_bytes = 0
        self._places: dict[Path, tuple[int, tuple[int, int, int]]] = {}  # first byte, shape
        for path, (width, height) in sizes.items():
            needed = CHECKSUM_BYTES + 3 * width * height
            if self.num_bytes + needed <= max_bytes:
                self._places[path] = (self.num_bytes, (height, width, 3))
                self.num_bytes += needed
        self._arena = _reserve(self.num_bytes) if self.num_bytes else None
        self._checked: set[Path] = set()  # by this process

    def __len__(self) -> int:
        return len(self._places)

    def read(self, path: Path) -> np.ndarray:
        """The picture as uint8 RGB (H, W, 3), not to be written to.

        Raises:
            UserError: as `read_image`.
        """
        if path not in self._places:
            return read_image(path, self.max_pixels)
        first, shape = self._places[path]
        checksum = np.frombuffer(self._arena.buffer, np.uint8, CHECKSUM_BYTES, first)
        start = first + CHECKSUM_BYTES
        pixels = np.frombuffer(self._arena.buffer, np.uint8, math.prod(shape), start)
        pixels = pixels.reshape(shape)
        if path not in self._checked:
            stored = checksum.tobytes()
            if not any(stored) or stored != _checksum(pixels):
                image = read_image(path, self.max_pixels)
                if image.shape != shape:
                    return image  # the file has been replaced since its size was read
                pixels[:] = image
                checksum[:] = np.frombuffer(_checksum(image), np.uint8)
            self._checked.add(path)
        pixels.flags.writeable = False
        return pixels


def _checksum(pixels: np.ndarray) -> bytes:
    return zlib.crc32(pixels).to_bytes(CHECKSUM_BYTES, "little")


def _reserve(num_bytes: int) -> Arena:
    """Zeros that other processes can share."""
    if not hasattr(os, "memfd_create"):
        return Arena(num_bytes)
    file = os.memfd_create("images")
    try:
        os.truncate(file, num_bytes)
    except OSError as error:  # such as a limit on the size of files, which this counts as
        os.close(file)
        raise UserError(
            f"--cache_gb: {num_bytes / 1e9:.2g} GB to keep images in cannot be had "
            f"({error.strerror}); give less, or 0, or raise the limit (ulimit -f)"
        ) from error
    arena = Arena(num_bytes, file)
    weakref.finalize(arena, os.close, file)
    return arena
