"""Finding degraded images and their clean partners in every folder layout that is about.

Folders and names are matched whole, by the tables below; no text is replaced inside a path.
"""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data.degradations import Task
from data.transforms import PROTOCOL_MULTIPLE
from utils.errors import UserError
from utils.image_io import EXTENSIONS, list_images

# (degraded, clean) folders beside each other, tried in this order, in any letter case
FOLDER_PAIRS = (
    ("rainy", "gt"),
    ("rain", "norain"),
    ("synthetic", "original"),
    ("hazy", "clear"),
    ("hazy", "gt"),
    ("input", "target"),
    ("low", "high"),
)

# how a degraded image's stem becomes its clean partner's; the first that exists is taken
SAME_NAME = ((r"(.+)", r"\1"),)  # of the tasks that have no rules
NAME_RULES = {
    "derain": (
        *SAME_NAME,
        (r"rain(.*)", r"norain\1"),
        (r"(\d+)_\d+", r"\1"),  # rainy variants of a numbered scene
        (r"(.+)_rain\d+", r"\1"),  # those that scripts.synthesize writes
    ),
    "dehaze": (*SAME_NAME, (r"([^_]+)_.+", r"\1")),
}
FLAT_DEGRADED = {"derain": r"rain.*", "dehaze": r"[^_]+_.+"}  # both kinds in one folder
NOISY = r"(noisy|noise|sigma)([_-]?[\d.]*|[_-]?images)"  # beside the clean one, as in CBSD68
CLEAN_FOLDER = f"({'|'.join(sorted({clean for _, clean in FOLDER_PAIRS}))}|clean)([_-].*)?"
BSD_PREFIX = "a"  # published denoise lists write a117025.jpg for 117025.jpg
MAX_DEPTH = 3  # folders between a given folder and its images


class Pair(NamedTuple):
    """A degraded image and its clean one; `degraded` is None where it is made on the fly."""

    degraded: Path | None
    clean: Path

    @property
    def name(self) -> str:
        return (self.degraded or self.clean).stem


class DataSet(NamedTuple):
    """The pairs of one data set, sorted by name; its name is its folder's."""

    name: str
    pairs: list[Pair]


def find_data_sets(folder: Path, task: Task) -> list[DataSet]:
    """The data set that `folder` is, or the data sets that it holds, sorted by name.

    The list is empty if nothing is found.

    Raises:
        UserError: a degraded image has no clean partner.
    """
    if not folder.is_dir():
        return []
    find = _find_clean if task.name == "denoise" else _find_pairs
    return list(find(folder, folder, task, MAX_DEPTH))


def describe_missing(folder: Path, task: Task) -> str:
    """Why `find_data_sets` finds nothing in a folder, in words."""
    if not folder.is_dir():
        return "a file, not a folder" if folder.is_file() else "no such folder"
    if not list_images(folder, recursive=True):
        return "no images in it"
    if task.name == "denoise":
        return f"no clean images in it, or more than {MAX_DEPTH} folders deep"
    if any(folder.resolve().name.lower() in pair for pair in FOLDER_PAIRS):
        return "no pairs in it; if this is one half of them, give the folder above"
    return "no pairs in it"


def describe_layout(task: Task) -> str:
    """What `find_data_sets` looks for, in words."""
    if task.name == "denoise":
        return f"clean images ({' '.join(sorted(EXTENSIONS))})"
    pairs = " ".join("/".join(pair) for pair in FOLDER_PAIRS)
    return f"a folder of degraded and one of clean images beside each other ({pairs})"


def check_sizes(
    pairs: Sequence[Pair],
    sizes: Mapping[Path, tuple[int, int]],
    patch_size: int = 0,
    smallest: int = 1,
) -> list[str]:
    """The names of the images smaller than the patch; `sizes` as `data.damage` gives them.

    Raises:
        UserError: the two images of a pair differ in size, or a side has fewer than `smallest`
            pixels.
    """
    small = []
    for pair in pairs:
        clean = sizes[pair.clean]
        degraded = sizes[pair.degraded or pair.clean]
        if degraded != clean:
            raise UserError(
                f"{pair.degraded}: {degraded[0]} x {degraded[1]} pixels, but its clean partner "
                f"{pair.clean} has {clean[0]} x {clean[1]}; both must be equal"
            )
        if min(clean) < smallest:
            raise UserError(
                f"{pair.clean}: {clean[0]} x {clean[1]} pixels; scoring needs {smallest} a side, "
                "remove it from the test set"
            )
        if min(side - side % PROTOCOL_MULTIPLE or side for side in clean) < patch_size:
            small.append(pair.name)
    return small


def read_list(file: Path, pairs: list[Pair]) -> list[Pair]:
    """Keep the pairs that a published list names, in the list's order.

    Raises:
        UserError: the list is missing or names an image that is not there.
    """
    by_name = {(pair.degraded or pair.clean).name: pair for pair in pairs}
    chosen, missing = [], []
    for name in read_names(file):
        pair = by_name.get(name) or by_name.get(name.removeprefix(BSD_PREFIX))
        chosen.append(pair) if pair else missing.append(name)
    if missing:
        raise UserError(
            f"{file}: names {len(missing)} images that are not in the data folder "
            f"({first_few(missing)}); add them, or drop --data_file_dir to use every image"
        )
    return chosen


