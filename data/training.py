"""The pairs to train and those held out, found where the flags of train.py say."""

import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from data.damage import Found, find_damage, refuse_damage, report_damage
from data.datasets import split
from data.degradations import CLEAN, DEGRADATIONS, TASKS, Task, of_task
from data.links import check_links
from data.pairing import (
    DataSet,
    Pair,
    check_sizes,
    describe_layout,
    describe_missing,
    find_data_sets,
    read_list,
)
from data.scenes import TEST_SCENES, describe_overlaps, leave_out, scene_of
from utils.errors import UserError
from utils.published import is_published_set


def find_pairs(
    options: Namespace,
) -> tuple[dict[str, list[Pair]], dict[str, list[Pair]], Found]:
    """Training and held-out pairs of each degradation to train, and what all images are like.

    Damaged ones are among the training pairs, in whose place others come, but not held out.

    Raises:
        UserError: there are none of a degradation, or none that can be read; with `--strict_data`,
            one cannot be read; or as `find_pairs_of_task` and `check_sizes`.
    """
    training, validation, images = {}, {}, Found({}, {})
    small, num_images = [], 0
    wanted = [entry for entry in DEGRADATIONS if entry.name in options.de_type]
    for task in TASKS:
        entries = [
            entry
            for entry in wanted
            if task.name == (CLEAN.name if options.synthesize else entry.task)
        ]
        if not entries:
            continue
        pairs = find_pairs_of_task(options, task)
        found = find_damage(pairs, options.max_pixels, decoded=options.strict_data)
        if options.strict_data:
            refuse_damage(found.damaged)
        if not found.whole(pairs):
            reason = next(iter(found.damaged.values()))
            raise UserError(
                f"--{task.name}_dir: none of {len(pairs)} images can be read, such as {reason}"
            )
        small += check_sizes(found.whole(pairs), found.sizes, options.patch_size)
        num_images += len(pairs)
        kept, held_out = split(pairs, options.val_images)
        decoded = find_damage(held_out, options.max_pixels, decoded=True)
        report_damage(decoded.damaged, "it is left out of the validation")
        others = {
            path: reason for path, reason in found.damaged.items() if path not in decoded.damaged
        }
        report_damage(others, "the next image takes its place")
        held_out = decoded.whole(held_out)
        images.sizes.update(found.sizes)
        images.damaged.update(found.damaged)
        for entry in entries:
            training[entry.name], validation[entry.name] = kept, held_out
    if small:
        warnings.warn(
            f"{len(small)} of {num_images} images are smaller than the patch of "
            f"{options.patch_size} pixels and are padded by reflection (first: {small[0]})",
            stacklevel=1,
        )
    return training, validation, images


def find_pairs_of_task(options: Namespace, task: Task) -> list[Pair]:
    """The pairs to train in a task's folder.

    Raises:
        UserError: there are none, or as `find_data_sets`, `read_list`, `check_links` and
            `check_test_scenes`.
    """
    folder = getattr(options, f"{task.name}_dir")
    data_sets = find_data_sets(folder, task)
    if not data_sets:
        others = "" if options.synthesize else f", or train others than {task.name} with --de_type"
        raise UserError(
            f"--{task.name}_dir {folder}: {describe_missing(folder, task)}; expected "
            f"{describe_layout(task)}; put them there{others}"
        )
    if not options.data_file_dir:
        warn_of_test_sets(data_sets, task)
    pairs = choose_pairs(options, task, data_sets)
    if not options.follow_links:
        check_links(folder, pairs)
    return check_test_scenes(pairs, task.name, options.exclude_test_scenes)


def choose_pairs(options: Namespace, task: Task, data_sets: Sequence[DataSet]) -> list[Pair]:
    """The pairs of a task's training sets, or those that the list in `--data_file_dir` names.

    Raises:
        UserError: as `read_list`.
    """
    pairs = [pair for data_set in data_sets for pair in data_set.pairs]
    if pairs and options.data_file_dir:
        pairs = read_list(options.data_file_dir / task.list_file, pairs)
    return pairs


def warn_of_test_sets(data_sets: Sequence[DataSet], task: Task) -> None:
    """Tell of what has the name and the size of a published test set.

    Only where names of images tell no scene (`data.scenes`), which is so of rainy ones.
    """
    for data_set in data_sets:
        name = Path(data_set.name).name
        tells_scenes = any(scene_of(pair.name, task.name) for pair in data_set.pairs)
        if tells_scenes or name in task.train_folders:
            continue
        if is_published_set(name, of_task(task.name)[0].name, len(data_set.pairs)):
            warnings.warn(
                f"{data_set.name}, {len(data_set.pairs)} training images to {task.name}, is a "
                "published test set by its name and size: figures on it are void for this run",
                stacklevel=2,
            )


def check_test_scenes(pairs: list[Pair], task: str, exclude: bool) -> list[Pair]:
    """Leave out, or only warn of, the pairs that show scenes of a published test set.

    Raises:
        UserError: none would be left.
    """
    kept, overlaps = leave_out(pairs, task)
    if not overlaps:
        return pairs
    what = f"{len(pairs) - len(kept)} of {len(pairs)} training images to {task}"
    scenes = describe_overlaps(overlaps, TEST_SCENES)
    if not exclude:
        warnings.warn(
            f"{what} show {scenes}: figures on that test set are void for this run", stacklevel=2
        )
        return pairs
    remedy = "if these are other pictures by the same names, give --no-exclude_test_scenes"
    if not kept:
        raise UserError(f"{what} show {scenes}, so none is left; {remedy}")
    warnings.warn(f"{what} are left out, they show {scenes}; {remedy}", stacklevel=2)
    return kept
