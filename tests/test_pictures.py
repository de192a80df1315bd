"""A picture comes back as it was: depth, grey, alpha, colour profile, EXIF data, upright."""

import io
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps

import utils.pictures
from utils.errors import UserError
from utils.image_io import read_image, read_size
from utils.pictures import Picture, parse_picture, read_picture, write_picture

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = PROFILE[:16] + b"GRAY" + PROFILE[20:]
CHANNELS = {"grey": 1, "grey and alpha": 2, "colour": 3, "colour and alpha": 4}


def make(channels: int, kind=np.uint8) -> Picture:
    generator = np.random.default_rng(channels)
    top = np.iinfo(kind).max
    smooth = np.add.outer(np.arange(20), np.arange(30))[..., None] * (top // 60)
    noise = generator.integers(0, top // 6, (20, 30, channels))
    pixels = (smooth + noise).astype(kind)
    has_alpha = channels in (2, 4)
    return Picture(
        np.ascontiguousarray(pixels[..., : channels - has_alpha]),
        np.ascontiguousarray(pixels[..., -1]) if has_alpha else None,
        GREY_PROFILE if channels < 3 else PROFILE,
        describe(),
    )


def describe(**tags) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "somebody"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2026:01:02 03:04:05"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    for name, value in tags.items():
        exif[ExifTags.Base[name]] = value
    return exif.tobytes()


def told(exif: bytes) -> list:
    known = Image.Exif()
    known.load(exif)
    directories = ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo
    found = {tag: value for tag, value in known.items() if tag not in directories}
    return [found, *(known.get_ifd(tag) for tag in directories)]


def assert_same(one: Picture, other: Picture):
    assert one.pixels.dtype == other.pixels.dtype
    assert np.array_equal(one.pixels, other.pixels)
    assert (one.alpha is None) == (other.alpha is None)
    assert one.alpha is None or np.array_equal(one.alpha, other.alpha)


@pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.png", np.uint8),
        ("a.tif", np.uint8),
        ("a.webp", np.uint8),
        ("a.png", np.uint16),
        ("a.tiff", np.uint16),
    ],
)
def test_lossless_formats_keep_everything(name, kind, channels, tmp_path, recwarn):
    before = make(channels, kind)
    write_picture(tmp_path / name, before)
    after = read_picture(tmp_path / name)
    messages = [str(entry.message) for entry in recwarn.list]
    if (name == "a.webp" and channels < 3) or (name == "a.tiff" and channels == 2):  # no grey there
        assert np.ptp(after.pixels, axis=2).max() == 0
        after = after._replace(pixels=after.pixels[..., :1])
        words = f"{tmp_path / name}: its colour profile is for GRAY, not RGB, dropped"
        assert messages == [words] and after.profile is None
    else:
        assert not messages and after.profile == before.profile
    assert_same(before, after)
    assert told(after.exif) == told(before.exif)
    with Image.open(tmp_path / name) as image:  # another reader finds a whole file, too
        assert image.size == before.size
        image.load()


@pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS)
@pytest.mark.parametrize("name", ["a.jpg", "a.bmp", "a.ppm"])
def test_other_formats_say_what_they_drop(name, channels, tmp_path):
    before = make(channels, np.uint16)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_picture(tmp_path / name, before)
    messages = [str(entry.message) for entry in caught]
    dropped = ["alpha channel"] * (channels in (2, 4)) + ["16 bits a channel"]
    dropped += [] if name == "a.jpg" else ["colour profile", "EXIF data"]
    for message, what in zip(messages, dropped, strict=True):
        assert name in message and f"has no {what}" in message
    after = read_picture(tmp_path / name)
    assert after.alpha is None and after.pixels.dtype == np.uint8
    if name != "a.ppm":  # which Pillow reads as colour where it was written so, and grey likewise
        assert after.pixels.shape == before.pixels.shape
    difference = np.abs(after.pixels.astype(float) - before.pixels / 257)
    assert difference.mean() < (5 if name == "a.jpg" else 0.5)
    assert (after.profile, bool(after.exif)) == (
        (before.profile, True) if name == "a.jpg" else (None, False)
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ("jpg", np.uint8),
        ("png", np.uint8),
        ("png", np.uint16),
        ("tif", np.uint8),
        ("tif", np.uint16),
    ],
)
def test_orientation_is_applied_once(ending, kind, orientation, tmp_path):
    exif = describe(Orientation=orientation)
    write_picture(tmp_path / f"a.{ending}", make(3, kind)._replace(exif=exif))
    with Image.open(tmp_path / f"a.{ending}") as image:
        expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    picture = read_picture(tmp_path / f"a.{ending}")
    assert picture.size == ((30, 20) if orientation < 5 else (20, 30))
    assert np.abs(picture.preview().astype(int) - expected).max() <= 1  # Pillow cuts, we round
    assert ExifTags.Base.Orientation not in told(picture.exif)[0]
    write_picture(tmp_path / f"b.{ending}", picture)
    assert read_picture(tmp_path / f"b.{ending}").size == picture.size