def read_names(file: Path) -> list[str]:
    """The file names in a published list, without their folders.

    Raises:
        UserError: the list is missing, empty or no text, or a line is not an image's name.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such list; give one that is, or none to use every image")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: not a text file; expected a list with an image's name in each line"
        ) from error
    names = []
    for number, line in enumerate(lines, start=1):
        found = [word for word in line.split() if Path(word).suffix.lower() in EXTENSIONS]
        if line.strip() and len(found) != 1:
            raise UserError(
                f"{file}: line {number} is {line.strip():.60}; expected an image's name in each "
                "line and nothing else, such as 00001.png"
            )
        names += [line.strip().rsplit("/", 1)[-1]] if found else []
    if not names:
        raise UserError(f"{file}: empty; expected an image's name in each line, such as 00001.png")
    return names


def _find_clean(folder: Path, top: Path, task: Task, depth: int) -> Iterable[DataSet]:
    images = list_images(folder)
    if images:
        yield DataSet(_name(folder, top), [Pair(None, path) for path in images])
    inside = _subfolders(folder) if depth else []
    names = {path.name.lower() for path in inside}
    halves = {degraded for degraded, clean in FOLDER_PAIRS if {degraded, clean} <= names}
    left = []
    for path in inside:
        name = path.name.lower()
        if name not in halves and not re.fullmatch(NOISY, name):
            left.append(path)
            continue
        warnings.warn(
            f"{path}: left out, since by its name its images are degraded; if they are clean, give "
            "this folder itself or another name",
            stacklevel=1,
        )
    data_sets = list(_descend(_find_clean, left, top, task, depth))
    is_half = len(left) == 1 < len(inside) and re.fullmatch(CLEAN_FOLDER, left[0].name.lower())
    if is_half and len(data_sets) == 1 and not images:  # which is named after this folder
        data_sets = [data_sets[0]._replace(name=_name(folder, top))]
    yield from data_sets


def _find_pairs(folder: Path, top: Path, task: Task, depth: int) -> Iterable[DataSet]:
    subfolders = {path.name.lower(): path for path in _subfolders(folder)}
    for degraded, clean in FOLDER_PAIRS:
        if degraded in subfolders and clean in subfolders:
            inputs = list_images(subfolders[degraded], recursive=True)
            targets = list_images(subfolders[clean], recursive=True)
            if inputs:
                yield DataSet(
                    _name(folder, top),
                    match_pairs(inputs, targets, task, subfolders[degraded], subfolders[clean]),
                )
            return
    images = list_images(folder)
    flat = FLAT_DEGRADED.get(task.name)
    inputs = [path for path in images if flat and re.fullmatch(flat, path.stem)]
    if inputs:
        targets = sorted(set(images) - set(inputs))
        yield DataSet(_name(folder, top), match_pairs(inputs, targets, task, folder, folder))
        return
    yield from _descend(_find_pairs, _subfolders(folder) if depth else [], top, task, depth)


def _descend(find, folders: Sequence[Path], top: Path, task: Task, depth: int) -> Iterable[DataSet]:
    for folder in folders:
        yield from find(folder, top, task, depth - 1)


def match_pairs(
    inputs: list[Path],
    targets: list[Path],
    task: Task,
    degraded_top: Path,
    clean_top: Path,
    what: str = "degraded",
) -> list[Pair]:
    """Find each degraded (or restored) image's clean one by `NAME_RULES`, below the two folders.

    Args:
        what: the inputs are, for the error.

    Raises:
        UserError: one has no clean partner, or two in different folders.
    """
    by_stem: dict[str, list[Path]] = {}
    for path in targets:
        by_stem.setdefault(path.stem, []).append(path)
    pairs, missing = [], []
    for path in inputs:
        stems = [
            re.sub(pattern, replacement, path.stem)
            for pattern, replacement in NAME_RULES.get(task.name, SAME_NAME)
            if re.fullmatch(pattern, path.stem)
        ]
        found = next((by_stem[stem] for stem in stems if stem in by_stem), [])
        if len(found) > 1:  # the one in the same subfolder, or of the same kind
            beside = clean_top / path.parent.relative_to(degraded_top)
            found = [target for target in found if target.parent == beside] or found
            found = [target for target in found if target.suffix == path.suffix] or found
        if not found:
            missing.append(path.name)
        elif len(found) > 1 and found[0].parent != found[1].parent:
            raise UserError(
                f"{path}: both {found[0]} and {found[1]} could be its clean partner; "
                "keep the one that is"
            )
        else:
            pairs.append(Pair(path, found[0]))
    if missing:
        raise UserError(
            f"{degraded_top}: {len(missing)} of {len(inputs)} {what} images have no clean "
            f"partner ({first_few(missing)}); add the partners or remove the images"
        )
    return pairs


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _name(folder: Path, top: Path) -> str:
    return top.resolve().name if folder == top else folder.relative_to(top).as_posix()


def first_few(names: list[str]) -> str:
    """The first three of some names, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
