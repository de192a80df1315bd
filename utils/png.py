"""Chunks of PNG files.

Source: W3C's PNG specification (third edition).
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import IO

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = struct.Struct(">I4s")  # length of the data, kind
CHECKSUM_BYTES = 4
METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # where EXIF data are, or were before eXIf


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk as it stands in a file."""
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return HEADER.pack(len(data), kind) + data + checksum


def read_exif(file: IO[bytes]) -> Image.Exif:
    """The EXIF data of a PNG file, before or behind its pixels, which are not read.

    Pillow takes them from a picture of one pixel that is given the file's metadata.

    Raises:
        ValueError: a chunk of metadata is cut short. Pillow raises anything where it is damaged.
    """
    pixel = io.BytesIO()
    Image.new("L", (1, 1)).save(pixel, "PNG")
    pixel.seek(len(SIGNATURE))
    header, *others = [chunk(*entry) for entry in _read_chunks(pixel, (b"IHDR", b"IDAT", b"IEND"))]
    file.seek(len(SIGNATURE))
    metadata = [chunk(*entry) for entry in _read_chunks(file, METADATA)]
    with Image.open(io.BytesIO(b"".join([SIGNATURE, header, *metadata, *others]))) as image:
        return image.getexif()


def _read_chunks(file: IO[bytes], kinds: tuple[bytes, ...]) -> Iterator[tuple[bytes, bytes]]:
    """Kind and data of the chunks of some kinds, to the file's end or what is no chunk."""
    kind = b""
    while kind != b"IEND" and len(header := file.read(HEADER.size)) == HEADER.size:
        length, kind = HEADER.unpack(header)
        if not kind.isalnum():
            return
        if kind in kinds:
            data = file.read(length)
            if len(data) < length:
                raise ValueError(f"the file ends inside its {kind.decode()} chunk")
            yield kind, data
            length = 0
        file.seek(length + CHECKSUM_BYTES, io.SEEK_CUR)
