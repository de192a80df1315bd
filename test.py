"""Restore the test sets, score the result and print the table.

python test.py --mode 3                             # 0 denoise, 1 derain, 2 dehaze, 3 all
python test.py --mode 1 --named                     # the network is told what is wrong
python test.py --protocol clean                     # not comparable with published tables
python test.py --ckpt_name a.ckpt b.ckpt            # one table of several
python test.py --network promptir --ckpt_name model.ckpt    # a published checkpoint
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from data.damage import read_sizes
from data.datasets import Sample
from data.degradations import ALL_TASKS_MODE, TASKS, Task, of_task
from data.links import check_links
from data.pairing import DataSet, Pair, check_sizes, describe_layout, describe_missing
from data.protocols import iterate_test_set, seed_of
from net.checkpoint import Trained, default_checkpoint, load_network
from options import find_in_folder, test_options
from utils.comparison import COMPARISONS, write_comparison
from utils.devices import choose_device
from utils.errors import UserError, run
from utils.evaluate import Score, evaluate
from utils.files import check_writable
from utils.image_io import to_pixels, write_image
from utils.metrics import SSIM_WINDOW
from utils.published import PUBLISHED
from utils.report import RESULTS, SCORES, Figure, summarise, write_results
from utils.tables import make_table
from utils.unfinished import replaced_when_whole


def main() -> int:
    options = test_options()
    device = choose_device(options.cuda)
    names = options.ckpt_name or [default_checkpoint()]
    candidates = [load_network(name, options.network) for name in names]
    networks = {candidate.description["network"] for candidate in candidates}
    if options.network not in (None, *networks):
        raise UserError(
            f"--network {options.network}: all checkpoints name their own network "
            f"({', '.join(sorted(networks))}); leave it out"
        )
    check_different(candidates)
    for candidate in candidates:
        check_can_be_named(candidate, options.named)
    found, left_out = find_test_sets(options)
    for candidate in candidates:
        check_knows(candidate, options.named, [task.name for task, _ in found])
    knowledge = "named" if options.named else "blind"
    tile = "auto" if options.tile is None else options.tile
    variants = ["self-ensemble"] * options.self_ensemble + [f"tile {tile}"] * (tile != 0)
    variants += [f"seed {options.seed}"] * (options.seed != 0)
    name = " ".join([options.protocol, knowledge, *variants])
    output = options.output_path / name.replace(" ", "_").replace("-", "_")
    folders = [output / name_folder(candidate) for candidate in candidates]
    for folder in folders:
        check_writable(folder)

    contents = []
    for trained, folder in zip(candidates, folders, strict=True):
        trained.net.to(device)
        print(f"{trained.description['checkpoint']}: {trained.describe()}", flush=True)
        origin = {
            "method": ", ".join([trained.title, knowledge, *variants]),
            "protocol": options.protocol,
            "knowledge": knowledge,
            "device": str(device),
            "tile": tile,
            "self_ensemble": options.self_ensemble,
            **trained.description,
        }
        for task, data_set in found:
            contents += score(trained, data_set, task, options, folder, origin)
        trained.net.to("cpu")

    table = make_table(contents, [row for row in PUBLISHED if row.network in networks])
    print(f"\nprotocol {options.protocol}, {knowledge}\n\n{table.to_markdown()}\n")
    print("images, scores.csv and results.json of each set are in " + ", ".join(map(str, folders)))
    if left_out:
        print(f"left out, no test images: {' '.join(left_out)} (see above)", file=sys.stderr)
    return 0


def check_different(candidates: list[Trained]) -> None:
    """Raise `UserError` if a checkpoint was given twice."""
    seen: dict[str, str] = {}
    for trained in candidates:
        path = trained.description["checkpoint"]
        sha256 = trained.description["sha256"]
        if sha256 in seen:
            raise UserError(f"--ckpt_name {path}: the same as {seen[sha256]}; give each one once")
        seen[sha256] = path


def check_can_be_named(trained: Trained, named: bool) -> None:
    """Raise `UserError` if the network cannot be told what `--named` would tell it."""
    if named and not trained.net.can_be_named:
        raise UserError(
            f"--named: {trained.title} of {trained.description['checkpoint']} cannot be told what "
            "is wrong; leave --named out"
        )


def check_knows(trained: Trained, named: bool, tasks: list[str]) -> None:
    """Raise `UserError` if `--named` would tell the network what is not in its table."""
    wanted = [degradation.name for task in tasks for degradation in of_task(task)]
    unknown = [name for name in wanted if named and name not in trained.degradations]
    if unknown:
        raise UserError(
            f"--named: {trained.description['checkpoint']} knows only "
            f"{', '.join(trained.degradations)}, not {unknown[0]}; leave --named out, or use a "
            "checkpoint of this table of degradations"
        )


def name_folder(trained: Trained) -> str:
    """The name of the folder of a checkpoint's results."""
    return f"{trained.description['network']}_{trained.description['sha256'][:8]}"


