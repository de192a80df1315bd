"""A fair comparison: networks trained on the same data, seeds, patches and budget, then tested.

python -m scripts.compare --networks am_promptir:text=learned promptir --match parameters \
    --budget steps --length 2000 --seeds 0 1 -- --configuration tiny

A network may be followed by flags of train.py: `am_promptir:fusion=concatenation` is an ablation.
The first network is the reference: the others are made as large (`--match`) by their width and
the expansion of their feed-forward, and their figures are given as differences to it as well.
Flags of train.py after `--` go to every training. The same command goes on where it was stopped;
plan.json in the output folder holds what the folder is a comparison of. The last weights of each
run are tested, not those of the best validation; learning curves are those of validation.

A budget of minutes counts forward, backward and update, timed in turns before the first training;
loading and validation are not in it.

Writes table.md (means over seeds, 95 % bootstrap intervals over images), learning_curves.png, and a
folder for each network and seed.
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
import json
import shutil
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data.degradations import CLEAN, DEGRADATIONS, TASKS
from data.protocols import PROTOCOLS
from net import NETWORKS, RestorationNetwork
from net.checkpoint import read_checkpoint
from net.complexity import count_macs, count_parameters
from net.matching import MEASURES, match_size
from options import (
    TRAINABLE,
    Parser,
    add_test_flags,
    add_training_flags,
    find_in_folder,
    natural,
    network_arguments,
    positive_float,
    train_options,
)
from utils.devices import CPU, choose_machine
from utils.errors import UserError, run
from utils.files import check_writable, write_whole
from utils.flags import FLAGS
from utils.plots import plot_learning_curves
from utils.processes import run_script
from utils.report import commit
from utils.runs import (
    DONE,
    format_differences,
    format_scores,
    note_tested,
    read_learning_curve,
    read_scores,
    tested_scores,
)
from utils.statistics import SMALLEST_SAMPLE
from utils.tables import NOTHING, format_markdown
from utils.timing import make_training_step, time_in_turns

PLAN = "plan.json"
VALIDATIONS = 5  # points of a learning curve
TIMED_ROUNDS = 5
SET_HERE = (  # flags of train.py that a training cannot be given
    *(f"{task.name}_dir" for task in TASKS),
    *("data_file_dir", "seed", "epochs", "max_steps", "max_minutes"),
    *("ckpt_dir", "resume", "val_every"),
)
MAY_CHANGE = (  # without making it another comparison
    *("num_gpus", "num_nodes", "cuda", "compile", "num_workers", "cache_gb"),
    *("save_every", "wblogger", "tensorboard"),
    *SET_HERE,
)


class Contestant(NamedTuple):
    """A network and how it is trained.

    Its title, all flags of train.py, what these come to, whether it can be told what is wrong,
    parameters, and multiply-accumulates for one image of 128 x 128.
    """

    title: str
    flags: tuple[str, ...]
    options: Namespace
    can_be_named: bool
    parameters: int
    macs: int

    @property
    def folder(self) -> str:
        return "".join(char if char.isalnum() else "_" for char in self.title)


def main() -> int:
    options, training_flags = parse()
    contestants = make_contestants(options, training_flags)
    check(options, contestants)
    check_writable(options.output)
    steps = make_plan(options, contestants)
    print(describe(contestants, steps), flush=True)

    for seed in options.seeds:
        for contestant in contestants:
            folder = options.output / contestant.folder / f"seed_{seed}"
            train(contestant, folder, seed, steps[contestant.title], options)
            for knowledge in options.knowledge:
                if knowledge == "blind" or contestant.can_be_named:
                    test(contestant, folder, knowledge, options)

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
        help=f"one of {' '.join(TRAINABLE)}, with flags of train.py; the first is the reference",
    )
    parser.add_argument(
        "--match",
        choices=(*MEASURES, "none"),
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
    """Parse `--networks` and match their sizes.

    Raises:
        UserError: a network or flag is wrong, or cannot be made as large as the reference.
    """
    usual = train_options([])
    if any(flag.split("=")[0] == "--network" for flag in training_flags):
        raise UserError("--network: set by the comparison for every training; give --networks")
    contestants: list[Contestant] = []
    for title in options.networks:
        name, _, extra = title.partition(":")
        if name not in TRAINABLE:
            raise UserError(
                f"--networks {title}: expected one of {', '.join(TRAINABLE)}, and flags after a :"
            )
        own = (f"--network={name}", *(f"--{flag}" for flag in filter(None, extra.split(","))))
        flags = (*training_flags, *own)
        try:
            chosen = train_options(flags)
        except UserError as error:
            raise UserError(f"--networks {title}: {error}") from error
        for key in SET_HERE:
            if getattr(chosen, key) != getattr(usual, key):
                raise UserError(
                    f"--{key} {getattr(chosen, key)}: set by the comparison for every training; "
                    "leave it out there (folders, --seeds and --length go before --)"
                )
        if options.match != "none" and contestants:
            if "width=" in extra or "expansion=" in extra:
                raise UserError(
                    f"--networks {title}: its size follows from --match {options.match}; "
                    "leave width and expansion out, or give --match none"
                )
            target = getattr(contestants[0], options.match)
            sizes = match_size(name, network_arguments(chosen), options.match, target)
            flags += tuple(f"--{key}={value}" for key, value in sizes.items())
        chosen = train_options(flags)
        net = build(chosen, "meta")
        contestants.append(
            Contestant(
                title, flags, chosen, net.can_be_named, count_parameters(net), count_macs(net)
            )
        )
    return contestants


def build(chosen: Namespace, device: str) -> RestorationNetwork:
    """The network that flags of train.py come to, with random weights."""
    with torch.device(device):
        return NETWORKS[chosen.network](**network_arguments(chosen))


def check(options: Namespace, contestants: Sequence[Contestant]) -> None:
    """Raise `UserError` for what would only fail, or mislead, after the first training."""
    for flag, values in (
        ("--networks", [contestant.folder for contestant in contestants]),
        ("--seeds", options.seeds),
        ("--knowledge", options.knowledge),
    ):
        value, count = Counter(values).most_common(1)[0]
        if count > 1:
            raise UserError(f"{flag}: {value} is there {count} times; give each once")
    if "blind" not in options.knowledge:
        for contestant in contestants:
            if not contestant.can_be_named:
                raise UserError(
                    f"--knowledge named: {contestant.title} cannot be told what is wrong; "
                    "give blind as well"
                )
    if options.budget == "steps" and not options.length.is_integer():
        raise UserError(
            f"--length {options.length}: expected a whole number of steps; give one, or "
            "--budget minutes"
        )
    for task in TASKS:
        trained = {
            CLEAN.name if contestant.options.synthesize else entry.task
            for contestant in contestants
            for entry in DEGRADATIONS
            if entry.name in contestant.options.de_type
        }
        folder = getattr(options, f"{task.name}_dir")
        if task.name in trained and not find_in_folder(options, f"{task.name}_dir", task):
            raise UserError(
                f"--{task.name}_dir {folder}: no training images to {task.name}; put them there, "
                "or train others with --de_type after --"
            )
    tests = [find_in_folder(options, f"{task.name}_path", task) for task in TASKS]
    if not any(tests):
        raise UserError(
            "no test images in test/; put them there, or give --denoise_path, --derain_path or "
            "--dehaze_path"
        )


def make_plan(options: Namespace, contestants: Sequence[Contestant]) -> dict[str, int]:
    """Optimizer steps of each contestant, by title; kept in the output folder from then on.

    Raises:
        UserError: the output folder is of another comparison.
    """
    folders = [f"{task.name}_{kind}" for task in TASKS for kind in ("dir", "path")]
    terms = {
        "budget": describe_budget(options),
        "match": options.match,
        "reference": contestants[0].title,
        **{key: str(getattr(options, key) or "") for key in (*folders, "data_file_dir")},
    }
    for contestant in contestants:
        for key, value in vars(contestant.options).items():
            if key not in MAY_CHANGE:
                terms[f"{contestant.title} --{key}"] = str(value)
    plan = {"terms": {}, "steps": {}}
    if list(options.output.glob("*/seed_*/last.ckpt")):
        plan = read_plan(options.output / PLAN)
        for key, value in terms.items():
            before = plan["terms"].get(key, value)
            if before != value:
                raise UserError(
                    f"--output {options.output}: holds a comparison with {key} {before or 'none'}, "
                    f"this one has {value or 'none'}; give another folder"
                )

    new = [contestant for contestant in contestants if contestant.title not in plan["steps"]]
    if options.budget == "steps":
        steps = [int(options.length)] * len(new)
    elif new and plan["steps"]:
        raise UserError(
            f"--networks {new[0].title}: was not timed with the others in {options.output}; "
            "give another folder"
        )
    else:
        steps = [max(1, round(60 * options.length / seconds)) for seconds in time_steps(new)]
    plan["terms"] |= terms
    plan["steps"] |= {contestant.title: n for contestant, n in zip(new, steps, strict=True)}
    text = json.dumps(plan, indent=2)
    write_whole(options.output / PLAN, lambda file: file.write(text.encode()))
    return plan["steps"]


def read_plan(file: Path) -> dict[str, dict[str, Any]]:
    """The plan of the comparison in a folder.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        plan = json.loads(file.read_text())
        whole = all(isinstance(plan[key], dict) for key in ("terms", "steps"))
        whole = whole and all(isinstance(steps, int) for steps in plan["steps"].values())
    except (OSError, ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        raise UserError(
            f"{file}: missing or damaged, so nobody knows what the runs beside it are; give "
            "another --output folder"
        )
    return plan


def describe_budget(options: Namespace) -> str:
    """Such as `2000 steps`."""
    length = int(options.length) if options.length.is_integer() else options.length
    return f"{length} {options.budget}"


def time_steps(contestants: Sequence[Contestant]) -> list[float]:
    """Median seconds of a training step of each, timed in turns, where train.py would train."""
    steps = []
    for contestant in contestants:
        chosen = contestant.options
        machine = choose_machine(chosen.num_gpus, chosen.num_nodes, chosen.cuda, chosen.precision)
        index = machine.devices[0] if isinstance(machine.devices, list) else 0
        net = build(chosen, "cpu")
        text = getattr(net, "text", None)
        if text is not None and not text.filled:
            text.fill(torch.randn_like(text.embeddings))
        if chosen.compile:
            net.compile_blocks()
        steps.append(
            make_training_step(
                net,
                torch.device(machine.accelerator, index),
                chosen.batch_size,
                chosen.patch_size,
                bf16="bf16" in machine.precision,
            )
        )
    seconds = [
        taken * contestant.options.accumulate
        for taken, contestant in zip(time_in_turns(steps, TIMED_ROUNDS), contestants, strict=True)
    ]
    del steps
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # train.py, another process, needs the memory
    return seconds


def describe(contestants: Sequence[Contestant], steps: dict[str, int]) -> str:
    """Sizes and steps of the contestants."""
    headers = ("network", "width", "expansion", "parameters (M)", "GMACs at 128", "steps")
    rows = []
    for contestant in contestants:
        arguments = network_arguments(contestant.options)
        sizes = [str(arguments.get(name, NOTHING)) for name in ("width", "expansion")]
        costs = [f"{contestant.parameters / 1e6:.3f}", f"{contestant.macs / 1e9:.3f}"]
        rows.append((contestant.title, *sizes, *costs, str(steps[contestant.title])))
    return format_markdown(headers, rows)


def train(contestant: Contestant, folder: Path, seed: int, steps: int, options: Namespace) -> None:
    """Train one run to its last step, go on with it, or leave it if it is done.

    Raises:
        UserError: train.py ended before the last step.
    """
    last = folder / "last.ckpt"

    def is_done() -> bool:
        return last.is_file() and read_checkpoint(last)["global_step"] >= steps

    if is_done():
        return
    folders = [f"--{task.name}_dir={getattr(options, f'{task.name}_dir')}" for task in TASKS]
    if options.data_file_dir:
        folders.append(f"--data_file_dir={options.data_file_dir}")
    (folder / FLAGS).unlink(missing_ok=True)  # all are given here, and some may change
    run_script(
        "train.py",
        *contestant.flags,
        *folders,
        f"--seed={seed}",
        f"--epochs={steps}",  # never fewer steps than that
        f"--max_steps={steps}",
        f"--val_every={max(1, steps // VALIDATIONS)}",
        f"--ckpt_dir={folder}",
        "--resume",
    )
    if not is_done():
        raise UserError(f"{last}: ended before step {steps}; the same command goes on from there")


def test(contestant: Contestant, folder: Path, knowledge: str, options: Namespace) -> None:
    """Test the last weights of one run where it was trained, unless that is done."""
    checkpoint = folder / "last.ckpt"
    tested = folder / f"{options.protocol}_{knowledge}"
    if is_tested(tested, checkpoint):
        return
    if tested.exists():  # of another checkpoint, or broken off
        shutil.rmtree(tested)
    cuda = CPU if contestant.options.num_gpus == 0 else contestant.options.cuda
    run_script(
        "test.py",
        *(f"--{task.name}_path={getattr(options, f'{task.name}_path')}" for task in TASKS),
        *(["--named"] if knowledge == "named" else []),
        *([] if cuda is None else [f"--cuda={cuda}"]),
        f"--ckpt_name={checkpoint}",
        f"--protocol={options.protocol}",
        f"--output_path={folder}",
    )
    note_tested(tested)


def is_tested(tested: Path, checkpoint: Path) -> bool:
    """Whether a test of this checkpoint came to its end, and its scores are there."""
    done = tested / DONE
    if not done.is_file() or done.stat().st_mtime < checkpoint.stat().st_mtime:
        return False
    scores = tested_scores(tested)
    return bool(scores) and all(path.is_file() for path in scores)


def write_report(
    options: Namespace,
    training_flags: Sequence[str],
    contestants: Sequence[Contestant],
    steps: dict[str, int],
) -> str:
    """Tables and learning curves of all runs; returns the tables."""
    scores, curves = {}, {}
    for contestant in contestants:
        folders = [options.output / contestant.folder / f"seed_{seed}" for seed in options.seeds]
        curves[contestant.title] = [read_learning_curve(folder) for folder in folders]
        for knowledge in options.knowledge:
            if knowledge == "blind" or contestant.can_be_named:
                tests = [folder / f"{options.protocol}_{knowledge}" for folder in folders]
                scores[f"{contestant.title}, {knowledge}"] = read_scores(tests)

    seeds = " ".join(map(str, options.seeds))
    parts = [
        f"Budget: {describe_budget(options)} a run; matched: {options.match}; "
        f"seeds: {seeds}; protocol {options.protocol}; commit {commit()}; "
        f"flags of every training: {' '.join(training_flags) or 'none'}",
        describe(contestants, steps),
        "PSNR (dB) ±half of its 95 % interval over images/SSIM, means over the seeds:",
        format_scores(scores),
    ]
    if len(scores) > 1:
        parts += [
            f"PSNR minus that of {next(iter(scores))}, with the 95 % interval over images, paired; "
            f"mean, if any: of the columns of {SMALLEST_SAMPLE} images or more, then seed by seed:",
            format_differences(scores),
        ]
    report = "\n\n".join(parts)
    write_whole(options.output / "table.md", lambda file: file.write(f"{report}\n".encode()))
    plot_learning_curves(curves, options.output / "learning_curves.png")
    return report


if __name__ == "__main__":
    run(main)
