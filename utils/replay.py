"""A network's training pass recorded as CUDA graphs, which are replayed in every step.

A step of `small` is some thousand kernels of tens of microseconds. Started one by one by Python
they leave a fast GPU waiting; a graph starts them all at once. Shapes are those of the recording.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn


class _Pass(nn.Module):
    """The network as a function of tensors alone: what is recorded."""

    def __init__(self, net: nn.Module, options: Mapping[str, bool]) -> None:
        super().__init__()
        self.net = net
        self.options = options

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.net(*inputs, **self.options)


def record(
    net: nn.Module, inputs: Sequence[Tensor], **options: bool
) -> Callable[..., Tensor | tuple[Tensor, Tensor]]:
    """`net(*inputs, **options)`, forward and backward, for inputs of these shapes.

    Results and gradients lie in the same memory at each call: use them before the next one. Weights
    may change, in place. No other thread may use the GPU during the recording (no loader with
    pinned memory). Under autocast, its type is recorded, too.
    """
    device = inputs[0].device.type
    function = _Pass(net, options).train()
    # the weights' casts belong into the graph: they are done anew in each step
    with torch.autocast(
        device,
        dtype=torch.get_autocast_dtype(device),
        enabled=torch.is_autocast_enabled(device),
        cache_enabled=False,
    ):
        return torch.cuda.make_graphed_callables(function, tuple(inputs))
