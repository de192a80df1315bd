"""Running the project's scripts from a script, without losing what they save when stopped."""

import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parent.parent


def run_script(name: str, *arguments: str) -> None:
    """Run a script of the project to its end; exit with its code if it fails.

    A signal that asks to stop is left to the script, which may finish a step and save; its end is
    waited for. Ctrl-C reaches it by itself, SIGTERM is passed on.

    Raises:
        KeyboardInterrupt: there was such a signal, and the script has ended.
    """
    process = subprocess.Popen([sys.executable, ROOT / name, *arguments], cwd=ROOT)
    signals = []

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        if number == signal.SIGTERM:
            process.terminate()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signals:
        raise KeyboardInterrupt
    if process.returncode:
        sys.exit(process.returncode)
