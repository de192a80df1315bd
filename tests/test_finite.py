"""Steps that are not finite are skipped and counted, and end the run when there are only such."""

import os
import subprocess
import sys

import pytest
import torch

import net.restorer
from net.checkpoint import read_checkpoint
from tests.conftest import ROOT
from utils.finite import PATIENCE
from utils.losses import restoration_loss

STATES = ("state_dict", "current_model_state", "optimizer_states")


@pytest.fixture
def flags(train_flags, tmp_path):
    flags = "--de_type derain --width 8 --patch_size 8 --val_images 0 --save_every 1"
    return [*train_flags, *flags.split(), f"--ckpt_dir={tmp_path / 'run'}"]


@pytest.fixture
def spoil(monkeypatch):
    """Spoil the losses of some batches, by their number: their value, or their gradient alone."""

    def at(spoiled, kind):
        batches = iter(range(1000))

        def loss(restored, clean, weight):
            usual = restoration_loss(restored, clean, weight)
            if next(batches) not in spoiled:
                return usual
            if kind == "loss":  # without a gradient that shows it
                return usual + (torch.zeros((), device=usual.device) + float("inf"))
            return usual + (restored - restored).sum().sqrt()  # 0, with a gradient of inf * 0

        monkeypatch.setattr(net.restorer, "restoration_loss", loss)

    return at


def read(folder, name="last.ckpt"):
    return read_checkpoint(folder / "run" / name)


def counts(content):
    (state,) = [value for name, value in content["callbacks"].items() if "FiniteSteps" in name]
    return state


@pytest.fixture
def fused(request, monkeypatch):
    """Whether the optimizer is fused, as it is on GPUs."""
    if request.param:
        usual = torch.optim.AdamW
        make = lambda weights, **options: usual(weights, **{**options, "fused": True})  # noqa: E731
        monkeypatch.setattr(torch.optim, "AdamW", make)
    return request.param


@pytest.mark.parametrize("fused", [False, True], indirect=True)
@pytest.mark.parametrize(("kind", "accumulate"), [("loss", 2), ("gradient", 1)])
def test_bad_step_is_skipped_and_counted(
    kind, accumulate, fused, flags, spoil, run_script, tmp_path
):
    """The third of three steps; with two batches a step, only the first of its batches is bad."""
    spoil({2 * accumulate}, kind)
    result = run_script("train", *flags, "--accumulate", accumulate, "--max_steps", 3)
    assert result.code == 0, result.err
    (warning,) = [line for line in result.err.splitlines() if "not finite" in line]
    assert "step 3: loss or gradient is not finite; it is skipped (1 in the run)" in warning
    assert "images: rain-" in warning
    before, after = read(tmp_path, "previous.ckpt"), read(tmp_path)
    assert (before["global_step"], after["global_step"]) == (2, 3)
    for name, value in before["current_model_state"].items():
        assert torch.equal(value, after["current_model_state"][name]), name
    for number, state in before["optimizer_states"][0]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, after["optimizer_states"][0]["state"][number][name]), name
    assert all(value.isfinite().all() for value in after["state_dict"].values())
    assert before["lr_schedulers"] != after["lr_schedulers"]
    assert counts(before) == {"skipped": 0, "in_row": 0}
    assert counts(after) == {"skipped": 1, "in_row": 1}


@pytest.mark.parametrize("fused", [False, True], indirect=True)
def test_run_of_bad_steps_ends_with_the_last_good_checkpoint(
    fused, flags, spoil, fails, run_script, tmp_path
):
    good = 2
    spoil({0, *range(1 + good, 100)}, "gradient")
    message = fails("train", *flags, "--max_steps", 40)
    last = tmp_path / "run" / "last.ckpt"
    assert f"step {good + 1 + PATIENCE}: loss or gradient is not finite" in message
    assert f"{PATIENCE} times in a row ({PATIENCE + 1} in the run)" in message
    assert f"the last good checkpoint is {last}" in message and "rain-" in message
    assert all(value.isfinite().all() for value in read(tmp_path)["state_dict"].values())
    assert read(tmp_path)["global_step"] == 1 + good and counts(read(tmp_path))["in_row"] == 0

    spoil(set(), "loss")
    result = run_script("train", *flags, "--max_steps", 14, "--resume")
    assert result.code == 0, result.err
    assert counts(read(tmp_path)) == {"skipped": 1, "in_row": 0}


def test_weights_that_are_not_finite_are_never_saved(flags, fails, run_script, tmp_path):
    def spoil(self, *arguments):
        with torch.no_grad():
            next(self.net.parameters()).fill_(float("nan"))

    assert run_script("train", *flags, "--max_steps", 1).code == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("net.restorer.Restorer.on_train_batch_start", spoil)
        message = fails("train", *flags, "--max_steps", 2, "--resume")
    assert "step 2: the weights are not finite and are not saved" in message
    assert read(tmp_path)["global_step"] == 1


def test_learning_rate_that_makes_a_run_diverge(flags, fails):
    message = fails("train", *flags, "--max_steps", 60, "--lr", "1e30", "--save_every", 100)
    assert "nothing has been saved" in message and "lower --lr" in message


@pytest.mark.parametrize("fused", [False, True], indirect=True)
def test_good_steps_are_as_they_were(fused, flags, run_script, tmp_path, monkeypatch):
    """Bit for bit the same with and without the look at them."""
    for folder in ("with", "without"):
        flags[-1] = f"--ckpt_dir={tmp_path / folder / 'run'}"
        assert run_script("train", *flags, "--max_steps", 3).code == 0
        monkeypatch.setattr("utils.finite.FiniteSteps.on_before_optimizer_step", lambda *step: None)
    one, two = (read(tmp_path / folder) for folder in ("with", "without"))
    for name, value in one["current_model_state"].items():
        assert torch.equal(value, two["current_model_state"][name])


SPOILED_PROCESS = """
import os, runpy, sys
import net.restorer
usual, count = net.restorer.restoration_loss, iter(range(100))
def loss(*images):
    bad = next(count) == 1 and os.environ["RANK"] == "1"
    return usual(*images) + float("inf") * bad if bad else usual(*images)
net.restorer.restoration_loss = loss
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


def test_processes_skip_together(flags, tmp_path):
    """One of two processes has an infinite loss; without agreement their weights would part."""
    script = tmp_path / "spoiled.py"
    script.write_text(SPOILED_PROCESS)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(script), *flags, "--max_steps", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "step 2: loss or gradient is not finite; it is skipped" in done.stderr
    before, after = read(tmp_path, "previous.ckpt"), read(tmp_path)
    for name, value in before["current_model_state"].items():
        assert torch.equal(value, after["current_model_state"][name]), name
