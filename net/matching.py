"""Giving a network the size of another by its width and the expansion of its feed-forward."""

import bisect
import math
from typing import Any

import torch

from net import NETWORKS
from net.complexity import count_macs, count_parameters
from utils.errors import UserError

MEASURES = {"parameters": count_parameters, "macs": count_macs}
CLOSE = 0.01  # sizes that differ by less are equal
WIDTHS = range(8, 129, 2)
EXPANSIONS = (0.25, 8.0)
HALVINGS = 12  # of the range of expansions


def match_size(
    name: str, arguments: dict[str, Any], measure: str, target: int
) -> dict[str, int | float]:
    """The `width` and `expansion` that give a network the target's size; none if it has it.

    The width is the one that comes nearest with the usual expansion; the expansion does the rest.

    Args:
        measure: one of `MEASURES`.

    Raises:
        UserError: no width and expansion does.
    """

    def size(**changes: float) -> int:
        with torch.device("meta"):
            net = NETWORKS[name](**{**arguments, **changes})
        return MEASURES[measure](net)

    def is_close(found: int) -> bool:
        return abs(found / target - 1) <= CLOSE

    if is_close(size()):
        return {}
    above = bisect.bisect_left(WIDTHS, target, key=lambda width: size(width=width))
    width = min(
        WIDTHS[max(0, above - 1) : above + 1],
        key=lambda width: abs(math.log(size(width=width) / target)),
    )
    low, high = EXPANSIONS
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_low = size(width=width, expansion=middle) < target
        low, high = (middle, high) if is_low else (low, middle)
    chosen = {"width": width, "expansion": round(low, 3)}
    if not is_close(size(**chosen)):
        raise UserError(
            f"--match {measure}: {name} cannot be given the reference's {target:,}; the nearest is "
            f"{size(**chosen):,}; give --match none and its width"
        )
    return chosen
