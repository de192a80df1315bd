"""Damaged, huge and hostile files: training goes on without them, nothing outside is reached."""

import ast
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data.datasets import TrainingSet, TrainingStream, split
from data.pairing import Pair
from tests.conftest import ROOT, save_untrained
from utils.errors import UserError
from utils.image_io import list_images, read_image, read_size, write_image

SHELLS = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}


def spoil_pixels(path):
    """Damage what only decoding finds: zeros, as a file system leaves them after a crash."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)


def spoil_header(path):
    path.write_bytes(b"not an image")


@pytest.fixture
def folder(data_folder, photos, tmp_path):
    """Eight clean photographs; which of them is held out does not depend on damage."""
    for index in range(8):
        write_image(tmp_path / "Denoise" / f"p{index}.png", np.roll(photos[index % 5], index))
    return tmp_path / "Denoise"


@pytest.fixture
def flags(train_flags, folder, tmp_path):
    flags = "--de_type denoise_15 --width 8 --patch_size 8 --val_images 1 --max_steps 12"
    return [*train_flags, *flags.split(), "--denoise_dir", folder, "--ckpt_dir", tmp_path / "run"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("spoil", [spoil_pixels, spoil_header])
def test_damaged_image_costs_one_warning(spoil, workers, folder, flags, run_script):
    for name in ("p0.png", "p3.png", "p5.png"):
        spoil(folder / name)
    result = run_script("train", *flags, "--num_workers", workers)
    assert result.code == 0, result.err
    warnings = [line for line in result.err.splitlines() if "cannot be read" in line]
    assert len(warnings) == 3
    for name in ("p0.png", "p3.png", "p5.png"):
        (warning,) = [line for line in warnings if str(folder / name) in line]
        assert "; the next image takes its place" in warning
    assert "trained 12 of 12 steps" in result.out


@pytest.mark.parametrize("spoil", [spoil_pixels, spoil_header])
def test_strict_data_ends_before_training(spoil, folder, flags, fails, tmp_path):
    spoil(folder / "p3.png")
    spoil(folder / "p5.png")
    message = fails("train", *flags, "--strict_data")
    assert "--strict_data" in message and str(folder / "p3.png") in message
    assert "(and 1 more)" in message
    assert not (tmp_path / "run").exists()


def test_strict_data_trains_on_whole_images(flags, run_script):
    result = run_script("train", *flags, "--strict_data", "--max_steps", 1)
    assert result.code == 0 and "warning" not in result.err


@pytest.mark.parametrize("spoil", [spoil_pixels, spoil_header])
def test_held_out_image_that_is_damaged_is_left_out(spoil, folder, flags, run_script):
    pairs = [Pair(None, path) for path in list_images(folder)]
    (held_out,) = split(pairs, 1)[1]
    spoil(held_out.clean)
    result = run_script("train", *flags, "--max_steps", 1)
    assert result.code == 0, result.err
    (warning,) = [line for line in result.err.splitlines() if "warning" in line]
    assert str(held_out.clean) in warning and "it is left out of the validation" in warning
    assert "7 images, 0 held out" in result.out


def test_the_next_image_is_the_same_whatever_the_number_of_workers(folder):
    pairs = [Pair(None, path) for path in list_images(folder)]
    spoil_pixels(pairs[2].clean)
    spoil_pixels(pairs[7].clean)
    found = []
    for workers, cache in ((0, 0), (2, 0), (2, 1e9)):
        sizes = dict.fromkeys((pair.clean for pair in pairs), (96, 80))
        data_set = TrainingSet({"denoise_15": pairs}, 8, 0, sizes=sizes, cache_bytes=cache)
        stream = TrainingStream(range(6), 4, rank=0, num_processes=1)
        found.append(list(DataLoader(data_set, 4, sampler=stream, num_workers=workers)))
    for batches in zip(*found, strict=True):
        for batch in batches[1:]:
            assert batch.name == batches[0].name and batch.replaced == batches[0].replaced
            assert torch.equal(batch.degraded, batches[0].degraded)
    seen = [pair for batch in found[0] for pair in zip(batch.name, batch.replaced, strict=True)]
    assert {name for name, replaced in seen if "p2.png" in replaced} == {"p3"}
    assert {name for name, replaced in seen if "p7.png" in replaced} == {"p0"}
    assert {"p2", "p7"}.isdisjoint(name for name, _ in seen)


def huge_png(path, width, height):
    """A file of some hundred bytes that says it has many pixels."""

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100000))
    content = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def test_decompression_bomb_is_refused_unread(tmp_path):
    path = huge_png(tmp_path / "bomb.png", 60000, 60000)
    for read in (read_image, read_size):
        with pytest.raises(UserError, match="60000 x 60000 pixels, more than --max_pixels"):
            read(path)


def test_max_pixels(folder, flags, fails, run_script, test_flags, tmp_path):
    pixels = 80 * 96
    assert run_script("train", *flags, "--max_pixels", pixels, "--max_steps", 1).code == 0
    shutil.rmtree(Path(flags[-1]))
    message = fails("train", *flags, "--max_pixels", pixels - 1)
    assert f"96 x 80 pixels, more than --max_pixels {pixels - 1}" in message
    checkpoint = save_untrained(tmp_path / "tiny.ckpt")
    flags = [*test_flags, "--mode", 1, "--ckpt_name", checkpoint, "--output_path", tmp_path / "out"]
    assert "more than --max_pixels 7679" in fails("test", *flags, "--max_pixels", pixels - 1)
    assert run_script("test", *flags, "--max_pixels", pixels).code == 0


def test_a_bomb_among_training_images_is_replaced(folder, flags, run_script):
    huge_png(folder / "p3.png", 60000, 60000)
    result = run_script("train", *flags)
    assert result.code == 0, result.err
    (warning,) = [line for line in result.err.splitlines() if "p3.png" in line]
    assert "more than --max_pixels" in warning


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_links_do_not_lead_out_of_the_data_folder(kind, data_folder, flags, fails, run_script):
    top = Path(flags[-1]).parent / "Derain"
    shutil.copytree(data_folder / "Train" / "Derain", top)
    outside = top.parent / "outside"
    moved = top / "gt" / "norain-1.png" if kind == "file" else top / "gt"
    shutil.move(moved, outside)
    moved.symlink_to(outside)
    flags = [*flags, "--de_type", "derain", "--derain_dir", top, "--max_steps", 1]
    message = fails("train", *flags)
    assert "through a symbolic link, outside of" in message and str(outside) in message
    assert run_script("train", *flags, "--follow_links").code == 0


def test_links_within_the_folder_and_to_it_are_followed(folder, flags, run_script):
    (folder / "again.png").symlink_to(folder / "p1.png")
    link = folder.parent / "link"
    link.symlink_to(folder)
    result = run_script("train", *flags, "--denoise_dir", link, "--max_steps", 1)
    assert result.code == 0 and "8 images" in result.out


def test_links_in_a_test_set(data_folder, fails, run_script, tmp_path):
    top = shutil.copytree(data_folder / "test" / "derain", tmp_path / "derain")
    picture = top / "Rain100L" / "input" / "photo3.png"
    shutil.move(picture, tmp_path / "secret.png")
    picture.symlink_to(tmp_path / "secret.png")
    checkpoint = save_untrained(tmp_path / "tiny.ckpt")
    flags = ["--mode", 1, "--derain_path", top, "--cuda=-1", "--ckpt_name", checkpoint]
    flags += ["--output_path", tmp_path / "out"]
    assert "outside of" in fails("test", *flags)
    assert not (tmp_path / "out").exists()
    assert run_script("test", *flags, "--follow_links").code == 0


@pytest.mark.parametrize(
    "line", ["../secret.png", "rainy/../../secret.png", "/etc/secret.png", "..\\secret.png"]
)
def test_lists_do_not_reach_out_of_the_data_folder(line, data_folder, photos, flags, fails):
    """A name in a list is looked up among the images that were found, never opened as a path."""
    top = Path(flags[-1]).parent
    write_image(top / "secret.png", photos[0])
    derain = shutil.copytree(data_folder / "Train" / "Derain", top / "Derain")
    (top / "lists" / "rainy").mkdir(parents=True)
    (top / "lists" / "rainy" / "rainTrain.txt").write_text(f"{line}\n")
    flags = [*flags, "--de_type", "derain", "--derain_dir", derain]
    message = fails("train", *flags, "--data_file_dir", top / "lists")
    assert "names 1 images that are not in the data folder" in message


def test_names_never_reach_a_shell(folder, flags, run_script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "$(touch pwned).png",
        "`touch pwned`.png",
        "; touch pwned;.png",
        "a\nb.png",
        "-rf.png",
    ):
        shutil.copy(folder / "p0.png", folder / f"{name}.png")
    result = run_script("train", *flags)
    assert result.code == 0, result.err
    assert not list(tmp_path.rglob("pwned"))


def test_no_code_asks_for_a_shell():
    """No call of what takes a command line as text, and no `shell=True`."""
    for path in ROOT.rglob("*.py"):
        if any(part.startswith(".") for part in path.relative_to(ROOT).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                assert name not in SHELLS, (path, node.lineno)
                assert not [key for key in node.keywords if key.arg == "shell"], (path, node.lineno)


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_resuming_from_a_malicious_pickle_runs_nothing(flags, fails, tmp_path):
    """As one that the checkpoint of a whole run hides; testing with one is in test_bad_input."""
    trap = tmp_path / "trap"
    content = torch.load(save_untrained(tmp_path / "a.ckpt"), weights_only=True)
    (tmp_path / "run").mkdir()
    torch.save({**content, "callbacks": Malicious(trap)}, tmp_path / "run" / "last.ckpt")
    message = fails("train", *flags, "--resume")
    assert "none of last.ckpt" in message
    assert "refused" in fails("train", *flags, "--resume", tmp_path / "run" / "last.ckpt")
    assert not trap.exists()
    torch.load(tmp_path / "run" / "last.ckpt", weights_only=False)  # the trap does work
    assert trap.exists()
