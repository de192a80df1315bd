"""Reading any picture as 8-bit RGB, and writing pictures."""

import contextlib
import io
import math
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from utils import png
from utils.errors import UserError
from utils.files import write_whole
from utils.printable import printable

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
ORIENTATION_TAG, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF; those that exchange the sides
PILLOWS_LIMIT = threading.Lock()
MAX_PIXELS = 2**28  # 16384 x 16384; 0.8 GB in 8 bits
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PHOTOMETRIC, PLANAR, BITS = 262, 284, 258  # tags of a TIFF file
LONGEST_SIDES = {"WEBP": 16_383, "JPEG": 65_500}  # pixels that Pillow's encoders take
SAVE_OPTIONS = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}


def list_images(
    folder: Path, recursive: bool = False, on_error: Callable[[OSError], object] | None = None
) -> list[Path]:
    """Image files of a folder by their extension, sorted by name; hidden files are left out.

    on_error: told of folders that cannot be read; without it they count as empty.
    """
    images: list[Path] = []
    for top, folders, names in os.walk(folder, onerror=on_error):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        paths = [Path(top, name) for name in names if not name.startswith(".")]
        try:
            images += [p for p in paths if p.suffix.lower() in EXTENSIONS and p.is_file()]
        except OSError as error:  # a folder that may be listed, but not entered
            if on_error is None:
                raise
            on_error(error)
    return sorted(images)


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a picture as uint8 RGB, (H, W, 3).

    Grey is repeated in three channels, alpha is dropped, CMYK and palettes are converted, 16 bits
    are reduced to 8, and the orientation a camera recorded is applied; each conversion that loses
    something is warned of once a file.

    Raises:
        UserError: the file is missing, not an image, cut short, or has more pixels than allowed.
    """
    with open_whole(path, max_pixels) as image:
        kind = _describe_conversion(image)
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):  # Pillow would clip it to 255
            image = Image.fromarray(np.rint(read_deep_grey(image) / 257).astype(np.uint8))
        pixels = np.array(image.convert("RGB"))
    if kind:
        warnings.warn(f"{printable(path)}: {kind}", stacklevel=2)
    return pixels


def read_size(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) of the picture as `read_image` would give it.

    No pixels are decoded.

    Raises:
        UserError: the file is missing, not an image, or has more pixels than allowed.
    """
    with open_image(path, max_pixels) as image:
        width, height = image.size
        if image.format == "TIFF":  # Pillow has exchanged the sides
            return width, height
        # what Pillow would look for behind the pixels of a PNG, it would decode them for
        exif = png.read_exif(image.fp) if image.format == "PNG" else image.getexif()
        turned = exif.get(ORIENTATION_TAG) in TURNED
        return (height, width) if turned else (width, height)


@contextlib.contextmanager
def open_image(
    source: Path | IO[bytes],
    max_pixels: int = MAX_PIXELS,
    name: str = "",
    formats: Sequence[str] | None = None,
    limit: str = "",
) -> Iterator[ImageFile.ImageFile]:
    """An opened picture; whatever reading it raises inside becomes a `UserError`.

    Its size is looked at before anything is decoded: a small file may unpack to any size.

    name: for the error, instead of the path; formats: those of Pillow that are tried, all by
    default; limit: `max_pixels` as the user gave it, if not by that flag.
    """
    name = name or printable(source)
    try:
        # of a path Pillow would map a plain TIFF into memory, and takes turned ones wrongly then
        is_path = isinstance(source, Path)
        if is_path and stat.S_ISFIFO(source.stat().st_mode):  # which may never end
            raise UserError(f"{name}: a pipe; give the path of a picture")
        file = source.open("rb") if is_path else contextlib.nullcontext(source)
        with file as content, _opened(content, formats) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UserError(
                    f"{name}: {width} x {height} pixels, more than "
                    f"{limit or f'--max_pixels {max_pixels}'}; make it smaller, or give a larger "
                    "number if you trust the file"
                )
            check_storage(image)
            yield image
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{name}: no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{name}: a folder; give the path of a picture") from error
    except PermissionError as error:  # on Windows of a folder, too
        if isinstance(source, Path) and source.is_dir():
            raise UserError(f"{name}: a folder; give the path of a picture") from error
        raise UserError(f"{name}: cannot be read; give a picture that you may read") from error
    except Exception as error:  # decoders of damaged files raise anything
        reason = describe(error)
        if isinstance(error, UnidentifiedImageError):
            reason = "not an image" + (f" as {', '.join(formats)}" if formats else "")
        raise UserError(
            f"{name}: cannot be read as an image ({reason}); replace or remove it"
        ) from error


