"""No good checkpoint is lost: to damage, to a full disk, or to a second run in the same folder."""

import errno
import os
import resource
import shutil
import socket
import time
import zipfile
from pathlib import Path

import pytest
import torch
from lightning.fabric.loggers.csv_logs import _ExperimentWriter

from data.datasets import split
from data.pairing import Pair
from net.checkpoint import read_checkpoint
from tests.conftest import save_untrained
from tests.killing import CONTEXT, run_training
from utils.archive import check_archive
from utils.callbacks import BestCheckpoint
from utils.checkpoints import _link, remove_unfinished
from utils.errors import UserError
from utils.files import write_whole
from utils.locks import HOLDER, LOCK, hold_folder
from utils.runs import read_learning_curve

FLAGS = "--de_type derain --width 8 --patch_size 8 --save_every 1"


@pytest.fixture(scope="module")
def flags(train_flags):
    return [*train_flags, *FLAGS.split()]


@pytest.fixture(scope="module")
def trained(flags, tmp_path_factory):
    """The flags and the folder of a run of 3 steps, the second and the last of them saved."""
    folder = tmp_path_factory.mktemp("run") / "ckpt"
    arguments = [*flags, "--val_every", 2, "--max_steps", 3, "--ckpt_dir", folder]
    assert run_training(arguments, folder.parent / "output") == 0
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "run")


def best_of(folder, content):
    """A callback for the folder's best weights that was given a checkpoint's state."""
    callback = BestCheckpoint(folder, "best", monitor="val/psnr", mode="max")
    callback.load_state_dict(content["callbacks"][callback.state_key])
    return callback


def test_paths_of_a_checkpoint_are_never_used(folder, tmp_path):
    content = read_checkpoint(folder / "last.ckpt")
    (state,) = [s for key, s in content["callbacks"].items() if key.startswith("ModelCheckpoint{")]
    score = state["best_model_score"].item()
    evil = str(folder / "logs" / ".." / ".." / "other")
    names = ("best_model_path", "kth_best_model_path", "last_model_path")
    state.update(dict.fromkeys(names, evil), dirpath=str(folder), best_k_models={evil: score})
    callback = best_of(folder, content)
    assert callback.best_k_models == {str(folder / "best.ckpt"): score}
    assert callback.best_model_path == callback.kth_best_model_path == str(folder / "best.ckpt")
    assert callback.last_model_path == ""


@pytest.mark.parametrize("score", [None, float("nan"), float("inf"), "30", torch.ones(2), [1]])
def test_score_that_is_none(score, folder):
    content = read_checkpoint(folder / "last.ckpt")
    callback = BestCheckpoint(folder, "best", monitor="val/psnr", mode="max")
    content["callbacks"][callback.state_key] = {"best_model_score": score}
    assert best_of(folder, content).best_k_models == {}


def test_a_renamed_run_keeps_its_best_weights(folder, flags, run_script, monkeypatch):
    monkeypatch.setattr("net.restorer.psnr", lambda *images: torch.tensor(1.0))
    best = (folder / "best.ckpt").read_bytes()
    again = ["--ckpt_dir", folder, "--resume", "--max_steps", 4]
    assert run_script("train", *flags, *again).code == 0
    assert (folder / "best.ckpt").read_bytes() == best


def test_a_score_that_is_not_a_number_is_never_the_best(
    folder, flags, run_script, monkeypatch, tmp_path
):
    monkeypatch.setattr("net.restorer.psnr", lambda *images: torch.tensor(float("nan")))
    result = run_script("train", *flags, "--ckpt_dir", tmp_path / "new", "--max_steps", 1)
    assert result.code == 0, result.err
    assert "PSNR is not a number" in result.err and not (tmp_path / "new" / "best.ckpt").exists()


def test_a_folder_in_place_of_a_checkpoint(flags, fails, tmp_path):
    (tmp_path / "last.ckpt").mkdir()
    assert "not a regular file" in fails("train", *flags, "--ckpt_dir", tmp_path)


