"""Pairing in every layout, the training stream's repeatability, and both protocols."""

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import options
from data.damage import read_sizes
from data.datasets import (
    TrainingSet,
    TrainingStream,
    ValidationSet,
    make_sample,
    split,
)
from data.degradations import DEGRADATION_NAMES, DEGRADATIONS, TASKS, of_task
from data.pairing import (
    DataSet,
    Pair,
    check_sizes,
    describe_missing,
    find_data_sets,
    read_list,
)
from data.protocols import iterate_test_set
from data.samples import build_samples
from data.transforms import add_noise, augment, crop_patch, crop_to_multiple, pad_to_size
from data.variety import PUBLISHED, Variety, draw_variety
from tests.conftest import ROOT
from utils.errors import UserError
from utils.evaluate import measure
from utils.image_io import list_images, read_image, to_pixels, write_image

DENOISE, DERAIN, DEHAZE = TASKS
GREY = np.full((8, 8, 3), 128, dtype=np.uint8)

LAYOUTS = [
    (DERAIN, "rainy/rain-12.png", "gt/norain-12.png"),
    (DERAIN, "rainy/rain-12.png", "gt/rain-12.png"),
    (DERAIN, "rain/rain-1.png", "norain/norain-1.png"),
    (DERAIN, "input/1.png", "target/1.png"),
    (DERAIN, "low/7.jpg", "high/7.png"),
    (DERAIN, "Input/1.png", "Target/1.png"),
    (DERAIN, "rain-001.png", "norain-001.png"),
    (DERAIN, "rainy/12_3.png", "gt/12.png"),
    (DERAIN, "rainy/my_photo_rain3.png", "gt/my_photo.png"),
    (DEHAZE, "synthetic/0001_0.85_0.04.jpg", "original/0001.jpg"),
    (DEHAZE, "synthetic/part1/0001_0.85_0.04.jpg", "original/0001.png"),
    (DEHAZE, "hazy/0001_0.8_0.2.jpg", "clear/0001.png"),
    (DEHAZE, "hazy/0001_0.8_0.2.jpg", "gt/0001.png"),
    (DEHAZE, "low/0001_0.8_0.2.jpg", "high/0001.png"),
    (DEHAZE, "input/0001_0.8_0.2.jpg", "target/0001.png"),
    (DEHAZE, "input/0001.jpg", "target/0001.png"),
    (DEHAZE, "0001_0.8_0.2.jpg", "0001.png"),
    (DERAIN._replace(name="a task without rules"), "input/1.png", "target/1.png"),
]


@pytest.mark.parametrize("nested", ["", "outdoor/"])
@pytest.mark.parametrize(("task", "degraded", "clean"), LAYOUTS)
def test_layout(task, degraded, clean, nested, tmp_path):
    for name in (degraded, clean):
        write_image(tmp_path / nested / name, GREY)
    (data_set,) = find_data_sets(tmp_path, task)
    assert data_set.name == (nested.strip("/") or tmp_path.name)
    assert data_set.pairs == [Pair(tmp_path / nested / degraded, tmp_path / nested / clean)]


def test_words_in_parent_folders_change_nothing(tmp_path):
    top = tmp_path / "rainy" / "synthetic" / "input"
    for name in ("rainy/rain-rain-1.png", "gt/norain-rain-1.png"):
        write_image(top / name, GREY)
    (data_set,) = find_data_sets(top, DERAIN)
    assert data_set.pairs[0].clean == top / "gt" / "norain-rain-1.png"


def test_task_folder_by_another_name_and_several_sets(tmp_path, monkeypatch):
    for name in ("SOTS/hazy/1_1.png", "SOTS/gt/1.png", "mine/input/2.png", "mine/target/2.png"):
        write_image(tmp_path / "test" / "Dehazy" / name, GREY)
    monkeypatch.chdir(tmp_path)
    found = find_data_sets(options.test_options([]).dehaze_path, DEHAZE)
    assert [data_set.name for data_set in found] == ["SOTS", "mine"]
    given = options.test_options(["--dehaze_path", "test/dehaz"]).dehaze_path
    assert find_data_sets(given, DEHAZE) == []  # nothing else is taken for it


