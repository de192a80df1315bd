"""The scripts as a user runs them: train, kill, resume, test in every mode, restore a folder."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from data.degradations import DEGRADATION_NAMES
from net.checkpoint import load_network, read_checkpoint
from tests.conftest import ROOT, save_untrained
from utils import inference
from utils.callbacks import RunControl
from utils.errors import UserError
from utils.image_io import list_images, read_image, write_image
from utils.locks import hold_folder
from utils.runs import read_learning_curve

ROUNDING = 2e-5  # of weights after a few steps; other samples or coins make 5e-4 of it


@pytest.fixture(scope="module")
def trained(tmp_path_factory, train_flags):
    """The folder of a run of 8 steps with all five degradations."""
    folder = tmp_path_factory.mktemp("run")
    arguments = [*train_flags, f"--ckpt_dir={folder}", "--max_steps=8", "--val_every=4"]
    done = run_process("train.py", *arguments, "--tensorboard")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def checkpoint(trained):
    return trained / "best.ckpt"


def run_process(*command, env=None):
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
    )


def weights(path, averaged=True):
    return read_checkpoint(path)["state_dict" if averaged else "current_model_state"]


def assert_same_weights(one, other, tolerance=0.0):
    for averaged in (True, False):
        first, second = weights(one, averaged), weights(other, averaged)
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert torch.allclose(value, second[name], rtol=0, atol=tolerance), name


def test_training_writes_what_it_promises(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"last.ckpt", "best.ckpt", "logs", "samples"} <= names
    assert not [name for name in names if name.endswith(".part")]
    (metrics,) = trained.glob("logs/*/metrics.csv")
    rows = list(csv.DictReader(metrics.open()))
    figures = [row for row in rows if row["val/psnr"]]
    assert [int(row["step"]) for row in figures] == [3, 7]
    for name in ("denoise_15", "denoise_25", "denoise_50", "derain", "dehaze"):
        assert all(float(row[f"val/psnr_{name}"]) > 0 for row in figures)
        assert (trained / "samples" / "step_0000008" / f"{name}.png").exists()
    assert list(trained.glob("logs/*/events.out.tfevents*"))


def test_checkpoint_says_what_it_is(checkpoint):
    net, degradations, description = load_network(checkpoint)
    assert len(degradations) == net.num_degradations == 5
    assert description["configuration"] == "tiny"
    assert description["text_encoder"] == "learned"
    assert description["trained"] == degradations
    assert description["run"]["patch_size"] == 16 and description["training_seed"] == 0
    content = read_checkpoint(checkpoint)
    assert "net.text.embeddings" in content["state_dict"]


def test_averaged_weights_are_saved_beside_the_current_ones(trained):
    averaged, current = weights(trained / "last.ckpt"), weights(trained / "last.ckpt", False)
    assert any(not torch.equal(averaged[name], current[name]) for name in averaged)


def test_subset_in_any_order_has_all_rows(run_script, train_flags, tmp_path):
    flags = ["--de_type", "dehaze", "denoise_50", f"--ckpt_dir={tmp_path}", "--max_steps=1"]
    assert run_script("train", *train_flags, *flags).code == 0
    net, _, description = load_network(tmp_path / "best.ckpt")
    assert description["trained"] == ["denoise_50", "dehaze"]
    assert net.num_degradations == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_killed_and_resumed_run_ends_with_the_same_weights(number, trained, train_flags, tmp_path):
    arguments = [*train_flags, f"--ckpt_dir={tmp_path}", "--max_steps=8", "--val_every=4"]
    handler = signal.signal(number, signal.SIG_DFL)  # these tests may be run under nohup
    process = subprocess.Popen(
        [sys.executable, "train.py", *arguments, "--save_every=1", "--num_workers=2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    signal.signal(number, handler)
    last = tmp_path / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    for _ in range(2):  # a process group's signal that a parent passes on comes twice
        process.send_signal(number)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert "--resume goes on from there" in output
    stopped = read_checkpoint(last)["global_step"]
    assert 1 <= stopped < 8

    done = run_process("train.py", *arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert f"steps {stopped} to 8" in done.stdout
    assert_same_weights(last, trained / "last.ckpt")
    assert "already finished" in run_process("train.py", *arguments, "--resume").stdout


def test_two_processes_train_as_one(train_flags, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    common = [*train_flags, "--max_steps=3", "--val_every=3"]
    done = run_process("train.py", *common, "--batch_size=4", f"--ckpt_dir={alone}")
    assert done.returncode == 0, done.stderr
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = run_process(
        *launcher, "train.py", *common, f"--ckpt_dir={shared}", env={"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    # AdamW's first steps are lr * sign(gradient) wherever it is near zero, hence the tolerance
    assert_same_weights(alone / "last.ckpt", shared / "last.ckpt", tolerance=2e-4)
    one, two = (read_checkpoint(path / "last.ckpt") for path in (alone, shared))
    assert one["global_step"] == two["global_step"] == 3
    metrics = [next(path.glob("logs/*/metrics.csv")) for path in (alone, shared)]
    figures = [list(csv.DictReader(path.open()))[-1]["val/psnr"] for path in metrics]
    assert float(figures[0]) == pytest.approx(float(figures[1]), abs=0.01)


def test_finished_run_can_be_extended(run_script, train_flags, tmp_path):
    flags = [*train_flags, "--de_type", "derain", f"--ckpt_dir={tmp_path}"]
    assert run_script("train", *flags, "--max_steps", 2).code == 0
    assert "trained 4 of 4" in run_script("train", *flags, "--max_steps", 4, "--resume").out
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 4


def test_run_of_an_older_variety_does_not_go_on(run_script, fails, train_flags, tmp_path):
    flags = [*train_flags, "--de_type", "derain", f"--ckpt_dir={tmp_path}", "--variety", "0.5"]
    assert run_script("train", *flags, "--max_steps", 1).code == 0
    last = tmp_path / "last.ckpt"
    content = torch.load(last, weights_only=True)
    assert content["hyper_parameters"]["run"].pop("left_clean") == 0.5
    torch.save(content, last)
    message = fails("train", *flags, "--max_steps", 2, "--resume")
    assert "of an older version, has share of --variety left clean None, this one 0.5" in message


def test_run_of_an_older_version_goes_on(run_script, fails, train_flags, tmp_path):
    flags = [*train_flags, "--de_type", "derain", f"--ckpt_dir={tmp_path}", "--max_steps"]
    assert run_script("train", *flags, 1).code == 0
    last = tmp_path / "last.ckpt"
    content = torch.load(last, weights_only=True)
    arguments = content["hyper_parameters"]
    del arguments["run"]["exclude_test_scenes"], arguments["run"]["balance"]
    del arguments["network_arguments"]["attention"], arguments["network_arguments"]["fusion"]
    torch.save(content, last)
    message = fails("train", *flags, 2, "--resume")
    assert "of an older version, has exclude_test_scenes False, this one True" in message
    message = fails("train", *flags, 2, "--resume", "--fusion", "concatenation")
    assert "configuration tiny, this one tiny, fusion concatenation" in message
    result = run_script("train", *flags, 2, "--resume", "--no-exclude_test_scenes")
    assert result.code == 0, result.err
    del arguments["run"]
    torch.save(content, last)
    assert load_network(last).description["run"] is None
    flags += [2, "--resume", "--no-exclude_test_scenes"]
    message = fails("train", *flags, "--balance", "published")
    assert "of an older version, has balance equal, this one published" in message
    result = run_script("train", *flags)
    assert result.code == 0, result.err
    assert "did not save patch_size, samples a step" in result.err


def test_fewer_validation_images_than_processes(train_flags, tmp_path):
    flags = [*train_flags, "--de_type", "derain", "--val_images=1", "--max_steps=1"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = run_process(
        *launcher, "train.py", *flags, f"--ckpt_dir={tmp_path}", env={"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "step 1: validation PSNR" in done.stdout + done.stderr
    assert (tmp_path / "best.ckpt").exists()


def test_clip_trains_tests_and_reads_words(
    run_script, fails, train_flags, clip_file, photos, tmp_path
):
    """CLIP fills the table once: no weight of its own is trained or saved, and none is needed."""
    clip = ["--clip_pretrained", clip_file]
    flags = [*train_flags, "--text", "clip", "--de_type", "derain", f"--ckpt_dir={tmp_path}"]
    assert run_script("train", *flags, *clip, "--max_steps", 1).code == 0
    content = read_checkpoint(tmp_path / "last.ckpt")
    net, _, description = load_network(tmp_path / "best.ckpt")
    assert description["text_encoder"] == "CLIP ViT-B-32 weights.pt"
    assert len(content["state_dict"]) == len(net.state_dict())
    trained = content["optimizer_states"][0]["state"]
    assert len(trained) == len(list(net.parameters()))
    table = net.text()
    assert torch.allclose(table.norm(dim=1), torch.ones(5), atol=1e-5)

    gone = ["--clip_pretrained", tmp_path / "gone.pt"]
    assert run_script("train", *flags, *gone, "--max_steps", 2, "--resume").code == 0
    assert torch.equal(load_network(tmp_path / "last.ckpt").net.text(), table)

    write_image(tmp_path / "in.png", photos[0])
    flags = ["--input", tmp_path / "in.png", "--output", tmp_path / "out", "--cuda=-1"]
    flags += ["--ckpt_name", tmp_path / "last.ckpt", "--text", "remove the rain"]
    result = run_script("demo", *flags, *clip)
    assert result.code == 0
    (line,) = (line for line in result.out.splitlines() if line.startswith("understood as: "))
    assert sorted(re.findall(r"(\w+) \d+%", line)) == sorted(DEGRADATION_NAMES)
    message = fails("demo", *flags, *clip, "--clip_quick_gelu")
    assert "embedded by CLIP ViT-B-32 weights.pt, not CLIP ViT-B-32-quickgelu" in message

    content["hyper_parameters"]["degradations"][-1] = "fog"  # in place of haze
    torch.save(content, tmp_path / "fog.ckpt")
    flags = [*train_flags, "--text", "clip", "--de_type", "derain", *clip, "--max_steps", 1]
    flags += ["--init", tmp_path / "fog.ckpt", f"--ckpt_dir={tmp_path / 'tuned'}"]
    assert "gives other texts than those in --init" in fails("train", *flags, "--clip_quick_gelu")
    result = run_script("train", *flags)
    assert result.code == 0 and "does not know dehaze" in result.err, result.err


def test_time_limit_ends_the_run_with_a_validation(run_script, train_flags, tmp_path):
    flags = ["--de_type", "derain", f"--ckpt_dir={tmp_path}", "--max_minutes=0.0001"]
    result = run_script("train", *train_flags, *flags)
    assert result.code == 0, result.err
    assert " after --max_minutes 0.0001, --resume goes on; saved " in result.out
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 2  # the first is not counted
    assert (tmp_path / "best.ckpt").exists()


def test_timed_run_that_had_its_time_is_finished(run_script, train_flags, tmp_path):
    last = tmp_path / "last.ckpt"
    timed = [*train_flags, "--de_type", "derain", f"--ckpt_dir={tmp_path}", "--schedule=timed"]
    result = run_script("train", *timed, "--max_minutes=0.0001", "--resume")
    assert f"no run in {tmp_path} to go on with, so a new one starts" in result.out
    assert " at most, in --max_minutes 0.0001, " in result.out
    assert "trained 2 steps, ended after --max_minutes 0.0001; saved " in result.out
    assert "training: 2step" in result.err and "time=100%" in result.err
    assert read_checkpoint(last)["global_step"] == 2
    result = run_script("train", *timed, "--max_minutes=0.0001", "--resume")
    assert result.code == 0 and "already finished, step 2, after --max_minutes 0.0001" in result.out
    assert read_checkpoint(last)["global_step"] == 2
    result = run_script("train", *timed, "--max_minutes=5", "--max_steps=3", "--resume")
    assert result.code == 0 and read_checkpoint(last)["global_step"] == 3
    assert "3/3" in result.err and "trained 3 of 3 steps; saved" in result.out

    content = read_checkpoint(last)
    content["callbacks"]["RunControl"]["validated"] = 0  # as if killed during the last validation
    torch.save(content, last)
    result = run_script("train", *timed, "--max_minutes=0.0001", "--max_steps=9", "--resume")
    assert result.code == 0 and read_checkpoint(last)["global_step"] == 4
    assert [step for step, _ in read_learning_curve(tmp_path)] == [2, 3, 4]


@pytest.mark.parametrize(
    "state, validates, over",
    [
        ({"RunControl": {"seconds": 61.0, "validated": 7}}, True, True),
        ({"RunControl": {"seconds": 61.0, "validated": 6}}, True, False),
        ({"RunControl": {"seconds": 61.0}}, True, False),
        ({"RunControl": {"seconds": 61.0}}, False, True),
        ({"RunControl": {"seconds": 60.0, "validated": 7}}, True, False),
        ({}, False, False),
    ],
)
def test_when_a_timed_run_had_its_time(state, validates, over):
    assert RunControl.had_its_time({"callbacks": state, "global_step": 7}, 1.0, validates) is over


def test_fine_tuning_starts_from_weights_and_goes_on_without_them(
    run_script, fails, train_flags, tmp_path
):
    first, second = tmp_path / "first", tmp_path / "second"
    flags = [*train_flags, "--de_type", "derain"]
    assert run_script("train", *flags, f"--ckpt_dir={first}", "--max_steps=2").code == 0
    start = first / "last.ckpt"
    flags += ["--init", start, "--schedule=timed", "--max_minutes=5", f"--ckpt_dir={second}"]
    assert "give --width 16, or" in fails("train", *flags, "--width", 12)
    assert run_script("train", *flags, "--max_steps=1", "--lr=1e-12").code == 0
    before, after = weights(start, True), weights(second / "last.ckpt", True)
    assert all(torch.allclose(value, after[name], atol=1e-6) for name, value in before.items())
    sha256 = load_network(start).description["sha256"]
    again = [*flags, "--max_steps=2", "--lr=1e-12", "--resume"]
    message = fails("train", *again, "--init", second / "last.ckpt")
    assert f"started from weights of sha256 {sha256:.12}, but --init" in message
    message = fails("train", *again, f"--ckpt_dir={first}", "--schedule=cosine", "--lr=2e-4")
    assert "that run was started without --init, but" in message
    result = run_script("train", *again, "--max_steps=1")
    assert result.code == 0 and "already finished" in result.out
    start.unlink()
    result = run_script("train", *again)
    assert result.code == 0 and "that run goes on without it" in result.err
    assert read_checkpoint(second / "last.ckpt")["global_step"] == 2


def test_published_recipe_and_lists(run_script, train_flags, tmp_path):
    lists = tmp_path / "data_dir"
    (lists / "rainy").mkdir(parents=True)
    (lists / "rainy" / "rainTrain.txt").write_text("rainy/rain-0.png\nrainy/rain-2.png\n")
    flags = ["--schedule=published", "--balance=published", f"--data_file_dir={lists}"]
    flags += ["--de_type", "derain", f"--ckpt_dir={tmp_path / 'run'}", "--max_steps=2"]
    result = run_script("train", *train_flags, *flags)
    assert result.code == 0
    assert "derain: 1 images, 1 held out" in result.out
    assert "an epoch of 120 samples" in result.out


@pytest.mark.parametrize(("mode", "columns"), [(0, 3), (1, 1), (2, 1), (3, 5)])
@pytest.mark.parametrize("named", [[], ["--named"]])
def test_modes(mode, columns, named, run_script, checkpoint, test_flags, tmp_path):
    flags = ["--mode", mode, "--ckpt_name", checkpoint, "--output_path", tmp_path, *named]
    result = run_script("test", *test_flags, *flags)
    assert result.code == 0, result.err
    knowledge = "named" if named else "blind"
    assert f"protocol paper, {knowledge}" in result.out
    files = sorted(tmp_path.rglob("results.json"))
    assert len(files) == columns
    for file in files:
        content = json.loads(file.read_text())
        assert content["knowledge"] == knowledge
        assert content["protocol"] == "paper"
        assert len(content["sha256"]) == 64
        [entry] = content["results"]
        output = tmp_path / f"paper_{knowledge}" / f"am_promptir_{content['sha256'][:8]}"
        assert file.parent == output / f"{entry['data_set']}_{entry['degradation']}"
        rows = list(csv.DictReader((file.parent / "scores.csv").open()))
        assert [row["sha256"] for row in rows] == 2 * [content["sha256"]]
        assert entry["psnr"] == pytest.approx(np.mean([float(row["psnr"]) for row in rows]))
        assert len(list_images(file.parent)) == 2


def test_a_test_replaces_no_figures_of_another(run_script, checkpoint, test_flags, tmp_path):
    other = save_untrained(tmp_path / "other.ckpt", seed=1)
    output = ["--output_path", tmp_path / "out", "--compare"]
    for mode, name, more in (
        *((0, checkpoint, []), (1, checkpoint, []), (1, other, []), (1, checkpoint, ["--named"])),
        *((1, checkpoint, ["--tile", 64]), (1, checkpoint, ["--tile", "auto"])),
    ):
        flags = ["--mode", mode, "--ckpt_name", name, *more]
        assert run_script("test", *test_flags, *output, *flags).code == 0
    assert len(list((tmp_path / "out").rglob("results.json"))) == 3 + 5
    result = run_script("scripts/table", tmp_path / "out", "--output", tmp_path / "table")
    assert result.code == 0, result.err
    rows = [line for line in result.out.splitlines() if line.startswith("| am_promptir (")]
    assert len(rows) == 5
    assert sum(row.count("dB") + row.count("/0.") > 3 for row in rows) == 1  # of two modes
    assert "tile 64" in result.out and "another machine's figures may differ" in result.out


def test_figures_do_not_depend_on_the_free_memory(
    run_script, fails, checkpoint, test_flags, monkeypatch, tmp_path
):
    flags = [*test_flags, "--mode", 1, "--ckpt_name", checkpoint, "--output_path", tmp_path]
    found = []
    for free in (10**12, 10**5):
        monkeypatch.setattr("utils.inference.free_memory", lambda device, free=free: free)
        assert run_script("test", *flags).code == 0
        [file] = tmp_path.rglob("results.json")
        found.append(json.loads(file.read_text()))
    assert (
        found[0]["tile"] == 0 and found[0]["results"][0]["psnr"] == found[1]["results"][0]["psnr"]
    )

    def fail(*arguments):
        raise RuntimeError("DefaultCPUAllocator: not enough memory")

    monkeypatch.setattr("utils.inference._restore_whole", fail)
    assert "restore it in tiles, such as --tile 512" in fails("test", *flags)


def test_sets_whose_results_would_be_in_one_folder_are_refused(
    fails, checkpoint, data_folder, tmp_path
):
    for name in ("my rain", "my_rain"):
        shutil.copytree(data_folder / "test" / "derain" / "Rain100L", tmp_path / "sets" / name)
    flags = ["--mode", 1, "--derain_path", tmp_path / "sets", "--ckpt_name", checkpoint]
    assert "would be in one folder" in fails("test", *flags, "--output_path", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_test_that_ends_early_leaves_earlier_results_whole(
    run_script, fails, checkpoint, test_flags, monkeypatch, tmp_path
):
    """Figures and pictures of one test, not those of another beside them."""

    def files():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    flags = [*test_flags, "--mode", 1, "--ckpt_name", checkpoint, "--output_path", tmp_path]
    flags.append("--compare")
    assert run_script("test", *flags).code == 0
    first = files()
    assert any(path.parent.name == "compare" for path in first)

    def restore_one(*arguments, **options):
        if any(tmp_path.rglob("*.unfinished/*.png")):
            raise UserError("broken off")
        return inference.restore(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("utils.evaluate.restore", restore_one)
        assert "broken off" in fails("test", *flags)
    [unfinished] = tmp_path.rglob("*.unfinished")
    assert first.items() <= files().items()
    assert all(path.is_relative_to(unfinished) for path in files().keys() - first.keys())

    (unfinished / "stray.png").touch()
    (unfinished / "results.json").write_text("{}")  # is not read while it is there
    assert run_script("scripts/table", tmp_path, "--output", tmp_path / "table").code == 0
    shutil.rmtree(tmp_path / "table")
    with hold_folder(unfinished, "at it"), monkeypatch.context() as patch:
        patch.setattr("utils.locks.MOMENT", 0)
        assert "is writing there; wait for its end" in fails("test", *flags)
    monkeypatch.setenv("SLURM_PROCID", "1")  # not the first of its kind, but a test of its own
    assert run_script("test", *flags).code == 0
    now = files()
    assert first.keys() == now.keys() and all(now[path] > first[path] for path in first)

    picture = next(path for path in first if path.suffix == ".png" and "compare" not in path.parts)
    picture.unlink()
    picture.mkdir()
    assert f"{picture}: cannot be written" in fails("test", *flags)
    for name in ("results.json", "scores.csv"):
        assert files()[picture.parent / name] == now[picture.parent / name]
    shutil.rmtree(picture.parent)
    picture.parent.touch()
    assert f"{picture.parent}: a file" in fails("test", *flags)


def test_results_behind_a_link(run_script, checkpoint, test_flags, tmp_path):
    """To another disk, perhaps."""
    flags = [*test_flags, "--mode", 1, "--ckpt_name", checkpoint, "--output_path", tmp_path / "out"]
    assert run_script("test", *flags).code == 0
    [folder] = [path.parent for path in tmp_path.rglob("results.json")]
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    before = (folder / "results.json").stat().st_mtime_ns
    assert run_script("test", *flags).code == 0
    assert folder.is_symlink() and (folder / "results.json").stat().st_mtime_ns > before
    assert not list(tmp_path.rglob("*.unfinished"))


def test_named_and_blind_differ(run_script, checkpoint, test_flags, tmp_path):
    flags = [*test_flags, "--output_path", tmp_path, "--mode", 1, "--ckpt_name", checkpoint]
    run_script("test", *flags)
    run_script("test", *flags, "--named")
    files = [next(tmp_path.glob(f"paper_{name}/*/*/results.json")) for name in ("blind", "named")]
    blind, named = (json.loads(file.read_text())["results"][0] for file in files)
    assert blind["psnr"] != named["psnr"]
    assert blind["degraded_psnr"] == named["degraded_psnr"]


def test_clean_protocol_scores_whole_images(run_script, checkpoint, test_flags, tmp_path):
    flags = [*test_flags, "--output_path", tmp_path, "--mode", 0, "--ckpt_name", checkpoint]
    assert "protocol clean, blind" in run_script("test", *flags, "--protocol", "clean").out
    (picture, _) = list_images(next(tmp_path.glob("clean_blind/*/bsd68_denoise_15")))
    assert read_image(picture).shape == (80, 96, 3)


def test_missing_default_sets_are_named_and_the_others_run(
    run_script, fails, checkpoint, data_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test" / "dehaze").mkdir(parents=True)
    flags = ["--ckpt_name", checkpoint, "--output_path", tmp_path / "out", "--cuda", -1]
    flags += ["--derain_path", data_folder / "test" / "derain" / "Rain100L"]
    message = fails("test", *flags, "--denoise_path", tmp_path / "nowhere")
    assert f"--denoise_path {tmp_path / 'nowhere'}: no such folder" in message
    message = fails("test", *flags, "--dehaze_path", tmp_path / "test")
    assert f"--dehaze_path {tmp_path / 'test'}: no images in it" in message
    assert not (tmp_path / "out").exists()
    result = run_script("test", *flags, "--denoise_path", "test/denoise")  # the default itself
    assert result.code == 0
    assert "denoise is left out" in result.err and "dehaze is left out" in result.err
    assert "Rain100L derain (2)" in result.out


def test_a_run_goes_on_with_the_flags_it_was_started_with(run_script, fails, train_flags, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    flags = [*train_flags, "--de_type", "derain", "--max_steps=3", "--named_probability=0.3"]
    assert run_script("train", *flags, f"--ckpt_dir={whole}").code == 0
    assert run_script("train", *flags, f"--ckpt_dir={parts}", "--max_minutes=0.0001").code == 0
    assert read_checkpoint(parts / "last.ckpt")["global_step"] < 3
    result = run_script("train", "--resume", f"--ckpt_dir={parts}", "--max_minutes", 9)
    assert result.code == 0, result.err
    assert_same_weights(whole / "last.ckpt", parts / "last.ckpt")
    assert f"with the flags in {parts / 'flags.json'}: " in result.out
    assert f"weights of {parts / 'last.ckpt'}, into {parts}" in result.out
    saved = json.loads((parts / "flags.json").read_text())
    assert saved[:2] == ["--max_minutes", "9"] and "--max_minutes=0.0001" not in saved
    other = fails("train", "--resume", parts / "last.ckpt", "--expansion=1", "--num_gpus=0")
    assert "has configuration tiny, this one tiny, expansion 1.0" in other
    assert "dehaze" in fails("train", "dehaze", "--resume", f"--ckpt_dir={parts}")
    again = run_script("train", "--resume", f"--ckpt_dir={parts}", "--max_steps=2")
    assert "already finished, step 3, beyond the 2 that are asked for" in again.out
    other = fails("train", "--resume", f"--ckpt_dir={parts}", "--network=airnet")
    assert f"with the flags in {parts / 'flags.json'}: " in other and "--max_minutes 9" in other
    (parts / "flags.json").write_text('["--resume", 1]')
    assert "give all flags of the run again" in fails("train", "--resume", f"--ckpt_dir={parts}")


def test_wandb_works_without_an_account(train_flags, tmp_path):
    flags = [*train_flags, "--de_type", "derain", f"--ckpt_dir={tmp_path}", "--max_steps=1"]
    environment = {"WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path), "NETRC": str(tmp_path)}
    environment |= {
        "WANDB_CONFIG_DIR": str(tmp_path),
        "WANDB_API_KEY": "",
        "WANDB_CACHE_DIR": str(tmp_path),
    }
    done = run_process("train.py", *flags, "--wblogger", "trial", env=environment)
    assert done.returncode == 0, done.stderr
    assert "logged offline" in done.stderr
    assert list(tmp_path.rglob("offline-run-*"))


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory, train_flags):
    """The folder of a run of 4 steps, each of 2 batches of 2 patches."""
    folder = tmp_path_factory.mktemp("accumulated")
    flags = [*train_flags, f"--ckpt_dir={folder}", "--accumulate=2", "--max_steps=4"]
    done = run_process("train.py", *flags, "--val_every=2")
    assert done.returncode == 0, done.stderr
    assert "4 patches a step" in done.stdout and "trained 4 of 4" in done.stdout
    return folder


def test_batches_accumulated_train_as_one(accumulated, run_script, train_flags, tmp_path):
    flags = [*train_flags, f"--ckpt_dir={tmp_path}", "--max_steps=4", "--val_every=2"]
    result = run_script("train", *flags, "--batch_size", 4)
    assert result.code == 0, result.err
    assert_same_weights(tmp_path / "last.ckpt", accumulated / "last.ckpt", tolerance=ROUNDING)
    assert read_checkpoint(accumulated / "last.ckpt")["global_step"] == 4
    figures = []
    for folder in (tmp_path, accumulated):
        (metrics,) = folder.glob("logs/*/metrics.csv")
        rows = list(csv.DictReader(metrics.open()))
        assert [int(row["step"]) for row in rows if row["lr-AdamW"]] == [3]
        rows = [row for row in rows if row["val/psnr"]]
        assert [int(row["step"]) for row in rows] == [1, 3]
        figures.append([float(row["val/psnr"]) for row in rows])
    assert figures[0] == pytest.approx(figures[1], abs=0.01)


@pytest.mark.parametrize("batches", [1, 2])
def test_accumulating_run_is_stopped_after_a_whole_step(
    batches, accumulated, run_script, train_flags, tmp_path
):
    """Resumed, it ends with the same weights, and may share its steps out otherwise."""
    flags = [*train_flags, f"--ckpt_dir={tmp_path}", "--max_steps=4", "--val_every=2"]
    halves = [*flags, "--accumulate", 2]
    assert run_script("train", *halves, "--max_minutes=0.0001").code == 0
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 2
    if batches == 2:
        assert run_script("train", *halves, "--resume").code == 0
        assert_same_weights(tmp_path / "last.ckpt", accumulated / "last.ckpt")
    else:
        whole = ["--batch_size", 4, "--accumulate", 1]
        assert run_script("train", *flags, *whole, "--resume").code == 0
        assert_same_weights(tmp_path / "last.ckpt", accumulated / "last.ckpt", tolerance=ROUNDING)
        assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 4