@contextlib.contextmanager
def open_whole(source: Path | IO[bytes], *arguments: Any) -> Iterator[ImageFile.ImageFile]:
    """`open_image`, after a PNG's checksums, which tell of damage that decoding takes as pixels."""
    with open_image(source, *arguments) as image:
        image.verify()
    if not isinstance(source, Path):
        source.seek(0)
    with open_image(source, *arguments) as image:
        yield image


def _opened(content: IO[bytes], formats: Sequence[str] | None) -> ImageFile.ImageFile:
    with PILLOWS_LIMIT:  # it is the host program's, too; ours is `max_pixels`
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(content, formats=formats)
        except UnidentifiedImageError as error:
            content.seek(0)
            if content.read(4) not in TIFF_STARTS:
                raise
            raise ValueError(
                "a TIFF that is damaged or of a kind that is not known here; save it as RGB or "
                "grey with 8 or 16 bits a channel"
            ) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def check_storage(image: Image.Image) -> None:
    """Raise `ValueError` if the pixels are stored so that they would be taken wrongly."""
    if image.mode == "F":
        raise ValueError("floating-point values; save it with 8 or 16 bits a channel")
    if raw_mode(image) == "I;12":
        raise ValueError("12 bits a channel; save it with 8 or 16")
    if image.format == "TIFF" and image.tag_v2.get(PLANAR) == 2:
        bits = image.tag_v2.get(BITS, (1,))
        if len(bits) > 1 and max(bits) > 8:
            raise ValueError("16 bits a channel in separate planes; save it interleaved, or as PNG")


def read_deep_grey(image: Image.Image) -> np.ndarray:
    """uint16 (H, W) of a picture of 16-bit grey, or of integers of more bits that fit.

    Raises:
        ValueError: they do not.
    """
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("integers beyond 0 to 65535; save it with 8 or 16 bits a channel")
    values = values.astype(np.uint16)
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == 0
    return 65535 - values if white_is_zero else values


def describe(error: Exception) -> str:
    """What a decoder or an encoder says of its failure."""
    return "out of memory" if isinstance(error, MemoryError) else str(error) or type(error).__name__


@contextlib.contextmanager
def encoding(name: str, format_name: str) -> Iterator[None]:
    """Whatever an encoder raises inside becomes a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # encoders raise anything
        raise UserError(
            f"{name}: cannot be written as {format_name} ({describe(error)}); choose another "
            "format or a smaller picture"
        ) from error


def encode_image(pixels: np.ndarray, format_name: str, name: str, **kept: bytes) -> bytes:
    """The content of a file of a format that Pillow knows by this name.

    Lossless, but for JPEG, which is written at quality 95 without subsampling.

    Args:
        pixels: uint8 (H, W, C).
        name: for errors.
        kept: what else Pillow is to write.

    Raises:
        UserError: a side is longer than the format allows, or encoding fails.
    """
    height, width = pixels.shape[:2]
    longest = LONGEST_SIDES.get(format_name, math.inf)
    if max(height, width) > longest:
        raise UserError(
            f"{name}: {width} x {height} pixels, and a {format_name} holds at most {longest} a "
            "side; choose PNG or TIFF"
        )
    with encoding(name, format_name):
        file = io.BytesIO()
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        image.save(file, format_name, **SAVE_OPTIONS.get(format_name, {}), **kept)
        return file.getvalue()


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 RGB (H, W, 3) in the format of the path's ending, under a temporary name first.

    Raises:
        UserError: as `encode_image`, or the folder cannot be made or written to.
    """
    content = encode_image(pixels, format_of(path), printable(path))
    write_whole(path, lambda file: file.write(content))


def format_of(path: Path) -> str:
    """Pillow's name of the format that a path's ending means."""
    return Image.registered_extensions()[path.suffix.lower()]


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float() / 255


def to_pixels(image: Tensor) -> np.ndarray:
    """Float (3, H, W), clipped to [0, 1] -> uint8 (H, W, 3), rounded."""
    levels = (image.detach().float().clamp(0, 1) * 255).round().byte()
    return levels.permute(1, 2, 0).cpu().numpy()


def raw_mode(image: Image.Image) -> str:
    """How a file stores its pixels, in Pillow's words; `16` in it means 16 bits a channel."""
    tile = getattr(image, "tile", None)  # not of a picture that comes from no file
    arguments = tile[0].args if tile else ""
    return str(arguments if isinstance(arguments, str) else (arguments or [""])[0])


def _describe_conversion(image: Image.Image) -> str:
    if "16" in raw_mode(image) or image.mode.startswith("I"):
        return "16 bits a channel, reduced to 8"
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return "has an alpha channel, which is dropped"
    if image.mode in ("L", "1"):
        return "grey, repeated in three channels"
    if image.mode == "CMYK":
        return "CMYK, converted to RGB without a colour profile"
    return ""
