"""Pictures as they are: grey or colour, 8 or 16 bits, with alpha, colour profile and EXIF data.

A network sees RGB in [0, 1]; what it does not see is kept beside it and written again. The
orientation that a camera recorded is applied to the pixels and then taken out of the EXIF data.
Pillow reads and writes all but 16-bit colour: OpenCV decodes that, and `utils.deep_images` writes
it.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from utils.deep_images import encode_png, encode_tiff
from utils.errors import UserError
from utils.files import write_whole
from utils.image_io import (
    MAX_PIXELS,
    ORIENTATION_TAG,
    check_storage,
    describe,
    encode_image,
    encoding,
    format_of,
    open_whole,
    raw_mode,
    read_deep_grey,
)
from utils.printable import printable

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM")
KEEP_ALPHA = {"PNG", "TIFF", "WEBP"}
KEEP_DEPTH: dict[str, Callable[..., bytes]] = {"PNG": encode_png, "TIFF": encode_tiff}
KEEP_METADATA = {"JPEG", "PNG", "TIFF", "WEBP"}
LONGEST_EXIF = 65_527  # bytes in a JPEG
FILTERS = threading.Lock()  # those of warnings are the process's, whatever thread changes them
PROFILE_SPACE = slice(16, 20)  # of an ICC profile: what colours it is for
SPEAKING_TAGS = {  # of a TIFF file; its others say how the pixels are stored
    *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model),
    *(ExifTags.Base.XResolution, ExifTags.Base.YResolution, ExifTags.Base.ResolutionUnit),
    *(ExifTags.Base.Software, ExifTags.Base.DateTime, ExifTags.Base.Artist),
    *(ExifTags.Base.Copyright, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo),
}
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # from stored to upright, by orientation
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


class Picture(NamedTuple):
    """One upright picture.

    pixels: uint8 or uint16, (H, W, 3) for RGB or (H, W, 1) for grey; alpha: (H, W), the same type,
    or None; profile: ICC, or None; exif: without an orientation, or None.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    profile: bytes | None = None
    exif: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def to_tensor(self) -> Tensor:
        """What a network sees: RGB, float32 (3, H, W) in [0, 1]; grey is repeated."""
        levels = np.iinfo(self.pixels.dtype).max
        values = torch.from_numpy(self.pixels.astype(np.float32) / levels).permute(2, 0, 1)
        return values.expand(3, -1, -1).contiguous()

    def with_colours(self, image: Tensor) -> "Picture":
        """This picture with the colours of a float (3, H, W), clipped to [0, 1]; or their mean."""
        levels = np.iinfo(self.pixels.dtype).max
        exact = torch.float64 if levels > 255 else torch.float32
        image = image.detach().to(exact).clamp(0, 1).cpu()
        if self.pixels.shape[2] == 1:
            image = image.mean(dim=0, keepdim=True)
        pixels = (image * levels).round().permute(1, 2, 0).numpy().astype(self.pixels.dtype)
        return self._replace(pixels=pixels)

    def preview(self) -> np.ndarray:
        """uint8 RGB (H, W, 3) to look at, without alpha."""
        return np.repeat(_to_8_bits(self.pixels), 3 // self.pixels.shape[2], axis=2)


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a picture.

    CMYK and Lab are converted to RGB, a colour profile for other colours than the picture's is left
    out, and only the first of several frames is read, each with a warning.

    Raises:
        UserError: the file is missing, not an image, cut short, or has more pixels than allowed.
    """
    name = printable(path)
    with _naming_warnings(name), open_whole(path, max_pixels, "", FORMATS) as image:
        return _decode(image, path.read_bytes)


def parse_picture(content: bytes, name: str, max_pixels: int) -> tuple[Picture, str]:
    """The picture in a file's content, and its format as `encode` takes it.

    Args:
        name: for errors and warnings.
        max_pixels: of a picture; a larger one is not decoded.

    Raises:
        UserError: as `read_picture`, or too many pixels.
    """
    limit = f"--max_megapixels {max_pixels / 1e6:g}"
    opened = open_whole(io.BytesIO(content), max_pixels, name, FORMATS, limit)
    with _naming_warnings(name), opened as image:
        return _decode(image, lambda: content), image.format


def take_picture(image: Image.Image) -> Picture:
    """The picture that Pillow holds, in any of its modes.

    Raises:
        UserError: it cannot be taken, for its mode or since it is of a damaged file.
    """

    def refuse() -> bytes:
        raise ValueError("16 bits a channel, which Pillow reduces; give the file's path")

    name = f"picture of mode {image.mode}"
    try:
        check_storage(image)
        with _naming_warnings(name):
            return _decode(image, refuse)
    except Exception as error:  # decoders of damaged files raise anything
        raise UserError(
            f"{name}: cannot be taken ({describe(error)}); give RGB, grey, or the path of a file"
        ) from error


def _decode(image: Image.Image, read_file: Callable[[], bytes]) -> Picture:
    """The picture of an opened file; `read_file` gives the whole file, for what Pillow cannot."""
    if getattr(image, "n_frames", 1) > 1:
        warnings.warn(f"only the first of {image.n_frames} frames is taken", stacklevel=2)
    is_deep = not image.mode.startswith("I") and "16" in raw_mode(image)
    if is_deep:
        pixels = _decode_16_bits(read_file(), raw_mode(image))
    elif image.mode.startswith("I"):
        pixels = read_deep_grey(image)
    else:
        pixels = np.asarray(image.convert(_plain_mode(image)))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    hole = image.info.get("transparency")
    if image.mode.startswith("I") and isinstance(hole, int):  # the grey that is transparent
        pixels = np.concatenate([pixels, np.where(pixels == hole, 0, 65535)], axis=2)
        pixels = pixels.astype(np.uint16)
    # both libraries turn TIFF files themselves, but Pillow takes the tag out only when it does
    turned = is_deep and image.format == "TIFF"
    orientation = 1 if turned else image.getexif().get(ORIENTATION_TAG)
    converted = image.mode in ("CMYK", "LAB")
    if converted:
        warnings.warn(f"{image.mode}, converted to RGB without a colour profile", stacklevel=2)
    exif = _exif(image)
    pixels = TURNS.get(orientation, lambda pixels: pixels)(pixels)
    has_alpha = pixels.shape[2] in (2, 4)
    colours = np.ascontiguousarray(pixels[..., :-1] if has_alpha else pixels)
    alpha = np.ascontiguousarray(pixels[..., -1]) if has_alpha else None
    profile = None if converted else image.info.get("icc_profile")
    return Picture(colours, alpha, _fitting(profile, colours.shape[2] == 1), exif)


def _fitting(profile: bytes | None, is_grey: bool) -> bytes | None:
    """A colour profile if it is for such pixels, or None with a warning."""
    space = (profile or b"")[PROFILE_SPACE].decode("ascii", "replace").strip("\0 ")
    wanted = "GRAY" if is_grey else "RGB"
    if space in ("", wanted):  # a profile that says nothing stays as it is
        return profile
    warnings.warn(f"its colour profile is for {space}, not {wanted}, dropped", stacklevel=3)
    return None


@contextlib.contextmanager
def _naming_warnings(name: str) -> Iterator[None]:
    """Whatever is warned of inside, Pillow's too, says of which picture; if that fails, nothing."""
    with FILTERS, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    told = {str(entry.message).strip(): entry.category for entry in caught}
    for words, category in told.items():
        warnings.warn(f"{name}: {words}", category, stacklevel=4)


def write_picture(path: Path, picture: Picture) -> None:
    """Write a picture in the format of the path's ending, under a temporary name first.

    What the format cannot keep is dropped with a warning.

    Raises:
        UserError: as `encode`, or the folder cannot be made or written to.
    """
    content = encode(picture, format_of(path), printable(path))
    write_whole(path, lambda file: file.write(content))


def encode(picture: Picture, format_name: str, name: str) -> bytes:
    """The content of a file of a format that Pillow knows by this name.

    Raises:
        UserError: a side is longer than the format allows, or encoding fails.
    """
    with encoding(name, format_name), _naming_warnings(name):
        return _encode(picture, format_name, name)


def _encode(picture: Picture, format_name: str, name: str) -> bytes:
    if picture.alpha is not None and format_name not in KEEP_ALPHA:
        warnings.warn(f"{format_name} has no alpha channel, dropped", stacklevel=3)
        picture = picture._replace(alpha=None)
    if picture.pixels.dtype == np.uint16 and format_name not in KEEP_DEPTH:
        warnings.warn(f"{format_name} has no 16 bits a channel, reduced to 8", stacklevel=3)
        alpha = None if picture.alpha is None else _to_8_bits(picture.alpha)
        picture = picture._replace(pixels=_to_8_bits(picture.pixels), alpha=alpha)
    profile, exif = picture.profile, picture.exif
    if format_name not in KEEP_METADATA:
        for what, there in (("colour profile", profile), ("EXIF data", exif)):
            if there:
                warnings.warn(f"{format_name} has no {what}, dropped", stacklevel=3)
        profile = exif = None
    if exif and format_name == "JPEG" and len(exif) > LONGEST_EXIF:
        warnings.warn("EXIF data too long for a JPEG, dropped", stacklevel=3)
        exif = None

    pixels = picture.pixels
    has_alpha = picture.alpha is not None
    is_deep = pixels.dtype == np.uint16
    if format_name == "WEBP" or (format_name == "TIFF" and is_deep and has_alpha):
        profile = _fitting(profile, is_grey=False)  # grey becomes colour there
    if has_alpha:
        pixels = np.concatenate([pixels, picture.alpha[..., None]], axis=2)
    if is_deep:
        return KEEP_DEPTH[format_name](pixels, profile, exif)
    kept = {"icc_profile": profile, "exif": exif}
    kept = {key: value for key, value in kept.items() if value}
    return encode_image(pixels, format_name, name, **kept)


def _plain_mode(image: Image.Image) -> str:
    """The mode, of 8 bits a channel, that keeps what a picture has."""
    grey = image.mode in ("1", "L", "LA", "La")
    return ("L" if grey else "RGB") + ("A" if image.has_transparency_data else "")


def _decode_16_bits(content: bytes, stored: str) -> np.ndarray:
    log = cv2.utils.logging  # a damaged file is told of below
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise ValueError("16 bits a channel in a form that cannot be decoded; save it as PNG")
    if stored.startswith("LA"):
        return pixels[..., [0, 3]]
    if stored.startswith("RGBX"):  # a fourth channel that is no alpha
        return pixels[..., [2, 1, 0]]
    pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return _divide_by_alpha(pixels) if stored.startswith("RGBa") else pixels


def _divide_by_alpha(pixels: np.ndarray) -> np.ndarray:
    """uint16 RGBA (H, W, 4) of colours that were stored multiplied by alpha."""
    alpha = pixels[..., 3:]
    colours = np.rint(pixels[..., :3] * (65535 / np.maximum(alpha, 1)))
    return np.concatenate([np.minimum(colours, 65535).astype(np.uint16), alpha], axis=2)


def _exif(image: Image.Image) -> bytes | None:
    """A picture's EXIF data without the orientation, and of a TIFF file only what speaks."""
    try:
        exif = image.getexif()
        unwanted = {ORIENTATION_TAG}
        if image.format == "TIFF":
            unwanted |= {tag for tag in exif if tag not in SPEAKING_TAGS}
        for tag in unwanted & set(exif):
            del exif[tag]
        return exif.tobytes() if len(exif) else None
    except Exception:  # a camera or a program may have written anything there
        warnings.warn("its EXIF data are damaged and left out", stacklevel=3)
        return None


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.uint8 else np.rint(values / 257).astype(np.uint8)
