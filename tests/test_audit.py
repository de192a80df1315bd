"""The audit finds test images among training images, by name and by picture, and nothing else."""

import csv
import functools
import json
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from data.degradations import TASKS
from data.overlap import ALIKE, EXACT, PictureIndex
from data.pairing import DataSet, Pair
from data.scenes import TEST_SCENES, leave_out, scene_of, scenes_of
from data.training import warn_of_test_sets
from utils.image_io import read_image, write_image

GREY = np.full((32, 32, 3), 128, np.uint8)
CBSD68, RAIN100L, _ = TEST_SCENES


@pytest.fixture(autouse=True)
def nothing_in_the_default_folders(monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture
def audit(run_script):
    """Run the audit."""
    return functools.partial(run_script, "scripts/audit")


@pytest.fixture(scope="module")
def pictures():
    """Photographs with soft and busy parts, uint8 RGB, at most 480 pixels wide."""
    names = ("astronaut", "coffee", "rocket", "chelsea")
    photos = [getattr(skimage.data, name)() for name in names]
    photos.append(skimage.data.stereo_motorcycle()[0])
    return [resized(photo, 480 / max(photo.shape)) for photo in photos]


def resized(image, scale):
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def encoded(image, quality):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


def centre(image, share):
    height, width = image.shape[:2]
    top, left = (round(side * (1 - share) / 2) for side in (height, width))
    return image[top : top + round(height * share), left : left + round(width * share)]


CHANGES = {
    "re-encoded": lambda image: encoded(image, 30),
    "reduced": lambda image: resized(image, 0.5),
    "enlarged": lambda image: resized(image, 1.5),
    "squashed": lambda image: cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA),
    "one pixel cut off": lambda image: image[1:, :-1],
    "crop of half each side": lambda image: centre(image, 0.5),
    "crop, re-encoded": lambda image: encoded(centre(image, 0.7), 60),
    "mirrored": lambda image: image[:, ::-1],
    "turned": lambda image: np.rot90(image),
    "transposed, re-encoded": lambda image: encoded(image.transpose(1, 0, 2), 60),
    "brighter": lambda image: np.clip(image * 1.2 + 10, 0, 255).astype(np.uint8),
}


def published_haze_names(num_scenes=841):
    """File names as in the released list: scenes 0001-0841, several hazes each."""
    return [
        f"{scene:04d}_{airlight}_{beta}.jpg"
        for scene in range(1, num_scenes + 1)
        for airlight, beta in (("0.8", "0.04"), ("0.95", "0.2"))
    ]


@pytest.mark.parametrize(
    ("name", "task", "scene"),
    [
        ("0001_0.85_0.04.jpg", "dehaze", "0001"),
        ("0001.png", "dehaze", "0001"),
        ("117025.jpg", "denoise", "117025"),
        ("a117025.jpg", "denoise", "117025"),
        ("airport.png", "denoise", "airport"),
        ("1.png", "derain", ""),
    ],
)
def test_scene_of_a_name(name, task, scene):
    assert scene_of(name, task) == scene


def test_shipped_lists_are_whole():
    sizes = [(known.num_images, len(known.images)) for known in TEST_SCENES]
    assert sizes == [(68, 68), (100, 91), (500, 492)]
    assert len(set(CBSD68.images) & set(RAIN100L.images)) == 24


def test_a_test_set_that_is_there_adds_only_scenes_that_no_list_has():
    names = ("0001_0.8_0.2.jpg", "9001_1_0.1.jpg", "9001_1_0.2.jpg")
    data_set = DataSet("mine", [Pair(Path(name), Path("x.png")) for name in names])
    assert scenes_of(data_set, "dehaze").images == {"9001": list(names[1:])}
    assert scenes_of(data_set, "derain").images == {}


def test_released_haze_list_shows_331_test_images(audit, tmp_path):
    synthetic, original = tmp_path / "haze" / "synthetic", tmp_path / "haze" / "original"
    for folder in (synthetic, original):
        folder.mkdir(parents=True)
    for name in published_haze_names():
        (synthetic / name).touch()
        (original / name.split("_")[0]).with_suffix(".jpg").touch()
    result = audit("--dehaze_dir", tmp_path / "haze", "--output", tmp_path / "report.csv")
    assert result.code == 1
    assert "SOTS outdoor (331 of its 500 test images)" in result.out
    rows = list(csv.DictReader((tmp_path / "report.csv").open()))
    assert len({row["test_image"] for row in rows}) == 331
    assert {row["evidence"] for row in rows} == {"scene"}

    file = tmp_path / "hazy_outside.txt"
    file.write_text("".join(f"synthetic/part1/{name}\n" for name in published_haze_names()))
    result = audit("--lists", file)
    assert result.code == 1 and "(331 of its 500 test images)" in result.out
    file.write_text("synthetic/9001_1_0.2.jpg\nclean/0001.png\n")  # 0001 of DIV2K, not of OTS
    result = audit("--lists", file)
    assert result.code == 0 and result.err == ""


