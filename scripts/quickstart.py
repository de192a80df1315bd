"""From nothing to a table in a minute: `make demo`, or `python -m scripts.quickstart`.

Builds a small sample set from the photographs inside scikit-image's package, restores it with the
weights that ship in ckpt/, prints the table and writes comparison pictures. With `--steps N` it
trains the `tiny` configuration on other photographs of the set instead and tests that, to show that
training works, and for nothing else.
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
import shutil
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from data.degradations import TASKS
from data.samples import build_samples
from net.checkpoint import SHIPPED, default_checkpoint
from options import Parser, natural
from utils.errors import UserError, run
from utils.files import write_whole
from utils.processes import ROOT, run_script
from utils.report import RESULTS, read_results

SIZE = ("--configuration", "tiny", "--text", "learned", "--patch_size", "48", "--batch_size", "4")
RECIPE = (*SIZE, "--lr", "1e-3", "--val_images", "0", "--num_workers", "2")
CHECKPOINTS = "ckpt"
MARKER = ".made_by_quickstart"


def main() -> int:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "quickstart", help="for everything")
    parser.add_argument(
        "--steps", type=natural, default=0, help="train `tiny` so long and test that"
    )
    options = parser.parse_args()
    folder = options.folder.resolve()
    make_empty(folder, kept=() if options.steps else [CHECKPOINTS])  # of an earlier training

    print("sample set: scikit-image's photographs with noise, rain and haze", flush=True)
    build_samples(folder, training=bool(options.steps))
    checkpoint = train(folder, options.steps) if options.steps else default_checkpoint(SHIPPED)

    print(f"\ntesting {checkpoint}", flush=True)
    test = [f"--{task.name}_path={folder / 'test' / task.test_folders[0]}" for task in TASKS]
    output = folder / "output"
    run_script(
        "test.py",
        "--compare",
        f"--ckpt_name={checkpoint}",
        f"--output_path={output}",
        *test,
    )

    print("\ncomparison pictures (degraded | restored | clean):")
    for picture in sorted(output.rglob("compare/*.png")):
        print(f"  {picture}")
    print(f"\nyour own pictures: python demo.py --ckpt_name {checkpoint} --input photo.jpg")
    return judge(sorted(output.rglob(RESULTS)))


def train(folder: Path, steps: int) -> Path:
    """Train `tiny` on the sample set; the checkpoint."""
    print(f"\ntraining `tiny` for {steps} steps", flush=True)
    data = [f"--{task.name}_dir={folder / 'Train' / task.train_folders[0]}" for task in TASKS]
    checkpoints = folder / CHECKPOINTS
    run_script("train.py", *RECIPE, f"--max_steps={steps}", f"--ckpt_dir={checkpoints}", *data)
    return checkpoints / "best.ckpt"


def make_empty(folder: Path, kept: Collection[str] = ()) -> None:
    """A folder with nothing in it but `kept`; the rest is removed only if an earlier run made it.

    Raises:
        UserError: the folder is a file, or holds something else.
    """
    if (folder / MARKER).exists():
        for path in folder.iterdir():
            if path.name not in (MARKER, *kept):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--folder {folder}: is there already; choose a new or empty folder")
    write_whole(folder / MARKER, lambda file: None)


def judge(results: Sequence[Path]) -> int:
    """1 and a word on standard error if a restored set is not better than the degraded one."""
    worse = [
        result["degradation"]
        for path in results
        for result in read_results(path)["results"]
        if result["psnr"] <= result["degraded_psnr"]
    ]
    if worse:
        print(f"restored is not better than degraded: {', '.join(worse)}", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    run(main)