def test_16_bit_files_of_others(tmp_path):
    import cv2

    picture = make(4, np.uint16)
    pixels = np.dstack([picture.pixels[..., ::-1], picture.alpha])
    for name in ("a.png", "a.tif"):
        cv2.imwrite(str(tmp_path / name), pixels)
        assert_same(read_picture(tmp_path / name), picture)
        cv2.imwrite(str(tmp_path / name), pixels[..., 0])
        assert_same(read_picture(tmp_path / name), Picture(pixels[..., :1]))
    grey = pixels[..., 0].astype(np.int32)
    Image.fromarray(grey).save(tmp_path / "32.tif")
    assert np.array_equal(read_picture(tmp_path / "32.tif").pixels[..., 0], grey)
    for index, beyond in enumerate((grey + 65536, grey - 65536)):
        Image.fromarray(beyond).save(tmp_path / f"{index}.tif")
        for read in (read_picture, read_image):
            with pytest.raises(UserError, match="integers beyond 0 to 65535"):
                read(tmp_path / f"{index}.tif")


@pytest.mark.parametrize("big", [False, True])
def test_16_bit_tiff_files_of_every_kind(big, tmp_path):
    tifffile = pytest.importorskip("tifffile")  # comes with scikit-image
    picture = make(4, np.uint16)
    colours, grey = picture.pixels, picture.pixels[..., :1]
    alpha = np.maximum(picture.alpha, 20_000)
    path = tmp_path / "a.tif"

    def write(pixels, photometric, extra=None, **options):
        extra = {"extrasamples": [extra]} if extra else {}
        tifffile.imwrite(
            path, pixels, bigtiff=big, photometric=photometric, metadata=None, **extra, **options
        )

    write(np.dstack([colours, alpha]), "rgb", "unassalpha")
    assert_same(read_picture(path), Picture(colours, alpha))
    write(np.dstack([colours, alpha]), "rgb", "unspecified")
    assert_same(read_picture(path), Picture(colours))
    for pixels, photometric in ((grey, "minisblack"), (65535 - grey, "miniswhite")):
        write(pixels[..., 0], photometric)
        assert_same(read_picture(path), Picture(grey))
        with pytest.warns(UserWarning, match="16 bits"):
            assert np.abs(read_image(path) - grey / 257).max() <= 0.5

    multiplied = np.rint(colours * (alpha / 65535)[..., None]).astype(np.uint16)
    write(np.dstack([multiplied, alpha]), "rgb", "assocalpha")
    divided = read_picture(path)
    assert np.array_equal(divided.alpha, alpha)
    assert np.abs(divided.pixels.astype(int) - colours).max() <= 2
    write(np.zeros((20, 30, 4), np.uint16), "rgb", "assocalpha")
    assert read_picture(path).pixels.max() == 0

    write(np.ascontiguousarray(colours.transpose(2, 0, 1)), "rgb", planarconfig="separate")
    for read in (read_picture, read_image, read_size):
        with pytest.raises(UserError, match=r"a\.tif: .*in separate planes; save it"):
            read(path)
    for pixels in (np.zeros((20, 30, 3), np.uint32), np.zeros((20, 30, 3), np.float16)):
        write(pixels, "rgb")
        with pytest.raises(UserError, match=r"a\.tif: .*of a kind that is not known here; save"):
            read_picture(path)


