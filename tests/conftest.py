"""Fixtures: a small data set on disk, scripts run as a user runs them, and the golden files."""

import runpy
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import pytest
import skimage.data
import torch

from data.degradations import DEGRADATION_NAMES
from data.samples import degrade
from data.transforms import add_noise
from net import AMPromptIR
from net.restorer import Restorer
from utils.image_io import to_tensor, write_image

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"


class Result(NamedTuple):
    """How a script ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error:")]


@pytest.fixture
def run_script(monkeypatch, capfd):
    """Run a script of the project in this process: run_script("test", "--mode", 3)."""

    def run(name: str, *arguments) -> Result:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        capfd.readouterr()
        with warnings.catch_warnings(), pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / f"{name}.py"), run_name="__main__")
        return Result(end.value.code, *capfd.readouterr())

    return run


@pytest.fixture
def fails(run_script):
    """Run a script that must end with one line of error, exit code 2 and no traceback."""

    def run(name: str, *arguments) -> str:
        result = run_script(name, *arguments)
        assert result.code == 2, result
        assert len(result.error_lines) == 1, result.err
        assert "Traceback" not in result.err
        return result.error_lines[0]

    return run


@pytest.fixture(scope="session")
def golden():
    """The folder of golden files; tests that need it are skipped where it is not."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden files at {folder}")
    return folder


@pytest.fixture(scope="session")
def clip_model():
    """An open_clip model of random weights; none can be downloaded."""
    torch.manual_seed(0)
    return open_clip.create_model("ViT-B-32", force_quick_gelu=True).eval()


@pytest.fixture(scope="session")
def clip_file(clip_model, tmp_path_factory) -> Path:
    """Its weights in a file."""
    path = tmp_path_factory.mktemp("clip") / "weights.pt"
    torch.save(clip_model.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    """Five small photographs, uint8 (80, 96, 3)."""
    pictures = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.rocket())
    corners = ((20, 180), (150, 250), (250, 300))
    crops = [
        picture[top : top + 80, left : left + 96]
        for picture, (top, left) in zip(pictures, corners, strict=True)
    ]
    return [*crops, np.ascontiguousarray(crops[0][:, ::-1]), 255 - crops[1]]


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory, photos) -> Path:
    """Train/ and test/ with three degradations of the photographs."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for index, clean in enumerate(photos):
        test = index >= 3
        name = f"photo{index}"
        rainy, hazy = (degrade(clean, task, generator) for task in ("derain", "dehaze"))
        top = folder / ("test" if test else "Train")
        if test:
            write_image(top / "denoise" / "bsd68" / f"{name}.png", clean)
            write_image(top / "derain" / "Rain100L" / "input" / f"{name}.png", rainy)
            write_image(top / "derain" / "Rain100L" / "target" / f"{name}.png", clean)
            write_image(top / "dehaze" / "SOTS" / "input" / f"{name}_0.9_0.12.jpg", hazy)
            write_image(top / "dehaze" / "SOTS" / "target" / f"{name}.png", clean)
        else:
            write_image(top / "Denoise" / f"{name}.png", clean)
            write_image(top / "Derain" / "rainy" / f"rain-{index}.png", rainy)
            write_image(top / "Derain" / "gt" / f"norain-{index}.png", clean)
            write_image(top / "Dehaze" / "synthetic" / f"{name}_0.9_0.12.jpg", hazy)
            write_image(top / "Dehaze" / "original" / f"{name}.png", clean)
    return folder


def chelsea(degradation):
    """A photograph of 451 x 300, clean and damaged, (3, H, W)."""
    photo = skimage.data.chelsea()
    if degradation == "denoise_25":
        degraded = add_noise(photo, 25, np.random.default_rng(0))
    else:
        degraded = degrade(photo, degradation, np.random.default_rng(6))
    return to_tensor(photo), to_tensor(degraded)


def save_untrained(path: Path, seed: int = 0) -> Path:
    """A checkpoint of `tiny` as training saves it, with a last convolution that is not zero."""
    torch.manual_seed(seed)
    module = Restorer(
        network="am_promptir",
        network_arguments={**AMPromptIR.configurations["tiny"], "text": "learned"},
        configuration="tiny",
        text_encoder="learned",
        degradations=list(DEGRADATION_NAMES),
        trained=["derain"],
        run={},
        rate=1.0,
        schedule="cosine",
        spectral_weight=0.0,
        named_probability=0.5,
        total_steps=1,
        steps_per_epoch=1,
        seed=0,
    )
    torch.nn.init.normal_(module.net.output.weight, std=0.01)
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save({**content, "global_step": 0}, path)
    return path


@pytest.fixture(scope="session")
def train_flags(data_folder) -> list[str]:
    """Flags for a short run of `tiny` on the small data set."""
    flags = "--configuration tiny --text learned --patch_size 16 --batch_size 2 --num_workers 0"
    folders = [
        f"--{task}_dir={data_folder / 'Train' / task.title()}"
        for task in ("denoise", "derain", "dehaze")
    ]
    return [*flags.split(), "--num_gpus=0", *folders]


@pytest.fixture(scope="session")
def test_flags(data_folder) -> list[str]:
    """Where the small test sets are."""
    folders = [
        f"--{task}_path={data_folder / 'test' / task}" for task in ("denoise", "derain", "dehaze")
    ]
    return [*folders, "--cuda=-1"]
