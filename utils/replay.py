"""A network's training pass recorded as CUDA graphs, which are replayed in every step.

A step of `small` is some thousand kernels of tens of microseconds. Started one by one by Python
they leave a fast GPU waiting; a graph starts them all at once. Shapes are those of the recording.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class _WithScores(nn.Module):
    """The network as one function of tensors: what is recorded."""

    def __init__(self, net: nn.Module, with_scores: bool) -> None:
        super().__init__()
        self.net = net
        self.options = {"with_scores": True} if with_scores else {}

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.net(*inputs, **self.options)


def record(
    net: nn.Module, inputs: Sequence[Tensor], with_scores: bool
) -> Callable[..., Tensor | tuple[Tensor, Tensor]]:
    """`net(*inputs)`, forward and backward, for inputs of these shapes.

    Results and gradients lie in the same memory at each call: use them before the next one. Weights
    may change, in place. No other thread may use the GPU during the recording (no loader with
    pinned memory). Under autocast, its type is recorded, too.
    """
    device = inputs[0].device.type
    function = _WithScores(net, with_scores).train()
    # the weights' casts belong into the graph: they are done anew in each step
    with torch.autocast(
        device,
        dtype=torch.get_autocast_dtype(device),
        enabled=torch.is_autocast_enabled(device),
        cache_enabled=False,
    ):
        return torch.cuda.make_graphed_callables(function, tuple(inputs))
