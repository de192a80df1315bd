"""What the network costs beside others, in one run: python -m scripts.benchmark

Compares AMPromptIR with a straightforward formulation of the same function on the same weights
(`tests/straightforward.py`), PromptIR and Restormer at their published size: time of inference and
of a training step, peak memory, parameters, multiply-accumulates, and how near each comes to what
the machine can do. Rounds run all networks in turn, so ratios hold on a busy machine; seconds do
not. The last line is JSON.

python -m scripts.benchmark --configuration tiny --sizes 128 481x321 --rounds 5
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
import argparse
import copy
import json
import math
import platform
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from net import NETWORKS, AMPromptIR
from net.complexity import COUNTED_SIZE, count_macs, count_parameters
from options import Parser, batch_size, patch_size, positive
from tests.straightforward import Straightforward
from utils.devices import choose_device
from utils.errors import run
from utils.inference import restore
from utils.tables import format_markdown
from utils.timing import make_training_step, peak_memory, time_in_turns, wait

OURS, ORACLE = "am_promptir", "straightforward"
PUBLISHED = ("promptir", "restormer")
SIZES = ("128", "256", "481x321", "512")
LARGEST_SIDE = 2**15  # pixels of an image
MATRIX = 2048  # a side, of the matrices that show the machine's rate of arithmetic
COPIED = 2**26  # values, of the array that shows its bandwidth
TOLERANCE = 1e-5  # between our output and the straightforward one


def main() -> int:
    options = parse()
    device = choose_device(options.cuda)
    torch.manual_seed(0)
    networks = build_networks(options.configuration)
    networks = {name: networks[name] for name in (OURS, ORACLE, *options.others)}
    difference = compare_outputs(networks)
    if difference > TOLERANCE:
        print(f"outputs differ by {difference:.1e}, more than {TOLERANCE:.0e}", file=sys.stderr)
        return 1
    for net in networks.values():
        net.to(device)

    print(f"{options.configuration}, {describe_machine(device)}", flush=True)
    report: dict[str, Any] = {
        "machine": describe_machine(device),
        "torch": torch.__version__,
        "configuration": options.configuration,
        "rounds": options.rounds,
        "largest_difference": difference,
        "parameters": {name: count_parameters(net) for name, net in networks.items()},
        "macs": {name: count_macs(net) for name, net in networks.items()},
    }
    report |= measure_machine(device)
    report |= measure_networks(networks, options, device)
    print(format_report(report))
    print(json.dumps(report))
    return 0


def measure_networks(
    networks: dict[str, nn.Module], options: Namespace, device: torch.device
) -> dict[str, Any]:
    """Seconds and bytes of each network, by what was measured, which a bar shows."""
    patches = (options.batch_size, options.patch_size)
    report: dict[str, Any] = {"inference_seconds": {}, "training_patches": list(patches)}
    with tqdm(total=len(options.sizes) + 4, unit="part", leave=False) as bar:
        for size in options.sizes:
            bar.set_description(f"inference, {size}")
            seconds = time_inference(networks, size, options.rounds, device)
            report["inference_seconds"][size] = seconds
            bar.update()

        bar.set_description("training")
        steps = prepare_training(networks, options, device)
        seconds = time_in_turns(list(steps.values()), options.rounds)
        report["training_seconds"] = dict(zip(steps, seconds, strict=True))
        bar.update()

        for part, prepare, details in (
            ("peak_bytes", prepare_restoration, options.sizes[-1:]),
            ("training_peak_bytes", prepare_step, patches),
        ):
            bar.set_description(part)
            report[part] = {
                name: measure_memory(device, prepare, name, options.configuration, *details)
                for name in networks
            }
            bar.update()

        bar.set_description("moved_bytes")
        report["moved_bytes"] = {
            name: count_moved_bytes(net, options.sizes[-1], device)
            for name, net in networks.items()
        }
        bar.update()
    return report


def parse() -> Namespace:
    """The flags of this script."""
    parser = Parser("Time the networks against each other.")
    parser.add_argument(
        "--configuration", choices=AMPromptIR.configurations, default="paper", help="of the network"
    )
    parser.add_argument(
        "--sizes", nargs="+", type=image_size, default=list(SIZES), help="of images, in pixels"
    )
    parser.add_argument("--rounds", type=positive, default=3, help="of every measurement")
    parser.add_argument("--batch_size", type=batch_size, default=2, help="of the training step")
    parser.add_argument("--patch_size", type=patch_size, default=128, help="of the training step")
    parser.add_argument(
        "--others",
        nargs="*",
        choices=PUBLISHED,
        default=list(PUBLISHED),
        help="to compare with; none after a bare flag",
    )
    parser.add_argument("--compile", action="store_true", help="on a GPU time that, too: minutes")
    parser.add_argument("--cuda", type=int, metavar="N", help="index of the GPU; -1 for the CPU")
    options = parser.parse_args()
    options.sizes = list(dict.fromkeys(options.sizes))
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # float32
    return options


def image_size(text: str) -> str:
    """`256` or `481x321`."""
    sides = text.split("x")
    if len(sides) > 2 or not all(
        side.isdecimal() and 0 < int(side) <= LARGEST_SIDE for side in sides
    ):
        raise argparse.ArgumentTypeError(
            f"{text}: expected pixels a side, such as 256 or 481x321, and at most {LARGEST_SIDE}"
        )
    return text


def make_image(size: str, device: torch.device) -> torch.Tensor:
    """(3, H, W) for `WxH` or a square; the same in every run."""
    width, height = map(int, (size.split("x") * 2)[:2])
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, height, width, generator=generator).to(device)


def build_networks(configuration: str) -> dict[str, nn.Module]:
    """The networks by name, ours first; the straightforward one has the same weights."""
    ours = AMPromptIR(**AMPromptIR.configurations[configuration], text="learned")
    nn.init.normal_(ours.output.weight, std=0.02)
    same = copy.deepcopy(ours).to(memory_format=torch.contiguous_format)
    networks = {OURS: ours, ORACLE: Straightforward(same)}
    for name in PUBLISHED:
        networks[name] = NETWORKS[name](**NETWORKS[name].configurations["paper"])
    return {name: net.eval() for name, net in networks.items()}


def compare_outputs(networks: dict[str, nn.Module]) -> float:
    """The largest difference between our restored values and the straightforward ones."""
    image = make_image("136x104", torch.device("cpu"))
    ours, oracle = (restore(networks[name], image) for name in (OURS, ORACLE))
    return (ours - oracle).abs().max().item()


def describe_machine(device: torch.device) -> str:
    """Device, and threads of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def measure_machine(device: torch.device) -> dict[str, float]:
    """FLOP/s of a matrix product and bytes/s of a copy (read and written), best of ten."""
    matrix = torch.rand(MATRIX, MATRIX, device=device)
    source = torch.rand(COPIED, device=device)
    target = torch.empty_like(source)

    def best(function: Callable[[], object]) -> float:
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            function()
            wait(device)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    return {
        "matmul_flops": 2 * MATRIX**3 / best(lambda: matrix @ matrix),
        "copy_bytes": 2 * source.nbytes / best(lambda: target.copy_(source)),
    }


