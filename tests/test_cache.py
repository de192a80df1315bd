"""The cache of decoded images: the same samples, bounded memory, nothing half written."""

import errno
import json
import multiprocessing
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import data.cache
from data.cache import CHECKSUM_BYTES, ImageCache
from data.damage import read_sizes
from data.datasets import TrainingSet, TrainingStream
from data.degradations import DEGRADATIONS, TASKS
from data.loaders import FILES, FILES_OF_WORKER, allow_open_files
from data.pairing import find_data_sets
from tests.conftest import ROOT
from utils.errors import UserError
from utils.image_io import list_images, read_image, write_image

IMAGE_BYTES = CHECKSUM_BYTES + 80 * 96 * 3  # of the small data set
NUM_IMAGES = 15  # 3 photographs: clean for noise; rainy, hazy, and clean beside each


@pytest.fixture(scope="module")
def pairs(data_folder):
    found = {
        task.name: find_data_sets(data_folder / "Train" / task.train_folders[0], task)[0].pairs
        for task in TASKS
    }
    return {entry.name: found[entry.task] for entry in DEGRADATIONS}


@pytest.fixture
def decoded(monkeypatch):
    """The paths of the images that this process has decoded."""
    paths = []
    monkeypatch.setattr(
        data.cache,
        "read_image",
        lambda path, *limit: paths.append(path) or read_image(path, *limit),
    )
    return paths


def make_set(pairs, num_bytes, patch_size=48):
    sizes = read_sizes([pair for found in pairs.values() for pair in found])
    return TrainingSet(pairs, patch_size, 3, sizes=sizes, cache_bytes=num_bytes)


def load(data_set, workers, context=None):
    sampler = TrainingStream(range(12), 4, rank=0, num_processes=1)
    loader = DataLoader(
        data_set, 4, sampler=sampler, num_workers=workers, multiprocessing_context=context
    )
    return list(loader)


@pytest.fixture(scope="module")
def uncached(pairs):
    return load(make_set(pairs, 0), workers=0)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("images", [0, 1, 7, 7.9, 1000])
def test_samples_are_the_same_whatever_is_kept(images, workers, pairs, uncached):
    data_set = make_set(pairs, images * IMAGE_BYTES)
    assert len(data_set.cache) == min(int(images), NUM_IMAGES)
    batches = load(data_set, workers)
    batches += load(data_set, workers)  # what the first pass has kept
    for found, expected in zip(batches, uncached + uncached, strict=True):
        assert found.name == expected.name and found.task == expected.task
        assert torch.equal(found.degraded, expected.degraded)
        assert torch.equal(found.clean, expected.clean)


@pytest.mark.parametrize("context", [None, "spawn"])
def test_what_a_worker_decodes_is_there_for_all(context, pairs, decoded, uncached):
    data_set = make_set(pairs, 1e9)
    load(data_set, 2, context)
    assert decoded == []
    batches = load(data_set, 0)
    assert decoded == []
    assert all(
        torch.equal(found.degraded, expected.degraded)
        for found, expected in zip(batches, uncached, strict=True)
    )


def test_each_image_is_decoded_once_or_each_time_it_is_read(pairs, decoded):
    load(make_set(pairs, 1e9), 0)
    assert len(decoded) == len(set(decoded)) <= NUM_IMAGES
    once = len(decoded)
    decoded.clear()
    load(make_set(pairs, 0), 0)
    assert len(decoded) > 48 > once


def test_memory_is_bounded_and_no_image_overlaps_another(tmp_path):
    generator = np.random.default_rng(0)
    images, sizes = {}, {}
    for index, (height, width) in enumerate([(9, 7), (31, 50), (8, 8), (20, 20), (5, 6)]):
        path = tmp_path / f"{index}.png"
        images[path] = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        sizes[path] = (width, height)
        write_image(path, images[path])
    needed = [CHECKSUM_BYTES + image.size for image in images.values()]
    for max_bytes in (0, needed[0] - 1, needed[0], sum(needed) - needed[1], sum(needed)):
        cache = ImageCache(sizes, max_bytes)
        assert cache.num_bytes <= max_bytes
        assert (cache._arena.size if cache._arena else 0) == cache.num_bytes
        for _ in range(2):
            assert all(np.array_equal(cache.read(path), images[path]) for path in images)
    assert cache.num_bytes == sum(needed) and len(cache) == len(images)
    # the second does not fit, the smaller ones behind it do
    assert len(ImageCache(sizes, sum(needed) - needed[1])) == 4