def test_a_path_to_resume_from_that_is_not_there(folder, flags, fails):
    message = fails("train", *flags, "--ckpt_dir", folder, "--resume", folder / "none.ckpt")
    assert f"--resume {folder / 'none.ckpt'}: no such checkpoint" in message


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_the_former_is_kept_by_whatever_path_a_run_is_resumed(name, folder, flags, run_script):
    former = (folder / "last.ckpt").read_bytes()
    start = folder / ".." / folder.name / name
    again = ["--ckpt_dir", folder, "--resume", start, "--max_steps", 4, "--save_every", 9]
    assert run_script("train", *flags, *again).code == 0
    assert (folder / "previous.ckpt").read_bytes() == former


def test_only_our_unfinished_files_are_removed(tmp_path):
    ours, other = tmp_path / f".best.ckpt.{'a' * 32}.part", tmp_path / ".film.part"
    ours.touch()
    other.touch()
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [other]


def test_sessions_of_a_run_are_read_in_the_order_of_their_numbers(tmp_path):
    for number in (2, 10):
        path = tmp_path / "logs" / f"version_{number}" / "metrics.csv"
        path.parent.mkdir(parents=True)
        path.write_text(f"step,val/psnr\n4,{number}\n")
    assert read_learning_curve(tmp_path) == [(5, 10.0)]


def test_names_that_are_not_utf_8_are_split():
    names = [os.fsdecode(b"a\xff.png"), "b.png"]
    training, held_out = split([Pair(None, Path(name)) for name in names], 1)
    assert len(training) == len(held_out) == 1


def steps(path):
    return read_checkpoint(path)["global_step"]


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


def test_the_one_before_is_kept(folder):
    assert steps(folder / "last.ckpt") == 3 and steps(folder / "previous.ckpt") == 2
    assert {path.name for path in folder.iterdir()} == {
        "last.ckpt",
        "previous.ckpt",
        "best.ckpt",
        "flags.json",
        "logs",
        "samples",
    }


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: cut(path, 0),
        lambda path: cut(path, path.stat().st_size // 2),
        lambda path: cut(path, path.stat().st_size - 1),
        lambda path: flip(path, path.stat().st_size // 2),  # a weight: torch.load takes it
    ],
)
def test_damaged_checkpoint_is_passed_over(damage, folder, flags, fails, run_script):
    damage(folder / "last.ckpt")
    message = fails("train", *flags, "--ckpt_dir", folder, "--resume", folder / "last.ckpt")
    assert "last.ckpt: " in message and "damaged" in message
    again = ["--ckpt_dir", folder, "--resume", "--max_steps", 4]
    result = run_script("train", *flags, *again)
    assert result.code == 0, result.err
    (warning,) = [line for line in result.err.splitlines() if "passed over" in line]
    assert "last.ckpt" in warning and "steps 2 to 4" in result.out
    assert steps(folder / "last.ckpt") == 4 and steps(folder / "previous.ckpt") == 3


