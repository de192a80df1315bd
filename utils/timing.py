"""Time and memory of alternatives, on a machine that is shared and noisy."""

import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import psutil
import torch
from torch import nn

from utils.allocator import give_back_memory, keep_freed_memory
from utils.losses import restoration_loss
from utils.replay import record

SAMPLING_SECONDS = 0.001


def time_in_turns(steps: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each function over `rounds`; every round runs all, after a warm-up."""
    taken: list[list[float]] = [[] for _ in steps]
    for round_number in range(rounds + 1):
        for step, times in zip(steps, taken, strict=True):
            start = time.perf_counter()
            step()
            if round_number:
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in taken]


def peak_memory(function: Callable[..., Callable[[], object]], *arguments: object) -> int:
    """What a call of `function(*arguments)()` adds to resident memory at its peak, in bytes.

    In a process of its own, where no memory is left over from before; the first call, which
    prepares, does not count. Sampled.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of_process, (function, arguments))


def _peak_of_process(
    function: Callable[..., Callable[[], object]], arguments: Sequence[object]
) -> int:
    keep_freed_memory()  # as in the process that asks
    call = function(*arguments)
    gc.collect()
    give_back_memory()  # what was freed counts as resident until then
    process = psutil.Process()
    before = peak = process.memory_info().rss
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(call)
        while not running.done():
            peak = max(peak, process.memory_info().rss)
            time.sleep(SAMPLING_SECONDS)
        running.result()
    return peak - before


def wait(device: torch.device) -> None:
    """Until all that was asked of a device is done."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def make_training_step(
    net: nn.Module,
    device: torch.device,
    batch: int,
    patch: int,
    bf16: bool,
    replay: bool = False,
) -> Callable[[], None]:
    """A function that makes one training step on random images and waits for its end.

    Args:
        batch, patch: of (batch, 3, patch, patch).
        bf16: forward under autocast, as in training.
        replay: record the network's pass, and replay it (CUDA).
    """
    net.to(device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.0, fused=device.type == "cuda")
    degraded, clean = torch.rand(2, batch, 3, patch, patch, device=device)
    network: Callable[..., torch.Tensor] = net
    if replay:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            network = record(net, [degraded])

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            restored = network(degraded)
        restoration_loss(restored, clean, 0.01).backward()
        optimizer.step()
        optimizer.zero_grad()
        wait(device)

    return step
