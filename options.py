"""The flags of train.py, test.py, demo.py and app.py, and those that a script in scripts/ shares.

Nothing is parsed at import.
"""

import argparse
import os
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from data.datasets import BALANCES
from data.degradations import (
    ALL_TASKS_MODE,
    CLEAN,
    DEGRADATION_NAMES,
    DEGRADATIONS,
    TASKS,
    Task,
    of_task,
)
from data.pairing import DataSet, describe_layout, describe_missing, find_data_sets
from data.protocols import PROTOCOLS
from net import BASELINES, NETWORKS, AMPromptIR
from net.checkpoint import DEFAULTS, WIDEST
from net.resumable import MOST_STEPS
from net.text import CLIP_PRETRAINED
from utils.devices import CPU
from utils.errors import UserError
from utils.flags import FLAGS, keep_flags, read_flags
from utils.image_io import MAX_PIXELS, list_images
from utils.schedules import SCHEDULES

DEFAULT_CHECKPOINT_HELP = f"without it the first there of {', '.join(DEFAULTS)}"
TRAINABLE = [name for name, network in NETWORKS.items() if network.trainable]
PRECISIONS = ("auto", "bf16", "fp32")
LARGEST_EXPANSION = 100
LARGEST = 2**63 - 1  # whole number that PyTorch takes
LARGEST_FLOAT = 1e30  # of rates and weights, which 32 bits hold
LARGEST_PATCH = 2**13  # pixels a side
MOST_PATCHES = 2**16  # in a batch
MOST_BATCHES = 2**16  # in a step
MOST_EPOCHS = 10**6
MOST_WORKERS = 1024
LAST, PREVIOUS, BEST = OF_A_RUN = ("last.ckpt", "previous.ckpt", "best.ckpt")  # to go on from
NOT_KEPT = (  # of a run's flags: where it is, and what one trusts another's folder with
    *("--resume", "--ckpt_dir"),
    *("--follow_links", "--max_pixels", "--wblogger"),
)


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not that there is none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = action.default is not None and action.default is not False
        return super()._get_help_string(action) if told else action.help


