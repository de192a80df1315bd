"""The same command gives the same weights, whatever the number of workers."""

import os

import pytest
import torch

from net.checkpoint import read_checkpoint

FLAGS = "--width 8 --patch_size 8 --max_steps 4 --val_every 4 --deterministic"


@pytest.fixture(autouse=True)
def usual_algorithms():
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def train(run_script, flags, folder):
    result = run_script("train", *flags, "--ckpt_dir", folder)
    assert result.code == 0, result.err
    assert torch.are_deterministic_algorithms_enabled()
    return read_checkpoint(folder / "last.ckpt")["current_model_state"]


def assert_equal(one, two):
    assert one.keys() == two.keys() and len(one)
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_runs_are_equal_whatever_the_number_of_workers(run_script, train_flags, tmp_path):
    found = [
        train(run_script, [*train_flags, *FLAGS.split(), *more], tmp_path / f"run{index}")
        for index, more in enumerate(
            (["--num_workers", 0], ["--num_workers", 1], ["--num_workers", 3], ["--seed", 1])
        )
    ]
    assert_equal(found[0], found[1])
    assert_equal(found[0], found[2])
    assert any(not torch.equal(value, found[3][name]) for name, value in found[0].items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("network", [["am_promptir"], ["promptir"]])
def test_runs_on_a_gpu_are_equal(network, run_script, train_flags, tmp_path):
    flags = [flag for flag in train_flags if flag != "--num_gpus=0"]
    if network == ["promptir"]:
        flags = [flag for flag in flags if flag not in ("--text", "learned")]
        flags[flags.index("tiny")] = "paper"
    flags = [*flags, "--network", *network, *FLAGS.split(), "--cuda", 0]
    found = [train(run_script, flags, tmp_path / name) for name in ("one", "two")]
    assert_equal(*found)
