"""A fair comparison: networks trained on the same data, seeds, patches and budget, then tested.

python -m scripts.compare --networks am_promptir promptir --match parameters \
    --budget steps --length 2000 --seeds 0 1 -- --configuration tiny --text learned

A network may be followed by flags of train.py: `am_promptir:fusion=concatenation` is an ablation.
The first network is the reference: the others are made as large (`--match`) by their width and
the expansion of their feed-forward, and their figures are given as differences to it as well.
Flags after `--` go to every training. What is there already is not trained again: the same command
goes on where it was stopped. The last weights of each run are tested, not those of the best
validation, and learning curves are those of validation.

Writes table.md (means over seeds, 95 % bootstrap intervals over images), learning_curves.png, and a
folder for each network and seed.
"""

import json
import math
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data.degradations import TASKS
from data.protocols import PROTOCOLS
from net import NETWORKS
from net.checkpoint import read_checkpoint
from net.complexity import count_macs
from options import (
    Parser,
    add_test_flags,
    add_training_flags,
    natural,
    network_arguments,
    positive_float,
    train_options,
)
from utils.errors import UserError, run
from utils.image_io import check_writable, write_whole
from utils.losses import restoration_loss
from utils.plots import plot_learning_curves
from utils.report import RESULTS, commit
from utils.runs import format_differences, format_scores, read_learning_curve, read_scores
from utils.statistics import SMALLEST_SAMPLE
from utils.tables import NOTHING, format_markdown

ROOT = Path(__file__).parent.parent
CLOSE = 0.01  # sizes that differ by less are equal
WIDTHS = range(8, 129, 2)
EXPANSIONS = (0.5, 8.0)
VALIDATIONS = 5  # points of a learning curve
TIMED_ROUNDS = 5


class Contestant(NamedTuple):
    """A network and how it is trained: its title, flags of train.py, size and pace.

    macs: for one image of 128 x 128; seconds_per_step: of training, here and now.
    """

    title: str
    flags: tuple[str, ...]
    parameters: int
    macs: int
    can_be_named: bool
    seconds_per_step: float

    @property
    def folder(self) -> str:
        return "".join(char if char.isalnum() else "_" for char in self.title)


def main() -> int:
    options, training_flags = parse()
    contestants = make_contestants(options, training_flags)
    steps = count_steps(options, contestants)
    check_writable(options.output)
    print(describe(contestants, steps), flush=True)

    for seed in options.seeds:
        for contestant in contestants:
            folder = options.output / contestant.folder / f"seed_{seed}"
            train(contestant, folder, seed, steps[contestant], options, training_flags)
            for knowledge in options.knowledge:
                if knowledge == "blind" or contestant.can_be_named:
                    test(folder, knowledge, options)

    report = write_report(options, training_flags, contestants, steps)
    print(f"\n{report}\ntable.md and learning_curves.png are in {options.output}")
    return 0


def parse() -> tuple[Namespace, list[str]]:
    """The flags of this script, and those for every training."""
    parser = Parser("Train networks on equal terms, test them and compare.")
    parser.add_argument(
        "--networks",
        nargs="+",
        required=True,
        metavar="NAME[:flag=value,...]",
        help=f"one of {' '.join(NETWORKS)}, with flags of train.py; the first is the reference",
    )
    parser.add_argument(
        "--match",
        choices=("parameters", "macs", "none"),
        default="parameters",
        help="what of the reference the others get as well",
    )
    parser.add_argument(
        "--budget",
        choices=("steps", "minutes"),
        default="steps",
        help="minutes are turned into each network's steps by timing it first",
    )
    parser.add_argument("--length", type=positive_float, required=True, help="steps or minutes")
    parser.add_argument("--seeds", type=natural, nargs="+", default=[0, 1], help="of the runs")
    parser.add_argument(
        "--knowledge", nargs="+", choices=("blind", "named"), default=["blind"], help="to test"
    )
    parser.add_argument("--protocol", choices=PROTOCOLS, default="paper", help="to test by")
    add_training_flags(parser)
    add_test_flags(parser)
    parser.add_argument(
        "--output", type=Path, default=Path("output/compare"), help="folder for everything"
    )
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    return parser.parse_args(arguments[:split]), arguments[split + 1 :]