class Parser(argparse.ArgumentParser):
    """Shows defaults, and turns a wrong flag into a `UserError`."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description,
            formatter_class=_Defaults,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def train_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of train.py. Raises `UserError`."""
    parser = Parser("Train a restoration network on any subset of the degradations.")

    group = parser.add_argument_group("what to train")
    group.add_argument(
        "--de_type",
        nargs="+",
        choices=DEGRADATION_NAMES,
        default=list(DEGRADATION_NAMES),
        metavar="NAME",
        help=f"degradations to train, any of: {' '.join(DEGRADATION_NAMES)}",
    )
    group.add_argument("--network", choices=TRAINABLE, default="am_promptir", help="the network")
    group.add_argument(
        "--configuration",
        choices=sorted({size for name in TRAINABLE for size in NETWORKS[name].configurations}),
        default="paper",
        help="its size",
    )
    group.add_argument(
        "--width",
        type=partial(positive, most=WIDEST),
        help="channels, other than the configuration's",
    )
    group.add_argument(
        "--expansion",
        type=positive_float,
        help="of the feed-forward, other than the configuration's",
    )
    group.add_argument(
        "--text",
        choices=AMPromptIR.choices["text"],
        help="text prompts of am_promptir: the frozen CLIP text encoder (clip, the default), a "
        "trainable table without language (learned), or none",
    )
    group.add_argument(
        "--attention",
        choices=AMPromptIR.choices["attention"],
        help="of am_promptir: its own (smam, the default), or Restormer's (mdta)",
    )
    group.add_argument(
        "--fusion",
        choices=AMPromptIR.choices["fusion"],
        help="of am_promptir's skips: its own (fefm, the default), or concatenation",
    )
    group.add_argument(
        "--init",
        type=path,
        metavar="FILE",
        help="start from the weights of a checkpoint of the same network (fine-tuning): a path, or "
        "a name inside ckpt/",
    )
    _add_clip_flags(group)

    group = parser.add_argument_group("data")
    add_training_flags(group)
    group.add_argument(
        "--synthesize",
        action="store_true",
        help="make rain and haze from the clean photographs in --denoise_dir, anew for each patch",
    )
    group.add_argument(
        "--exclude_test_scenes",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave out training images that show scenes of published test sets, by their names",
    )
    _add_trust_flags(group)
    group.add_argument(
        "--strict_data",
        action="store_true",
        help="decode every image before training and end if one cannot be read; without it the "
        "next image takes its place, with a warning",
    )
    group.add_argument(
        "--patch_size",
        type=patch_size,
        default=128,
        help="pixels, a multiple of 8",
    )
    group.add_argument(
        "--balance",
        choices=BALANCES,
        default="equal",
        help="visit each task equally often, or each degradation, or each image as published",
    )
    group.add_argument(
        "--variety",
        type=probability,
        default=0.0,
        help="share of the samples made grey, compressed, of other noise, or (half of them) left "
        "undamaged, as photographs outside the published sets are",
    )
    group.add_argument(
        "--val_images",
        type=natural,
        default=10,
        help="scenes held out of each training folder for validation (at most a tenth of them)",
    )
    group.add_argument(
        "--num_workers",
        type=partial(natural, most=MOST_WORKERS),
        default=min(16, os.cpu_count() or 1),
        help="processes that load images",
    )
    group.add_argument(
        "--cache_gb",
        type=non_negative,
        default=4.0,
        help="GB (1e9 bytes) a GPU for decoded images that its workers share; 0: decode each time",
    )

    group = parser.add_argument_group("optimization")
    group.add_argument(
        "--epochs", type=partial(positive, most=MOST_EPOCHS), default=120, help="length of the run"
    )
    group.add_argument(
        "--max_steps",
        type=partial(positive, most=MOST_STEPS),
        help="end after so many optimizer steps",
    )
    group.add_argument(
        "--max_minutes",
        type=positive_float,
        help="end after so much time, counted from the end of the first step",
    )
    group.add_argument(
        "--batch_size",
        type=batch_size,
        default=18,
        help="patches a batch and GPU",
    )
    group.add_argument(
        "--accumulate",
        type=partial(positive, most=MOST_BATCHES),
        default=1,
        help="batches whose gradients make one step",
    )
    group.add_argument("--lr", type=positive_float, default=2e-4, help="peak learning rate")
    group.add_argument(
        "--clip_norm", type=positive_float, help="largest norm of a step's gradient; default: any"
    )
    group.add_argument(
        "--schedule",
        choices=SCHEDULES,
        default="cosine",
        help="warm-up and cosine to zero at the last step, or at the end of --max_minutes (timed), "
        "or the released code's table by epoch",
    )
    group.add_argument(
        "--fft_weight", type=non_negative, default=0.01, help="weight of the loss between spectra"
    )
    group.add_argument(
        "--classification_weight",
        type=non_negative,
        default=0.0,
        help="weight of the loss that teaches am_promptir to tell the degradations apart",
    )
    group.add_argument(
        "--named_probability",
        type=probability,
        default=0.5,
        help="share of samples whose degradation is named to the network",
    )
    group.add_argument("--seed", type=natural, default=0, help="of everything random")

    group = parser.add_argument_group("machine")
    group.add_argument("--num_gpus", type=natural, help="GPUs of a node; 0 for the CPU")
    group.add_argument("--num_nodes", type=positive, default=1, help="nodes (SLURM)")
    _add_cuda_flag(group)
    group.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="auto: bf16 where the GPU has it"
    )

    group.add_argument(
        "--deterministic",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="the same weights from run to run on a GPU too (slower); on a CPU they always are",
    )
    group.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="compile the network (torch.compile): the first steps take minutes; meant for GPUs",
    )
    group.add_argument(
        "--cuda_graph",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="record the network's pass once and replay it in each step; for one CUDA device",
    )

    group = parser.add_argument_group("checkpoints and logs")
    _add_run_flags(group)
    group.add_argument(
        "--save_every", type=positive, default=500, help="steps between saves of last.ckpt"
    )
    group.add_argument(
        "--val_every", type=positive, help="steps between validations; default: an epoch"
    )
    group.add_argument(
        "--wblogger",
        type=project,
        metavar="PROJECT",
        help="log to this wandb project (offline if logged out)",
    )
    group.add_argument(
        "--tensorboard",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="log to TensorBoard as well",
    )

    options = parser.parse_args(argv)
    if options.schedule == "timed" and not options.max_minutes:
        parser.error("--schedule timed: needs --max_minutes, over which the rate goes to zero")
    if options.cuda is not None and options.num_gpus is not None:
        parser.error("--cuda and --num_gpus: give one of them")
    network = NETWORKS[options.network]
    if options.configuration not in network.configurations:
        expected = ", ".join(network.configurations)
        parser.error(
            f"--configuration {options.configuration}: {options.network} has only {expected}"
        )
    width = options.width or network.configurations[options.configuration]["width"]
    if options.expansion and not 1 / width <= options.expansion <= LARGEST_EXPANSION:
        parser.error(
            f"--expansion {options.expansion:g}: expected a number from 1/{width} (one hidden "
            f"channel at width {width}) to {LARGEST_EXPANSION}"
        )
    for name in AMPromptIR.choices:
        value = getattr(options, name)
        if name in network.choices:
            setattr(options, name, value or network.choices[name][0])
        elif value is not None:
            parser.error(f"--{name} {value}: {options.network} has no such choice; leave it out")
    if options.classification_weight and not network.gives_scores:
        parser.error(
            f"--classification_weight {options.classification_weight:g}: {options.network} does "
            "not tell degradations apart; leave it out"
        )
    if options.synthesize:
        for task in TASKS:
            flag = f"{task.name}_dir"
            if task != CLEAN and getattr(options, flag) != _default_folder(flag, task):
                parser.error(
                    f"--synthesize and --{flag}: with the former, images to {task.name} are made "
                    f"from those in --{CLEAN.name}_dir; give one of them"
                )
    _check_run_folder(parser, options)
    options.de_type = [name for name in DEGRADATION_NAMES if name in options.de_type]
    return options