def test_memory_that_cannot_be_had(pairs, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(os, "truncate", refuse)
    with pytest.raises(UserError, match=r"--cache_gb: .* cannot be had \(File too large\)"):
        make_set(pairs, IMAGE_BYTES)


def test_images_visited_most_often_are_kept_first(pairs):
    fewer = {name: found[:1] if name == "dehaze" else found for name, found in pairs.items()}
    often = set(fewer["dehaze"][0])
    cache = make_set(fewer, 2 * IMAGE_BYTES).cache
    assert set(cache._places) == often  # a third of all samples show one pair


def test_half_written_image_is_never_taken(data_folder, decoded):
    path = list_images(data_folder / "Train" / "Denoise")[0]
    image = read_image(path)
    cache = ImageCache({path: (96, 80)}, 1e9)
    for written in (0, 1, image.size // 2, image.size - 1):
        memory = np.frombuffer(cache._arena.buffer, np.uint8)
        memory[CHECKSUM_BYTES:] = 0
        memory[CHECKSUM_BYTES : CHECKSUM_BYTES + written] = image.reshape(-1)[:written]
        memory[:CHECKSUM_BYTES] = np.frombuffer(data.cache._checksum(image), np.uint8)
        decoded.clear()
        cache._checked.clear()  # another process
        assert np.array_equal(cache.read(path), image)
        assert decoded == [path]
    cache._checked.clear()
    cache.read(path)
    assert decoded == [path]


def test_processes_that_decode_at_once_see_whole_images(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (500, 700, 3), dtype=np.uint8)
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for path in paths:
        write_image(path, image)
    for _ in range(3):
        cache = ImageCache(dict.fromkeys(paths, (700, 500)), 1e9)
        context = multiprocessing.get_context("fork")
        start, wrong = context.Event(), context.Value("i", 0)

        def read_all(cache=cache, start=start, wrong=wrong):
            start.wait()
            for path in paths:
                if not np.array_equal(cache.read(path), image):
                    wrong.value += 1

        processes = [context.Process(target=read_all) for _ in range(3)]
        for process in processes:
            process.start()
        start.set()
        for process in processes:
            process.join()
        assert wrong.value == 0 and all(process.exitcode == 0 for process in processes)


def test_kept_images_cannot_be_written_to(data_folder):
    path = list_images(data_folder / "Train" / "Denoise")[0]
    with pytest.raises(ValueError, match="read-only"):
        ImageCache({path: (96, 80)}, 1e9).read(path)[0, 0] = 0


def test_replaced_file_is_read_as_it_is(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((5, 6, 3), np.uint8))
    cache = ImageCache({tmp_path / "a.png": (4, 4)}, 1e9)
    assert cache.read(tmp_path / "a.png").shape == (5, 6, 3)


def test_the_benchmark_of_the_data(train_flags):
    folders = [flag for flag in train_flags if "_dir=" in flag]
    flags = "--patch_size 16 --batch_size 2 --batches 2 --rounds 1 --num_workers 2"
    command = [sys.executable, "-m", "scripts.benchmark_data", *folders, *flags.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["images_kept"] == report["images"] == 15
    assert report["ratio"] == report["kept_in_memory"] / report["decoded_every_time"] > 0
    assert f"2 workers: {report['with_workers']:.0f} patches/s" in done.stdout


@pytest.mark.parametrize("workers", [0, 3])
def test_too_few_open_files_are_told_of_before_a_batch_is_lost(workers, monkeypatch):
    needed = FILES + FILES_OF_WORKER * workers
    limits, given = [30, 4096], []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, value: given.append(value))
    allow_open_files(workers)
    assert given == [(needed, 4096)]
    limits[1] = needed - 1
    with pytest.raises(UserError, match=rf"{needed - 1} files .* \(ulimit -n {needed}\)"):
        allow_open_files(workers)
    limits[:] = needed, needed
    allow_open_files(workers)
    assert len(given) == 1
