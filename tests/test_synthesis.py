"""Rain and haze made from clean photographs: what they look like, and training on them."""

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from scipy.stats import spearmanr
from torch.utils.data import DataLoader

import data.datasets
from data import synthesis
from data.damage import read_sizes
from data.datasets import TrainingSet, TrainingStream, ValidationSet, make_sample
from data.degradations import DEGRADATIONS, Degradation
from data.pairing import Pair
from data.samples import degrade, motorcycle_depth
from data.synthesis import Synthesis, add_haze, add_rain, draw_line, draw_streaks, guess_depth
from net.checkpoint import load_network, read_checkpoint
from utils.image_io import list_images, write_image

PARAMETERS = [name for name in vars(synthesis) if name.isupper()]


def generator_of(seed):
    return np.random.default_rng(seed)


class Coin:
    """A generator whose every number is the same."""

    def __init__(self, number):
        self.number = number

    def random(self):
        return self.number


def grey(level, size=(64, 64)):
    return np.full((*size, 3), level, np.uint8)


def make_all(image, seeds=range(5)):
    """Rain and haze on an image from a few seeds, and its depth."""
    pictures = [
        degrade(image, task, generator_of(seed)) for task in ("derain", "dehaze") for seed in seeds
    ]
    return [*pictures, guess_depth(image)]


def test_same_generator_makes_the_same_pictures(photos):
    one, two, other = (make_all(photos[0], seeds) for seeds in ((1, 2), (1, 2), (3, 4)))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(not np.array_equal(a, b) for a, b in zip(one[:-1], other[:-1], strict=True))
    assert all(picture.dtype == np.uint8 for picture in one[:-1])


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_changes_something(name, monkeypatch):
    photo = skimage.data.coffee()[::2, ::2]
    usual, value = make_all(photo), getattr(synthesis, name)
    changed = (value[1], value[1]) if isinstance(value, tuple) else type(value)(value / 2)
    monkeypatch.setattr(synthesis, name, changed)
    found = make_all(photo)
    assert any(a.shape != b.shape or (a != b).any() for a, b in zip(usual, found, strict=True))


