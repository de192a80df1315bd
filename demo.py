"""Restore pictures of any size.

python demo.py --input photo.jpg --output restored              # blind
python demo.py --input photos --output restored --compare       # a folder, with side-by-sides
python demo.py --input rainy.png --output restored --task derain
"""

import sys
from argparse import Namespace
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from net.checkpoint import Trained, load_network
from net.text import embed, weigh_by_similarity
from options import demo_options
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
from utils.report import COMPARISONS, write_comparison


def main() -> int:
    options = demo_options()
    device = choose_device(options.cuda)
    targets = find_targets(options.input, options.output)
    trained = load_network(options.ckpt_name)
    trained.net.to(device)
    named = name_degradation(trained, options)
    check_writable(options.output)

    failed = 0
    for source, target in tqdm(targets.items(), "restoring", unit="image"):
        try:
            degraded = read_image(source)
        except UserError as error:
            tqdm.write(f"left out: {error}", file=sys.stderr)
            failed += 1
            continue
        restored = to_pixels(restore(trained.net, to_tensor(degraded), named, options.tile))
        write_image(target, restored)
        if options.compare:
            beside = options.output / COMPARISONS / target.relative_to(options.output)
            captions = ("input", "restored")
            write_comparison(beside.with_suffix(".png"), [degraded, restored], captions)
    print(f"{len(targets) - failed} of {len(targets)} pictures restored: {options.output}")
    return 2 if failed else 0


def find_targets(source: Path, output: Path) -> dict[Path, Path]:
    """Where the result of each picture goes: the same name, below the output folder.

    Raises:
        UserError: no picture, or a result would overwrite an input.
    """
    if source.is_dir():
        sources = list_images(source, recursive=True)
        targets = {path: output / path.relative_to(source) for path in sources}
    elif source.is_file():
        targets = {source: output / source.name}
    else:
        raise UserError(f"--input {source}: no such file or folder")
    if not targets:
        raise UserError(
            f"--input {source}: no pictures in this folder; expected files ending in "
            f"{' '.join(sorted(EXTENSIONS))}"
        )
    inputs = {path.resolve() for path in targets}
    for path in targets.values():
        if path.resolve() in inputs:
            raise UserError(
                f"--output {output}: {path} is an input and would be overwritten; "
                "choose another folder"
            )
    return targets


def name_degradation(trained: Trained, options: Namespace) -> Tensor | None:
    """What the user says is wrong, as the network takes it; None for blind."""
    if options.task:
        return trained.net.name_degradation(trained.degradations.index(options.task), 1)
    if options.text:
        embedding, _ = embed([options.text], options.clip_pretrained, options.clip_quick_gelu)
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