def find_test_sets(options: Namespace) -> tuple[list[tuple[Task, DataSet]], list[str]]:
    """The test sets of the tasks asked for, and the tasks without any.

    A default folder without any is left out and told on standard error.

    Raises:
        UserError: there is none at all, or none in a folder that is not the default; or an image
            cannot be read; or the results would lie among them.
    """
    found, left_out = [], []
    for task in TASKS:
        if options.mode not in (task.mode, ALL_TASKS_MODE):
            continue
        folder = getattr(options, f"{task.name}_path")
        data_sets = find_in_folder(options, f"{task.name}_path", task)
        output = Path(os.path.realpath(options.output_path))
        if data_sets and output.is_relative_to(os.path.realpath(folder)):
            raise UserError(
                f"--output_path {options.output_path}: lies in --{task.name}_path {folder}, so "
                "that the results would be tested as images; give a folder elsewhere"
            )
        check_folders(data_sets)
        for data_set in data_sets:
            if not options.follow_links:
                check_links(folder, data_set.pairs)
            sizes = read_sizes(data_set.pairs, options.max_pixels, decoded=True)
            check_sizes(data_set.pairs, sizes, smallest=SSIM_WINDOW)
            check_names(data_set)
        if not data_sets:
            left_out.append(task.name)
            print(
                f"{task.name} is left out, {folder}: {describe_missing(folder, task)}; expected "
                f"{describe_layout(task)}; put them there (such as {folder}/{task.test_sets}) "
                f"or give --{task.name}_path",
                file=sys.stderr,
            )
        found += [(task, data_set) for data_set in data_sets]
    if not found:
        raise UserError("nothing was tested: no test images found (see above)")
    return found, left_out


def check_folders(data_sets: Sequence[DataSet]) -> None:
    """Raise `UserError` if the results of two data sets would be in one folder."""
    seen: dict[str, str] = {}
    for data_set in data_sets:
        folder = data_set.name.replace(" ", "_")
        if folder in seen:
            raise UserError(
                f"{seen[folder]} and {data_set.name}: their results would be in one folder; rename "
                "one of them"
            )
        seen[folder] = data_set.name


def check_names(data_set: DataSet) -> None:
    """Raise `UserError` if the restored images of two pairs would have one name."""
    seen: dict[str, Pair] = {}
    for pair in data_set.pairs:
        other = seen.setdefault(pair.name, pair)
        if other is not pair:
            raise UserError(
                f"{data_set.name}: {pair.degraded or pair.clean} and "
                f"{other.degraded or other.clean} have one name; rename one of them"
            )


def score(
    trained: Trained,
    data_set: DataSet,
    task: Task,
    options: Namespace,
    output: Path,
    origin: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """Restore one data set under each degradation of its task; what each results file says.

    Pictures and figures are in a folder of their own, so that other sets' are not replaced, and
    those of an earlier test there are replaced when this one is finished.
    """
    streams = iterate_test_set(
        data_set, of_task(task.name), options.protocol, options.seed, options.max_pixels
    )
    for degradation, samples in streams:
        title = f"{data_set.name} {degradation.name}"
        folder = output / title.replace(" ", "_")
        named = None
        if options.named:
            named = trained.net.name_degradation(trained.degradations.index(degradation.name), 1)

        def save(sample: Sample, restored: Tensor, score: Score) -> None:
            pixels = to_pixels(restored)
            write_image(unfinished / f"{sample.name}.png", pixels)
            if options.compare:
                images = [to_pixels(sample.degraded), pixels, to_pixels(sample.clean)]
                captions = (
                    f"degraded {score.degraded_psnr:.2f} dB",
                    f"restored {score.psnr:.2f} dB",
                    "clean",
                )
                write_comparison(unfinished / COMPARISONS / f"{sample.name}.png", images, captions)

        with replaced_when_whole(folder, (SCORES, RESULTS), "--output_path") as unfinished:
            scores = evaluate(
                trained.net,
                tqdm(samples, title, len(data_set.pairs), unit="image"),
                named,
                options.tile,
                options.self_ensemble,
                quantised=options.protocol == "clean",
                on_result=save,
            )
            content = {**origin, "seed": seed_of(degradation, options.protocol, options.seed)}
            figures = [Figure(data_set.name, degradation.name, scores)]
            content = summarise(figures, content)
            write_results(unfinished, figures, content)
        yield content


if __name__ == "__main__":
    run(main)
