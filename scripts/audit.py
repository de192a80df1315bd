"""Which training images are test images as well?

python -m scripts.audit                                      # data/Train against test
python -m scripts.audit --denoise_dir BSD400 --denoise_path CBSD68 --output report.csv
python -m scripts.audit --lists data_dir/hazy/hazy_outside.txt     # names only, no pictures

Three kinds of evidence: the scene's name (`data/scenes.py`), also against shipped lists of SOTS
outdoor, CBSD68 and Rain100L; equal pixels; and pictures that look the same (`data/overlap.py`).
Pictures are compared by their clean images. The default folders may be missing or empty, others
may not. Exit code 0: no overlap, 1: some, 2: a wrong flag.
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
import csv
import io
import json
import os
import sys
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from data.degradations import TASKS
from data.overlap import PictureIndex
from data.pairing import Pair, read_names
from data.scenes import (
    TEST_SCENES,
    TestScenes,
    describe_overlaps,
    find_overlaps,
    name_of,
    scenes_of,
)
from data.training import choose_pairs
from options import Parser, add_test_flags, add_training_flags, find_in_folder
from utils.errors import UserError, run
from utils.files import check_writable, write_whole
from utils.image_io import read_image

SCENE = "scene"  # evidence, beside those of `data.overlap`
SHOWN = 20  # overlaps on the screen; the report has all
REPORTS = (".json", ".csv")


class Finding(NamedTuple):
    """A training image that is, or shows, a test image; correlation is empty for names."""

    training_set: str
    training_image: str
    test_set: str
    test_image: str
    evidence: str
    correlation: str


class TestPicture(NamedTuple):
    """A clean image of a test set."""

    test_set: str
    path: Path


def main() -> int:
    options = read_options()
    training, left_out = find_training(options)
    lists = {str(file): read_names(file) for file in options.lists}
    if not training and not lists:
        raise UserError(f"nothing to audit; {'; '.join(left_out)}")
    known, pictures, test_left_out = find_tests(options)
    left_out = left_out + test_left_out if training else []  # lists alone need no folder
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    if options.output:
        check_writable(options.output.parent)

    findings, sentences = compare_names(training, lists, known)
    missed: list[str] = []
    if pictures and training:
        cv2.setNumThreads(1)  # there is a thread a picture
        with warnings.catch_warnings(action="ignore"):  # of conversions that do not matter here
            findings += compare_pictures(training, pictures, missed)
    for message in missed:
        warnings.warn(f"not compared: {message}", stacklevel=1)

    if options.output:
        write_report(options.output, findings, left_out, missed)
    show(findings, sentences, options.output)
    return 1 if findings else 0


def read_options(argv: Sequence[str] | None = None) -> Namespace:
    """Flags; those that train.py and test.py have mean the same. Raises `UserError`."""
    parser = Parser("Find training images that are test images as well.")
    add_training_flags(parser)
    add_test_flags(parser)
    parser.add_argument(
        "--lists",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="published lists of training images, to be judged by their names alone",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="report, .json or .csv")
    options = parser.parse_args(argv)
    if options.output and options.output.suffix not in REPORTS:
        parser.error(f"--output {options.output}: expected a file name in {' or '.join(REPORTS)}")
    return options


def find_training(options: Namespace) -> tuple[dict[tuple[str, str], list[Pair]], list[str]]:
    """The training pairs by (task, folder), and what is left out."""
    training, left_out = {}, []
    for task in TASKS:
        folder = getattr(options, f"{task.name}_dir")
        data_sets = find_in_folder(options, f"{task.name}_dir", task)
        pairs = choose_pairs(options, task, data_sets)
        if pairs:
            training[task.name, str(folder)] = pairs
        else:
            left_out.append(f"no training images in --{task.name}_dir {folder}")
    return training, left_out


def find_tests(options: Namespace) -> tuple[list[TestScenes], list[TestPicture], list[str]]:
    """The scenes of all test sets by name, the clean test images, and what is left out."""
    known, pictures, left_out = list(TEST_SCENES), [], []
    for task in TASKS:
        folder = getattr(options, f"{task.name}_path")
        data_sets = find_in_folder(options, f"{task.name}_path", task)
        for data_set in data_sets:
            clean = dict.fromkeys(pair.clean for pair in data_set.pairs)
            pictures += [TestPicture(data_set.name, path) for path in clean]
            known.append(scenes_of(data_set, task.name))
        if not data_sets:
            left_out.append(f"no test images in --{task.name}_path {folder}")
    return known, pictures, left_out


def compare_names(
    training: dict[tuple[str, str], list[Pair]],
    lists: dict[str, list[str]],
    known: list[TestScenes],
) -> tuple[list[Finding], list[str]]:
    """What the names of training images say, and a sentence for each folder or list."""
    parts = [
        (task, folder, {name_of(pair): str(pair.degraded or pair.clean) for pair in pairs})
        for (task, folder), pairs in training.items()
    ]
    for file, names in lists.items():  # hazy images have a scene and its haze in their names
        for task, hazy in (("dehaze", True), ("denoise", False)):
            parts.append((task, file, {name: name for name in names if ("_" in name) == hazy}))
    findings, sentences = [], []
    for task, origin, files in parts:
        overlaps = find_overlaps(files, task, known)
        if overlaps:
            num_images = len({overlap.name for overlap in overlaps})
            sentences.append(
                f"{origin}: by name, {num_images} of {len(files)} training images show "
                f"{describe_overlaps(overlaps, known)}"
            )
        findings += [
            Finding(origin, files[overlap.name], overlap.test_set, test_image, SCENE, "")
            for overlap in overlaps
            for test_image in overlap.test_images
        ]
    return findings, sentences


def compare_pictures(
    training: dict[tuple[str, str], list[Pair]], pictures: list[TestPicture], missed: list[str]
) -> list[Finding]:
    """What the clean images show; `missed` receives a line for each that cannot be compared."""

    def read(path: Path) -> np.ndarray | None:
        try:
            return read_image(path)
        except UserError as error:
            missed.append(str(error))
            return None

    indexed: list[TestPicture] = []

    def test_pictures() -> Iterator[np.ndarray]:
        for picture in tqdm(pictures, "test images", unit="image"):
            pixels = read(picture.path)
            if pixels is not None:
                indexed.append(picture)
                yield pixels

    index = PictureIndex(test_pictures())
    missed += [
        f"{indexed[position].path}: too smooth to be found by its looks"
        for position in index.smooth
    ]

    def compare(item: tuple[str, Path]) -> list[Finding]:
        pixels = read(item[1])
        if pixels is None:
            return []
        return [
            Finding(
                item[0],
                str(item[1]),
                indexed[match.position].test_set,
                str(indexed[match.position].path),
                match.evidence,
                f"{match.correlation:.3f}",
            )
            for match in index.find(pixels)
        ]

    items = dict.fromkeys(
        (folder, pair.clean) for (_, folder), pairs in training.items() for pair in pairs
    )
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = tqdm(pool.map(compare, items), "training images", len(items), unit="image")
        return [finding for findings in results for finding in findings]


def show(findings: list[Finding], sentences: list[str], output: Path | None) -> None:
    """A line for each training folder, test set and kind of evidence, then every finding."""
    for sentence in sentences:
        print(sentence)
    groups: dict[tuple[str, str, str], Counter] = {}
    for item in findings:
        if item.evidence == SCENE:
            continue  # the sentences tell
        group = groups.setdefault((item.training_set, item.test_set, item.evidence), Counter())
        group["training", item.training_image] += 1
        group["test", item.test_image] += 1
    for (training_set, test_set, evidence), group in groups.items():
        kinds = Counter(kind for kind, _ in group)
        print(
            f"{training_set} / {test_set}, {evidence}: {kinds['training']} training images, "
            f"{kinds['test']} test images"
        )
    for item in findings[:SHOWN]:
        value = f" {item.correlation}" if item.correlation else ""
        print(f"  {item.training_image}: {item.test_set} {item.test_image}, {item.evidence}{value}")
    if len(findings) > SHOWN:
        where = f"all are in {output}" if output else "--output report.csv gives all"
        print(f"  ... and {len(findings) - SHOWN} more; {where}")
    if not findings:
        print("no overlap found")


def write_report(
    path: Path, findings: list[Finding], left_out: list[str], missed: list[str]
) -> None:
    """All findings, as a table (.csv) or with what was not compared (.json)."""
    if path.suffix == ".csv":
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerows([Finding._fields, *findings])
        text = table.getvalue()
    else:
        content = {
            "left_out": left_out,
            "not_compared": missed,
            "overlaps": [finding._asdict() for finding in findings],
        }
        text = json.dumps(content, indent=1) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


if __name__ == "__main__":
    run(main)