def with_saved_flags(argv: Sequence[str]) -> tuple[list[str], str]:
    """Flags of train.py, then those that the run which `--resume` goes on with was started with.

    With them comes a clause that says what the latter are, empty for a new run.

    Raises:
        UserError: what the run's folder says of its flags cannot be read.
    """
    parser = Parser("")
    _add_run_flags(parser)
    run, _ = parser.parse_known_args([word for word in argv if word not in ("-h", "--help")])
    if not run.resume:
        return list(argv), ""
    if run.resume != "auto" and not Path(run.resume).is_file():
        return list(argv), ""  # which is told of later
    folder = run.ckpt_dir if run.resume == "auto" else Path(run.resume).parent
    # then its weights come from there
    has_begun = run.resume != "auto" or any((folder / name).exists() for name in OF_A_RUN)
    without = (*NOT_KEPT, "--init") if has_begun else NOT_KEPT
    kept = keep_flags(read_flags(folder), argv, without)
    told = f"with the flags in {folder / FLAGS}: {shlex.join(kept)}" if kept else ""
    if has_begun and not (folder / FLAGS).exists():
        told = f"there is no {folder / FLAGS}, so flags that are not given are the defaults"
    return [*argv, *kept], told


def _add_run_flags(parser) -> None:
    parser.add_argument(
        "--ckpt_dir", type=path, default=Path("ckpt"), help="folder of the run: last.ckpt, ..."
    )
    parser.add_argument(
        "--resume",
        type=not_empty,
        nargs="?",
        const="auto",
        metavar="PATH",
        help="go on from a checkpoint; without PATH from last.ckpt in --ckpt_dir, if there is one; "
        "flags that are not given are those of the run",
    )


