"""Starting a Triton kernel on the GPU that its tensors lie on, if that is not the current one."""

from collections.abc import Callable, Mapping
from typing import Any

import torch


def launch(kernel: Mapping[Any, Callable], grid: tuple[int, ...], *arguments: Any) -> None:
    """`kernel[grid](*arguments)`, of which the first is a tensor."""
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments)