def without(*keys):
    """Takes a value out of a checkpoint."""

    def corrupt(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return corrupt


def put(value, *keys):
    """Puts a value into a checkpoint, in place of another."""

    def corrupt(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return corrupt


WEIGHT = "net.embed.weight"
FIT, OPTIMIZER = ("loops", "fit_loop"), ("optimizer_states", 0)
STEPS = (*FIT, "epoch_loop.automatic_optimization.optim_progress", "optimizer", "step", "total")
CORRUPTIONS = [
    *[
        (without(key), f"holds no {key}, only weights to test with")
        for key in ("optimizer_states", "loops", "global_step")
    ],
    *[
        (without(key), f"no '{key}'")
        for key in (
            "state_dict",
            "current_model_state",
            "averaging_state",
            "lr_schedulers",
            "callbacks",
            "pytorch-lightning_version",
        )
    ],
    (without("hyper_parameters"), "names no network"),
    (without("hyper_parameters", "text_encoder"), "no 'text_encoder'"),
    (without("hyper_parameters", "network_arguments"), "no 'network_arguments'"),
    (put([1], "hyper_parameters", "run"), "run [1], expected a dict"),
    (put(torch.ones(2), "hyper_parameters", "rate"), "expected numbers, texts"),
    (put("new", "pytorch-lightning_version"), "'new', expected 2.0 or later"),
    *[(put(step, "global_step"), "global_step ") for step in (-1, 1.5, "3", None, True, 10**10)],
    (put(2, "global_step"), "global_step 2, but 3 of the optimizer"),
    (put({}, "loops"), "no 'fit_loop'"),
    (put([], "loops"), "steps"),
    (put(-1, *STEPS, "ready"), "expected a whole number"),
    (without(*FIT, "epoch_loop.batch_progress"), "no 'epoch_loop.batch_progress'"),
    (put(5, *FIT, "epoch_progress", "current", "processed"), "epochs 5"),
    (put("x", *FIT, "epoch_loop.batch_progress", "is_last_batch"), "neither True nor False"),
    (put("x", *FIT, "epoch_loop.state_dict", "_batches_that_stepped"), "stepped 'x', expected"),
    (put([1], "hyper_parameters", "run", "init"), "init [1], expected a sha256"),
    (put([], *OPTIMIZER, "param_groups", 0, "lr"), "optimizer_states"),
    (put("x", *OPTIMIZER, "param_groups", 0, "fused"), "expected True, False or None"),
    (put("x", "lr_schedulers", 0, "_step_count"), "_step_count 'x'"),
    (put([], "optimizer_states"), "optimizer_states ([], expected a list of one)"),
    (put([], *OPTIMIZER, "param_groups"), "expected a list of one"),
    (put([0, 1], *OPTIMIZER, "param_groups", 0, "params"), "its parameters are not the"),
    (without(*OPTIMIZER, "param_groups", 0, "betas"), "no 'betas'"),
    (put({}, *OPTIMIZER, "state"), "it holds nothing of the parameters"),
    (put(torch.ones(3), *OPTIMIZER, "state", 1, "exp_avg"), "of another shape"),
    (put(torch.full((8, 3, 3, 3), torch.nan), *OPTIMIZER, "state", 1, "exp_avg_sq"), "not finite"),
    (without("state_dict", WEIGHT), "1 missing, first embed.weight"),
    (put(torch.ones(2), "state_dict", "other"), "'other' in state_dict"),
    (put(torch.ones(2), "current_model_state", WEIGHT), "1 of another shape"),
    *[
        (put(torch.full((8, 3, 3, 3), value), key, WEIGHT), f"{WEIGHT} in {key}: values that are")
        for key, value in (("state_dict", torch.inf), ("current_model_state", torch.nan))
    ],
    (put({}, "averaging_state"), "expected n_averaged"),
    (
        put(torch.tensor(-7), "averaging_state", "n_averaged"),
        "n_averaged -7, expected a",
    ),
    (put(-1.0, *OPTIMIZER, "param_groups", 0, "lr"), "lr -1.0, expected a finite number from 0"),
    (put(torch.tensor(-5.0), *OPTIMIZER, "state", 0, "step"), "step of parameter 0 -5.0, expected"),
    (put([], "lr_schedulers"), "lr_schedulers ([], expected a list of one)"),
    (without("lr_schedulers", 0, "last_epoch"), "no 'last_epoch'"),
    (put([], "callbacks"), "callbacks"),
    (put({}, "callbacks", "FiniteSteps"), "no 'skipped'"),
    (
        put("long", "callbacks", "RunControl", "seconds"),
        "seconds 'long', expected 0 or above",
    ),
]


@pytest.mark.parametrize(("corrupt", "expected"), CORRUPTIONS)
def test_a_checkpoint_that_cannot_be_gone_on_with(
    corrupt, expected, folder, flags, fails, run_script
):
    content = read_checkpoint(folder / "last.ckpt")
    corrupt(content)
    torch.save(content, folder / "last.ckpt")
    before = (folder / "last.ckpt").read_bytes()
    message = fails("train", *flags, "--ckpt_dir", folder, "--resume", folder / "last.ckpt")
    assert "last.ckpt: " in message and expected in message
    again = ["--ckpt_dir", folder, "--resume", "--max_steps", 2]
    result = run_script("train", *flags, *again)
    assert result.code == 0, result.err
    (warning,) = [line for line in result.err.splitlines() if "passed over" in line]
    assert expected in warning and "previous.ckpt: already finished, step 2 of 2" in result.out
    assert (folder / "last.ckpt").read_bytes() == before


def test_what_older_versions_did_not_save_may_be_missing(folder, flags, run_script):
    content = read_checkpoint(folder / "last.ckpt")
    for name in ("FiniteSteps", "AveragedWeights"):
        del content["callbacks"][name]
    del content["callbacks"]["RunControl"]["validated"]
    del content["hyper_parameters"]["run"]
    del content["hyper_parameters"]["clip_norm"]
    torch.save(content, folder / "last.ckpt")
    again = ["--ckpt_dir", folder, "--resume", "--max_steps", 4, "--no-exclude_test_scenes"]
    result = run_script("train", *flags, *again)
    assert result.code == 0 and "steps 3 to 4" in result.out, result.err


def test_a_damaged_one_never_takes_the_place_of_the_one_before(folder, flags, run_script):
    cut(folder / "last.ckpt", 1000)
    whole = (folder / "previous.ckpt").read_bytes()
    again = ["--ckpt_dir", folder, "--resume", "--max_steps", 3]
    assert run_script("train", *flags, *again).code == 0
    assert (folder / "previous.ckpt").read_bytes() == whole and steps(folder / "last.ckpt") == 3


def test_nothing_whole_to_resume_from(folder, flags, fails):
    for name in ("last.ckpt", "previous.ckpt", "best.ckpt"):
        cut(folder / name, 1000)
    message = fails("train", *flags, "--ckpt_dir", folder, "--resume")
    assert "none of last.ckpt, previous.ckpt, best.ckpt" in message
    assert (folder / "last.ckpt").stat().st_size == 1000


def test_every_flipped_byte_that_counts_is_seen(tmp_path):
    """Also those that torch.load does not see; a few bytes between entries mean nothing."""
    path = save_untrained(tmp_path / "a.ckpt")
    whole, expected = path.read_bytes(), read_checkpoint(path)["state_dict"]
    for position in range(0, len(whole), len(whole) // 50):
        flip(path, position)
        try:
            found = read_checkpoint(path)["state_dict"]
        except UserError:
            pass
        else:
            assert all(torch.equal(found[name], expected[name]) for name in expected)
        path.write_bytes(whole)
    flip(path, len(whole) // 2)
    torch.load(path, weights_only=True)  # this is why
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(path)


def test_an_archive_that_unpacks_to_more_than_it_is(tmp_path):
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10**7))
    with pytest.raises(ValueError, match="unpacks to 10000000 bytes"):
        check_archive(path)


@pytest.fixture
def limit_files():
    """Limit the size of files that this process may write, in bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk_ends_with_one_line_and_the_last_good_checkpoint(
    folder, flags, fails, run_script, limit_files
):
    before = {path.name: path.read_bytes() for path in folder.glob("*.ckpt")}
    flags = [*flags, "--ckpt_dir", folder, "--resume", "--max_steps", 5]
    limit_files(len(before["last.ckpt"]) // 2)
    message = fails("train", *flags)
    limit_files(resource.RLIM_INFINITY)
    assert "last.ckpt: cannot be written (File too large); make room" in message
    assert "--resume goes on from last.ckpt" in message
    assert {path.name: path.read_bytes() for path in folder.glob("*.ckpt")} == before
    assert not list(folder.glob(".*"))
    assert "steps 3 to 5" in run_script("train", *flags).out


def test_full_disk_while_logging(folder, flags, fails, monkeypatch):
    def fail(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_ExperimentWriter, "save", fail)
    message = fails("train", *flags, "--ckpt_dir", folder, "--resume", "--max_steps", 5)
    assert "cannot be written (No space left on device); make room" in message
    assert steps(folder / "last.ckpt") >= 3


def test_logs_that_are_removed_during_the_run(folder, flags, fails, monkeypatch):
    save = _ExperimentWriter.save

    def remove_first(self):
        shutil.rmtree(folder / "logs", ignore_errors=True)
        save(self)

    monkeypatch.setattr(_ExperimentWriter, "save", remove_first)
    message = fails("train", *flags, "--ckpt_dir", folder, "--resume", "--max_steps", 5)
    assert "was removed during the run, or part of it; go on with --resume" in message
    assert steps(folder / "last.ckpt") >= 3


def test_a_file_in_the_place_of_logs_or_of_the_run(folder, flags, fails, tmp_path):
    shutil.rmtree(folder / "logs")
    (folder / "logs").touch()
    flags = [*flags, "--max_steps", 9, "--resume", "--ckpt_dir"]
    assert "logs: a file; give the path of a folder" in fails("train", *flags, folder)
    assert "logs: a file; give" in fails("train", *flags, folder / "logs")


def test_what_is_written_durably_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", lambda file: calls.append(os.fstat(file).st_size))
    write_whole(
        tmp_path / "a",
        lambda file: file.write(b"x" * 12345),
        durable=True,
        before_rename=lambda: calls.append("rename"),
    )
    assert calls[:2] == [12345, "rename"] and len(calls) == 3  # and then the folder


def hold(folder, ready):
    with hold_folder(folder):
        ready.set()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder `run`."""
    ready = CONTEXT.Event()
    process = CONTEXT.Process(target=hold, args=(tmp_path / "run", ready))
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_second_run_refuses_and_says_who_holds_the_folder(holder, flags, fails, tmp_path):
    for resume in ([], ["--resume"]):
        message = fails("train", *flags, "--ckpt_dir", tmp_path / "run", *resume)
        assert f"{tmp_path / 'run'}: process {holder.pid} on {socket.gethostname()}" in message
        assert "wait for its end, stop it, or give another --ckpt_dir" in message
    assert {path.name for path in (tmp_path / "run").iterdir()} == {LOCK, HOLDER}


def test_lock_of_a_killed_run_is_stale(holder, flags, run_script, tmp_path):
    holder.kill()
    holder.join()
    assert (tmp_path / "run" / HOLDER).exists()
    result = run_script("train", *flags, "--ckpt_dir", tmp_path / "run", "--max_steps", 1)
    assert result.code == 0, result.err
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize("note", ["", "[]", '{"host": 1}', "\x00"])
def test_note_that_says_nothing(note, holder, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.locks.MOMENT", 0.2)
    (tmp_path / "run" / HOLDER).write_text(note)
    with (
        pytest.raises(UserError, match="another run, which has left no note"),
        hold_folder(tmp_path / "run"),
    ):
        pass


def test_folder_is_free_again_and_only_as_full_as_it_was(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), hold_folder(tmp_path / "new" / "run"):
            1 / 0  # noqa: B018
        assert list(tmp_path.iterdir()) == []
    with (
        hold_folder(tmp_path),
        pytest.raises(UserError, match=str(os.getpid())),
        hold_folder(tmp_path),
    ):
        pass


def test_a_former_that_is_the_last_one_leaves_nothing(tmp_path):
    """As after a kill between the two steps of saving: they are links to one file."""
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    last.write_bytes(b"content")
    os.link(last, previous)
    _link(last, previous)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert previous.read_bytes() == b"content"
