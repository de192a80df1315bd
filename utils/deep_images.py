"""PNG and TIFF with 16 bits a channel, which Pillow cannot write in colour.

Pixels are uint16 (H, W, C): grey, grey and alpha, RGB, or RGB and alpha. Both formats are
compressed losslessly (deflate, after taking differences of neighbours) and keep a colour profile
and EXIF data.

Sources: W3C's PNG specification (third edition) and Adobe's TIFF 6.0.
"""

import struct
import zlib

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from utils.png import SIGNATURE, chunk

PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
LONGEST_IDAT = 2**30  # bytes; a chunk holds less than 2**31
UP = 2  # the filter that subtracts the row above
LONGEST_STRIP = 2**32 - 2**24  # bytes; with the directory, which holds the EXIF data, below 2**32
TIFF_HEADER = struct.Struct("<2sHI")  # order of bytes, version, where the directory is
DEFLATE, HORIZONTAL_DIFFERENCES, STRAIGHT_ALPHA, UNDEFINED = 8, 2, 2, 7
STRIP_OFFSETS, EXTRA_SAMPLES, PREDICTOR, ICC_PROFILE = 273, 338, 317, 34675
EXIF_HEADER = b"Exif\x00\x00"


def encode_png(pixels: np.ndarray, profile: bytes | None, exif: bytes | None) -> bytes:
    """The content of a PNG file."""
    height, width, channels = pixels.shape
    rows = np.ascontiguousarray(pixels.astype(">u2")).view(np.uint8).reshape(height, -1)
    above = np.zeros_like(rows)
    above[1:] = rows[:-1]
    filtered = np.concatenate([np.full((height, 1), UP, np.uint8), rows - above], axis=1)
    stream = zlib.compress(filtered.tobytes())

    header = struct.pack(">IIBBBBB", width, height, 16, PNG_COLOUR_TYPES[channels], 0, 0, 0)
    parts = [SIGNATURE, chunk(b"IHDR", header)]
    if profile:
        parts.append(chunk(b"iCCP", b"ICC Profile\x00\x00" + zlib.compress(profile)))
    if exif:
        parts.append(chunk(b"eXIf", exif.removeprefix(EXIF_HEADER)))
    starts = range(0, len(stream), LONGEST_IDAT)
    parts += [chunk(b"IDAT", stream[start : start + LONGEST_IDAT]) for start in starts]
    return b"".join([*parts, chunk(b"IEND", b"")])


def encode_tiff(pixels: np.ndarray, profile: bytes | None, exif: bytes | None) -> bytes:
    """The content of a TIFF file: header, directory, and one strip of pixels.

    Grey with alpha becomes colour, since few programs read the former.
    """
    if pixels.shape[2] == 2:
        pixels = pixels[..., [0, 0, 0, 1]]
    height, width, channels = pixels.shape
    differences = pixels.copy()
    differences[:, 1:] -= pixels[:, :-1]
    strip = zlib.compress(differences.astype("<u2").tobytes())
    if len(strip) > LONGEST_STRIP:
        raise ValueError("more than 4 GB, which a TIFF file cannot hold")

    directory = ImageFileDirectory_v2(prefix=b"II")
    if exif:
        known = Image.Exif()
        known.load(exif)
        for tag in known:
            is_directory = tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
            directory[tag] = known.get_ifd(tag) if is_directory else known[tag]
    tags = ExifTags.Base
    directory[tags.ImageWidth], directory[tags.ImageLength] = width, height
    directory[tags.BitsPerSample] = (16,) * channels
    directory[tags.Compression] = DEFLATE
    directory[tags.PhotometricInterpretation] = 2 if channels > 2 else 1  # RGB, or grey
    directory[tags.SamplesPerPixel] = channels
    directory[tags.RowsPerStrip] = height
    directory[STRIP_OFFSETS] = 0  # from the directory's end; Pillow adds where that is
    directory[tags.StripByteCounts] = len(strip)
    directory[PREDICTOR] = HORIZONTAL_DIFFERENCES
    if channels == 4:
        directory[EXTRA_SAMPLES] = STRAIGHT_ALPHA
    if profile:
        directory.tagtype[ICC_PROFILE] = UNDEFINED
        directory[ICC_PROFILE] = profile
    start = TIFF_HEADER.size
    return TIFF_HEADER.pack(b"II", 42, start) + directory.tobytes(start) + strip