def test_noisy_folders_beside_the_clean_one_are_left_out(tmp_path):
    """As CBSD68 is mostly downloaded."""
    for folder in ("noisy15", "noisy50", "sigma_25", "original_png", "noises"):
        write_image(tmp_path / "CBSD68" / folder / "0001.png", GREY)
    with pytest.warns(UserWarning, match="left out, since by its name"):
        found = find_data_sets(tmp_path, DENOISE)
    assert [data_set.name for data_set in found] == ["CBSD68/noises", "CBSD68/original_png"]
    [given] = find_data_sets(tmp_path / "CBSD68" / "noisy15", DENOISE)
    assert given.name == "noisy15"


@pytest.mark.parametrize(
    ("folders", "clean"),
    [
        (("noisy_images", "sigma0.1", "original_png"), "original_png"),
        (("Noisy15", "noisy15", "Clean"), "Clean"),
        (("Input", "target"), "target"),
        (("hazy", "clear"), "clear"),
    ],
)
def test_the_clean_folder_that_is_left_is_the_data_set_above_it(folders, clean, tmp_path):
    """So that its row stands beside published ones."""
    for folder in folders:
        write_image(tmp_path / "CBSD68" / folder / "1.png", GREY)
    for top, name in ((tmp_path, "CBSD68"), (tmp_path / "CBSD68", "CBSD68")):
        with pytest.warns(UserWarning, match="left out, since by its name"):
            found = find_data_sets(top, DENOISE)
        assert [data_set.name for data_set in found] == [name]
        assert [pair.clean.parent.name for pair in found[0].pairs] == [clean]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("noisy25/1", "Kodak24/1"), ["set/Kodak24"]),
        (("noisy25/1", "gt/1", "2"), ["set", "set/gt"]),
        (("noisy25/1", "gt/a/1", "gt/b/1"), ["set/gt/a", "set/gt/b"]),
        (("Train/1", "train/2"), ["set/Train", "set/train"]),
        (("input/1",), ["set/input"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*left out, since by its name")
def test_other_folders_of_clean_images_keep_their_names(names, expected, tmp_path):
    for name in names:
        write_image(tmp_path / "set" / f"{name}.png", GREY)
    assert [data_set.name for data_set in find_data_sets(tmp_path, DENOISE)] == expected


def test_why_nothing_is_found_is_told(tmp_path):
    write_image(tmp_path / "Input" / "1.png", GREY)
    write_image(tmp_path / "set" / "noisy15" / "1.png", GREY)
    (tmp_path / "empty").mkdir()
    for name, task, expected in (
        ("nowhere", DERAIN, "no such folder"),
        ("Input/1.png", DERAIN, "a file, not a folder"),
        ("empty", DERAIN, "no images in it"),
        ("Input", DERAIN, "no pairs in it; if this is one half of them, give the folder above"),
        ("set", DERAIN, "no pairs in it"),
        ("set", DENOISE, "no clean images in it, or more than 3 folders deep"),
    ):
        assert describe_missing(tmp_path / name, task) == expected


def test_pair_without_partner_is_named(tmp_path):
    for name in ("input/1.png", "input/2.png", "target/1.png"):
        write_image(tmp_path / name, GREY)
    with pytest.raises(UserError, match=r"1 of 2 degraded images .*\(2\.png\)"):
        find_data_sets(tmp_path, DERAIN)


@pytest.mark.parametrize(("rainy", "other"), [("img_2", "img"), ("rain_2", "rain"), ("1_2a", "1")])
def test_another_picture_is_not_taken_for_a_missing_partner(rainy, other, tmp_path):
    for name in (f"rainy/{rainy}.png", f"gt/{other}.png"):
        write_image(tmp_path / name, GREY)
    with pytest.raises(UserError, match=rf"1 of 1 degraded images .*\({rainy}\.png\)"):
        find_data_sets(tmp_path, DERAIN)


def test_nested_partner_is_the_one_in_the_same_subfolder(tmp_path):
    for name in ("input/a/1.png", "input/b/1.png", "target/a/1.png", "target/b/1.png"):
        write_image(tmp_path / name, GREY)
    (data_set,) = find_data_sets(tmp_path, DERAIN)
    assert [pair.clean.parent.name for pair in data_set.pairs] == ["a", "b"]
    write_image(tmp_path / "input" / "c" / "1.png", GREY)
    with pytest.raises(UserError, match="could be its clean partner"):
        find_data_sets(tmp_path, DERAIN)


def test_sample_set_is_disjoint_and_damaged_as_it_says(tmp_path):
    build_samples(tmp_path)
    for task in TASKS:
        training, testing = (
            [pair for data_set in find_data_sets(folder, task) for pair in data_set.pairs]
            for folder in (
                tmp_path / "Train" / task.train_folders[0],
                tmp_path / "test" / task.test_folders[0],
            )
        )
        assert len(testing) == 2 and len(training) >= 4
        images = [
            {read_image(pair.clean).tobytes() for pair in part} for part in (training, testing)
        ]
        assert not images[0] & images[1]
        if task is DENOISE:
            continue
        for pair in [*testing, *training]:
            error = read_image(pair.degraded).astype(float) - read_image(pair.clean)
            highest = 21 if pair in testing else 35  # dB
            assert 8 < 10 * np.log10(255**2 / (error**2).mean()) < highest, pair
            assert error.mean() > 0, pair  # rain and haze are bright


def test_published_lists(tmp_path):
    for name in ("117025.jpg", "00001.png", "00002.png"):
        write_image(tmp_path / "Denoise" / name, GREY)
    (data_set,) = find_data_sets(tmp_path / "Denoise", DENOISE)
    file = tmp_path / "denoise.txt"
    file.write_text("a117025.jpg\n00002.png\n")
    chosen = read_list(file, data_set.pairs)
    assert [pair.clean.name for pair in chosen] == ["117025.jpg", "00002.png"]
    file.write_text("Denoise/00001.png\nmissing.png")
    with pytest.raises(UserError, match=r"1 images .*missing\.png"):
        read_list(file, data_set.pairs)
    file.write_bytes(b"\n\n")
    with pytest.raises(UserError, match="expected an image's name"):
        read_list(file, data_set.pairs)


def check(pairs, **bounds):
    return check_sizes(pairs, read_sizes(pairs), **bounds)


def test_sizes_of_a_pair_must_agree(tmp_path):
    write_image(tmp_path / "a.png", GREY)
    write_image(tmp_path / "b.png", GREY[:4])
    with pytest.raises(UserError, match=r"8 x 8 pixels.*8 x 4"):
        check([Pair(tmp_path / "a.png", tmp_path / "b.png")])


def test_small_images_are_found_and_padded(tmp_path):
    pairs = []
    for index in range(3):
        write_image(tmp_path / f"{index}.png", GREY)
        pairs.append(Pair(None, tmp_path / f"{index}.png"))
    assert check(pairs, patch_size=24) == ["0", "1", "2"]
    assert check(pairs, patch_size=8) == []
    with pytest.raises(UserError, match="scoring needs 9"):
        check(pairs, smallest=9)
    sample = TrainingSet({"denoise_15": pairs}, 24, seed=0)[0]
    assert sample.degraded.shape == (3, 24, 24)
    ramp = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    assert pad_to_size(ramp, 9).shape == (9, 9, 3)
    assert np.array_equal(pad_to_size(ramp, 5)[:3, 3:], ramp[:, 1::-1])


@pytest.fixture
def training_pairs(data_folder):
    folders = {task.name: data_folder / "Train" / task.train_folders[0] for task in TASKS}
    return {
        name: [
            pair
            for task in TASKS
            if name in [entry.name for entry in of_task(task.name)]
            for data_set in find_data_sets(folders[task.name], task)
            for pair in data_set.pairs
        ]
        for name in DEGRADATION_NAMES
    }


def stream(data_set, workers, rank=0, processes=1, first_step=0, batch=3, steps=6):
    sampler = TrainingStream(range(first_step, steps), batch, rank, processes)
    return list(DataLoader(data_set, batch, sampler=sampler, num_workers=workers))


def test_stream_is_the_same_for_any_number_of_workers(training_pairs):
    alone, shared = (stream(TrainingSet(training_pairs, 16, seed=3), workers) for workers in (0, 2))
    for one, other in zip(alone, shared, strict=True):
        assert one.name == other.name and one.task == other.task
        assert torch.equal(one.degraded, other.degraded) and torch.equal(one.clean, other.clean)
    different = stream(TrainingSet(training_pairs, 16, seed=4), 0)
    assert any(not torch.equal(a.clean, b.clean) for a, b in zip(alone, different, strict=True))


def test_stream_resumes_and_is_shared_without_loss(training_pairs):
    data_set = TrainingSet(training_pairs, 16, seed=0)
    whole = stream(data_set, 0, batch=4)
    resumed = stream(data_set, 0, batch=4, first_step=2)
    assert [batch.name for batch in resumed] == [batch.name for batch in whole[2:]]
    ranks = [stream(data_set, 0, rank=rank, processes=2, batch=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        together = torch.cat([ranks[0][step].degraded, ranks[1][step].degraded])
        assert torch.equal(together, batch.degraded)


def test_epochs_differ_and_visit_every_image(training_pairs):
    data_set = TrainingSet(training_pairs, 16, seed=0)
    size = data_set.epoch_samples
    plans = [data_set._plan(epoch) for epoch in (0, 1)]
    assert not np.array_equal(*plans)
    for plan in plans:
        assert plan.shape == (size, 2)
        visited = {tuple(row) for row in plan.tolist()}
        everything = sum(len(pairs) for pairs in training_pairs.values())
        assert len(visited) == everything


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        # 3 images x (3 + 3 + 3 + 120 + 1) repeats = 390 samples, a third of them a task
        ("equal", [43, 43, 43, 130, 130]),
        ("degradations", [78, 78, 78, 78, 78]),
        ("published", [9, 9, 9, 360, 3]),
    ],
)
def test_balance(balance, expected, training_pairs):
    data_set = TrainingSet(training_pairs, 16, seed=0, balance=balance)
    assert np.bincount(data_set._plan(0)[:, 0]).tolist() == expected


def test_pairs_stay_aligned_under_crop_and_augmentation():
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    seen = set()
    for _ in range(100):
        one, two = augment(crop_patch([image, image + 1], 8, generator), generator)
        assert np.array_equal(one + 1, two)
        seen.add(augment([np.arange(4).reshape(2, 2, 1)], generator)[0].tobytes())
    assert len(seen) == 8


def test_noise_is_clipped_and_truncated():
    flat = np.full((200, 200, 3), 128, dtype=np.uint8)
    noisy = add_noise(flat, 25, np.random.default_rng(0))
    rounded = add_noise(flat, 25, np.random.default_rng(0), rounded=True)
    assert noisy.dtype == np.uint8
    assert noisy.std() == pytest.approx(25, abs=0.3)
    assert noisy.mean() == pytest.approx(127.5, abs=0.3)  # truncation costs half a level
    assert rounded.mean() == pytest.approx(128, abs=0.3)
    assert add_noise(flat, 300, np.random.default_rng(0)).min() == 0


def test_crop_to_multiple_is_central():
    image = np.arange(37 * 50 * 3).reshape(37, 50, 3)
    assert np.array_equal(crop_to_multiple(image), image[2:34, 1:49])
    assert crop_to_multiple(image[:9, :9]).shape == (9, 9, 3)


def test_split_is_stable_and_disjoint_by_scene(tmp_path):
    pairs = [
        Pair(tmp_path / f"{scene:04d}_{beta}.jpg", tmp_path / f"{scene:04d}.png")
        for scene in range(40)
        for beta in range(3)
    ]
    training, held_out = split(pairs, 10)
    assert len(held_out) == 4
    assert split(pairs, 10) == (training, held_out)
    assert not {pair.clean for pair in training} & {pair.clean for pair in held_out}
    assert len(training) == 3 * 36
    assert split(pairs, 0) == (pairs, [])
    assert split(pairs[:3], 10) == (pairs[:3], [])
    assert [len(part) for part in split(pairs[:6], 10)] == [3, 1]


def test_validation_noise_is_the_same_every_time(training_pairs):
    one, two = (ValidationSet(training_pairs, seed=0) for _ in range(2))
    assert len(one) == 15
    for position in (14, 0, 7):
        assert torch.equal(one[position].degraded, two[position].degraded)


def test_clean_protocol_depends_on_neither_order_nor_other_sets(data_folder):
    (data_set,) = find_data_sets(data_folder / "test" / "denoise", DENOISE)
    sigmas = of_task("denoise")

    def noisy(degradations):
        streams = iterate_test_set(data_set, degradations, "clean", seed=1)
        return {
            (degradation.name, sample.name): sample.degraded
            for degradation, samples in streams
            for sample in samples
        }

    everything, alone = noisy(sigmas), noisy(sigmas[2:])
    assert all(torch.equal(everything[key], image) for key, image in alone.items())
    paper = list(next(iter(iterate_test_set(data_set, sigmas, "paper", seed=1)))[1])
    assert not torch.equal(paper[0].degraded, everything["denoise_15", paper[0].name])


def test_paper_protocol_matches_golden_noise_and_scores(golden):
    expected = json.loads((golden / "protocol.json").read_text())
    images = list_images(golden.parent / "data" / "CBSD68")
    data_set = DataSet("CBSD68", [Pair(None, path) for path in images])
    streams = iterate_test_set(data_set, of_task("denoise"), "paper", seed=0)
    for degradation, samples in streams:
        wanted = expected[f"sigma{degradation.sigma}"]
        sums, scores = [], []
        for sample in samples:
            sums.append(int(to_pixels(sample.degraded).sum(dtype=int)))
            scores.append(measure(sample.degraded, sample.clean)[:2])
        first = wanted["first_five"]
        assert sums[:5] == [entry["sum_of_noisy_uint8"] for entry in first]
        for found, entry in zip(scores, first, strict=False):
            assert found == pytest.approx((entry["psnr"], entry["ssim"]), abs=1e-6)
        means = np.mean(scores, axis=0)
        assert means == pytest.approx((wanted["psnr"], wanted["ssim"]), abs=1e-6)
        assert len(scores) == 68


def test_variety_is_a_share_of_the_samples(training_pairs):
    usual, none, varied, all_varied = (
        [TrainingSet(training_pairs, 24, seed=0, **share)[n] for n in range(60)]
        for share in ({}, {"variety": 0}, {"variety": 0.5}, {"variety": 1})
    )

    def same(one, two):
        return torch.equal(one.degraded, two.degraded) and torch.equal(one.clean, two.clean)

    assert all(map(same, usual, none))
    assert not all(map(same, usual, varied)) and not all(map(same, varied, all_varied))


def test_varied_samples():
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    photo = cv2.GaussianBlur(photo, (0, 0), 5) // (1, 2, 3)  # of one strong colour
    photo = photo.astype(np.uint8)
    noise = DEGRADATIONS[1]

    def make(**changes):
        generator = np.random.default_rng(1)
        pair = Pair(None, Path("photo.png"))
        return make_sample([photo], noise, pair, generator, variety=Variety(**changes))

    def level(sample):
        return 255 * (sample.degraded - sample.clean).std().item()

    usual = make()
    assert level(usual) == pytest.approx(noise.sigma, rel=0.05)
    grey = make(grey=True)
    for image in (grey.degraded, grey.clean):
        assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
    assert level(grey) == pytest.approx(noise.sigma, rel=0.05)
    assert level(make(noise=0.4)) == pytest.approx(0.4 * noise.sigma, rel=0.05)
    untouched = make(untouched=True)
    assert torch.equal(untouched.degraded, untouched.clean)
    assert torch.equal(untouched.clean, usual.clean)
    assert untouched.untouched and not usual.untouched
    compressed = make(quality=50)
    assert torch.equal(compressed.clean, usual.clean)
    lost = (compressed.degraded - usual.degraded).abs().mean() * 255
    assert 2 < lost < noise.sigma  # far more if it exchanged red and blue


def test_all_kinds_of_variety_are_drawn():
    generator = np.random.default_rng(0)
    drawn = [draw_variety(1, generator) for _ in range(400)]
    assert PUBLISHED not in drawn
    assert 150 < sum(one.grey for one in drawn) < 250
    assert 150 < sum(one.untouched for one in drawn) < 250
    for kind in ("quality", "noise"):
        changed = [one for one in drawn if getattr(one, kind) != getattr(PUBLISHED, kind)]
        assert 50 < len(changed) < 120
        assert not any(one.untouched for one in changed)
    assert len({one.quality for one in drawn}) > 20 and len({one.noise for one in drawn}) > 50


class Threads(torch.utils.data.Dataset):
    """How many threads OpenCV has where an item is loaded."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return cv2.getNumThreads()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_loading_process_has_one_thread_of_opencv(method):
    """Also where the process that trains has used several: OpenCV's do not outlive a fork."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    code = f"""
if __name__ == "__main__":
    import multiprocessing
    import time
    import cv2
    import numpy as np
    from data.loaders import make_loaders
    from tests.test_data import Threads

    multiprocessing.set_start_method("{method}")
    cv2.setNumThreads(3)
    cv2.resize(np.zeros((2000, 2000, 3), np.float32), (3000, 3000))
    time.sleep(1)  # until OpenCV's threads wait for more
    shared = dict(batch_size=1, num_workers=2, pin_memory=False, rank=0, num_processes=1)
    loader, _ = make_loaders(Threads(), [], batches=range(4), **shared)
    print([int(number) for number in loader])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout == "[1, 1, 1, 1]\n", done.stderr
