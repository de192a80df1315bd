"""Comparisons of networks: equal sizes, paired statistics, and what is refused."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from net import NETWORKS
from net.checkpoint import read_checkpoint
from net.matching import MEASURES, match_size
from tests.conftest import ROOT
from utils.errors import UserError
from utils.evaluate import Score
from utils.processes import run_script as run_script_to_its_end
from utils.runs import format_differences, format_scores, note_tested, read_scores
from utils.statistics import interval_of_mean
from utils.timing import time_in_turns


def write_scores(folder, psnr, order=None, degraded=20.0):
    """A scores.csv of one column: image i has PSNR psnr[i]."""
    folder.mkdir(parents=True)
    with (folder / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["data_set", "degradation", *Score._fields])
        for index in order if order is not None else range(len(psnr)):
            rest = [degraded + index, 0.5, 20, psnr[index], 0.9, 30, 1, 1]
            writer.writerow(["Rain100L", "derain", f"image{index:02}", *rest])
    note_tested(folder)
    return folder


def test_differences_are_paired_by_image_and_averaged_over_seeds(tmp_path):
    generator = np.random.default_rng(0)
    images = generator.normal(30, 5, 12)
    gains = generator.normal(1, 0.1, (2, 12))
    first = [write_scores(tmp_path / f"a{seed}", images + seed) for seed in range(2)]
    order = generator.permutation(12)
    second = [
        write_scores(tmp_path / f"b{seed}", images + seed + gains[seed], order) for seed in range(2)
    ]
    scores = {"first": read_scores(first), "second": read_scores(second)}
    low, high = interval_of_mean(gains.mean(axis=0))
    assert high - low < 0.2  # that of the unpaired figures would be some 5 dB
    by_seed = gains.mean(axis=1)
    assert (
        f"| second | {gains.mean():+.2f} [{low:+.2f}, {high:+.2f}] | {gains.mean():+.2f} "
        f"({by_seed[0]:+.2f}, {by_seed[1]:+.2f}) |"
    ) in format_differences(scores)
    assert f"{images.mean() + 0.5:.2f} ±" in format_scores(scores)


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"data_set,degradation,name\na,b,c\n"])
def test_scores_that_are_damaged_are_named(damage, tmp_path):
    folder = write_scores(tmp_path / "a", np.ones(12))
    path = folder / "scores.csv"
    path.write_bytes(damage or path.read_bytes()[:150])
    with pytest.raises(UserError, match=r"a/scores\.csv: cannot be read .* remove its folder"):
        read_scores([folder])


def test_only_what_a_test_wrote_is_read(tmp_path):
    folder = write_scores(tmp_path / "a", np.full(12, 30.0))
    write_scores(folder / "another network's", np.full(12, 99.0))
    assert read_scores([folder])["Rain100L derain"].psnr.max() == 30


@pytest.mark.parametrize("images, degraded", [(11, 20.0), (12, 21.0)])
def test_scores_of_other_images_are_refused(images, degraded, tmp_path):
    first = write_scores(tmp_path / "a", np.full(12, 30.0))
    other = write_scores(tmp_path / "b", np.full(images, 30.0), degraded=degraded)
    with pytest.raises(UserError, match="not tested on the images"):
        read_scores([first, other])
    with pytest.raises(UserError, match="other: Rain100L derain was not tested on the images"):
        format_differences({"first": read_scores([first]), "other": read_scores([other])})


@pytest.mark.parametrize("measure", ["parameters", "macs"])
def test_networks_are_made_equally_large(measure):
    def size(name, arguments):
        with torch.device("meta"):
            return MEASURES[measure](NETWORKS[name](**arguments))

    tiny = NETWORKS["am_promptir"].configurations["tiny"]
    target = size("am_promptir", tiny | {"width": 24})  # PromptIR cannot be as small as `tiny`
    for name in ("promptir", "restormer"):
        usual = NETWORKS[name].configurations["tiny"]
        assert abs(size(name, usual) / target - 1) > 0.01
        matched = usual | match_size(name, usual, measure, target)
        assert size(name, matched) == pytest.approx(target, rel=0.01)
        assert match_size(name, matched, measure, target) == {}
    with pytest.raises(UserError, match="cannot be given the reference's 1,000"):
        match_size("am_promptir", tiny, measure, 1000)


def test_alternatives_are_timed_in_turns():
    calls = []
    steps = [lambda: (calls.append("slow"), time.sleep(0.02)), lambda: calls.append("fast")]
    slow, fast = time_in_turns(steps, 3)
    assert calls == ["slow", "fast"] * 4
    assert slow >= 0.02 > fast


@pytest.fixture
def command(train_flags, test_flags, tmp_path):
    """A short comparison: command(networks..., more=flags before --, training=flags after it)."""
    folders = [flag for flag in (*train_flags, *test_flags) if "_dir=" in flag or "_path=" in flag]
    common = "--configuration tiny --patch_size 16 --batch_size 2 --num_workers 0 --num_gpus 0"

    def make(*networks, steps=5, more=(), training=()):
        return [
            *folders,
            *("--networks", *networks, "--length", steps, "--seeds", 3),
            *(f"--output={tmp_path / 'out'}", *more, "--"),
            *(*common.split(), "--de_type", "derain", *training),
        ]

    return make


def test_comparison_on_equal_terms(command, tmp_path):
    """Two networks of equal cost; the same command again does nothing anew."""
    arguments = command(
        "am_promptir:text=learned",
        "promptir",
        more=("--match", "macs", "--knowledge", "blind", "named"),
    )
    arguments = [sys.executable, "-m", "scripts.compare", *map(str, arguments)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "out" / "table.md").read_text()
    assert report.count("| am_promptir:text=learned, named") == 2  # itself, and its difference
    assert report.count("| promptir, blind") == 2 and "promptir, named" not in report
    tests = [
        next((tmp_path / "out" / folder / "seed_3" / "paper_blind").rglob("results.json"))
        for folder in ("am_promptir_text_learned", "promptir")
    ]
    macs = [json.loads(path.read_text())["macs"] for path in tests]
    assert macs[0] == pytest.approx(macs[1], rel=0.01)
    with Image.open(tmp_path / "out" / "learning_curves.png") as picture:
        assert picture.size == (800, 500)

    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.ckpt")}
    assert len(times) == 4  # last and best of two runs
    again = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.ckpt")} == times


def test_a_stopped_comparison_goes_on(command, tmp_path):
    """A signal to the whole group, as `timeout` and job systems send it, saves the run."""
    arguments = command("promptir", steps=300, training=("--val_images", "0"))
    arguments = [sys.executable, "-m", "scripts.compare", *map(str, arguments)]
    run = tmp_path / "out" / "promptir" / "seed_3"
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(arguments, cwd=ROOT, start_new_session=True, **streams) as process:
        deadline = time.monotonic() + 120
        while not list(run.glob("logs/*/metrics.csv")) and time.monotonic() < deadline:
            time.sleep(0.1)  # until the first steps are logged
        os.killpg(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "stopped at" in out and "Traceback" not in err
    assert 0 < read_checkpoint(run / "last.ckpt")["global_step"] < 300
    done = subprocess.run(arguments, cwd=ROOT, **streams)
    assert done.returncode == 0, done.stderr
    assert read_checkpoint(run / "last.ckpt")["global_step"] == 300
    assert "| promptir, blind" in (tmp_path / "out" / "table.md").read_text()


def test_a_killed_script_is_told_of(monkeypatch):
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **options: start(killed, **options))
    with pytest.raises(UserError, match=r"train.py: killed by signal 9"):
        run_script_to_its_end("train.py")


def test_plan_of_another_comparison_is_refused(command, fails, tmp_path):
    out = tmp_path / "out"
    write_scores(out / "promptir" / "seed_3", [30])
    (out / "promptir" / "seed_3" / "last.ckpt").write_bytes(b"")
    assert "plan.json: missing" in fails("scripts/compare", *command("promptir"))
    plan = {"terms": {"budget": "5 steps"}, "steps": {}}
    (out / "plan.json").write_text(json.dumps(plan))
    refused = fails("scripts/compare", *command("promptir", steps=6))
    assert "holds a comparison with budget 5 steps, this one has 6 steps" in refused
    plan["terms"] |= {"promptir --lr": "1.0", "promptir --num_workers": "7"}
    (out / "plan.json").write_text(json.dumps(plan))
    refused = fails("scripts/compare", *command("promptir"))
    assert "with promptir --lr 1.0, this one has 0.0002;" in refused
    plan["steps"] = {"promptir": "5"}
    for text in (json.dumps(plan), '{"terms": 3'):
        (out / "plan.json").write_text(text)
        assert "damaged" in fails("scripts/compare", *command("promptir"))


@pytest.mark.parametrize(
    ("networks", "more", "training", "message"),
    [
        (("airnet",), (), (), "expected one of"),
        (("promptir", "promptir"), (), (), "promptir is there 2 times"),
        (("promptir",), ("--seeds", 1, 1), (), "--seeds: 1 is there 2 times"),
        (("promptir",), ("--length", 2.5), (), "a whole number of steps"),
        (("promptir",), ("--knowledge", "named"), (), "cannot be told what is wrong"),
        (("promptir", "restormer:width=9"), (), (), "follows from --match parameters"),
        (("promptir",), (), ("--seed", 7), "--seed 7: set by the comparison"),
        (("promptir",), (), ("--max_minutes", 7), "--max_minutes 7.0: set by the comparison"),
        (("promptir:ckpt_dir=x",), (), (), "--ckpt_dir x: set by the comparison"),
        (("promptir",), (), ("--text", "learned"), "promptir: --text learned: promptir has no"),
        (("promptir",), (), ("--network", "restormer"), "--network: set by the comparison"),
        (("promptir",), ("--knowledge", "blind", "blind"), (), "blind is there 2 times"),
        (("promptir",), ("--derain_dir", "nowhere"), (), "--derain_dir nowhere: no such folder"),
        (
            ("promptir",),
            ("--denoise_dir", "nowhere"),
            ("--synthesize",),
            "--denoise_dir nowhere: no such folder",
        ),
        (("promptir",), ("--derain_path", "nowhere"), (), "--derain_path nowhere: no such"),
    ],
)
def test_what_cannot_be_compared_is_refused_first(
    networks, more, training, message, command, fails, tmp_path
):
    arguments = command(*networks, more=more, training=training)
    assert message in fails("scripts/compare", *arguments)
    assert not (tmp_path / "out").exists()
