"""Restore pictures of any size.

python demo.py --input photo.jpg --output restored              # blind; or --output restored.jpg
python demo.py --input photos --output restored --compare       # a folder, with side-by-sides
python demo.py --input 'photos/**/*.jpg' --output restored      # a pattern; or several of all these
find photos -name '*.jpg' | python demo.py --input - --output restored
python demo.py --input rainy.png --output restored --task derain --strength 0.7
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
import glob
import hashlib
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
from utils.files import LONGEST_NAME, check_writable, write_whole
from utils.image_io import EXTENSIONS, list_images
from utils.inference import Part
from utils.pictures import read_picture
from utils.printable import printable
from utils.processes import end_as_ctrl_c_does

REPORT = "restored.json"  # in the folder of the results
ENDINGS = " ".join(sorted(EXTENSIONS))
BRACKETS = ", and write [[] for a bracket that is part of the name"
NEARLY_UNCHANGED = 38  # dB of a result against its picture
MISSING = "no such file; correct the name"
FOLDER = "a folder; expected a picture"


class Target(NamedTuple):
    """Where the results of one picture go."""

    restored: Path
    comparison: Path


def main() -> int:
    end_as_ctrl_c_does()
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
        with (
            trained.net.weights_kept(),
            tqdm(targets.items(), "restoring", unit="picture", disable=not targets) as progress,
        ):
            for source, target in progress:
                progress.set_postfix_str("", refresh=False)

                def show(part: Part) -> None:
                    if part.total > 1:
                        progress.set_postfix_str(f"part {part.done} of {part.total}")

                try:
                    picture = read_picture(source, options.max_pixels)
                    result = restore_picture(
                        picture,
                        trained,
                        named,
                        strength=options.strength,
                        tile=options.tile,
                        on_part=show,
                        self_ensemble=options.self_ensemble,
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
                        "tiles": result.tiles,
                    }
                )
                words = describe_result(result.weights, change) if named is None else []
                if result.tiles > 1 and options.tile is None:
                    words.append(f"in {result.tiles} tiles, for want of memory")
                if words:
                    tqdm.write(printable(f"{source}: {'; '.join(words)}"))
    finally:  # what is done is told of after Ctrl-C as well
        entries += [{"input": name, "error": reason} for name, reason in failures.items()]
        if folder == options.output and entries:
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
    single: dict[Path, Path] = {}  # by folder and name without links, to tell what is given twice
    failures: dict[str, str] = {}
    for given in inputs:
        path = Path(given)
        fault = _find_fault(path)
        if given == "-":
            for line in _read_list():
                fault = _find_fault(Path(line))
                if fault:
                    _add_failure(failures, line, f"{line}: {fault}")
                else:
                    _add_single(single, Path(line))
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
            path = path / "*" if path.name == "**" else path  # whatever is below, not folders alone
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
            _add_single(single, path)
    if single:
        wholes = {given: _whole(given) for given in single.values()}
        top = Path(os.path.commonpath([path.parent for path in wholes.values()]))
        names |= {given: path.relative_to(top) for given, path in wholes.items()}
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
        path: Target(output / name, output / COMPARISONS / name.with_name(_with_png(name.name)))
        for path, name in names.items()
    }
    taken = {os.path.realpath(path) for path in targets}
    for target in targets.values():
        for path in target if compare else [target.restored]:
            real = os.path.realpath(path)  # which takes links in a circle
            if real in taken:
                raise UserError(
                    f"{path}: an input or another result, which would be overwritten; choose "
                    "another --output, or restore pictures of one name one by one"
                )
            taken.add(real)
    return targets


def _with_png(name: str) -> str:
    """A name with an ending of its own, as short as file systems want it."""
    ending = ".png"
    encoded = os.fsencode(name)
    room = LONGEST_NAME - len(ending)
    if len(encoded) > room:
        ending = f"~{hashlib.sha256(encoded).hexdigest()[:8]}{ending}"
        encoded = encoded[: LONGEST_NAME - len(ending)]
        name = encoded.decode(errors="ignore")
    return name + ending


def save(result: Restored, target: Target, compare: bool) -> None:
    """Write the restored picture, and beside the input if that is asked for. Raises `UserError`."""
    result.save(target.restored)
    if compare:
        result.save_comparison(target.comparison)


def describe_result(weights: dict[str, float] | None, change: float | None) -> list[str]:
    """What a network that was not told what is wrong made of a picture, in none to two clauses.

    weights, change: as in `Restored`.
    """
    words = [f"looks like {describe_weights(weights)}"] if weights else []
    if change is None or change >= NEARLY_UNCHANGED:
        words.append("nearly unchanged")
    return words


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
        "tile": "auto" if options.tile is None else options.tile,
        "self_ensemble": options.self_ensemble,
    }


def _by_name(trained: Trained, named: Tensor) -> dict[str, float]:
    return dict(zip(trained.degradations, named[0].tolist(), strict=True))


def _read_list() -> list[str]:
    """The lines of standard input that are not empty.

    Raises:
        UserError: it is a picture itself, or another file that is no text.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):  # names may not be UTF-8
        sys.stdin.reconfigure(errors="surrogateescape")
    text = sys.stdin.read().removeprefix("\ufeff")  # the mark some editors begin a file with
    if "\0" in text and any("\udc80" <= sign <= "\udcff" for sign in text):
        raise UserError(
            "--input -: binary data on standard input; expected paths of pictures, one a line"
        )
    lines = (line.rstrip("\r") for line in text.split("\n"))
    return [line for line in lines if line.strip()]