def test_bsd400_shows_67_scenes_of_rain100l(tmp_path):
    # the other 24 of the list are in BSDS500's val part: they are images of CBSD68
    pairs = [Pair(None, tmp_path / f"{scene}.jpg") for scene in RAIN100L.images]
    bsd400 = [pair for pair in pairs if pair.clean.stem not in CBSD68.images]
    others = [Pair(None, tmp_path / f"{number:05d}.bmp") for number in range(1, 4745)]  # WED
    kept, overlaps = leave_out([*bsd400, *others], "denoise")
    assert kept == others
    assert len(overlaps) == 67 and {item.test_set for item in overlaps} == {"Rain100L"}
    assert leave_out(bsd400, "derain") == (bsd400, [])


@pytest.mark.parametrize("change", CHANGES)
def test_changed_pictures_are_found(change, index, pictures):
    found = [index.find(np.ascontiguousarray(CHANGES[change](picture))) for picture in pictures]
    expected = [[position] for position in range(len(pictures))]
    assert [[match.position for match in matches] for matches in found] == expected
    assert {match.evidence for matches in found for match in matches} == {ALIKE}


@pytest.fixture(scope="module")
def index(pictures):
    return PictureIndex(pictures)


def test_equal_pixels_are_told_from_equal_looks(pictures):
    twice = PictureIndex([pictures[0], pictures[1], pictures[0], encoded(pictures[0], 90)])
    matches = {match.position: match.evidence for match in twice.find(pictures[0])}
    assert matches == {0: EXACT, 2: EXACT, 3: ALIKE}


def test_other_photographs_are_not_found(index):
    others = [skimage.data.camera(), skimage.data.brick(), skimage.data.grass()]
    others += [skimage.data.gravel(), skimage.data.coins(), skimage.data.page()]
    others = [np.repeat(image[..., None], 3, axis=2) for image in others]
    others += [skimage.data.immunohistochemistry(), skimage.data.hubble_deep_field(), GREY]
    assert [index.find(image) for image in others] == [[]] * len(others)


def test_pictures_without_corners_are_compared_by_pixels():
    flat = PictureIndex([GREY])
    assert flat.smooth == [0]
    assert [match.evidence for match in flat.find(GREY)] == [EXACT]
    assert flat.find(GREY + 1) == []
    assert PictureIndex([]).find(GREY) == []


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (31, 40), (32, 32), (2, 3000), (3000, 100)])
def test_pictures_of_any_size_are_compared(size, index):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    assert index.find(picture) == []
    assert [match.evidence for match in PictureIndex([picture]).find(picture)] == [EXACT]


def test_pictures_are_reported_by_name(audit, pictures, tmp_path):
    train, test = tmp_path / "train", tmp_path / "test"
    for position, picture in enumerate(pictures[:2]):
        write_image(test / "input" / f"{position}.png", picture)
        write_image(test / "target" / f"{position}.png", picture)
    write_image(train / "same.png", pictures[0])
    write_image(train / "crop.jpg", centre(pictures[1], 0.6))
    write_image(train / "other.png", pictures[2])
    (train / "damaged.png").write_text("no image")
    write_image(train / "flat.png", GREY)
    flags = ["--denoise_dir", train, "--derain_path", test, "--output", tmp_path / "r.json"]
    result = audit(*flags)
    assert result.code == 1, result.err
    damaged = [line for line in result.err.splitlines() if "damaged.png" in line]
    assert len(damaged) == 1 and damaged[0].startswith("warning: not compared")
    report = json.loads((tmp_path / "r.json").read_text())
    found = {
        Path(row["training_image"]).name: (Path(row["test_image"]).name, row["evidence"])
        for row in report["overlaps"]
    }
    assert found == {"same.png": ("0.png", EXACT), "crop.jpg": ("1.png", ALIKE)}
    assert len(report["left_out"]) == 4 and len(report["not_compared"]) == 1
    assert f"{train / 'crop.jpg'}: test {test / 'target' / '1.png'}, {ALIKE}" in result.out

    for name in ("same.png", "crop.jpg", "damaged.png"):
        (train / name).unlink()
    result = audit(*flags)
    assert result.code == 0 and "no overlap found" in result.out