def _check_run_folder(parser: Parser, options: argparse.Namespace) -> None:
    """In the folder of clean images the pictures of a run would be taken for such."""
    clean = options.synthesize or any(
        entry.name in options.de_type for entry in of_task(CLEAN.name)
    )
    if clean and not options.resume:
        flag = f"{CLEAN.name}_dir"
        folder = os.path.realpath(getattr(options, flag))
        if Path(os.path.realpath(options.ckpt_dir)).is_relative_to(folder):
            parser.error(
                f"--ckpt_dir {options.ckpt_dir}: lies in --{flag} {getattr(options, flag)}, so "
                "that the run's sample pictures would be trained on; give a folder elsewhere"
            )


def network_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The constructor arguments, plain values, that the flags of train.py come to.

    Raises:
        UserError: the network cannot be built so.
    """
    network = NETWORKS[options.network]
    names = ("width", "expansion", *network.choices)
    given = {name: getattr(options, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    if network.choices:
        given["num_degradations"] = len(DEGRADATIONS)
    arguments = {**network.configurations[options.configuration], **given}
    try:
        with torch.device("meta"):
            network(**arguments)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"--network {options.network}: {error}") from error
    return arguments


def name_configuration(options: argparse.Namespace) -> str:
    """The configuration's name, and how this network differs from it (but for its text)."""
    usual = {name: values[0] for name, values in NETWORKS[options.network].choices.items()}
    changes = {name: getattr(options, name) for name in ("width", "expansion", *usual)}
    parts = [
        f"{name} {value}"
        for name, value in changes.items()
        if value is not None and name != "text" and value != usual.get(name)
    ]
    return ", ".join([options.configuration, *parts])


def test_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of test.py. Raises `UserError`."""
    parser = Parser("Restore the test sets and score the result.")
    modes = ", ".join(f"{task.mode} {task.name}" for task in TASKS)
    parser.add_argument(
        "--mode",
        type=int,
        choices=sorted({*(task.mode for task in TASKS), ALL_TASKS_MODE}),
        default=ALL_TASKS_MODE,
        metavar="N",
        help=f"{modes}, {ALL_TASKS_MODE} all",
    )
    parser.add_argument(
        "--named", action="store_true", help="tell the network the true degradation (not blind)"
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="paper",
        help="paper: comparable with published tables; clean: whole images, 8-bit scores",
    )
    parser.add_argument(
        "--ckpt_name",
        type=path,
        nargs="+",
        metavar="FILE",
        help="checkpoints: paths, or names inside ckpt/; several make one table; "
        + DEFAULT_CHECKPOINT_HELP,
    )
    parser.add_argument(
        "--network",
        choices=BASELINES,
        help="what published checkpoints, which do not name their network, are for",
    )
    add_test_flags(parser)
    _add_trust_flags(parser)
    parser.add_argument(
        "--output_path", type=path, default=Path("output"), help="folder for images and figures"
    )
    _add_compare_flag(parser, "degraded, restored and clean")
    parser.add_argument("--seed", type=natural, default=0, help="of the noise under protocol clean")
    _add_inference_flags(parser, tile="0")  # figures must not depend on the free memory
    return parser.parse_args(argv)


def demo_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of demo.py. Raises `UserError`."""
    parser = Parser("Restore pictures of any size.")
    parser.add_argument(
        "--input",
        nargs="+",
        type=not_empty,
        required=True,
        metavar="PATH",
        help="pictures, folders of them (with those inside), or patterns such as 'photos/*.jpg'; "
        "- for a list of pictures on standard input, one a line",
    )
    parser.add_argument(
        "--output",
        type=path,
        default=Path("output"),
        help="folder for the results; or, of a single picture, the file",
    )
    saying = parser.add_mutually_exclusive_group()
    saying.add_argument(
        "--task", choices=DEGRADATION_NAMES, help="what is wrong; without it the network decides"
    )
    saying.add_argument(
        "--text", metavar="WORDS", help="what is wrong, in words of your own (needs CLIP)"
    )
    parser.add_argument(
        "--strength",
        type=probability,
        default=1.0,
        help="from 0, the picture as it was, to 1, as the network restores it",
    )
    _add_clip_flags(parser)
    _add_compare_flag(parser, "input and result")
    _add_pixels_flag(parser)
    parser.add_argument(
        "--ckpt_name",
        type=path,
        metavar="FILE",
        help="checkpoint: a path, or a name inside ckpt/; " + DEFAULT_CHECKPOINT_HELP,
    )
    _add_inference_flags(parser, tile="auto")
    return parser.parse_args(argv)