@pytest.mark.parametrize("angle", [-45, -20, 0, 30])
@pytest.mark.parametrize(("length", "width"), [(20, 1.0), (60, 1.8)])
def test_line_has_its_direction_length_and_width(length, width, angle):
    line = draw_line(length, width, angle)
    assert line.shape[0] == line.shape[1] and line.shape[0] % 2 == 1
    assert line.max() == line[line.shape[0] // 2, line.shape[1] // 2] == 1
    assert max(line[0].max(), line[:, 0].max()) < 0.01  # nothing is cut off

    reach = line.shape[0] // 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    spread = np.cov(np.stack([x.ravel(), y.ravel()]), aweights=line.ravel())
    variances, axes = np.linalg.eigh(spread)
    found = np.degrees(np.arctan(axes[0, 1] / axes[1, 1]))  # from the vertical, x over y
    assert found == pytest.approx(angle, abs=1)
    assert np.sqrt(variances[0]) == pytest.approx(width, rel=0.05)
    assert line.sum() == pytest.approx(length * width * np.sqrt(2 * np.pi), rel=0.05)


def fix_rain(monkeypatch, **values):
    """Let the ranges of rain be single values, one layer of equally bright streaks by default."""
    usual = {"LAYERS": 1, "DIRECTION": 0, "LENGTH": 30, "WIDTH": 1, "COVERAGE": 0.05}
    for name, value in {**usual, "BRIGHTNESS": 1, **values}.items():
        monkeypatch.setattr(synthesis, name, (value, value))
    monkeypatch.setattr(synthesis, "FAINTEST", 1)


def direction_of(streaks):
    """Degrees from the vertical of what is along the streaks, from their structure tensor."""
    along_x = cv2.Sobel(streaks, cv2.CV_32F, 1, 0)
    along_y = cv2.Sobel(streaks, cv2.CV_32F, 0, 1)
    xx, yy, xy = (along_x**2).sum(), (along_y**2).sum(), (along_x * along_y).sum()
    across = np.degrees(np.arctan2(2 * xy, xx - yy) / 2)  # of the gradient, from the x axis
    return -across


@pytest.mark.parametrize("direction", [-40, -15, 0, 25])
def test_streaks_of_a_picture_fall_in_its_direction(direction, monkeypatch):
    fix_rain(monkeypatch, DIRECTION=direction)
    found = direction_of(draw_streaks((200, 240), generator_of(0)))
    assert abs(found - direction) < synthesis.VARIATION


@pytest.mark.parametrize(("length", "coverage"), [(10, 0.01), (10, 0.08), (60, 0.08)])
def test_streaks_cover_their_share_of_the_picture(length, coverage, monkeypatch):
    fix_rain(monkeypatch, LENGTH=length, COVERAGE=coverage)
    streaks = [draw_streaks((500, 500), generator_of(seed)) for seed in range(3)]
    assert np.mean(streaks) == pytest.approx(coverage, rel=0.15)
    edge, middle = (np.mean([s[rows] for s in streaks]) for rows in (slice(50), slice(225, 275)))
    assert edge == pytest.approx(middle, rel=0.6)  # streaks from outside reach in


def test_rain_only_brightens():
    photo = skimage.data.coffee()[::2, ::2]
    for seed in range(10):
        rainy = add_rain(photo, None, generator_of(seed))
        assert (rainy >= photo).all() and (rainy > photo).any()


def test_blending_is_added_or_screened(monkeypatch):
    streaks = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(64, 0)
    monkeypatch.setattr(synthesis, "draw_streaks", lambda size, generator: streaks)
    gains = {}
    for level in (0, 100, 200, 255):
        for kind, number in (("screened", 0.49), ("added", 0.51)):
            rainy = add_rain(grey(level), None, Coin(number))
            gain = streaks * (255 - level) if kind == "screened" else streaks * 255
            expected = np.minimum(level + gain, 255)[..., None]
            assert np.abs(rainy - expected).max() <= 0.5 + 1e-3
            gains[kind, level] = rainy.astype(int) - level
    below_one = streaks[0] < 0.99
    assert gains["screened", 200][:, below_one].max() < 55  # white only under a white streak
    assert gains["added", 200][:, below_one].max() == 55
    inside = streaks[0] > 0.1
    assert (gains["screened", 200] < gains["screened", 100])[:, inside].all()
    assert (gains["screened", 255] == 0).all()


def test_rain_is_added_and_screened_equally_often():
    """Screened streaks gain (1 - level) of added ones, so two levels tell them apart."""
    ratios = []
    for seed in range(40):
        dark, bright = (
            add_rain(grey(level, (200, 200)), None, generator_of(seed)) - float(level)
            for level in (0, 50)
        )
        shown = (dark > 20) & (dark < 200)
        ratios.append((bright[shown] / dark[shown]).mean())
    assert all(min(abs(ratio - 1), abs(ratio - 205 / 255)) < 0.03 for ratio in ratios)
    assert 10 < sum(ratio < 0.9 for ratio in ratios) < 30


@pytest.mark.parametrize("level", [0, 90, 255])
def test_scattering_is_the_formula(level):
    for airlight, beta, distance in ((0.8, 0.04, 5.5), (1.0, 0.2, 5.5), (0.9, 0.1, 0.0)):
        hazy = synthesis.scatter(grey(level), np.full((64, 64), distance), airlight, beta)
        seen = np.exp(-beta * distance)
        assert (hazy == round(level * seen + 255 * airlight * (1 - seen))).all()
    far = synthesis.scatter(grey(level), np.full((64, 64), 1000.0), 0.8, 0.2)
    assert (far == 204).all()


def test_haze_increases_with_depth():
    depth = np.linspace(synthesis.NEAREST, 1, 8).repeat(8)[None].repeat(64, 0)
    densities = []
    for seed in range(20):
        hazy = add_haze(grey(20), depth, generator_of(seed))[0, ::8, 0].astype(int)
        assert (np.diff(hazy) > 0).all()
        densities.append(hazy[-1])
    assert min(densities) < 90 < 130 < max(densities)


def test_depth_is_relative_and_increases_upwards():
    gradient = np.linspace(250, 40, 300)[:, None, None].repeat(200, 1).repeat(3, 2).astype(np.uint8)
    for image in (gradient, grey(128, (240, 500)), skimage.data.rocket(), grey(7, (9, 5))):
        depth = guess_depth(image)
        assert depth.dtype == np.float32 and max(depth.shape) <= synthesis.DEPTH_SIDE
        assert depth.min() > 0 and depth.max() <= 1
        assert abs(depth.shape[0] / depth.shape[1] - image.shape[0] / image.shape[1]) < 0.02
        assert np.array_equal(depth, guess_depth(image.copy()))
        assert depth[0].mean() > depth[-1].mean() + 0.2
    assert (np.diff(guess_depth(gradient).mean(axis=1)) <= 1e-6).all()


def test_depth_of_an_upright_object_is_that_of_its_foot():
    image = grey(220, (120, 160))
    image[60:] = 120  # the ground before the sky
    image[20:100, 60:100] = (20, 60, 20)
    depth = guess_depth(image)
    assert depth[30, 80] < depth[30, 20] - 0.1  # nearer than the sky beside its top
    assert abs(depth[95, 80] - depth[95, 20]) < 0.05  # and as far as the ground beside its foot


def test_depth_agrees_with_a_measured_one_in_rank():
    """0.64; the height in the picture alone has 0.67, see `guess_depth`."""
    measured = motorcycle_depth()
    assert measured.min() > 0 and measured.max() == 1
    photo = skimage.data.stereo_motorcycle()[0]
    found = synthesis.fit_map(guess_depth(photo), photo.shape[:2])
    assert spearmanr(found[::4, ::4].ravel(), measured[::4, ::4].ravel()).statistic > 0.55


@pytest.fixture(scope="module")
def clean_folder(tmp_path_factory, photos):
    """A folder of nothing but clean photographs, smaller than some patches and not all alike."""
    folder = tmp_path_factory.mktemp("photographs")
    for index, photo in enumerate(photos):
        write_image(folder / f"{index}.png", photo[: 80 - 8 * index])
    return folder


@pytest.fixture
def pairs(clean_folder):
    """Of every degradation, from clean photographs alone."""
    found = [Pair(None, path) for path in list_images(clean_folder)]
    return {entry.name: found for entry in DEGRADATIONS}


def show_maps(monkeypatch, find):
    """Let the degradation be one that shows its map, which `find` makes of a whole picture."""

    def show(image, found, generator):
        return np.rint(found)[..., None].repeat(3, 2).astype(np.uint8)

    shown = Degradation("dehaze", "dehaze", None, "", 1, Synthesis(show, find))
    monkeypatch.setattr(data.datasets, "DEGRADATIONS", (shown,))


@pytest.mark.parametrize("patch_size", [32, 72])  # cropped, and padded first
def test_patch_has_its_part_of_the_map(patch_size, pairs, monkeypatch):
    show_maps(monkeypatch, lambda image: image[..., 0].astype(np.float32))
    training_set = TrainingSet({"dehaze": pairs["dehaze"]}, patch_size, seed=0)
    for position in range(30):
        sample = training_set[position]
        assert torch.equal(sample.degraded[0], sample.clean[0])


def test_patch_has_its_part_of_a_smaller_map(tmp_path, monkeypatch):
    rows, columns = np.mgrid[:96, :128]
    slope = (10 + columns + rows / 2).astype(np.uint8)
    write_image(tmp_path / "slope.png", np.stack([slope] * 3, axis=2))
    show_maps(monkeypatch, lambda image: cv2.resize(image[..., 0].astype(np.float32), (32, 24)))
    pairs = {"dehaze": [Pair(None, tmp_path / "slope.png")]}
    training_set = TrainingSet(pairs, 32, seed=0)
    for sample in (training_set[position] for position in range(30)):
        difference = 255 * (sample.degraded[0] - sample.clean[0]).abs()
        assert difference.max() < 4  # of the 46 levels across a patch


def load(data_set, workers, first=0):
    sampler = TrainingStream(range(first, 10), 4, rank=0, num_processes=1)
    return list(DataLoader(data_set, 4, sampler=sampler, num_workers=workers))


def test_samples_depend_on_neither_workers_nor_cache_nor_what_came_before(pairs):
    sizes = read_sizes([pair for found in pairs.values() for pair in found])
    usual = load(TrainingSet(pairs, 32, seed=3), workers=0)
    assert {"derain", "dehaze"} <= {task for batch in usual for task in batch.task}
    for workers, cache_bytes in ((2, 0), (0, 1e9), (2, 20_000)):
        data_set = TrainingSet(pairs, 32, 3, sizes=sizes, cache_bytes=cache_bytes)
        for first in (7, 4, 0, 0):  # in the end with all maps and pictures that were kept
            batches = load(data_set, workers, first)
            for found, expected in zip(batches, usual[first:], strict=True):
                assert found.name == expected.name and found.task == expected.task
                assert torch.equal(found.degraded, expected.degraded)
                assert torch.equal(found.clean, expected.clean)


def test_rain_and_haze_of_a_photograph_are_new_each_time(pairs):
    one = {name: found[:1] for name, found in pairs.items() if name in ("derain", "dehaze")}
    training_set = TrainingSet(one, 64, seed=0)
    by_task = {"derain": set(), "dehaze": set()}
    for position in range(20):
        sample = training_set[position]
        by_task[sample.task].add((sample.degraded - sample.clean).numpy().tobytes())
    assert sum(map(len, by_task.values())) == 20


def test_validation_images_are_the_same_every_time(pairs):
    one, two, other = (ValidationSet(pairs, seed=seed) for seed in (0, 0, 1))
    for position in (len(one) - 1, len(one) - 7, 0, len(one) - 1):  # haze, rain, noise, haze
        assert torch.equal(one[position].degraded, two[position].degraded)
        assert not torch.equal(one[position].degraded, other[position].degraded)
    tasks = {one[position].task for position in range(len(one))}
    assert tasks == {entry.name for entry in DEGRADATIONS}


def test_given_pair_is_not_degraded_again(photos, tmp_path):
    (haze,) = (entry for entry in DEGRADATIONS if entry.name == "dehaze")
    pair = Pair(tmp_path / "hazy.png", tmp_path / "clean.png")
    sample = make_sample([photos[1], photos[0]], haze, pair, generator_of(0))
    assert np.array_equal(sample.degraded.mul(255).round().byte().permute(1, 2, 0), photos[1])


@pytest.fixture
def flags(clean_folder):
    usual = "--synthesize --configuration tiny --text learned --patch_size 16 --batch_size 2"
    return [*usual.split(), "--num_workers=0", "--num_gpus=0", f"--denoise_dir={clean_folder}"]


@pytest.mark.parametrize("flag", ["--derain_dir", "--dehaze_dir"])
def test_pairs_and_synthesis_are_not_mixed(flag, fails, flags, tmp_path):
    message = fails("train", *flags, flag, tmp_path)
    assert f"--synthesize and {flag}" in message and "give one of them" in message


def test_synthesis_without_photographs(fails, flags, tmp_path):
    message = fails("train", *flags, "--denoise_dir", tmp_path, "--de_type", "derain")
    assert f"--denoise_dir {tmp_path}: no images in it" in message


def test_photographs_alone_train_and_resume(
    run_script, fails, flags, data_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # away from any data/Train
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    flags += ["--max_steps=4", "--val_every=2"]
    result = run_script("train", *flags, "--ckpt_dir", whole)
    assert result.code == 0, result.err
    for entry in DEGRADATIONS:
        assert f"{entry.name}: 4 images, 1 held out" in result.out
    assert load_network(whole / "best.ckpt").description["run"]["synthesized"] is True

    flags += ["--ckpt_dir", halves]
    assert run_script("train", *flags, "--max_minutes=0.0001").code == 0
    stopped = read_checkpoint(halves / "last.ckpt")["global_step"]
    assert stopped < 4
    others = [flag for flag in flags if flag != "--synthesize"]
    others += [
        f"--{task.lower()}_dir={data_folder / 'Train' / task}" for task in ("Derain", "Dehaze")
    ]
    (halves / "flags.json").unlink()  # of an older version, or another's run
    assert "synthesize True, this one False" in fails("train", *others, "--resume")
    result = run_script("train", *flags, "--resume")
    assert result.code == 0 and f"steps {stopped} to 4" in result.out, result.err
    one, two = (read_checkpoint(folder / "last.ckpt")["state_dict"] for folder in (whole, halves))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