def test_mistakes_of_the_user(fails, tmp_path):
    assert "nothing to audit" in fails("scripts/audit")
    assert ".json or .csv" in fails("scripts/audit", "--output", "report.txt")
    assert "no such list" in fails("scripts/audit", "--lists", tmp_path / "no.txt")
    write_image(tmp_path / "picture.png", GREY)
    assert "not a text file" in fails("scripts/audit", "--lists", tmp_path / "picture.png")
    for text in ("\n", "1.png\nDear reader,\n", "train/100075.jpg <- 1.png\n"):
        (tmp_path / "text.txt").write_text(text)
        assert "expected an image's name" in fails(
            "scripts/audit", "--lists", tmp_path / "text.txt"
        )


@pytest.mark.parametrize("flag", ["--denoise_dir", "--dehaze_path"])
def test_a_folder_that_is_given_has_to_hold_images(flag, fails, tmp_path):
    write_image(Path("data/Train/denoise/x.png"), GREY)
    message = fails("scripts/audit", flag, "data/Train/Denois")
    assert f"{flag} data/Train/Denois: no such folder" in message
    assert f"{flag} {tmp_path}: no images in it" in fails("scripts/audit", flag, tmp_path)


@pytest.fixture
def contaminated(data_folder, tmp_path):
    """A folder to dehaze with two scenes of SOTS outdoor, one of them in two hazes, and others."""
    picture = read_image(next((data_folder / "Train" / "Denoise").iterdir()))
    names = ["0001_1_0.1.jpg", "0001_1_0.2.jpg", "0002_1_0.1.jpg", "photo1_1_0.1.jpg"]
    for name in [*names, "photo2_1_0.1.jpg"]:
        write_image(tmp_path / "Dehaze" / "synthetic" / name, picture)
        write_image(tmp_path / "Dehaze" / "original" / f"{name.split('_')[0]}.png", picture)
    return tmp_path / "Dehaze"


def test_training_leaves_out_test_scenes(run_script, fails, train_flags, contaminated, tmp_path):
    flags = [*train_flags, "--de_type", "dehaze", "--dehaze_dir", contaminated]
    flags += ["--val_images", 0, "--max_steps", 1, "--ckpt_dir", tmp_path / "run"]
    result = run_script("train", *flags)
    assert result.code == 0, result.err
    warnings = [line for line in result.err.splitlines() if "SOTS outdoor" in line]
    assert len(warnings) == 1
    assert "3 of 5 training images to dehaze are left out" in warnings[0]
    assert "2 scenes of SOTS outdoor (2 of its 500 test images)" in warnings[0]
    assert "dehaze: 2 images" in result.out

    flags[-3:-2] = [2]
    message = fails("train", *flags, "--resume", "--no-exclude_test_scenes")
    assert "exclude_test_scenes True, this one False" in message


def test_training_on_test_scenes_is_warned_of(run_script, train_flags, contaminated, tmp_path):
    file = tmp_path / "lists" / "hazy" / "hazy_outside.txt"
    file.parent.mkdir(parents=True)
    file.write_text("synthetic/0001_1_0.1.jpg\nsynthetic/photo1_1_0.1.jpg\n")
    flags = [*train_flags, "--de_type", "dehaze", "--dehaze_dir", contaminated]
    flags += ["--data_file_dir", tmp_path / "lists", "--max_steps", 1, "--val_images", 0]
    result = run_script("train", *flags, "--no-exclude_test_scenes", "--ckpt_dir", tmp_path / "run")
    assert result.code == 0, result.err
    assert "1 of 2 training images to dehaze show 1 scene" in result.err
    assert "void" in result.err and "dehaze: 2 images" in result.out


def test_nothing_left_to_train_on(fails, train_flags, contaminated, tmp_path):
    for path in contaminated.glob("*/photo*"):
        path.unlink()
    flags = [*train_flags, "--de_type", "dehaze", "--dehaze_dir", contaminated]
    message = fails("train", *flags, "--ckpt_dir", tmp_path / "run")
    assert "none is left" in message and "--no-exclude_test_scenes" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "images", "published"),
    [("a/Rain100L", 100, True), ("Rain100L", 99, False), ("RainTrainL", 100, False)],
)
def test_training_on_a_published_test_set_is_warned_of(name, images, published, tmp_path):
    """Told by its folder: the names of rainy images tell nothing."""
    pairs = [Pair(tmp_path / f"{index}.png", tmp_path / "clean.png") for index in range(images)]
    with warnings.catch_warnings(record=True) as found:
        warn_of_test_sets([DataSet(name, pairs), DataSet("Derain", pairs)], TASKS[1])
    told = [str(warning.message) for warning in found]
    assert ["figures on it are void" in message for message in told] == [True] * published
