"""Reading any picture as 8-bit RGB, and writing files whole or not at all."""

import contextlib
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from utils.errors import UserError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
ORIENTATION_TAG, FIRST_TURNED = 0x0112, 5  # EXIF; from 5 on the sides are exchanged
Image.MAX_IMAGE_PIXELS = None  # pictures of any size, in tiles; Pillow would refuse large ones
SAVE_OPTIONS = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}


def list_images(folder: Path, recursive: bool = False) -> list[Path]:
    """Image files of a folder by their extension, sorted by name; hidden files are left out."""
    pattern = "**/*" if recursive else "*"
    return sorted(
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in EXTENSIONS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def read_image(path: Path) -> np.ndarray:
    """Read a picture as uint8 RGB, (H, W, 3).

    Grey is repeated in three channels, alpha is dropped, CMYK and palettes are converted, 16 bits
    are reduced to 8, and the orientation a camera recorded is applied; each conversion that loses
    something is warned of once a file.

    Raises:
        UserError: the file is missing, not an image, or cut short.
    """
    with open_image(path) as image:
        kind = _describe_conversion(image)
        image = ImageOps.exif_transpose(image)
        if image.mode == "F":
            raise ValueError("floating-point values; save it with 8 bits a channel")
        if image.mode.startswith("I"):  # 16-bit grey; Pillow would clip it to 255
            values = np.asarray(image, dtype=np.float64) / 257
            image = Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
        pixels = np.array(image.convert("RGB"))
    if kind:
        warnings.warn(f"{path}: {kind}", stacklevel=2)
    return pixels


def read_size(path: Path) -> tuple[int, int]:
    """(width, height) of the picture as `read_image` would give it, from the file's header.

    Raises:
        UserError: the file is missing or not an image.
    """
    with open_image(path) as image:
        width, height = image.size
        turned = image.getexif().get(ORIENTATION_TAG, 1) >= FIRST_TURNED
        return (height, width) if turned else (width, height)


@contextlib.contextmanager
def open_image(
    source: Path | IO[bytes], name: str = "", formats: Sequence[str] | None = None
) -> Iterator[ImageFile.ImageFile]:
    """An opened picture; whatever reading it raises inside becomes a `UserError`.

    name: for the error, instead of the path; formats: those of Pillow that are tried, all by
    default.
    """
    name = name or str(source)
    try:
        with Image.open(source, formats=formats) as image:
            yield image
    except FileNotFoundError as error:
        raise UserError(f"{name}: no such file") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(
            f"{name}: cannot be read as an image ({reason}); replace or remove it"
        ) from error


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 RGB (H, W, 3) in the format of the path's ending, under a temporary name first.

    Lossless, but for JPEG, which is written at quality 95 without subsampling.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    format_name = Image.registered_extensions()[path.suffix.lower()]
    options = SAVE_OPTIONS.get(format_name, {})
    write_whole(path, lambda file: Image.fromarray(pixels).save(file, format_name, **options))


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); give a folder you may write to"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_writable(folder: Path) -> None:
    """Make sure, before any work is done, that `folder` can be written to.

    Raises:
        UserError: it cannot.
    """
    probe = folder / f".writable.{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); "
            "give a folder you may write to"
        ) from error


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float() / 255


def to_pixels(image: Tensor) -> np.ndarray:
    """Float (3, H, W), clipped to [0, 1] -> uint8 (H, W, 3), rounded."""
    levels = (image.detach().float().clamp(0, 1) * 255).round().byte()
    return levels.permute(1, 2, 0).cpu().numpy()


def raw_mode(image: Image.Image) -> str:
    """How a file stores its pixels, in Pillow's words; `16` in it means 16 bits a channel."""
    arguments = image.tile[0].args if image.tile else ""
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
