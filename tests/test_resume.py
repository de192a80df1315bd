"""A run killed at any moment, and resumed, ends as one that was never stopped, bit for bit."""

import pytest
import torch

from net.checkpoint import read_checkpoint
from tests.killing import run_training
from utils.runs import read_learning_curve

KILLED = -9
FLAGS = (
    "--de_type denoise_15 denoise_25 denoise_50 --width 8 --patch_size 8 "
    "--batch_size 4 --max_steps 10 --val_every 4 --save_every 3"
)
EXACT = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "callbacks")


@pytest.fixture(scope="module")
def flags(train_flags):
    """Epochs of 18 samples, 4.5 steps; a checkpoint every 3 steps, validations after 4, 8, 10."""
    return [*train_flags, *FLAGS.split()]


@pytest.fixture(scope="module")
def uninterrupted(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert run_training([*flags, "--ckpt_dir", folder], folder / "output") == 0
    return folder


@pytest.fixture(scope="module")
def accumulated(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("accumulated")
    arguments = [*flags, "--batch_size", 2, "--accumulate", 2, "--ckpt_dir", folder]
    assert run_training(arguments, folder / "output") == 0
    return folder


def flatten(content, name=""):
    if isinstance(content, dict):
        return [pair for key in content for pair in flatten(content[key], f"{name}/{key}")]
    if isinstance(content, list | tuple):
        return [pair for n, value in enumerate(content) for pair in flatten(value, f"{name}/{n}")]
    return [(name, content)]


def assert_equal(folder, other):
    """The same weights, averages, optimizer, schedule and callbacks in both checkpoints."""
    for file in ("last.ckpt", "best.ckpt"):
        one, two = (read_checkpoint(path / file) for path in (folder, other))
        assert one["global_step"] == two["global_step"]
        for part in EXACT:
            found, expected = flatten(one[part], part), flatten(two[part], part)
            assert len(found) == len(expected) > 0
            for (name, value), (other_name, other_value) in zip(found, expected, strict=True):
                if isinstance(value, torch.Tensor):
                    assert torch.equal(value, other_value), (file, name)
                elif not isinstance(value, str) and not name.endswith("/seconds"):  # paths, time
                    assert (name, value) == (other_name, other_value), file


@pytest.mark.parametrize(
    ("workers", "moment", "number", "resumed_from"),
    [
        (0, "after step", 2, 0),  # nothing is saved yet: the same command starts anew
        (0, "after step", 5, 3),  # across an epoch border, which is in the middle of a batch
        (2, "after step", 5, 3),
        (0, "writing", 4, 6),  # last.ckpt for 9; before it two for 3 and 6, and best.ckpt for 4
        (2, "writing", 4, 6),
        (0, "validating", 10, 9),
        (2, "validating", 10, 9),
    ],
)
def test_killed_run_ends_the_same(
    workers, moment, number, resumed_from, flags, uninterrupted, tmp_path
):
    arguments = [*flags, "--num_workers", workers, "--ckpt_dir", tmp_path, "--resume"]
    assert run_training(arguments, tmp_path / "output", (moment, number)) == KILLED
    assert run_training(arguments, tmp_path / "output") == 0
    output = (tmp_path / "output").read_text()
    assert f"steps {resumed_from} to 10" in output
    assert not list(tmp_path.glob(".*.part"))
    assert_equal(tmp_path, uninterrupted)


def test_run_that_loses_its_loaders_ends_in_a_line_and_goes_on(flags, uninterrupted, tmp_path):
    arguments = [*flags, "--num_workers", 2, "--ckpt_dir", tmp_path, "--resume"]
    assert run_training(arguments, tmp_path / "output", ("loaders after step", 2)) == 2
    output = (tmp_path / "output").read_text()
    assert "error: a process that loads images ended (" in output
    assert "--num_workers 2 and --cache_gb 4; give less of them" in output
    assert "Traceback" not in output
    assert run_training(arguments, tmp_path / "output") == 0
    assert_equal(tmp_path, uninterrupted)


def test_validation_that_a_kill_cut_short_is_done_again(flags, tmp_path):
    """After a step that was saved: the resumed run validates before it goes on."""
    arguments = [*flags, "--save_every", 4, "--ckpt_dir", tmp_path, "--resume"]
    whole = tmp_path / "whole"
    assert run_training([*arguments, "--ckpt_dir", whole], tmp_path / "output") == 0
    assert run_training(arguments, tmp_path / "output", ("validating", 4)) == KILLED
    assert not (tmp_path / "best.ckpt").exists()
    assert run_training(arguments, tmp_path / "output") == 0
    assert_equal(tmp_path, whole)
    curve = read_learning_curve(tmp_path)
    assert curve == read_learning_curve(whole) and [step for step, _ in curve] == [4, 8, 10]


@pytest.mark.parametrize(("moment", "number"), [("within step", 5), ("before renaming", 1)])
def test_accumulating_run_ends_the_same(moment, number, flags, accumulated, tmp_path):
    arguments = [*flags, "--batch_size", 2, "--accumulate", 2, "--ckpt_dir", tmp_path, "--resume"]
    assert run_training(arguments, tmp_path / "output", (moment, number)) == KILLED
    assert run_training(arguments, tmp_path / "output") == 0
    assert_equal(tmp_path, accumulated)
