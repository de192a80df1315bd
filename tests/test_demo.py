"""demo.py and am_promptir.restore: what they take, what they keep, what they say."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import am_promptir
from am_promptir import load, restore
from net.checkpoint import load_network
from tests.conftest import ROOT, save_untrained
from utils import inference
from utils.comparison import BAR_COLOUR, BAR_HEIGHT, CAPTION_HEIGHT, GAP
from utils.errors import UserError
from utils.image_io import list_images, read_image, write_image
from utils.pictures import Picture, read_picture, write_picture

FIRST_OF_PIPE = "test ${PIPESTATUS[0]} = 0"  # its exit code, not that of the program after it
NAMES = ["denoise_15", "denoise_25", "denoise_50", "derain", "dehaze"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("checkpoint") / "tiny.ckpt")


@pytest.fixture(scope="module")
def trained(checkpoint):
    return load(checkpoint, cuda=-1)


@pytest.fixture
def demo(run_script, checkpoint, tmp_path):
    """Run demo.py into out/; returns how it ended and its report."""

    def run(*flags):
        usual = ["--output", tmp_path / "out", "--ckpt_name", checkpoint, "--cuda", -1]
        result = run_script("demo", *usual, *flags)
        report = tmp_path / "out" / "restored.json"
        return result, json.loads(report.read_text()) if report.exists() else None

    return run


def results(tmp_path):
    paths = (path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.*"))
    return sorted(str(path) for path in paths)


def test_folder_with_comparisons(demo, photos, tmp_path):
    write_image(tmp_path / "in" / "a.png", photos[0][:37, :51])
    write_image(tmp_path / "in" / "deeper" / "b.jpg", photos[1])
    result, report = demo("--input", tmp_path / "in", "--compare")
    assert result.code == 0, result.err
    assert "2 of 2 pictures restored" in result.out and "a.png: looks like " in result.out
    compared = ["compare/a.png.png", "compare/deeper/b.jpg.png"]
    assert results(tmp_path) == ["a.png", *compared, "deeper/b.jpg", "restored.json"]
    assert read_image(tmp_path / "out" / "a.png").shape == (37, 51, 3)

    for entry in report["pictures"]:
        assert list(entry["weights"]) == NAMES
        assert sum(entry["weights"].values()) == pytest.approx(1, abs=1e-5)
    picture = read_image(tmp_path / "out" / compared[1])
    assert picture.shape == (CAPTION_HEIGHT + 80 + 5 * BAR_HEIGHT + GAP, 2 * 96 + GAP, 3)
    bars = picture[CAPTION_HEIGHT + 80 + GAP :]
    lengths = (bars == BAR_COLOUR).all(axis=2)[BAR_HEIGHT // 2 :: BAR_HEIGHT].sum(axis=1)
    weights = np.array(list(report["pictures"][1]["weights"].values()))
    assert np.abs(lengths - weights * (2 * 96 + GAP - 92 - 44)).max() < 1


def test_weights_are_those_of_the_forward_pass(trained, photos):
    image = torch.from_numpy(photos[0]).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        scores = trained.net(image, with_scores=True)[1]
    expected = scores.softmax(dim=2).mean(dim=(0, 1)).tolist()
    weights = restore(photos[0], trained, tile=0).weights
    assert list(weights) == NAMES and list(weights.values()) == pytest.approx(expected, abs=1e-6)
    parts = []
    tiled = restore(photos[0], trained, tile=64, on_part=parts.append)
    assert [part.done for part in parts] == list(range(1, parts[0].total + 1)) and len(parts) > 1
    assert sum(tiled.weights.values()) == pytest.approx(1, abs=1e-5)
    assert restore(photos[0], trained, task="derain").weights is None


def test_self_ensemble(demo, trained, photos, tmp_path):
    write_image(tmp_path / "in" / "a.png", photos[0])
    result, report = demo("--input", tmp_path / "in", "--self_ensemble")
    assert result.code == 0 and report["self_ensemble"] is True, result.err
    assert report["tile"] == "auto"
    expected = restore(photos[0], trained, self_ensemble=True)
    assert sum(expected.weights.values()) == pytest.approx(1, abs=1e-5)
    written = read_image(tmp_path / "out" / "a.png")
    assert np.array_equal(written, expected.after.pixels)
    assert not np.array_equal(written, restore(photos[0], trained).after.pixels)


def test_patterns_lists_and_several_inputs(demo, photos, monkeypatch, tmp_path):
    for name in ("in/a/x.png", "in/b/x.png", "in/b/y.jpg", "other/z.png"):
        write_image(tmp_path / name, photos[0][:16, :24])
    assert demo("--input", tmp_path / "in" / "**" / "*.png")[0].code == 0
    assert results(tmp_path) == ["a/x.png", "b/x.png", "restored.json"]

    listed = "".join(f"{tmp_path / 'in' / name}\n" for name in ("a/x.png", "b/y.jpg"))
    monkeypatch.setattr("sys.stdin", io.StringIO(listed + "\n"))
    result, report = demo("--input", "-", tmp_path / "other")
    assert result.code == 0, result.err
    outputs = [entry["output"] for entry in report["pictures"]]
    assert outputs == [str(tmp_path / "out" / name) for name in ("z.png", "a/x.png", "b/y.jpg")]

    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "[1].png").write_bytes((tmp_path / "in/a/x.png").read_bytes())
    assert demo("--input", "in/[1].png")[0].code == 0
    assert (tmp_path / "out" / "[1].png").exists()


def test_a_failure_stops_nothing_else(demo, photos, monkeypatch, tmp_path):
    write_image(tmp_path / "in" / "good.png", photos[0])
    (tmp_path / "in" / "bad.png").write_text("no image")
    result, report = demo("--input", tmp_path / "in")
    assert result.code == 1 and "Traceback" not in result.err
    assert "bad.png: cannot be read" in result.err
    assert f"1 failed: {tmp_path / 'in' / 'bad.png'}" in result.err
    assert "1 of 2 pictures restored" in result.out
    assert [path.name for path in list_images(tmp_path / "out")] == ["good.png"]
    good, bad = report["pictures"]
    assert "weights" in good and "cannot be read" in bad["error"]

    lines = f"{tmp_path / 'in' / 'good.png'}\nnowhere.png\n{tmp_path / 'in'}\n{__file__}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    result, report = demo("--input", "-")
    assert result.code == 1 and "1 of 4 pictures restored" in result.out
    for words in ("nowhere.png: no such file", "in: a folder", "test_demo.py: expected a picture"):
        assert words in result.err

    def fail(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("utils.inference.restore", fail)
    result, _ = demo("--input", tmp_path / "in" / "good.png")
    assert result.code == 1
    assert "good.png: 96 x 80 pixels: out of memory; give a smaller tile" in result.err


def test_encoders_and_networks_that_fail_stop_nothing_else(demo, photos, monkeypatch, tmp_path):
    deep = photos[0].astype(np.uint16) * 257
    write_picture(tmp_path / "in" / "a.tif", Picture(deep))
    for name in ("b.webp", "c.png"):
        write_image(tmp_path / "in" / name, photos[0])
    save = Image.Image.save

    def fail(image, file, format_name=None, **options):
        if format_name == "WEBP":
            raise MemoryError
        save(image, file, format_name, **options)

    monkeypatch.setattr(Image.Image, "save", fail)
    monkeypatch.setattr("utils.deep_images.LONGEST_STRIP", 10)
    result, report = demo("--input", tmp_path / "in")
    assert result.code == 1 and "1 of 3 pictures restored" in result.out, result.err
    assert "a.tif: cannot be written as TIFF (more than 4 GB" in result.err
    assert "b.webp: cannot be written as WEBP (out of memory); choose another" in result.err

    def break_down(*arguments):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")

    monkeypatch.setattr("utils.inference.restore", break_down)
    result, report = demo("--input", tmp_path / "in")
    assert result.code == 1 and "96 x 80 pixels: cannot be restored (cuDNN error" in result.err
    assert len(report["pictures"]) == 3


def test_comparison_that_cannot_be_made(trained, photos, monkeypatch, tmp_path):
    result = restore(photos[0], trained)

    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("numpy.concatenate", fail)
    with pytest.raises(UserError, match=r"a\.png: cannot be written as PNG \(out of memory\)"):
        result.save_comparison(tmp_path / "a.png")


def test_earlier_comparisons_are_no_pictures(demo, photos, tmp_path):
    write_image(tmp_path / "in" / "a.png", photos[0][:16, :16])
    assert demo("--input", tmp_path / "in", "--compare")[0].code == 0
    again = tmp_path / "again"
    for given in (tmp_path / "out", tmp_path / "out" / "**/*.png"):
        result, _ = demo("--input", given, "--compare", "--output", again)
        assert result.code == 0, result.err
        assert f"1 of 2 pictures in {tmp_path / 'out'} are earlier results" in result.err
        names = sorted(str(path.relative_to(again)) for path in list_images(again, True))
        assert names == ["a.png", "compare/a.png.png"]
    meant = tmp_path / "out" / "compare"
    assert demo("--input", meant, "--output", again)[0].code == 0


def test_lists_of_editors_and_pictures_in_their_place(demo, photos, monkeypatch, tmp_path):
    write_image(tmp_path / "in" / "deep" / "a.png", photos[0][:16, :16])
    path = tmp_path / "in" / "deep" / "a.png"
    for content, code in ((f"\ufeff{path}\r\n".encode(), 0), (path.read_bytes(), 2)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
        result, _ = demo("--input", "-")
        assert result.code == code, result.err
    assert "error: --input -: binary data on standard input" in result.err
    assert demo("--input", tmp_path / "in" / "**")[0].code == 0


def test_a_link_and_back_is_another_folder(demo, photos, monkeypatch, tmp_path):
    for place in ("s/a.png", "s/deep/a.png"):
        write_image(tmp_path / place, photos[0][:16, :16])
    (tmp_path / "s" / "deep" / "er").mkdir()
    (tmp_path / "s" / "link").symlink_to(tmp_path / "s" / "deep" / "er")
    lines = [tmp_path / "s" / "a.png", tmp_path / "s" / "link" / ".." / "a.png"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(map(str, lines))))
    result, _ = demo("--input", "-")
    assert result.code == 0 and "2 of 2 pictures restored" in result.out, result.err
    assert (tmp_path / "out" / "a.png").exists() and (tmp_path / "out" / "deep" / "a.png").exists()
    (tmp_path / "twice").symlink_to(tmp_path / "s")
    lines = [tmp_path / "twice" / "a.png", tmp_path / "twice" / "deep" / ".." / "a.png"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(map(str, lines))))
    assert "1 of 1 pictures restored" in demo("--input", "-")[0].out


def test_names_of_lists(demo, photos, monkeypatch, tmp_path):
    """They may begin and end with spaces, be as long as names can be, and be there twice."""
    names = [" lead.png", "x" * 251 + ".png"]
    for name in names:
        write_image(tmp_path / "in" / name, photos[0][:16, :16])
    monkeypatch.chdir(tmp_path / "in")
    lines = [*names, f"../in/{names[0]}", "", "one\0two.png"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    result, report = demo("--input", "-", "--compare")
    assert result.code == 1 and "2 of 3 pictures restored" in result.out, result.err
    assert "in a list one a line" in report["pictures"][-1]["error"]
    compared = [path.name for path in list_images(tmp_path / "out" / "compare")]
    assert len(compared) == 2 and max(map(len, compared)) == 255


def test_a_pipe_is_no_picture(demo, tmp_path):
    os.mkfifo(tmp_path / "a.png")
    result, _ = demo("--input", tmp_path / "a.png")
    assert result.code == 2 and "a.png: no regular file" in result.err
    with pytest.raises(UserError, match=r"a\.png: a pipe"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("streams", "code", "words"),
    [
        ("> /dev/full", 0, "warning: standard output cannot be written (No space left"),
        (
            "| true; test ${PIPESTATUS[0]} = 0",
            0,
            "warning: standard output cannot be written (Broken pipe)",
        ),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("2> /dev/full", 0, ""),
        (f"2>&1 | true; {FIRST_OF_PIPE}", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        ("--input - <&-", 2, "error: --input -: no pictures on standard input"),
    ],
)
def test_streams_that_are_closed_or_full(streams, code, words, checkpoint, photos, tmp_path):
    write_image(tmp_path / "a.png", photos[0][:16, :16])
    flags = f"--cuda -1 --ckpt_name {checkpoint} --output {tmp_path / 'out'}"
    command = f"{sys.executable} demo.py --input {tmp_path / 'a.png'} {flags} {streams}"
    done = subprocess.run(
        ["/bin/bash", "-c", command], cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=120
    )
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    assert words in done.stderr and done.stderr.count("cannot be written") <= 1
    assert (tmp_path / "out" / "a.png").exists() == (code == 0)


def test_interrupted_while_libraries_are_imported():
    code = "import os, signal; signal.signal(2, signal.default_int_handler); import utils.start; "
    code += "os.kill(os.getpid(), 2)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "error: interrupted\n" and done.returncode == 130


def test_names_that_no_terminal_shows(demo, photos, tmp_path):
    names = [os.fsdecode(b"bad\xff.png"), "two\nlines.png", "red\x1b[31m.png"]
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / names[0], photos[0][:16, :16])
    for name in names[1:]:
        (tmp_path / "in" / name).write_text("no image")
    result, report = demo("--input", tmp_path / "in")
    assert result.code == 1 and "1 of 3 pictures restored" in result.out, result.err
    assert "bad\\udcff.png: looks like" in result.out
    assert result.err.count("lines.png") == 2  # where it failed, and in the end
    assert "failed: " + str(tmp_path / "in" / "two\\nlines.png") in result.err
    assert "red\\x1b[31m.png: cannot be read" in result.err and "\x1b[31m" not in result.err
    told = {Path(entry["input"]).name for entry in report["pictures"]}
    assert told == set(names) and (tmp_path / "out" / names[0]).exists()


def test_interrupted_run_tells_what_is_done(demo, photos, monkeypatch, tmp_path):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name, photos[0][:16, :16])

    def read(path, max_pixels):
        if path.name == "b.png":
            raise KeyboardInterrupt
        return read_picture(path, max_pixels)

    monkeypatch.setattr("utils.pictures.read_picture", read)
    result, report = demo("--input", tmp_path / "in")
    assert result.code == 130 and len(report["pictures"]) == 1
    again, same = demo("--input", tmp_path / "in" / "b.png")  # of which nothing is done
    assert again.code == 130 and same == report


def test_folder_that_cannot_be_read(demo, photos, monkeypatch, tmp_path):
    for name in ("good/a.png", "locked/b.png"):
        write_image(tmp_path / "in" / name, photos[0][:16, :16])
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    result, report = demo("--input", tmp_path / "in")
    assert result.code == 1 and "in/locked: cannot be read (Permission denied)" in result.err
    assert results(tmp_path) == ["good/a.png", "restored.json"]
    assert report["pictures"][1]["input"].endswith("locked")


def test_names_that_are_too_long(demo, monkeypatch, tmp_path):
    result, _ = demo("--input", tmp_path / f"{'x' * 300}.png")
    assert result.code == 2 and "File name too long" in result.error_lines[0]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{'x' * 300}.png\n\0.png\n"))
    result, report = demo("--input", "-")
    assert result.code == 1 and len(report["pictures"]) == 2
    assert "File name too long" in result.err and "null byte" in result.err


def test_results_inside_the_input_folder(demo, photos, tmp_path):
    output = tmp_path / "out"
    for name in ("a.png", "compare/a.png.png"):
        write_image(tmp_path / name, photos[0][:16, :16])
    for _ in range(2):
        result, report = demo("--input", tmp_path)
        assert result.code == 0, result.err
        assert len(report["pictures"]) == 2 and not (output / "out").exists()
    assert demo("--input", tmp_path, "--compare")[0].code == 2


def test_no_memory_beside_the_network_and_results_that_are_not_finite(trained, photos, monkeypatch):
    def fail(*arguments):
        raise MemoryError

    def refuse(*arguments):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")

    for name, failure in (("to_tensor", fail), ("with_colours", fail), ("to_tensor", refuse)):
        with monkeypatch.context() as patch:
            patch.setattr(Picture, name, failure)
            with pytest.raises(UserError, match="pixels: out of memory"):
                restore(photos[0], trained)
    for value in (torch.nan, torch.inf, -torch.inf):
        with trained.net.output.register_forward_hook(lambda *given, v=value: given[2] + v):
            for tile in (0, 64):
                with pytest.raises(UserError, match="not finite; use another checkpoint"):
                    restore(photos[0], trained, tile=tile)


@pytest.mark.filterwarnings("ignore:picture of mode CMYK")
def test_images_of_pillow(trained, photos, tmp_path):
    image = Image.fromarray(photos[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    clear = image.quantize(16)
    clear.info["transparency"] = 3
    deep = photos[0][..., 0].astype(np.uint16) * 257
    for given, alike in (
        (image, photos[0]),
        (image.convert("P"), image.convert("P").convert("RGB")),
        (clear, clear.convert("RGBA")),
        (image.convert("LA"), np.dstack([image.convert("L"), np.full((80, 96), 255, np.uint8)])),
        (image.convert("1"), image.convert("1").convert("L")),
        (image.convert("CMYK"), image.convert("CMYK").convert("RGB")),
        (Image.fromarray(deep), deep),
        (Image.open(tmp_path / "turned.png"), np.rot90(photos[0], -1)),
    ):
        taken, expected = am_promptir.as_picture(given), am_promptir.as_picture(np.asarray(alike))
        assert np.array_equal(taken.pixels, expected.pixels), given.mode
        assert np.array_equal(taken.alpha, expected.alpha), given.mode
    write_picture(tmp_path / "deep.png", Picture(photos[0].astype(np.uint16) * 257))
    for given, words in (
        (Image.fromarray(deep.astype(np.float32)), "mode F: cannot be taken .floating-point"),
        (Image.fromarray(deep.astype(np.int32) * 2), "integers beyond 0 to 65535"),
        (Image.open(tmp_path / "deep.png"), "which Pillow reduces; give the file's path"),
        (tmp_path, f"{tmp_path}: a folder; give the path of a picture"),
    ):
        with pytest.raises(UserError, match=words):
            restore(given, trained)


def test_inputs_that_mean_nothing(demo, photos, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    write_image(tmp_path / "one" / "x.png", photos[0])
    write_image(tmp_path / "two" / "x.png", photos[0])
    for inputs, words in (
        (["-"], "no pictures on standard input"),
        ([tmp_path / "*.jpg"], "no picture's name is like this"),
        ([tmp_path / "photo[1].jpg"], "write [[] for a bracket"),
        ([tmp_path / "**.jpg"], "no such pattern"),
        ([tmp_path / "one", ""], "'': expected a path"),
        ([tmp_path / "one", tmp_path / "two"], "would be overwritten"),
    ):
        result, report = demo("--input", *inputs)
        assert (result.code, report) == (2, None)
        assert len(result.error_lines) == 1 and words in result.err


def test_output_that_is_a_file(run_script, checkpoint, photos, tmp_path):
    for name in ("x.png", "y.png"):
        write_image(tmp_path / "in" / name, photos[0])

    def run(output, *inputs):
        flags = ["--output", output, "--compare", "--ckpt_name", checkpoint, "--cuda", -1]
        return run_script("demo", "--input", *inputs, *flags)

    result = run(tmp_path / "out" / "result.jpg", tmp_path / "in" / "x.png")
    assert result.code == 0 and "result.jpg" in result.out, result.err
    assert results(tmp_path) == ["compare/result.jpg.png", "result.jpg"]
    assert (tmp_path / "out" / "result.jpg").read_bytes()[:2] == b"\xff\xd8"
    for output, inputs, words in (
        (tmp_path / "new.jpg", ["x.png", "y.png"], "one file for 2 pictures; expected a folder"),
        (tmp_path / "new.gif", ["x.png"], "expected a folder, or a name ending in .bmp"),
        (tmp_path / "in" / "x.png", ["x.png"], "would be overwritten"),
        ("", ["x.png"], "'': expected a path"),
    ):
        result = run(output, *(tmp_path / "in" / name for name in inputs))
        assert result.code == 2 and len(result.error_lines) == 1 and words in result.err
        assert not (tmp_path / "new.jpg").exists() and not (tmp_path / "new.gif").exists()
    (tmp_path / "folder.png").mkdir()
    assert run(tmp_path / "folder.png", tmp_path / "in" / "x.png").code == 0
    assert (tmp_path / "folder.png" / "x.png").exists()


def test_tiles_are_told_of_where_nobody_asked_for_them(demo, photos, tmp_path, monkeypatch):
    write_image(tmp_path / "in.png", photos[0])
    words = "in 4 tiles, for want of memory"
    for flags, free, tiles, told in (
        ([], 10**12, 1, False),
        ([], 0, 4, True),
        (["--task", "derain"], 0, 4, True),
        (["--tile", 64], 0, 4, False),
        (["--tile", 0], 0, 1, False),
    ):
        monkeypatch.setattr(inference, "free_memory", lambda device, free=free: free)
        result, report = demo("--input", tmp_path / "in.png", *flags)
        assert report["pictures"][0]["tiles"] == tiles
        assert (words in result.out) == told


def test_change_is_told(demo, photos, tmp_path):
    write_image(tmp_path / "in.png", photos[0])
    words = "; nearly unchanged"
    result, report = demo("--input", tmp_path / "in.png")
    changed = report["pictures"][0]["change_db"]
    after = read_image(tmp_path / "out" / "in.png")
    error = np.mean((photos[0].astype(float) - after) ** 2)
    assert changed == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    assert changed < 38 and words not in result.out
    result, report = demo("--input", tmp_path / "in.png", "--strength", 0)
    assert report["pictures"][0]["change_db"] is None
    assert sum(line.endswith(words) for line in result.out.splitlines()) == 1
    strength = 10 ** ((changed - 40) / 20)
    result, report = demo("--input", tmp_path / "in.png", "--strength", strength)
    assert report["pictures"][0]["change_db"] >= 38 and words in result.out
    flags = ["--strength", 0, "--task", "derain"]
    assert "unchanged" not in demo("--input", tmp_path / "in.png", *flags)[0].out


def test_change_of_every_kind_of_picture():
    for kind, channels in ((np.uint8, 1), (np.uint8, 3), (np.uint16, 1), (np.uint16, 3)):
        before = np.zeros((4, 5, channels), kind)
        after = before + kind(np.iinfo(kind).max // 5)
        change = am_promptir.Restored(Picture(before), Picture(after), None).change_db
        assert change == pytest.approx(20 * np.log10(5))


def test_a_result_is_shown_in_a_line():
    before, after = np.zeros((4, 5, 3), np.uint8), np.full((4, 5, 3), 51, np.uint8)
    shown = repr(am_promptir.Restored(Picture(before), Picture(after), {"a": 0.1, "b": 0.9}))
    assert shown == "Restored(5 x 4 pixels, 13.98 dB to the input, seen as b 90%, a 10%)"
    shown = repr(am_promptir.Restored(Picture(before), Picture(before), None))
    assert shown == "Restored(5 x 4 pixels, unchanged)"
    shown = repr(am_promptir.Restored(Picture(before), Picture(before), None, tiles=4))
    assert shown == "Restored(5 x 4 pixels, unchanged, in 4 tiles)"


def test_comparison_of_narrow_and_of_long_pictures(tmp_path):
    weights = dict.fromkeys(NAMES, 0.2)
    narrow = Picture(np.zeros((30, 10, 3), np.uint8))
    am_promptir.Restored(narrow, narrow, weights).save_comparison(tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    captions, bars = picture[:CAPTION_HEIGHT], picture[CAPTION_HEIGHT + 30 :]
    for part in (captions, bars):  # nothing is cut off at the right
        assert (part[:, -2:] == 255).all() and part.min() < 100
    assert (bars == BAR_COLOUR).all(axis=2).any()
    black = (picture[CAPTION_HEIGHT : CAPTION_HEIGHT + 30] == 0).all(axis=2)
    assert black.sum() == 2 * 30 * 10
    long = Picture(np.zeros((1, 40_000, 3), np.uint8))
    for name in ("a.jpg", "a.webp"):
        with pytest.raises(UserError, match=r"a\.\w+: 80004 x .*choose PNG or TIFF"):
            am_promptir.Restored(long, long, None).save_comparison(tmp_path / name)


def test_depth_alpha_grey_profile_and_orientation_survive(demo, tmp_path):
    generator = np.random.default_rng(0)
    deep = generator.integers(0, 65536, (24, 32, 4)).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = 6, "somebody"
    picture = Picture(deep[..., :3], deep[..., 3], b"profile", exif.tobytes())
    write_picture(tmp_path / "in" / "deep.png", picture)
    write_picture(tmp_path / "in" / "deep.tif", picture)
    write_picture(tmp_path / "in" / "grey.jpg", Picture((deep[..., :1] >> 8).astype(np.uint8)))
    result, _ = demo("--input", tmp_path / "in", "--strength", 0.5)
    assert result.code == 0, result.err
    for name in ("deep.png", "deep.tif"):
        before, after = (read_picture(tmp_path / folder / name) for folder in ("in", "out"))
        assert after.size == (24, 32) and after.pixels.dtype == np.uint16
        assert np.array_equal(after.alpha, before.alpha)
        assert (after.profile, after.exif) == (before.profile, before.exif)
        assert not np.array_equal(after.pixels, before.pixels)
    assert read_picture(tmp_path / "out" / "grey.jpg").pixels.shape == (24, 32, 1)


def test_strength_mixes(trained, photos):
    none, half, full = (restore(photos[0], trained, strength=s).after for s in (0, 0.5, 1))
    assert np.array_equal(none.pixels, photos[0])
    assert not np.array_equal(full.pixels, photos[0])
    middle = (photos[0] + full.pixels.astype(float)) / 2
    assert np.abs(half.pixels - middle).max() <= 1


def test_task_is_told(demo, photos, tmp_path):
    write_image(tmp_path / "in.png", photos[0])
    demo("--input", tmp_path / "in.png")
    blind = read_image(tmp_path / "out" / "in.png")
    result, report = demo("--input", tmp_path / "in.png", "--task", "dehaze", "--tile", 64)
    assert result.code == 0 and "--task dehaze: not among what was trained" in result.err
    assert "part 1 of " in result.err
    assert (report["knowledge"], report["task"]) == ("named", "dehaze")
    assert report["named"] == {**dict.fromkeys(NAMES, 0), "dehaze": 1}
    assert report["pictures"][0]["weights"] is None
    assert not np.array_equal(read_image(tmp_path / "out" / "in.png"), blind)


def test_python_api(checkpoint, trained, photos, tmp_path):
    write_image(tmp_path / "in.png", photos[0])
    from_file = restore(tmp_path / "in.png", checkpoint, cuda=-1)
    from_pixels = restore(photos[0], trained)
    assert np.array_equal(from_file.after.pixels, from_pixels.after.pixels)
    from_file.save(tmp_path / "new" / "out.webp")
    assert np.array_equal(read_image(tmp_path / "new" / "out.webp"), from_pixels.after.pixels)
    grey = restore(photos[0][..., 0], trained).after
    assert grey.pixels.shape == (80, 96, 1)
    with pytest.raises(UserError, match="expected a name ending in"):
        from_file.save(tmp_path / "out.gif")
    for pixels in (photos[0].astype(np.float32), photos[0][None], np.zeros((4, 4, 5), np.uint8)):
        with pytest.raises(UserError, match="expected uint8 or uint16"):
            restore(pixels, trained)
    for pixels in ([[1], [2, 3]], torch.rand(8, 8, requires_grad=True)):
        with pytest.raises(UserError, match="no array"):
            restore(pixels, trained)
    assert len(repr(trained)) < 300
    with pytest.raises(UserError, match="strength 2: expected"):
        restore(photos[0], trained, strength=2)
    with pytest.raises(UserError, match="--task snow: this network knows only denoise_15"):
        restore(photos[0], trained, task="snow")
    with pytest.raises(UserError, match="give one of them"):
        restore(photos[0], trained, task="derain", text="rain")
    for wrong, words in (
        ({"tile": -8}, "tile -8: expected"),
        ({"tile": 1}, "tile 1: expected a whole number of pixels from 64, 0 or None"),
        ({"tile": "256"}, "tile '256': expected"),
        ({"strength": "1"}, "strength '1': expected"),
        ({"task": ""}, "--task : this network knows only"),
        ({"cuda": 7}, "cuda 7: the network is on a device already"),
    ):
        with pytest.raises(UserError, match=words):
            restore(photos[0], trained, **wrong)
    for name, side in (("a.webp", 16_384), ("a.jpg", 65_501)):
        long = Picture(np.zeros((1, side, 3), np.uint8))
        with pytest.raises(UserError, match="choose PNG or TIFF"):
            am_promptir.Restored(long, long, None).save(tmp_path / name)
    assert am_promptir.load(checkpoint, cuda=-1).description == load_network(checkpoint).description
