"""Time and memory against the size of the image: python -m scripts.benchmark_size

Restores square images as it is done by default, in the free memory there is or in `--memory_gb`:
whole, streamed (net/streaming.py) or in tiles. The last line is JSON.
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
import argparse
import json
import math
import time
from collections.abc import Callable

import torch

from net import AMPromptIR
from options import Parser, positive_float
from utils.errors import run
from utils.inference import automatic_tile, free_memory, is_streamed, restore
from utils.tables import format_markdown
from utils.timing import peak_memory

MEGAPIXELS = (0.1, 0.4, 1.5, 6.0, 24.0)
LIMITS = (0.001, 1000)  # megapixels


def main() -> int:
    parser = Parser("Time and memory against the size of the image.")
    parser.add_argument(
        "--configuration", choices=AMPromptIR.configurations, default="small", help="of the network"
    )
    parser.add_argument(
        "--megapixels", nargs="+", type=image_megapixels, default=MEGAPIXELS, help="sizes"
    )
    parser.add_argument("--memory_gb", type=positive_float, help="free memory to assume")
    options = parser.parse_args()
    device = torch.device("cpu")
    free = int(options.memory_gb * 2**30) if options.memory_gb else free_memory(device)

    measured = []
    for megapixels in options.megapixels:
        side = round(math.sqrt(megapixels * 1e6))
        way = describe(options.configuration, side, free)
        call = prepare(options.configuration, side, free)
        start = time.process_time()
        call()
        seconds = time.process_time() - start
        peak = peak_memory(prepare, options.configuration, side, free)
        measured.append(
            {"megapixels": side * side / 1e6, "way": way, "cpu_seconds": seconds, "peak": peak}
        )
        print(f"{megapixels} megapixels: {seconds:.1f} s of CPU", flush=True)

    rows = [
        (
            f"{entry['megapixels']:.2f}",
            entry["way"],
            f"{entry['cpu_seconds']:.1f}",
            f"{entry['cpu_seconds'] / entry['megapixels']:.2f}",
            f"{entry['peak'] / 2**20:.0f}",
        )
        for entry in measured
    ]
    headers = ("megapixels", "restored", "s of CPU", "s a megapixel", "peak beyond weights, MiB")
    print(f"\n{options.configuration}\n\n{format_markdown(headers, rows)}")
    print(json.dumps(measured))
    return 0


def image_megapixels(text: str) -> float:
    """A number within `LIMITS`."""
    number = positive_float(text)
    if not LIMITS[0] <= number <= LIMITS[1]:
        raise argparse.ArgumentTypeError(
            f"{text}: expected a number from {LIMITS[0]} to {LIMITS[1]}"
        )
    return number


def build(configuration: str) -> AMPromptIR:
    """The network with random weights, the same in every process."""
    torch.manual_seed(0)
    return AMPromptIR(**AMPromptIR.configurations[configuration], text="learned").eval()


def describe(configuration: str, side: int, free: int) -> str:
    """How a square image is restored."""
    net = build(configuration)
    tile = automatic_tile(net, side, side, free)
    if tile:
        return f"in tiles of {tile}"
    return "streamed" if is_streamed(net, side, side, free) else "whole"


def prepare(configuration: str, side: int, free: int) -> Callable[[], object]:
    """A function that restores a square image."""
    net, image = build(configuration), torch.rand(3, side, side)
    restore(net, image[:, :64, :64])
    return lambda: restore(net, image, tile=None, free=free)


if __name__ == "__main__":
    run(main)
