"""The flags that a run was started with, kept beside its checkpoints for going on with it."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from utils.errors import UserError
from utils.files import write_whole

FLAGS = "flags.json"
ONE_OF = {"--cuda": "--num_gpus"}  # flags of which only one may be given


def merge_flags(
    saved: Sequence[str], given: Sequence[str], without: Collection[str] = ()
) -> list[str]:
    """Flags and their values, those given in place of saved ones of the same name.

    Args:
        without: names of saved flags to leave out, with their dashes.
    """
    first, groups = _group(given)
    _, before = _group(saved)
    kept = {name: group for name, group in before.items() if name not in (*groups, *without)}
    return [*first, *(word for group in (*kept.values(), *groups.values()) for word in group)]


def _group(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """What stands before the first flag, and the last of each flag with its values, by name."""
    first: list[str] = []
    groups: dict[str, list[str]] = {}
    group = first
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0].replace("--no-", "--", 1)
            name = ONE_OF.get(name, name)
            groups.pop(name, None)
            group = groups[name] = []
        group.append(word)
    return first, groups


def write_flags(folder: Path, flags: Sequence[str]) -> None:
    """Keep the flags of the run in `folder`."""
    text = json.dumps(list(flags), indent=0) + "\n"
    write_whole(folder / FLAGS, lambda file: file.write(text.encode()))


def read_flags(folder: Path) -> list[str]:
    """The flags of the run in `folder`; none if they were not kept.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / FLAGS
    try:
        flags = json.loads(path.read_text())
        if not isinstance(flags, list) or not all(isinstance(word, str) for word in flags):
            raise ValueError("expected a list of words")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); remove it and give all flags of the run again"
        ) from error
    return flags