def _add_single(single: dict[Path, Path], path: Path) -> None:
    single.setdefault(path.absolute().parent.resolve() / path.name, path)


def _whole(path: Path) -> Path:
    """The path from the root; links in it stay, but where `..` may lead back from elsewhere."""
    path = path.absolute()
    return path.parent.resolve() / path.name if ".." in path.parts else path


def _find_fault(path: Path) -> str:
    """Why a path is no picture by its name, or nothing."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    except OSError as error:  # not allowed, too long a name
        return f"cannot be read ({error.strerror}); give one that you may read"
    except ValueError as error:  # a zero byte in it
        return f"cannot be read ({error}); expected a path, in a list one a line"
    if stat.S_ISDIR(mode):
        return FOLDER
    if not stat.S_ISREG(mode):
        return "no regular file; expected a picture"
    if path.suffix.lower() not in EXTENSIONS:
        return f"expected a picture ending in {ENDINGS}"
    return ""


def _leave_out(output: Path, top: Path, pictures: list[Path]) -> list[Path]:
    """The pictures of the folder `top` without those that were made by us.

    They are in the output folder, if it is inside `top`, or among the comparisons of earlier
    results there.
    """
    output, real_top = (Path(os.path.realpath(folder)) for folder in (output, top))
    holds_output = real_top in output.parents
    kept = []
    for picture in pictures:
        is_result = Path(os.path.realpath(picture.parent)).is_relative_to(output)
        parents = [top / parent for parent in picture.relative_to(top).parents]
        if not (holds_output and is_result) and not any(map(_holds_comparisons, parents[:-1])):
            kept.append(picture)
    if len(kept) < len(pictures):
        warnings.warn(
            f"{len(pictures) - len(kept)} of {len(pictures)} pictures in {top} are earlier results "
            "or comparisons with them, and left out",
            stacklevel=2,
        )
    return kept


def _holds_comparisons(folder: Path) -> bool:
    """Whether `--compare` made the pictures in a folder."""
    return folder.name == COMPARISONS and (folder.parent / REPORT).is_file()


def _add_failure(failures: dict[str, str], name: str, reason: str) -> None:
    failures[name] = reason
    told = reason.startswith((name, printable(name)))
    where = "" if told else f"{name}: "  # some are of the result, or of neither
    tqdm.write(f"failed: {printable(where + reason)}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
