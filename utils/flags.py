"""The flags that a run was started with, kept beside its checkpoints for going on with it."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from utils.errors import UserError
from utils.files import write_whole

FLAGS = "flags.json"
ONE_OF = {"--cuda": "--num_gpus"}  # flags of which only one may be given


def keep_flags(
    saved: Sequence[str], given: Sequence[str] = (), without: Collection[str] = ()
) -> list[str]:
    """Saved flags and their values, each name once, but for those that are given again.

    Args:
        without: names of saved flags to leave out, with their dashes.
    """
    left_out = {*_group(given), *without}
    kept = [group for name, group in _group(saved).items() if name not in left_out]
    return [word for group in kept for word in group]


def _group(words: Sequence[str]) -> dict[str, list[str]]:
    """The last of each flag with its values, by name."""
    groups: dict[str, list[str]] = {}
    group: list[str] = []
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0].replace("--no-", "--", 1)
            name = ONE_OF.get(name, name)
            groups.pop(name, None)
            group = groups[name] = []
        group.append(word)
    return groups


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
