"""Running the project's scripts from a script, without losing what they save when stopped."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType

from utils.errors import UserError

ROOT = Path(__file__).parent.parent
STOPPING = (  # signals that ask to stop; the last is a terminal's that goes (Windows has none)
    signal.SIGINT,
    signal.SIGTERM,
    *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []),
)


def take_signals(numbers: Iterable[int], handler: Callable[..., object]) -> dict[int, object]:
    """Have `handler` called by signals, and return what was called before.

    A terminal that goes is left alone if it is ignored already: so does nohup.
    """
    before: dict[int, object] = {}
    for number in numbers:
        under_nohup = signal.getsignal(number) == signal.SIG_IGN
        if number in (signal.SIGINT, signal.SIGTERM) or not under_nohup:
            before[number] = signal.signal(number, handler)
    return before


def end_as_ctrl_c_does() -> None:
    """Have the other signals that ask to stop raise what Ctrl-C does, also if that is ignored."""
    handler = signal.getsignal(signal.SIGINT)
    take_signals(STOPPING[1:], handler if callable(handler) else signal.default_int_handler)


def run_script(name: str, *arguments: str) -> None:
    """Run a script of the project to its end; exit with its code if it fails.

    A signal that asks to stop is passed on, and the script's end waited for: it may finish a step
    and save. The script has a session of its own, so that Ctrl-C reaches it once.

    Raises:
        KeyboardInterrupt: there was such a signal, and the script has ended.
        UserError: the script was killed.
    """
    process = subprocess.Popen(
        [sys.executable, ROOT / name, *arguments], cwd=ROOT, start_new_session=True
    )
    signals = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        process.send_signal(number)

    before = take_signals(STOPPING, pass_on)
    try:
        process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signals:
        raise KeyboardInterrupt
    if process.returncode < 0:
        raise UserError(
            f"{name}: killed by signal {-process.returncode} (9: often for want of memory); "
            "the same command goes on from what it has saved"
        )
    if process.returncode:
        sys.exit(process.returncode)