def app_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of app.py. Raises `UserError`."""
    parser = Parser("A page to restore pictures on, for a browser.")
    parser.add_argument(
        "--ckpt_name",
        type=path,
        metavar="FILE",
        help="checkpoint: a path, or a name inside ckpt/; " + DEFAULT_CHECKPOINT_HELP,
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on: this machine alone, or 0.0.0.0 for whoever can reach it",
    )
    parser.add_argument("--port", type=port, default=7860, help="number of the port")
    parser.add_argument("--max_mb", type=positive, default=64, help="MB of a file, at most")
    parser.add_argument(
        "--max_megapixels", type=positive, default=64, help="millions of pixels, at most"
    )
    _add_inference_flags(parser, tile="auto")
    return parser.parse_args(argv)


def add_training_flags(parser) -> None:
    """Where the training images are."""
    for task in TASKS:
        parser.add_argument(
            f"--{task.name}_dir",
            type=path,
            default=_default_folder(f"{task.name}_dir", task),
            help=f"training images to {task.name}",
        )
    parser.add_argument(
        "--data_file_dir",
        type=path,
        help="folder of published lists (noisy/denoise.txt, ...); without it every image is used",
    )


def add_test_flags(parser) -> None:
    """Where the test images are."""
    for task in TASKS:
        parser.add_argument(
            f"--{task.name}_path",
            type=path,
            default=_default_folder(f"{task.name}_path", task),
            help=f"a {task.name} test set, or a folder of them",
        )


def find_in_folder(options: argparse.Namespace, flag: str, task: Task) -> list[DataSet]:
    """The data sets in the folder of a flag (`derain_dir`, `derain_path`, ...), maybe none.

    Raises:
        UserError: there is none, and the folder is not the default: the user has given it.
    """
    folder = getattr(options, flag)
    data_sets = find_data_sets(folder, task)
    if not data_sets and folder != _default_folder(flag, task):
        what = describe_missing(folder, task)
        raise UserError(
            f"--{flag} {folder}: {what}; expected {describe_layout(task)}; correct the path, or "
            "leave the flag out"
        )
    return data_sets


def clean_photos(folder: Path) -> list[Path]:
    """The pictures in the folder of `--clean`, sorted by name.

    Raises:
        UserError: there is none, or the folder cannot be read.
    """
    errors: list[OSError] = []
    photos = list_images(folder, on_error=errors.append)
    if not photos:
        what = str(errors[0].strerror).lower() if errors else "no pictures in it"
        raise UserError(f"--clean {folder}: {what}; give a folder of clean photographs")
    return photos


def _default_folder(flag: str, task: Task) -> Path:
    training = flag == f"{task.name}_dir"
    top = Path("data/Train" if training else "test")
    names = task.train_folders if training else task.test_folders
    return next((top / name for name in names if (top / name).is_dir()), top / names[0])


def path(text: str) -> Path:
    """A path, which an empty text is not: it would be the current folder."""
    return Path(not_empty(text))


def not_empty(text: str) -> str:
    """Any text but an empty one, such as a path or a pattern."""
    if not text:
        raise argparse.ArgumentTypeError("'': expected a path")
    return text


def project(text: str) -> str:
    """A name that wandb takes for a project."""
    if not 0 < len(text) <= 128 or set(text) & set("/\\#?%:"):
        raise argparse.ArgumentTypeError(
            f"{text!r:.150}: expected a name of up to 128 characters, none of / \\ # ? % :"
        )
    return text


def positive(text: str, most: int = LARGEST) -> int:
    """A whole number above 0, and at most `most`."""
    expected = f"a whole number above 0 (and at most {most})"
    return _number(int, text, lambda value: 0 < value <= most, expected)


def natural(text: str, most: int = LARGEST) -> int:
    """A whole number from 0 to `most`."""
    bound = "below 2**63" if most == LARGEST else f"at most {most}"
    expected = f"a whole number, 0 or above (and {bound})"
    return _number(int, text, lambda value: 0 <= value <= most, expected)


def port(text: str) -> int:
    """A whole number from 1 to 65535."""
    return _number(int, text, lambda value: 0 < value < 2**16, "a whole number from 1 to 65535")


def gpu_index(text: str) -> int:
    """A whole number, -1 or above."""
    return _number(int, text, lambda value: value >= CPU, "the index of a GPU, or -1 for the CPU")


def non_negative(text: str) -> float:
    """A number from 0 to `LARGEST_FLOAT`."""
    expected = f"a number, 0 or above (and at most {LARGEST_FLOAT:g})"
    return _number(float, text, lambda value: 0 <= value <= LARGEST_FLOAT, expected)


def positive_float(text: str) -> float:
    """A number above 0, and at most `LARGEST_FLOAT`."""
    expected = f"a number above 0 (and at most {LARGEST_FLOAT:g})"
    return _number(float, text, lambda value: 0 < value <= LARGEST_FLOAT, expected)


def probability(text: str) -> float:
    """A number from 0 to 1."""
    return _number(float, text, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def patch_size(text: str) -> int:
    """A multiple of 8, at most `LARGEST_PATCH`."""
    expected = f"a multiple of 8 above 0 (and at most {LARGEST_PATCH})"
    return _number(int, text, lambda v: 0 < v <= LARGEST_PATCH and v % 8 == 0, expected)


def batch_size(text: str) -> int:
    """A whole number above 0, at most `MOST_PATCHES`."""
    return positive(text, MOST_PATCHES)


def tile_size(text: str) -> int | None:
    """`auto` (None), 0 for the whole image, or a multiple of 8."""
    if text == "auto":
        return None
    expected = "auto, 0 or a multiple of 8 from 64"
    return _number(int, text, lambda v: v == 0 or (v >= 64 and v % 8 == 0), expected)


def _number(kind, text, accept, expected):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not accept(value):
        raise argparse.ArgumentTypeError(f"{text}: expected {expected}")
    return value


def _add_clip_flags(parser) -> None:
    parser.add_argument(
        "--clip_pretrained",
        type=not_empty,
        default=CLIP_PRETRAINED,
        metavar="TAG|FILE",
        help="open_clip tag of ViT-B-32 weights, or a local weights file",
    )
    parser.add_argument(
        "--clip_quick_gelu",
        action=argparse.BooleanOptionalAction,
        help="whether a local file's weights want QuickGELU; without it, told from the file",
    )


def _add_compare_flag(parser, what: str) -> None:
    parser.add_argument("--compare", action="store_true", help=f"also write {what} side by side")


def _add_cuda_flag(parser) -> None:
    parser.add_argument(
        "--cuda", type=gpu_index, metavar="N", help="index of the GPU to use; -1 for the CPU"
    )


def _add_pixels_flag(parser) -> None:
    parser.add_argument(
        "--max_pixels", type=positive, default=MAX_PIXELS, help="of an image; no larger one is read"
    )


def _add_trust_flags(parser) -> None:
    """What is accepted from the files of a data folder."""
    _add_pixels_flag(parser)
    parser.add_argument(
        "--follow_links",
        action="store_true",
        help="read images to which symbolic links lead out of their folder",
    )


def _add_inference_flags(parser, tile: str) -> None:
    parser.add_argument(
        "--tile",
        type=tile_size,
        default=tile,
        metavar="PIXELS",
        help="side of the tiles: auto (by free memory), 0 for the whole image, or a multiple of 8 "
        "from 64",
    )
    parser.add_argument(
        "--self_ensemble",
        action="store_true",
        help="mean of four restorations, of the image mirrored both ways, in 4 times the time",
    )
    _add_cuda_flag(parser)
