"""From nothing to a table in a few minutes: `make demo`, or `python -m scripts.quickstart`.

Builds a small sample set from the photographs inside scikit-image's package, trains the `tiny`
configuration on it, tests it on other photographs and writes comparison pictures. The result
shows that everything works, and stands for nothing else.
"""

import argparse
import shutil
import sys
from pathlib import Path

from data.degradations import TASKS
from data.samples import build_samples
from utils.errors import UserError, run
from utils.image_io import write_whole
from utils.processes import ROOT, run_script
from utils.report import read_results

SIZE = ("--configuration", "tiny", "--text", "learned", "--patch_size", "48", "--batch_size", "4")
RECIPE = (*SIZE, "--lr", "1e-3", "--val_images", "0", "--num_workers", "2")
MARKER = ".made_by_quickstart"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "quickstart", help="for everything")
    parser.add_argument("--steps", type=int, default=1200, help="of training")
    options = parser.parse_args()
    folder = options.folder.resolve()
    make_empty(folder)

    print("1. sample set: scikit-image's photographs with noise, rain and haze", flush=True)
    build_samples(folder)
    train = [f"--{task.name}_dir={folder / 'Train' / task.train_folders[0]}" for task in TASKS]
    test = [f"--{task.name}_path={folder / 'test' / task.test_folders[0]}" for task in TASKS]

    print(f"\n2. training `tiny` for {options.steps} steps", flush=True)
    steps = (f"--max_steps={options.steps}", f"--ckpt_dir={folder / 'ckpt'}")
    run_script("train.py", *RECIPE, *steps, *train)

    print("\n3. testing on other photographs", flush=True)
    output = folder / "output"
    checkpoint = folder / "ckpt" / "best.ckpt"
    run_script(
        "test.py",
        "--mode=3",
        "--compare",
        f"--ckpt_name={checkpoint}",
        f"--output_path={output}",
        *test,
    )

    print("\ncomparison pictures (degraded | restored | clean):")
    for picture in sorted(output.glob("*/*/compare/*.png")):
        print(f"  {picture}")
    print(f"\nyour own pictures: python demo.py --ckpt_name {checkpoint} --input photo.jpg")
    return judge(output / "paper_blind" / "results.json")


def make_empty(folder: Path) -> None:
    """An empty folder; what is in the way is removed only if an earlier run made it.

    Raises:
        UserError: the folder is a file, or holds something else.
    """
    if (folder / MARKER).exists():
        shutil.rmtree(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--folder {folder}: is there already; choose a new or empty folder")
    write_whole(folder / MARKER, lambda file: None)


def judge(results: Path) -> int:
    """1 and a word on standard error if a restored set is not better than the degraded one."""
    worse = [
        result["degradation"]
        for result in read_results(results)["results"]
        if result["psnr"] <= result["degraded_psnr"]
    ]
    if worse:
        print(f"restored is not better than degraded: {', '.join(worse)}", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    run(main)
