"""Restore pictures of any size.

python demo.py --input photo.jpg --output restored              # blind; or --output restored.jpg
python demo.py --input photos --output restored --compare       # a folder, with side-by-sides
python demo.py --input 'photos/**/*.jpg' --output restored      # a pattern; or several of all these
find photos -name '*.jpg' | python demo.py --input - --output restored
python demo.py --input rainy.png --output restored --task derain --strength 0.7
"""

import glob
import io
import json
import os
import stat
import sys
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from am_promptir import Restored, describe_weights, load, name_degradation, restore_picture
from net.checkpoint import Trained
from options import demo_options
from utils.comparison import COMPARISONS
from utils.errors import UserError, run
from utils.image_io import EXTENSIONS, check_writable, list_images, write_whole
from utils.inference import Part
from utils.pictures import read_picture
from utils.printable import printable

REPORT = "restored.json"  # in the folder of the results
ENDINGS = " ".join(sorted(EXTENSIONS))
BRACKETS = ", and write [[] for a bracket that is part of the name"
NEARLY_UNCHANGED = 38  # dB of a result against its picture
MISSING, FOLDER = "no such file", "a folder; expected a picture"


class Target(NamedTuple):
    """Where the results of one picture go."""

    restored: Path
    comparison: Path


def main() -> int:
    options = demo_options()
    names, failures = find_pictures(options.input, options.output)
    names, folder = name_results(names, options.output)
    targets = find_targets(names, folder, options.compare)
    trained = load(options.ckpt_name, options.cuda)
    named = name_degradation(
        trained, options.task, options.text, options.clip_pretrained, options.clip_quick_gelu
    )
    check_writable(folder)
    print(printable(f"{trained.description['checkpoint']}: {trained.describe()}"), flush=True)
    if options.text:
        print(f"understood as: {describe_weights(_by_name(trained, named))}")

    entries: list[dict[str, Any]] = []
    try:
        with tqdm(targets.items(), "restoring", unit="picture", disable=not targets) as progress:
            for source, target in progress:

                def show(part: Part) -> None:
                    if part.total > 1:
                        progress.set_postfix_str(f"tile {part.done} of {part.total}")

                try:
                    picture = read_picture(source, options.max_pixels)
                    result = restore_picture(
                        picture, trained, named, options.strength, options.tile, show
                    )
                    save(result, target, options.compare)
                    change = result.change_db
                except UserError as error:
                    _add_failure(failures, str(source), str(error))
                    continue
                entries.append(
                    {
                        "input": str(source),
                        "output": str(target.restored),
                        "weights": result.weights,
                        "change_db": change,
                    }
                )
                words = describe_result(result.weights, change) if named is None else ""
                if words:
                    tqdm.write(printable(f"{source}: {words}"))
    finally:  # what is done is told of after Ctrl-C as well
        entries += [{"input": name, "error": reason} for name, reason in failures.items()]
        if folder == options.output:
            write_report(folder, describe_run(trained, named, options) | {"pictures": entries})

    done = len(entries) - len(failures)
    print(f"{done} of {len(entries)} pictures restored: {printable(options.output)}")
    if failures:
        print(f"{len(failures)} failed: {printable(', '.join(failures))}", file=sys.stderr)
    return 1 if failures else 0


def find_pictures(inputs: list[str], output: Path) -> tuple[dict[Path, Path], dict[str, str]]:
    """The pictures that `--input` means, each with the name of its result; and what is wrong.

    A result is called as its picture, from the folder given, or the fixed part of a pattern; of
    pictures given by themselves or in a list, from the deepest folder that holds all of them.
    Earlier results, in an output folder inside a folder or pattern given, are left out.

    Raises:
        UserError: what is given is none, or holds no pictures. Of a list, such lines are returned,
            and so are folders inside the one given that cannot be read.
    """
    names: dict[Path, Path] = {}
    single: list[Path] = []
    failures: dict[str, str] = {}
    for given in inputs:
        path = Path(given)
        fault = _find_fault(path)
        if given == "-":
            if isinstance(sys.stdin, io.TextIOWrapper):  # names may not be UTF-8
                sys.stdin.reconfigure(errors="surrogateescape")
            for line in filter(None, map(str.strip, sys.stdin)):
                fault = _find_fault(Path(line))
                if fault:
                    _add_failure(failures, line, f"{line}: {fault}")
                else:
                    single.append(Path(line))
        elif fault == FOLDER:
            unread: list[OSError] = []
            found = _leave_out(output, path, list_images(path, True, unread.append))
            for error in unread:
                name = str(error.filename)
                _add_failure(failures, name, f"{name}: cannot be read ({error.strerror})")
            if not found and not unread:
                raise UserError(
                    f"--input {path}: no pictures in this folder; expected files ending in "
                    f"{ENDINGS}"
                )
            names |= {picture: picture.relative_to(path) for picture in found}
        elif fault == MISSING and glob.has_magic(given):
            top = next(folder for folder in path.parents if not glob.has_magic(str(folder)))
            try:
                found = sorted(top.glob(str(path.relative_to(top))))
            except ValueError as error:
                raise UserError(f"--input {given}: no such pattern ({error})") from error
            found = _leave_out(output, top, [p for p in found if not _find_fault(p)])
            if not found:
                hint = BRACKETS if "[" in given else ""
                raise UserError(
                    f"--input {given}: no picture's name is like this; correct it{hint}"
                )
            names |= {picture: picture.relative_to(top) for picture in found}
        elif fault:
            raise UserError(f"--input {path}: {fault}")
        else:
            single.append(path)
    if single:
        top = Path(os.path.commonpath([picture.absolute().parent for picture in single]))
        names |= {picture: picture.absolute().relative_to(top) for picture in single}
    if not names and not failures:
        raise UserError("--input -: no pictures on standard input; expected one path a line")
    return names, failures