def make_contestants(options: Namespace, training_flags: Sequence[str]) -> list[Contestant]:
    """Parse `--networks`, match sizes and time a training step of each.

    Raises:
        UserError: a network or flag is wrong, or cannot be made as large as the reference.
    """
    prepared = []
    target = None
    for title in options.networks:
        name, _, extra = title.partition(":")
        if name not in NETWORKS or not NETWORKS[name].trainable:
            trainable = [key for key, network in NETWORKS.items() if network.trainable]
            raise UserError(f"--networks {title}: expected one of {', '.join(trainable)}")
        flags = (f"--network={name}", *(f"--{flag}" for flag in filter(None, extra.split(","))))
        chosen = train_options([*training_flags, *flags])
        arguments = network_arguments(chosen)
        size = measure_size(name, arguments, options.match)
        if target is None:
            target = size
        elif abs(size / target - 1) > CLOSE:
            width, expansion = match(name, arguments, options.match, target)
            flags += (f"--width={width}", f"--expansion={expansion}")
            arguments |= {"width": width, "expansion": expansion}
        prepared.append((title, flags, chosen, arguments))

    networks = [NETWORKS[chosen.network](**arguments) for _, _, chosen, arguments in prepared]
    for net in networks:
        if getattr(net, "text", None) is not None and net.text.from_clip:
            net.text.fill(torch.randn_like(net.text.embeddings))
    paces = time_steps(networks, prepared[0][2].batch_size, prepared[0][2].patch_size)
    return [
        Contestant(title, flags, count_parameters(net), count_macs(net), net.can_be_named, pace)
        for (title, flags, _, _), net, pace in zip(prepared, networks, paces, strict=True)
    ]


def count_parameters(net: torch.nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in net.parameters())


def measure_size(name: str, arguments: dict[str, Any], measure: str) -> float:
    """Parameters or multiply-accumulates of a network (1 where nothing is to be matched)."""
    if measure == "none":
        return 1
    with torch.device("meta"):
        net = NETWORKS[name](**arguments)
    if measure == "parameters":
        return count_parameters(net)
    if getattr(net, "text", None) is not None:
        net.text.filled = True  # only shapes matter here
    return count_macs(net)


def match(name: str, arguments: dict[str, Any], measure: str, target: float) -> tuple[int, float]:
    """The width, and the expansion of the feed-forward, that give a network the target's size.

    Raises:
        UserError: none does.
    """

    def size(width: int, expansion: float) -> float:
        changed = {**arguments, "width": width, "expansion": expansion}
        return measure_size(name, changed, measure)

    usual = arguments.get("expansion", 2.66)
    width = min(WIDTHS, key=lambda width: abs(math.log(size(width, usual) / target)))
    low, high = EXPANSIONS
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if size(width, middle) < target else (low, middle)
    expansion = round(low, 3)
    if abs(size(width, expansion) / target - 1) > CLOSE:
        raise UserError(
            f"--match {measure}: {name} cannot be given the reference's {target:,.0f}; the "
            f"nearest is {size(width, expansion):,.0f}; give --match none and its --width"
        )
    return width, expansion


