"""Running the project's scripts from a script, without losing what they save when stopped."""

import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from utils.errors import UserError

ROOT = Path(__file__).parent.parent
STOPPING = (  # signals that ask to stop; the last is a terminal's that goes (Windows has none)
    signal.SIGINT,
    signal.SIGTERM,
    *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []),
)


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

    before = {number: signal.signal(number, pass_on) for number in STOPPING}
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