def name_results(names: dict[Path, Path], output: Path) -> tuple[dict[Path, Path], Path]:
    """The names of the results and their folder; `--output` may be the file of a single one.

    Raises:
        UserError: it is that of several, or of a format that is not written.
    """
    ending = output.suffix.lower()
    if ending not in Image.registered_extensions() or output.is_dir():
        return names, output
    if ending not in EXTENSIONS:
        raise UserError(f"--output {output}: expected a folder, or a name ending in {ENDINGS}")
    if len(names) > 1:
        raise UserError(
            f"--output {output}: one file for {len(names)} pictures; expected a folder for them"
        )
    return {picture: Path(output.name) for picture in names}, output.parent


def find_targets(names: dict[Path, Path], output: Path, compare: bool) -> dict[Path, Target]:
    """Where the results of each picture go: below the output folder.

    Raises:
        UserError: a result would overwrite an input or another result.
    """
    targets = {
        path: Target(output / name, output / COMPARISONS / name.with_name(f"{name.name}.png"))
        for path, name in names.items()
    }
    taken = {os.path.realpath(path) for path in targets}
    for target in targets.values():
        for path in target if compare else [target.restored]:
            real = os.path.realpath(path)  # which takes links in a circle
            if real in taken:
                raise UserError(
                    f"--output {output}: {path} is an input or another result and would be "
                    "overwritten; choose another folder, or restore the inputs one by one"
                )
            taken.add(real)
    return targets


def save(result: Restored, target: Target, compare: bool) -> None:
    """Write the restored picture, and beside the input if that is asked for. Raises `UserError`."""
    result.save(target.restored)
    if compare:
        result.save_comparison(target.comparison)


def describe_result(weights: dict[str, float] | None, change: float | None) -> str:
    """What a network that was not told what is wrong made of a picture, or nothing.

    weights, change: as in `Restored`.
    """
    words = [f"looks like {describe_weights(weights)}"] if weights else []
    if change is None or change >= NEARLY_UNCHANGED:
        words.append("nearly unchanged")
    return "; ".join(words)


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write what was done as JSON. Raises `UserError`."""
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    # what is not UTF-8 becomes JSON's own escape
    content = text.encode(errors="backslashreplace")
    write_whole(folder / REPORT, lambda file: file.write(content))


def describe_run(trained: Trained, named: Tensor | None, options: Namespace) -> dict[str, Any]:
    """What the report says of all pictures."""
    return {
        "checkpoint": trained.description["checkpoint"],
        "sha256": trained.description["sha256"],
        "network": trained.title,
        "knowledge": "blind" if named is None else "named",
        "task": options.task,
        "text": options.text,
        "named": None if named is None else _by_name(trained, named),
        "strength": options.strength,
    }


def _by_name(trained: Trained, named: Tensor) -> dict[str, float]:
    return dict(zip(trained.degradations, named[0].tolist(), strict=True))


def _find_fault(path: Path) -> str:
    """Why a path is no picture by its name, or nothing."""
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    except (OSError, ValueError) as error:  # not allowed, too long a name, a zero byte in it
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if is_folder:
        return FOLDER
    if path.suffix.lower() not in EXTENSIONS:
        return f"expected a picture ending in {ENDINGS}"
    return ""


def _leave_out(output: Path, top: Path, pictures: list[Path]) -> list[Path]:
    """The pictures without those in the output folder, if it is inside the folder `top`."""
    output, top = (Path(os.path.realpath(folder)) for folder in (output, top))
    if top not in output.parents:
        return pictures
    kept = [p for p in pictures if not Path(os.path.realpath(p.parent)).is_relative_to(output)]
    if len(kept) < len(pictures):
        warnings.warn(
            f"{len(pictures) - len(kept)} of {len(pictures)} pictures are in --output {output} "
            "and left out, as earlier results",
            stacklevel=2,
        )
    return kept


def _add_failure(failures: dict[str, str], name: str, reason: str) -> None:
    failures[name] = reason
    where = "" if reason.startswith(name) else f"{name}: "  # some are of the result, or of neither
    tqdm.write(f"failed: {printable(where + reason)}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
