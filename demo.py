"""Restore pictures of any size.

python demo.py --input photo.jpg --output restored              # blind
python demo.py --input photos --output restored --compare       # a folder, with side-by-sides
python demo.py --input rainy.png --output restored --task derain
"""

import sys
import warnings
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from tqdm import tqdm

from net.checkpoint import Trained, default_checkpoint, load_network
from net.text import embed, weigh_by_similarity
from options import demo_options
from utils.comparison import COMPARISONS, write_comparison
from utils.devices import choose_device
from utils.errors import UserError, run
from utils.image_io import (
    EXTENSIONS,
    check_writable,
    list_images,
    read_image,
    to_pixels,
    to_tensor,
    write_image,
)
from utils.inference import restore


class Target(NamedTuple):
    """Where the results of one picture go."""

    restored: Path
    comparison: Path


def main() -> int:
    options = demo_options()
    device = choose_device(options.cuda)
    targets = find_targets(options.input, options.output)
    trained = load_network(options.ckpt_name or default_checkpoint())
    trained.net.to(device)
    named = name_degradation(trained, options)
    check_writable(options.output)
    print(f"{trained.description['checkpoint']}: {trained.describe()}")

    failed = 0
    for source, target in tqdm(targets.items(), "restoring", unit="image"):
        try:
            degraded = read_image(source)
        except UserError as error:
            tqdm.write(f"left out: {error}", file=sys.stderr)
            failed += 1
            continue
        restored = to_pixels(restore(trained.net, to_tensor(degraded), named, options.tile))
        write_image(target.restored, restored)
        if options.compare:
            write_comparison(target.comparison, [degraded, restored], ("input", "restored"))
    print(f"{len(targets) - failed} of {len(targets)} pictures restored: {options.output}")
    return 2 if failed else 0


def find_targets(source: Path, output: Path) -> dict[Path, Target]:
    """Where the results of each picture go: the same name, below the output folder.

    Raises:
        UserError: no picture, or a result would overwrite an input or another result.
    """
    if source.is_dir():
        names = {path: path.relative_to(source) for path in list_images(source, recursive=True)}
    elif source.is_file() and source.suffix.lower() not in EXTENSIONS:
        raise UserError(
            f"--input {source}: expected a picture ending in {' '.join(sorted(EXTENSIONS))}"
        )
    elif source.is_file():
        names = {source: Path(source.name)}
    else:
        raise UserError(f"--input {source}: no such file or folder")
    if not names:
        raise UserError(
            f"--input {source}: no pictures in this folder; expected files ending in "
            f"{' '.join(sorted(EXTENSIONS))}"
        )
    targets = {
        path: Target(output / name, output / COMPARISONS / name.with_name(f"{name.name}.png"))
        for path, name in names.items()
    }
    taken = {path.resolve() for path in targets}
    for target in targets.values():
        for path in target:
            if path.resolve() in taken:
                raise UserError(
                    f"--output {output}: {path} is an input or another result and would be "
                    "overwritten; choose another folder"
                )
            taken.add(path.resolve())
    return targets


def name_degradation(trained: Trained, options: Namespace) -> Tensor | None:
    """What the user says is wrong, as the network takes it; None for blind."""
    if (options.task or options.text) and not trained.net.can_be_named:
        raise UserError(
            f"{'--task' if options.task else '--text'}: {trained.title} cannot be told what is "
            "wrong; leave the flag out"
        )
    if options.task:
        if options.task not in trained.description["trained"]:
            warnings.warn(f"--task {options.task}: not among what was trained", stacklevel=1)
        return trained.net.name_degradation(trained.degradations.index(options.task), 1)
    if options.text:
        encoder = trained.description["text_encoder"]
        if not trained.net.text.from_clip:
            raise UserError(
                f"--text: this checkpoint's text table is {encoder}, which knows no words; leave "
                "--text out, or name the degradation by --task"
            )
        embedding, used = embed([options.text], options.clip_pretrained, options.clip_quick_gelu)
        if used != encoder:
            raise UserError(
                f"--text: the checkpoint's texts were embedded by {encoder}, not {used}; give its "
                "weights with --clip_pretrained, or name the degradation by --task"
            )
        table = trained.net.text()
        weights = weigh_by_similarity(embedding[0].to(table.device), table)
        said = ", ".join(
            f"{name} {weight:.0%}"
            for name, weight in zip(trained.degradations, weights.tolist(), strict=True)
        )
        print(f"understood as: {said}")
        return weights[None]
    return None


if __name__ == "__main__":
    run(main)
