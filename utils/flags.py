"""The flags that a run was started with, kept beside its checkpoints for going on with it."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from utils.errors import UserError
from utils.files import write_whole

FLAGS = "flags.json"


def merge_flags(
    saved: Sequence[str], given: Sequence[str], without: Collection[str] = ()
) -> list[str]:
    """Flags and their values, those given in place of saved ones of the same name.

    Args:
        without: names of flags to leave out, with their dashes.
    """
    groups: dict[str, list[str]] = {}
    group: list[str] = []
    for word in (*saved, *given):
        if word.startswith("--"):
            name = word.partition("=")[0].replace("--no-", "--", 1)
            groups.pop(name, None)
            group = groups[name] = []
        group.append(word)
    return [word for name, group in groups.items() if name not in without for word in group]


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
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); remove it and give all flags of the run again"
        ) from error
    return flags