def test_12_bits(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((4, 4), np.uint16), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["BitsPerSample"].overwrite(12)
    with pytest.raises(UserError, match="12 bits a channel"):
        read_picture(path)


def test_png_of_several_chunks_of_pixels(monkeypatch, tmp_path):
    monkeypatch.setattr("utils.deep_images.LONGEST_IDAT", 100)
    write_picture(tmp_path / "a.png", make(3, np.uint16))
    assert (tmp_path / "a.png").read_bytes().count(b"IDAT") > 10
    assert_same(read_picture(tmp_path / "a.png"), make(3, np.uint16))


def test_palettes_and_bilevel(tmp_path):
    colours = Image.fromarray(make(3).pixels)
    colours.quantize(16).save(tmp_path / "palette.png")
    assert read_picture(tmp_path / "palette.png").pixels.shape == (20, 30, 3)
    colours.quantize(16).save(tmp_path / "clear.png", transparency=3)
    alpha = read_picture(tmp_path / "clear.png").alpha
    assert set(np.unique(alpha)) == {0, 255}
    colours.convert("1").save(tmp_path / "bilevel.png")
    assert read_picture(tmp_path / "bilevel.png").pixels.shape == (20, 30, 1)


def test_cmyk_and_frames_are_warned_of(tmp_path):
    image = Image.fromarray(make(3).pixels)
    image.convert("CMYK").save(tmp_path / "print.jpg", icc_profile=PROFILE)
    with pytest.warns(UserWarning, match=r"print\.jpg: CMYK"):
        assert read_picture(tmp_path / "print.jpg").profile is None
    image.convert("LAB").save(tmp_path / "lab.tif", icc_profile=PROFILE)
    with pytest.warns(UserWarning, match=r"lab\.tif: LAB, converted to RGB"):
        assert read_picture(tmp_path / "lab.tif").profile is None
    image.save(tmp_path / "many.tif", save_all=True, append_images=[image])
    with pytest.warns(UserWarning, match=r"many\.tif: only the first of 2 frames"):
        assert read_picture(tmp_path / "many.tif").size == (30, 20)


def test_a_profile_for_other_colours_is_left_out(tmp_path):
    write_picture(tmp_path / "a.png", make(1)._replace(profile=PROFILE))
    words = r"a\.png: its colour profile is for RGB, not GRAY"
    with pytest.warns(UserWarning, match=words):
        assert read_picture(tmp_path / "a.png").profile is None


def test_deep_grey_with_a_transparent_level(tmp_path):
    levels = np.arange(600, dtype=np.uint16).reshape(20, 30)
    Image.fromarray(levels).save(tmp_path / "a.png", transparency=7)
    picture = read_picture(tmp_path / "a.png")
    assert picture.pixels.dtype == np.uint16 and np.array_equal(picture.pixels[..., 0], levels)
    assert np.array_equal(picture.alpha, np.where(levels == 7, 0, 65535))


def test_damaged_exif_costs_only_itself(tmp_path):
    file = io.BytesIO()
    Image.fromarray(make(3).pixels).save(file, "JPEG", exif=b"Exif\x00\x00II*\x00\x99\x00\x00\x00")
    (tmp_path / "a.jpg").write_bytes(file.getvalue())
    with pytest.warns(UserWarning, match=r"a\.jpg: Corrupt EXIF data"):  # Pillow's words
        picture = read_picture(tmp_path / "a.jpg")
    assert picture.size == (30, 20) and picture.exif is None
    long = make(3)._replace(exif=describe(ImageDescription="x" * 70_000))
    with pytest.warns(UserWarning, match="too long for a JPEG"):
        write_picture(tmp_path / "b.jpg", long)


def test_warnings_keep_their_kind_and_the_process_its_filters(monkeypatch, tmp_path):
    def decode(image, read_file):
        time.sleep(0.05)  # until the other thread is there, too
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return decode_as_ever(image, read_file)

    decode_as_ever = utils.pictures._decode
    monkeypatch.setattr(utils.pictures, "_decode", decode)
    write_picture(tmp_path / "a.png", make(3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore", DeprecationWarning)
        filters = [*warnings.filters]
        with ThreadPoolExecutor(2) as pool:
            assert len(list(pool.map(read_picture, [tmp_path / "a.png"] * 2))) == 2
        assert warnings.filters == filters and not caught
        warnings.simplefilter("error", DeprecationWarning)
        with pytest.raises(DeprecationWarning, match=r"a\.png: old"):
            read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif", "bmp"])
def test_what_is_no_picture(ending, tmp_path):
    write_picture(tmp_path / f"whole.{ending}", make(3)._replace(profile=None, exif=None))
    whole = (tmp_path / f"whole.{ending}").read_bytes()
    (tmp_path / f"cut.{ending}").write_bytes(whole[: len(whole) // 2])
    (tmp_path / f"text.{ending}").write_text("no image")
    for name in ("cut", "text", "missing"):
        with pytest.raises(UserError, match=rf"{name}\.{ending}: "):
            read_picture(tmp_path / f"{name}.{ending}")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_png_with_zeros_in_place_of_pixels(kind, tmp_path):
    write_picture(tmp_path / "a.png", make(3, kind))
    content = (tmp_path / "a.png").read_bytes()
    assert parse_picture(content, "whole", 10**6)[0].size == (30, 20)
    content = content[:-200] + bytes(200)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png: cannot be read"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(UserError, match="upload: cannot be read"):
        parse_picture(content, "upload", 10**6)


def test_cut_16_bit_file_and_floating_point(tmp_path):
    write_picture(tmp_path / "a.png", make(3, np.uint16))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(UserError, match=r"a\.png: cannot be read"):
        read_picture(tmp_path / "a.png")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match="floating-point"):
        read_picture(tmp_path / "float.tif")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_to_the_network_and_back(kind, channels):
    picture = make(channels, kind)
    seen = picture.to_tensor()
    assert seen.shape == (3, 20, 30) and 0 <= seen.min() < seen.max() <= 1
    assert_same(picture.with_colours(seen), picture)
    black = picture.with_colours(torch.full((3, 20, 30), -1.0))
    assert black.pixels.max() == 0 and black.pixels.shape == picture.pixels.shape
    assert picture.with_colours(torch.full((3, 20, 30), 2.0)).pixels.min() == np.iinfo(kind).max