def time_inference(
    networks: dict[str, nn.Module], size: str, rounds: int, device: torch.device
) -> dict[str, float]:
    """Median seconds to restore an image of a size, by network."""
    image = make_image(size, device)

    def make(net: nn.Module) -> Callable[[], None]:
        def infer() -> None:
            restore(net, image)
            wait(device)

        return infer

    with ExitStack() as stack:  # as test.py restores one image after another
        for net in networks.values():
            stack.enter_context(net.weights_kept())
        seconds = time_in_turns([make(net) for net in networks.values()], rounds)
    return dict(zip(networks, seconds, strict=True))


def prepare_training(
    networks: dict[str, nn.Module], options: Namespace, device: torch.device
) -> dict[str, Callable[[], None]]:
    """A training step of each network, and on a GPU of ours as it is best trained there."""

    def make(net: nn.Module, bf16: bool = False, replay: bool = False) -> Callable[[], None]:
        return make_training_step(
            net, device, options.batch_size, options.patch_size, bf16, replay=replay
        )

    steps = {name: make(net) for name, net in networks.items()}
    if device.type == "cuda":
        steps[f"{OURS}, bf16"] = make(networks[OURS], bf16=True)
        replayed = build_networks(options.configuration)[OURS].to(device)
        steps[f"{OURS}, bf16, replayed"] = make(replayed, bf16=True, replay=True)
        if options.compile:
            compiled = build_networks(options.configuration)[OURS]
            compiled.compile_blocks()
            steps[f"{OURS}, bf16, compiled"] = make(compiled, bf16=True)
    return steps


