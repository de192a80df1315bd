"""Each mistake a user can make ends in one line, exit code 2, and nothing half-written."""

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from net.checkpoint import default_checkpoint
from scripts.quickstart import make_empty
from tests.conftest import ROOT, save_untrained
from utils.errors import run
from utils.image_io import write_image
from utils.replaced import ReplacedImages


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of `tiny` as training would save it, without training."""
    return save_untrained(tmp_path_factory.mktemp("checkpoint") / "tiny.ckpt")


def changed(checkpoint, path, **hyper_parameters):
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"].update(hyper_parameters)
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("script", "flags", "expected"),
    [
        ("train", ["--de_type", "desnow"], "desnow"),
        ("train", ["--de_type"], "de_type"),
        ("train", ["--text", "bert"], "bert"),
        ("train", ["--configuration", "huge"], "huge"),
        ("train", ["--patch_size", "20"], "multiple of 8"),
        ("train", ["--patch_size", "-8"], "above 0"),
        ("train", ["--batch_size", "0"], "above 0"),
        ("train", ["--lr", "fast"], "fast"),
        ("train", ["--named_probability", "2"], "from 0 to 1"),
        ("train", ["--seed", "99999999999999999999"], "below 2**63"),
        ("train", ["--fft_weight", "nan"], "0 or above"),
        ("train", ["--num_nodes", "2", "--derain_dir", "x"], "torchrun or srun"),
        ("train", ["--cuda", "0", "--num_gpus", "1"], "one of them"),
        ("train", ["--num_gpus", "0", "--cuda_graph"], "one CUDA device"),
        ("train", ["--no_such_flag"], "no_such_flag"),
        ("train", ["--max_step", "1"], "unrecognized arguments: --max_step"),
        ("test", ["--cuda=-2"], "-1 for the CPU"),
        ("train", ["--expansion", "0.001"], "--expansion 0.001: expected a number from 1/24"),
        ("train", ["--expansion", "1e30"], "expected a number from 1/24"),
        ("train", ["--num_workers", "100000"], "at most 1024"),
        ("train", ["--lr", "1e300"], "above 0 (and at most 1e+30)"),
        ("train", ["--fft_weight", "1e300"], "0 or above (and at most 1e+30)"),
        ("train", ["--batch_size", str(10**30)], "at most 65536"),
        ("train", ["--accumulate", str(10**30)], "at most 65536"),
        ("train", ["--patch_size", "100000"], "at most 8192"),
        ("train", ["--width", "1000000"], "at most 4096"),
        ("train", ["--epochs", str(10**30)], "at most 1000000"),
        ("train", ["--max_steps", str(10**30)], "at most 1000000000"),
        ("train", ["--seed", str(10**40)], "below 2**63"),
        ("train", ["--save_every", str(10**40)], f"at most {2**63 - 1}"),
        ("train", ["--wblogger", "x/y"], "--wblogger: 'x/y': expected a name of up to 128"),
        ("train", ["--wblogger", ""], "--wblogger: '': expected a name"),
        ("train", ["--init", ""], "--init: '': expected a path"),
        ("train", ["--ckpt_dir", ""], "--ckpt_dir: '': expected a path"),
        ("train", ["--denoise_dir=a", "--ckpt_dir=a/b/../run"], "lies in --denoise_dir a, so"),
        ("train", ["--resume", ""], "--resume: '': expected a path"),
        ("test", ["--output_path", ""], "--output_path: '': expected a path"),
        ("test", ["--network", "am_promptir", "--named"], "choose from"),
        ("test", ["--mode", "4"], "4"),
        ("test", ["--mode", "rain"], "rain"),
        ("test", ["--protocol", "mine"], "mine"),
        ("test", ["--tile", "100"], "multiple of 8"),
        ("demo", [], "--input"),
        ("demo", ["--input", "x", "--task", "derain", "--text", "rain"], "not allowed with"),
    ],
)
def test_wrong_flag(script, flags, expected, fails):
    assert expected in fails(script, *flags)


def test_no_training_data(fails, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    run = tmp_path / "run"
    for folder, what in ((tmp_path / "nowhere", "no such folder"), (empty, "no images")):
        message = fails(
            "train",
            "--de_type",
            "derain",
            "--derain_dir",
            folder,
            "--ckpt_dir",
            run,
            "--text",
            "learned",
        )
        assert f"--derain_dir {folder}: {what}" in message
    assert not run.exists()


def test_pair_without_partner_and_unequal_pair(fails, data_folder, tmp_path):
    derain = tmp_path / "Derain"
    shutil.copytree(data_folder / "Train" / "Derain", derain)
    flags = ["--de_type", "derain", "--text", "learned", "--derain_dir", derain]
    flags += ["--ckpt_dir", tmp_path / "run"]
    partner = derain / "gt" / "norain-1.png"
    write_image(partner, np.zeros((40, 40, 3), np.uint8))
    assert "96 x 80 pixels" in fails("train", *flags)
    partner.unlink()
    assert "rain-1.png" in fails("train", *flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_truncated_training_image(workers, fails, data_folder, train_flags, tmp_path):
    folder = tmp_path / "Denoise"
    shutil.copytree(data_folder / "Train" / "Denoise", folder)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-3000])
    flags = [*train_flags, "--denoise_dir", folder, "--de_type", "denoise_15"]
    flags += ["--num_workers", workers, "--ckpt_dir", tmp_path / "run"]
    assert "cannot be read as an image" in fails("train", *flags)


def test_foreign_file_in_a_test_set(fails, checkpoint, data_folder, tmp_path):
    shutil.copytree(data_folder / "test" / "derain", tmp_path / "derain")
    bad = tmp_path / "derain" / "Rain100L" / "input" / "photo3.png"
    bad.write_text("no image")
    flags = ["--mode", 1, "--derain_path", tmp_path / "derain", "--ckpt_name", checkpoint]
    message = fails("test", *flags, "--output_path", tmp_path / "out", "--cuda", -1)
    assert str(bad) in message
    assert not (tmp_path / "out").exists()


def test_damaged_test_image_is_found_before_any_is_restored(
    fails, checkpoint, data_folder, tmp_path
):
    top = shutil.copytree(data_folder / "test" / "dehaze", tmp_path / "dehaze")
    last = max((top / "SOTS" / "input").iterdir())
    last.write_bytes(last.read_bytes()[:-1000])  # of a JPEG, whose header is whole
    flags = ["--mode", 2, "--dehaze_path", top, "--ckpt_name", checkpoint, "--cuda=-1"]
    message = fails("test", *flags, "--output_path", tmp_path / "out")
    assert f"{last}: cannot be read as an image" in message
    assert not (tmp_path / "out").exists()


def test_results_are_not_put_among_the_images(fails, checkpoint, data_folder, tmp_path):
    top = shutil.copytree(data_folder / "test" / "dehaze", tmp_path / "dehaze")
    flags = ["--mode", 2, "--dehaze_path", top, "--ckpt_name", checkpoint, "--cuda=-1"]
    for output in (top, top / "SOTS" / "out"):
        message = fails("test", *flags, "--output_path", output)
        assert f"--output_path {output}: lies in --dehaze_path {top}, so" in message
    assert len(list(top.rglob("*.json"))) == 0


def test_names_that_a_terminal_cannot_show(fails, run_script, checkpoint, data_folder, tmp_path):
    folder = tmp_path / os.fsdecode(b"a\xffb")
    folder.mkdir()
    images = sorted((data_folder / "test" / "denoise" / "bsd68").iterdir())
    for name, image in zip((b"\xe9.png", b"\x1b[2J.png"), images, strict=True):
        shutil.copy(image, folder / os.fsdecode(name))
    flags = ["--mode", 0, "--denoise_path", folder, "--ckpt_name", checkpoint, "--cuda=-1"]
    result = run_script("test", *flags, "--output_path", tmp_path / "out")
    assert result.code == 0, result.err
    output, *_ = sorted(path.parent for path in tmp_path.rglob("results.json"))
    assert "\\udce9" in (output / "scores.csv").read_text()
    assert json.loads((output / "results.json").read_text())["results"][0]["images"] == 2
    (folder / "\x1b[2J.png").write_text("no image")
    message = fails("test", *flags, "--output_path", tmp_path / "out")
    assert "a\\udcffb/\\x1b[2J.png: cannot be read" in message
    assert "\x1b" not in fails("test", *flags, "--output_path", "\x1b[2J" + 300 * "x")


LONG = 300 * "x"


@pytest.mark.parametrize(
    ("script", "flag"),
    [
        ("train", "--derain_dir"),
        ("train", "--data_file_dir"),
        ("train", "--ckpt_dir"),
        ("train", "--resume"),
        ("train", "--init"),
        ("test", "--derain_path"),
        ("test", "--output_path"),
        ("test", "--ckpt_name"),
    ],
)
def test_too_long_a_name(script, flag, fails, checkpoint, train_flags, test_flags, tmp_path):
    flags = {
        "train": [*train_flags, "--de_type", "derain", "--ckpt_dir", tmp_path / "run"],
        "test": [*test_flags, "--ckpt_name", checkpoint, "--output_path", tmp_path / "out"],
    }
    message = fails(script, *flags[script], flag, tmp_path / LONG)
    assert LONG in message and "File name too long" in message


def test_what_the_system_forbids_is_one_line_and_a_bug_is_not(capsys):
    def fail(error):
        raise error

    forbidden = PermissionError(errno.EACCES, "Permission denied", "secret\n.png")
    with pytest.raises(SystemExit) as end:
        run(lambda: fail(forbidden))
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: secret .png: cannot be used (Permission d")
    for bug in (OSError("no name"), FileNotFoundError(errno.ENOENT, "No such file", "a.py")):
        with pytest.raises(OSError):
            run(lambda bug=bug: fail(bug))


def test_each_process_warns_of_the_images_it_has_replaced(monkeypatch):
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *place: shown.append(str(message)))
    batch = SimpleNamespace(replaced=["", "p3.png: damaged"])
    callback = ReplacedImages()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in all processes but the first
        for _ in range(2):
            callback.on_train_batch_start(None, None, batch, 0)
    assert shown == ["p3.png: damaged; the next image takes its place"]


@pytest.mark.parametrize("kind", ["L", "RGBA", "I;16", "CMYK"])
def test_odd_pictures_are_restored_with_a_line_where_something_is_lost(
    kind, run_script, checkpoint, tmp_path
):
    name = "odd.jpg" if kind == "CMYK" else "odd.png"
    size = (40, 30)
    image = Image.new("RGB", size, (200, 90, 30)).convert("L" if kind == "I;16" else kind)
    if kind == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    image.save(tmp_path / name)
    flags = ["--input", tmp_path / name, "--output", tmp_path / "out", "--ckpt_name", checkpoint]
    result = run_script("demo", *flags, "--cuda", -1)
    assert result.code == 0, result.err
    lines = [line for line in result.err.splitlines() if "warning:" in line]
    assert ["CMYK" in line for line in lines] == ([True] if kind == "CMYK" else [])
    with Image.open(tmp_path / "out" / name) as restored:
        assert restored.mode == ("RGB" if kind == "CMYK" else kind)


def test_patch_larger_than_the_images_is_warned_of_once(run_script, train_flags, tmp_path):
    flags = ["--de_type", "denoise_15", "--patch_size", 104, "--max_steps", 1, "--val_images", 0]
    result = run_script("train", *train_flags, *flags, "--ckpt_dir", tmp_path)
    assert result.code == 0, result.err
    assert result.err.count("smaller than the patch") == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nSee the manual"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 20 bytes"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 20 bytes"),
        RuntimeError("unable to mmap 20 bytes: Cannot allocate memory (12)"),
        MemoryError(),
    ],
)
def test_out_of_memory(error, fails, train_flags, tmp_path, monkeypatch):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("net.restorer.Restorer.training_step", fail)
    message = fails("train", *train_flags, "--de_type", "derain", "--ckpt_dir", tmp_path / "run")
    assert "error: out of memory (" in message
    assert "--batch_size 2 patches of --patch_size 16; give a smaller" in message
    assert "--accumulate" in message


def test_out_of_memory_elsewhere(fails, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("net.complexity.count_macs", fail)
    message = fails("scripts/benchmark", "--configuration=tiny", "--others")
    assert message == "error: out of memory; give less, or something smaller"


def test_other_errors_of_the_runtime_stay_visible(run_script, train_flags, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr("net.restorer.Restorer.training_step", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run_script("train", *train_flags, "--de_type", "derain", "--ckpt_dir", tmp_path / "run")


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_bad_checkpoints(fails, checkpoint, test_flags, tmp_path):
    whole = checkpoint.read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.ckpt").write_text("hello world")
    (tmp_path / "bytes.ckpt").write_bytes(np.random.default_rng(0).bytes(1000))
    changed(checkpoint, tmp_path / "words.ckpt", network_arguments={"text": "bert"})
    torch.save({"weights": torch.zeros(2)}, tmp_path / "foreign.ckpt")
    changed(checkpoint, tmp_path / "other.ckpt", network="resnet")
    changed(checkpoint, tmp_path / "list.ckpt", network=[1])
    wider = {"width": 20, "text": "learned"}
    changed(checkpoint, tmp_path / "unfit.ckpt", network_arguments=wider)
    trap = tmp_path / "trap"
    with (tmp_path / "code.ckpt").open("wb") as file:
        pickle.dump({"state_dict": Malicious(trap)}, file)
    torch.save({"state_dict": Malicious(trap)}, tmp_path / "zipped.ckpt")
    content = torch.load(checkpoint, weights_only=True)
    for step in ("abc", -5):
        torch.save({**content, "global_step": step}, tmp_path / f"step{step}.ckpt")
    changed(checkpoint, tmp_path / "trained.ckpt", trained=5)
    changed(checkpoint, tmp_path / "none.ckpt", degradations=[])
    deep = {**content["hyper_parameters"]["network_arguments"], "blocks": [8000, 1, 1, 1]}
    changed(checkpoint, tmp_path / "deep.ckpt", network_arguments=deep)
    content["state_dict"]["net.embed.weight"][0, 0, 0, 0] = torch.nan
    torch.save(content, tmp_path / "diverged.ckpt")

    expected = {
        "x" * 300: "File name too long",
        "deep": "expected no more than its",
        "stepabc": "global_step 'abc'",
        "step-5": "global_step -5",
        "trained": "trained 5: expected a list",
        "none": "0 degradations, not 5",
        "missing": "no such checkpoint file",
        "cut": "cut short",
        "text": "damaged",
        "bytes": "damaged",
        "words": "do not fit",
        "foreign": "names no network",
        "list": "names no network",
        "other": "made for the network 'resnet'",
        "unfit": "of another shape, first embed.weight",
        "diverged": "embed.weight holds values that are not finite",
        "code": "refused",
        "zipped": "refused",
    }
    for name, words in expected.items():
        flags = ["--ckpt_name", tmp_path / f"{name}.ckpt", "--output_path", tmp_path / "out"]
        message = fails("test", *test_flags, *flags)
        assert f"{name}.ckpt" in message and words in message
    assert not trap.exists() and not (tmp_path / "out").exists()


def test_weights_that_ship_are_found_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = ("am_promptir_tiny.safetensors",)
    assert default_checkpoint(names) == ROOT / "ckpt" / names[0]
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / names[0]).touch()
    assert default_checkpoint(names) == Path("ckpt") / names[0]


def test_nothing_to_test(fails, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--ckpt_name", checkpoint, "--output_path", tmp_path / "out", "--cuda", -1]
    assert "nothing was tested" in fails("test", *flags)
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written(
    fails, checkpoint, test_flags, train_flags, photos, tmp_path
):
    (tmp_path / "file").write_text("in the way")
    output = tmp_path / "file" / "out"
    write_image(tmp_path / "in.png", photos[0])
    flags = ["--ckpt_name", checkpoint]
    message = fails("test", *test_flags, *flags, "--output_path", output)
    assert "cannot be written" in message
    flags += ["--input", tmp_path / "in.png", "--cuda", -1]
    assert "cannot be written" in fails("demo", *flags, "--output", output)
    assert "cannot be written" in fails("train", *train_flags, "--ckpt_dir", output)


def test_a_checkpoint_that_may_not_be_read(fails, checkpoint, monkeypatch, tmp_path):
    original = Path.open

    def open_(path, *arguments):
        if path == checkpoint:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *arguments)

    monkeypatch.setattr(Path, "open", open_)
    write_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    flags = ["--output", tmp_path / "out", "--ckpt_name", checkpoint]
    message = fails("demo", "--input", tmp_path / "a.png", *flags)
    assert "cannot be read (Permission denied); give a checkpoint that you may read" in message


def test_demo_never_overwrites_an_input(fails, checkpoint, photos, tmp_path):
    write_image(tmp_path / "in.png", photos[0])
    before = (tmp_path / "in.png").read_bytes()
    flags = ["--output", tmp_path, "--ckpt_name", checkpoint]
    for source in (tmp_path / "in.png", tmp_path):
        assert "would be overwritten" in fails("demo", "--input", source, *flags)
    assert (tmp_path / "in.png").read_bytes() == before
    assert "no such file" in fails("demo", "--input", tmp_path / "none.png", *flags)
    (tmp_path / "compare").mkdir()
    for name in ("in.png", "in.png.png"):  # the second is where the first one's comparison goes
        write_image(tmp_path / "compare" / name, photos[0])
    message = fails("demo", "--input", tmp_path / "compare", *flags, "--compare")
    assert "compare/in.png.png: an input" in message
    (tmp_path / "empty").mkdir()
    (tmp_path / "moving.gif").write_text("no still")
    assert "expected a picture" in fails("demo", "--input", tmp_path / "moving.gif", *flags)
    assert "no pictures" in fails("demo", "--input", tmp_path / "empty", *flags)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu(fails, checkpoint, train_flags, test_flags, tmp_path):
    flags = [flag for flag in train_flags if flag != "--num_gpus=0"]
    for wanted in (["--num_gpus", 1], ["--cuda", 0]):
        assert "0 usable GPUs" in fails("train", *flags, *wanted, "--ckpt_dir", tmp_path / "run")
    flags = [flag for flag in test_flags if flag != "--cuda=-1"]
    message = fails("test", *flags, "--cuda", 0, "--ckpt_name", checkpoint)
    assert "--cuda 0: this machine has 0 usable GPUs" in message
    assert not (tmp_path / "run").exists()


def test_a_run_is_never_overwritten_or_mixed(fails, run_script, train_flags, tmp_path):
    flags = [*train_flags, "--de_type", "derain", "--max_steps", 1, "--ckpt_dir", tmp_path]
    assert run_script("train", *flags).code == 0
    before = (tmp_path / "last.ckpt").read_bytes()
    assert "a run is already there" in fails("train", *flags)
    message = fails("train", *flags, "--max_steps", 2, "--batch_size", 4, "--resume")
    assert "has samples a step (--batch_size x --accumulate x GPUs) 2, this one 4" in message
    message = fails("train", *flags, "--de_type", "dehaze", "--resume")
    assert "de_type ['derain'], this one ['dehaze']" in message
    message = fails("train", *flags, "--resume", tmp_path / "none.ckpt")
    assert "no such checkpoint" in message
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / "last.ckpt", tmp_path / "elsewhere")
    message = fails("train", *flags, "--resume", tmp_path / "elsewhere" / "last.ckpt")
    assert "a run is already there" in message
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_clip_that_cannot_be_had(fails, train_flags, tmp_path):
    flags = [*train_flags, "--text", "clip", "--clip_pretrained", tmp_path / "none.pt"]
    message = fails("train", *flags, "--ckpt_dir", tmp_path / "run")
    assert "--text learned" in message
    assert not (tmp_path / "run").exists()


def test_words_need_a_table_from_clip(fails, checkpoint, photos, tmp_path):
    write_image(tmp_path / "in.png", photos[0])
    flags = ["--input", tmp_path / "in.png", "--output", tmp_path / "out", "--cuda=-1"]
    message = fails("demo", *flags, "--ckpt_name", checkpoint, "--text", "remove the rain")
    assert "text table is learned" in message


def test_weights_alone_cannot_be_resumed(fails, checkpoint, train_flags, tmp_path):
    flags = [*train_flags, "--ckpt_dir", tmp_path / "run", "--resume", checkpoint]
    assert "only weights to test with" in fails("train", *flags)
    assert not (tmp_path / "run").exists()


def test_quickstart_removes_only_what_it_made(tmp_path):
    (tmp_path / "Train").mkdir()
    (tmp_path / "Train" / "mine.png").touch()
    command = [sys.executable, "-m", "scripts.quickstart", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "choose a new or empty folder" in done.stderr
    assert (tmp_path / "Train" / "mine.png").exists()
    make_empty(tmp_path / "made")
    for name in ("ckpt", "output"):
        (tmp_path / "made" / name).mkdir()
    make_empty(tmp_path / "made", kept=["ckpt"])  # a demo after a training
    assert [path.name for path in (tmp_path / "made").glob("[!.]*")] == ["ckpt"]


def test_scripts_explain_themselves(run_script):
    for script in ("train", "test", "demo"):
        result = run_script(script, "--help")
        assert result.code == 0
        assert "--" in result.out
    assert (ROOT / "README.md").exists()