def time_steps(networks: Sequence[torch.nn.Module], batch: int, patch: int) -> list[float]:
    """Median seconds of forward, backward and update of each network, measured in turns."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    degraded, clean = torch.rand(2, batch, 3, patch, patch, device=device)
    taken: list[list[float]] = [[] for _ in networks]
    for network in networks:
        network.to(device)
    optimizers = [torch.optim.AdamW(network.parameters(), lr=0.0) for network in networks]
    for round_number in range(TIMED_ROUNDS + 1):
        for network, optimizer, times in zip(networks, optimizers, taken, strict=True):
            start = time.perf_counter()
            restoration_loss(network(degraded), clean, 0.01).backward()
            optimizer.step()
            optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_number:  # the first is a warm-up
                times.append(time.perf_counter() - start)
    for network in networks:
        network.to("cpu")
    return [statistics.median(times) for times in taken]


def count_steps(options: Namespace, contestants: Sequence[Contestant]) -> dict[Contestant, int]:
    """Optimizer steps of each contestant; a plan made before is kept.

    Raises:
        UserError: the output folder is of another comparison.
    """
    plan = {
        "budget": f"{options.length:g} {options.budget}",
        "match": options.match,
        "steps": {
            contestant.title: round(
                options.length
                if options.budget == "steps"
                else 60 * options.length / contestant.seconds_per_step
            )
            for contestant in contestants
        },
    }
    file = options.output / "plan.json"
    if file.is_file():
        before = json.loads(file.read_text())
        if [before["budget"], before["match"]] != [plan["budget"], plan["match"]]:
            raise UserError(
                f"--output {options.output}: holds a comparison with a budget of "
                f"{before['budget']} and --match {before['match']}; give another folder"
            )
        plan["steps"] |= before["steps"]
    write_whole(file, lambda out: out.write(json.dumps(plan, indent=2).encode()))
    return {contestant: max(1, plan["steps"][contestant.title]) for contestant in contestants}


def describe(contestants: Sequence[Contestant], steps: dict[Contestant, int]) -> str:
    """Sizes, steps and pace of the contestants."""
    reference = contestants[0]
    headers = ("network", "flags", "parameters (M)", "GMACs at 128", "steps", "time a step")
    rows = [
        (
            contestant.title,
            " ".join(contestant.flags[1:]) or NOTHING,
            f"{contestant.parameters / 1e6:.3f}",
            f"{contestant.macs / 1e9:.3f}",
            str(steps[contestant]),
            f"x {contestant.seconds_per_step / reference.seconds_per_step:.2f}",
        )
        for contestant in contestants
    ]
    return format_markdown(headers, rows)


def train(
    contestant: Contestant,
    folder: Path,
    seed: int,
    steps: int,
    options: Namespace,
    training_flags: Sequence[str],
) -> None:
    """Train one run to its last step, go on with it, or leave it if it is done."""
    last = folder / "last.ckpt"
    if last.is_file() and read_checkpoint(last)["global_step"] >= steps:
        return
    folders = [f"--{task.name}_dir={getattr(options, f'{task.name}_dir')}" for task in TASKS]
    if options.data_file_dir:
        folders.append(f"--data_file_dir={options.data_file_dir}")
    call(
        "train.py",
        *training_flags,
        *contestant.flags,
        *folders,
        f"--seed={seed}",
        f"--max_steps={steps}",
        f"--val_every={max(1, steps // VALIDATIONS)}",
        f"--ckpt_dir={folder}",
        "--resume",
    )


def test(folder: Path, knowledge: str, options: Namespace) -> None:
    """Test the last weights of one run, unless that is done."""
    checkpoint = folder / "last.ckpt"
    results = folder / f"{options.protocol}_{knowledge}" / RESULTS
    if results.is_file() and results.stat().st_mtime >= checkpoint.stat().st_mtime:
        return
    folders = [f"--{task.name}_path={getattr(options, f'{task.name}_path')}" for task in TASKS]
    named = ["--named"] if knowledge == "named" else []
    call(
        "test.py",
        *folders,
        *named,
        f"--ckpt_name={checkpoint}",
        f"--protocol={options.protocol}",
        f"--output_path={folder}",
    )


def call(script: str, *arguments: str) -> None:
    """Run a script of the project; end with its exit code if it fails."""
    done = subprocess.run([sys.executable, ROOT / script, *arguments], cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)


def write_report(
    options: Namespace,
    training_flags: Sequence[str],
    contestants: Sequence[Contestant],
    steps: dict[Contestant, int],
) -> str:
    """Tables and learning curves of all runs; returns the tables."""
    scores, curves = {}, {}
    for contestant in contestants:
        folders = [options.output / contestant.folder / f"seed_{seed}" for seed in options.seeds]
        curves[contestant.title] = [read_learning_curve(folder) for folder in folders]
        for knowledge in options.knowledge:
            tests = [folder / f"{options.protocol}_{knowledge}" for folder in folders]
            if tests[0].is_dir():
                scores[f"{contestant.title}, {knowledge}"] = read_scores(tests)
    plot_learning_curves(curves, options.output / "learning_curves.png")

    seeds = " ".join(map(str, options.seeds))
    report = "\n\n".join(
        (
            f"Budget: {options.length:g} {options.budget} a run; matched: {options.match}; "
            f"seeds {seeds}; protocol {options.protocol}; commit {commit()}; "
            f"training: {' '.join(training_flags)}",
            describe(contestants, steps),
            "PSNR (dB) ±half of its 95 % interval over images/SSIM, means over the seeds:",
            format_scores(scores),
            f"PSNR minus that of {next(iter(scores))}, with the 95 % interval over images, paired; "
            f"mean: over the columns of {SMALLEST_SAMPLE} images or more, seed by seed after it:",
            format_differences(scores),
        )
    )
    write_whole(options.output / "table.md", lambda file: file.write(f"{report}\n".encode()))
    return report


if __name__ == "__main__":
    run(main)
