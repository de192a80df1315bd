"""Which training images show a scene of a published test set, told by their names alone.

A scene's name means the same in training and test set only where both come from one source: OTS
and SOTS outdoor are made from the same photographs (0001_0.85_0.04.jpg and 0001_0.8_0.2.jpg are
one scene), and CBSD68 and the clean images of Rain100L are from BSDS500, as is part of the usual
training images to denoise. Names of rainy images (1.png) mean nothing, so deraining has no test
scenes here.

The lists in `test_scenes/` have a line `scene name` for each test image; a scene may have several.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from data.pairing import BSD_PREFIX, DataSet, Pair

LISTS = Path(__file__).parent / "test_scenes"


class TestScenes(NamedTuple):
    """The scenes of a test set that images for `task` may show, and the test images of each."""

    test_set: str
    task: str
    images: dict[str, list[str]]

    @property
    def num_images(self) -> int:
        return sum(map(len, self.images.values()))


class SceneOverlap(NamedTuple):
    """A training image, by its file's name, and the images of a test set that show its scene."""

    name: str
    scene: str
    test_set: str
    test_images: list[str]


def scene_of(name: str, task: str) -> str:
    """The scene that a file of this name shows: 0001_0.85_0.04.jpg -> 0001, a117025.jpg -> 117025.

    Empty where names tell nothing (deraining).
    """
    if task == "dehaze":
        return Path(name).stem.split("_")[0]
    if task == "denoise":
        stem = Path(name).stem
        number = stem.removeprefix(BSD_PREFIX)
        return number if number.isdecimal() else stem
    return ""


def name_of(pair: Pair) -> str:
    """The name of the file whose name tells the scene."""
    return (pair.degraded or pair.clean).name


def scenes_of(data_set: DataSet, task: str) -> TestScenes:
    """The scenes of a test set that is there, but for those that a shipped list has."""
    listed = {scene for known in TEST_SCENES if known.task == task for scene in known.images}
    names = [(scene_of(name_of(pair), task), name_of(pair)) for pair in data_set.pairs]
    return _group(data_set.name, task, [item for item in names if item[0] not in {"", *listed}])


def find_overlaps(
    names: Iterable[str], task: str, known: Sequence[TestScenes]
) -> list[SceneOverlap]:
    """The training images for `task`, by file name, that show a scene of the known test sets."""
    wanted = [test_scenes for test_scenes in known if test_scenes.task == task]
    return [
        SceneOverlap(name, scene, test_scenes.test_set, test_scenes.images[scene])
        for name in names
        for scene in [scene_of(name, task)]
        for test_scenes in wanted
        if scene in test_scenes.images
    ]


def leave_out(pairs: Sequence[Pair], task: str) -> tuple[list[Pair], list[SceneOverlap]]:
    """The pairs that show no scene of a published test set, and what the others show."""
    overlaps = find_overlaps(map(name_of, pairs), task, TEST_SCENES)
    names = {overlap.name for overlap in overlaps}
    return [pair for pair in pairs if name_of(pair) not in names], overlaps


def describe_overlaps(overlaps: Sequence[SceneOverlap], known: Sequence[TestScenes]) -> str:
    """In words: `75 scenes of SOTS outdoor (76 of its 500 test images) and ...`."""
    parts = []
    for test_scenes in known:
        scenes = {item.scene for item in overlaps if item.test_set == test_scenes.test_set}
        num_images = sum(len(test_scenes.images.get(scene, ())) for scene in scenes)
        if num_images:
            word = "scene" if len(scenes) == 1 else "scenes"
            parts.append(
                f"{len(scenes)} {word} of {test_scenes.test_set} ({num_images} of its "
                f"{test_scenes.num_images} test images)"
            )
    return " and ".join(parts)


def _group(test_set: str, task: str, items: Iterable[Sequence[str]]) -> TestScenes:
    images: dict[str, list[str]] = {}
    for scene, name in items:
        images.setdefault(scene, []).append(name)
    return TestScenes(test_set, task, images)


def _read(file_name: str) -> list[list[str]]:
    return [line.split() for line in (LISTS / file_name).read_text().splitlines()]


TEST_SCENES = (
    _group("CBSD68", "denoise", _read("cbsd68.txt")),
    _group("Rain100L", "denoise", _read("rain100l_in_bsds500.txt")),
    _group("SOTS outdoor", "dehaze", _read("sots_outdoor.txt")),
)
