"""Every kind of picture is read as 8-bit RGB or refused in one line; files are written whole."""

import numpy as np
import pytest
from PIL import Image

from utils.errors import UserError
from utils.files import check_writable, write_whole
from utils.image_io import list_images, read_image, read_size, write_image
from utils.png import chunk

RAMP = np.linspace(0, 255, 12 * 10).reshape(12, 10).astype(np.uint8)
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)


def save(path, image, **options):
    image.save(path, **options)
    return path


KINDS = [
    ("grey.png", Image.fromarray(RAMP), np.repeat(RAMP[..., None], 3, 2), "grey"),
    (
        "deep.png",
        Image.fromarray(RAMP.astype(np.uint16) * 257),
        np.repeat(RAMP[..., None], 3, 2),
        "16 bits",
    ),
    ("alpha.png", Image.fromarray(np.dstack([COLOUR, RAMP])), COLOUR, "alpha"),
    ("plain.png", Image.fromarray(COLOUR), COLOUR, None),
    ("plain.tif", Image.fromarray(COLOUR), COLOUR, None),
]


@pytest.mark.parametrize(("name", "image", "expected", "warning"), KINDS)
def test_kind(name, image, expected, warning, tmp_path, recwarn):
    pixels = read_image(save(tmp_path / name, image))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, expected)
    messages = [str(entry.message) for entry in recwarn]
    assert len(messages) == (1 if warning else 0)
    assert all(warning in message and name in message for message in messages)


def test_16_bit_colour_and_cmyk(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "deep.png"), COLOUR[..., ::-1].astype(np.uint16) * 257)
    with pytest.warns(UserWarning, match="16 bits"):
        assert np.array_equal(read_image(tmp_path / "deep.png"), COLOUR)
    cmyk = save(tmp_path / "print.jpg", Image.fromarray(COLOUR).convert("CMYK"), quality=95)
    with pytest.warns(UserWarning, match="CMYK"):
        pixels = read_image(cmyk)
    assert np.abs(pixels.astype(int) - COLOUR).mean() < 12


def test_what_only_looks_like_16_bits_and_what_cannot_be_8(tmp_path, recwarn):
    wide = np.zeros((2, 720, 3), np.uint8)  # a BMP's row is 2160 bytes long
    assert read_image(save(tmp_path / "wide.bmp", Image.fromarray(wide))).shape == wide.shape
    assert not recwarn.list
    save(tmp_path / "float.tif", Image.fromarray(np.full((4, 4), 0.5, np.float32)))
    with pytest.raises(UserError, match="floating-point"):
        read_image(tmp_path / "float.tif")


def test_camera_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to view
    path = save(tmp_path / "turned.png", Image.fromarray(COLOUR), exif=exif)
    assert read_size(path) == (12, 10)
    assert np.array_equal(read_image(path), np.rot90(COLOUR, -1))


@pytest.mark.parametrize("ending", ["png", "tif", "jpg"])
@pytest.mark.parametrize("orientation", [0, 5, 8, 9, 10])
def test_size_is_that_of_the_picture_whatever_the_orientation(ending, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"turned.{ending}", Image.fromarray(COLOUR), exif=exif)
    assert read_size(path) == read_image(path).shape[1::-1]


def png_with(path, before=b"", behind=b""):
    """A PNG file of 10 x 12 pixels with these chunks before and behind its pixels."""
    content = save(path, Image.fromarray(COLOUR)).read_bytes()
    start, end = content.index(b"IDAT") - 4, content.index(b"IEND") - 4
    path.write_bytes(content[:start] + before + content[start:end] + behind + content[end:])
    return path


def test_exif_behind_the_pixels_of_a_png(tmp_path):
    turned, upright = Image.Exif(), Image.Exif()
    turned[0x0112], upright[0x0112] = 6, 1
    turned, upright = (chunk(b"eXIf", exif.tobytes()[6:]) for exif in (turned, upright))
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    for before, behind, size in (
        (turned, b"", (12, 10)),
        (b"", turned, (12, 10)),
        (upright, turned, (12, 10)),
        (turned, upright, (10, 12)),
        (b"", chunk(b"iTXt", xmp), (12, 10)),
        (b"", chunk(b"prIv", b"eXIf") + turned, (12, 10)),
        (b"", b"\0\0\0\1\0\0\0\0" + turned, (10, 12)),  # no chunk: Pillow looks no further
        (b"", turned[:-1] + b"?", None),  # of another checksum
    ):
        path = png_with(tmp_path / "a.png", before, behind)
        if size:
            assert read_size(path) == size
        try:
            assert read_image(path).shape[1::-1] == read_size(path)
        except UserError as error:
            assert "cannot be read" in str(error)
    (tmp_path / "cut.png").write_bytes(png_with(path, behind=turned).read_bytes()[:-30])
    with pytest.raises(UserError, match="the file ends inside its eXIf chunk"):
        read_size(tmp_path / "cut.png")

    content = png_with(path, behind=turned).read_bytes()
    start = content.index(b"IDAT") + 4
    path.write_bytes(content[:start] + bytes(20) + content[start + 20 :])
    assert read_size(path) == (12, 10)  # pixels, damaged here, are not looked at


def test_plain_turned_tiff(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.tif", Image.fromarray(RAMP), exif=exif)
    assert np.array_equal(read_image(path)[..., 0], np.rot90(RAMP, -1))


def test_pillows_own_limit_stays_the_programs(monkeypatch, tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(COLOUR))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_image(path).shape == COLOUR.shape
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_truncated_and_foreign_files_are_refused(kind, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = save(tmp_path / f"whole.{kind}", Image.fromarray(noise)).read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(whole[: len(whole) // 2])
    (tmp_path / f"text.{kind}").write_text("no image")
    for name in ("cut", "text", "missing"):
        with pytest.raises(UserError, match=rf"{name}\.{kind}: "):
            read_image(tmp_path / f"{name}.{kind}")


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp", "a.ppm", "a.jpg"])
def test_written_files_come_back(name, tmp_path):
    smooth = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
    smooth = np.stack([smooth, smooth + 30, smooth + 60], axis=2)
    write_image(tmp_path / "new" / name, smooth)
    back = read_image(tmp_path / "new" / name)
    if name.endswith("jpg"):
        assert np.abs(back.astype(int) - smooth).mean() < 2
    else:
        assert np.array_equal(back, smooth)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_nothing_is_left_half_written(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("before")

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(UserError, match="disk full"):
        write_whole(path, fail)
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.txt"]
    assert path.read_text() == "before"


@pytest.mark.parametrize("letter", ["x", "\u00e4", "\u6f22"])
def test_longest_names(letter, tmp_path):
    count = (255 - 4) // len(letter.encode())
    path = tmp_path / f"{letter * count}.png"
    write_image(path, COLOUR)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        check_writable(tmp_path / "file" / "output")
    check_writable(tmp_path / "output")
    assert list((tmp_path / "output").iterdir()) == []


def test_hidden_and_other_files_are_not_images(tmp_path):
    for name in ("b.PNG", "a.jpg", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "c.png").touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG"]
    assert list_images(tmp_path, recursive=True) == list_images(tmp_path)