def measure_memory(
    device: torch.device, prepare: Callable[..., Callable[[], object]], *arguments: object
) -> int:
    """Bytes that `prepare(device, *arguments)()` takes at its peak, beyond what is there before."""
    if device.type == "cuda":
        call = prepare(device, *arguments)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    return peak_memory(prepare, device, *arguments)


def prepare_restoration(
    device: torch.device, name: str, configuration: str, size: str
) -> Callable[[], object]:
    """A function that restores an image."""
    net = build_networks(configuration)[name].to(device)
    image = make_image(size, device)
    restore(net, image[:, :64, :64])
    return lambda: restore(net, image)


def prepare_step(
    device: torch.device, name: str, configuration: str, batch: int, patch: int
) -> Callable[[], object]:
    """A function that makes a first training step: it makes gradients and the optimizer's state."""
    net = build_networks(configuration)[name]
    make_training_step(net, device, 1, 16, bf16=False)()
    return make_training_step(net, device, batch, patch, bf16=False)


class _MovedBytes(TorchDispatchMode):
    """Counts what operations read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if not function.is_view:
            tensors = tree_leaves((arguments, options, result))
            self.total += sum(value.nbytes for value in tensors if isinstance(value, torch.Tensor))
        return result


def count_moved_bytes(net: nn.Module, size: str, device: torch.device) -> int:
    """Bytes that the operations of one restoration read and write, from cache or memory."""
    image = make_image(size, device)[None]
    image = nn.functional.pad(image, (0, -image.shape[3] % 8, 0, -image.shape[2] % 8))
    counter = _MovedBytes()
    with torch.no_grad(), net.weights_kept(), counter:
        net(image)
    return counter.total


def format_report(report: dict[str, Any]) -> str:
    """Tables of what was measured; ratios are how many times ours is faster or smaller."""
    networks = list(report["macs"])
    flops, copied = report["matmul_flops"], report["copy_bytes"]
    size = list(report["inference_seconds"])[-1]
    pixels = make_image(size, torch.device("meta")).shape[1:].numel()

    def line(title: str, values: dict[str, float], unit: str) -> tuple[str, ...]:
        base = values[OURS]
        ratios = {name: values[name] / base if base else math.nan for name in networks}
        return title, *(f"{values[name]:.3g} {unit} (x {ratios[name]:.2f})" for name in networks)

    batch, patch = report["training_patches"]
    seconds = report["inference_seconds"]
    work = {
        name: 2 * macs * pixels / COUNTED_SIZE**2 for name, macs in report["macs"].items()
    }  # FLOP for an image of the last size
    shares = {
        "of the matrix rate": {name: work[name] / seconds[size][name] / flops for name in networks},
        "of the copy rate": {
            name: report["moved_bytes"][name] / seconds[size][name] / copied for name in networks
        },
    }
    rows = [
        line("parameters", {n: v / 1e6 for n, v in report["parameters"].items()}, "M"),
        line(f"GMACs at {COUNTED_SIZE}", {n: v / 1e9 for n, v in report["macs"].items()}, "G"),
        *(line(f"inference {size}", values, "s") for size, values in seconds.items()),
        line(f"training {batch} x {patch}", report["training_seconds"], "s"),
        line(f"peak memory {size}", {n: v / 2**20 for n, v in report["peak_bytes"].items()}, "MiB"),
        line(
            f"peak memory training {batch} x {patch}",
            {n: v / 2**20 for n, v in report["training_peak_bytes"].items()},
            "MiB",
        ),
        line(f"moved {size}", {n: v / 2**30 for n, v in report["moved_bytes"].items()}, "GiB"),
        *(
            (f"{size}: share {title}", *(f"{share[name]:.0%}" for name in networks))
            for title, share in shares.items()
        ),
    ]
    extra = {
        name: value for name, value in report["training_seconds"].items() if name not in networks
    }
    lines = [format_markdown(("", *networks), rows), ""]
    straight = report["training_seconds"][ORACLE]
    lines += [f"{name}: {straight / value:.2f} times {ORACLE}" for name, value in extra.items()]
    lines.append(
        f"machine: {flops / 1e9:.0f} GFLOP/s in matrix products, {copied / 1e9:.1f} GB/s in copies "
        "(moved: read and written by all operations of PyTorch, from cache or memory)"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
