"""Weights in other formats give the same network, and a bad file ends in one line."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from net.checkpoint import DEFAULTS, default_checkpoint, load_network
from net.weights import DESCRIPTION
from tests.conftest import ROOT, save_untrained
from utils.image_io import read_image, write_image


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("checkpoint") / "tiny.ckpt")


@pytest.fixture
def exported(checkpoint, run_script, tmp_path):
    """The checkpoint as safetensors."""
    path = tmp_path / "exported" / "tiny.safetensors"
    flags = ["--ckpt_name", checkpoint, "--format", "safetensors", "--output", path]
    result = run_script("scripts/export", *flags)
    assert result.code == 0, result.err
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    return path


def same_weights(one, other, tolerance=0.0):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    return all(torch.allclose(one[name], other[name], rtol=tolerance, atol=1e-6) for name in one)


def test_safetensors_hold_all_that_the_checkpoint_does(checkpoint, exported):
    first, second = load_network(checkpoint), load_network(exported)
    assert same_weights(first.net, second.net)
    assert first.degradations == second.degradations
    assert first.net.origin == second.net.origin
    one, two = dict(first.description), dict(second.description)
    for key in ("checkpoint", "sha256"):
        assert one.pop(key) != two.pop(key)
    assert one == two and one["network_arguments"]["blocks"] == (1, 1, 1, 1)


def test_half_is_half_as_large_and_widened(checkpoint, exported, run_script, tmp_path):
    half = tmp_path / "half.safetensors"
    flags = ["--ckpt_name", exported, "--format", "safetensors", "--output", half, "--half"]
    assert run_script("scripts/export", *flags).code == 0
    assert half.stat().st_size < 0.55 * exported.stat().st_size
    assert {value.dtype for value in load_file(half).values()} == {torch.float16}
    net = load_network(half).net
    assert {value.dtype for value in net.state_dict().values()} == {torch.float32}
    assert same_weights(load_network(checkpoint).net, net, tolerance=1e-3)
    assert not same_weights(load_network(checkpoint).net, net)


def test_scripts_take_it(exported, run_script, photos, test_flags, tmp_path):
    write_image(tmp_path / "in.png", photos[0])
    flags = ["--input", tmp_path / "in.png", "--output", tmp_path / "out", "--cuda", -1]
    assert run_script("demo", *flags, "--ckpt_name", exported).code == 0
    assert read_image(tmp_path / "out" / "in.png").shape == photos[0].shape
    flags = ["--mode", 1, "--ckpt_name", exported, "--output_path", tmp_path / "test"]
    assert run_script("test", *test_flags, *flags).code == 0


def test_training_starts_from_it(run_script, train_flags, tmp_path):
    flags = [*train_flags, "--de_type", "derain", "--max_steps", 1, "--ckpt_dir"]
    assert run_script("train", *flags, tmp_path / "first").code == 0
    exported = tmp_path / "first.safetensors"
    export = ["--ckpt_name", tmp_path / "first" / "best.ckpt", "--format", "safetensors"]
    assert run_script("scripts/export", *export, "--output", exported).code == 0
    result = run_script("train", *flags, tmp_path / "second", "--init", exported)
    assert result.code == 0, result.err
    description = load_network(tmp_path / "second" / "best.ckpt").description
    assert description["run"]["init"] == load_network(exported).description["sha256"]


def test_default_is_the_first_there(exported, checkpoint, run_script, fails, photos, monkeypatch):
    folder = exported.parent
    monkeypatch.chdir(folder)
    monkeypatch.setattr("net.checkpoint.BESIDE_CODE", folder / "code" / "ckpt")
    write_image(folder / "in.png", photos[0])
    flags = ["--input", "in.png", "--output", "out", "--cuda", -1]
    message = fails("demo", *flags)
    assert "none of best.ckpt, am_promptir_small.safetensors" in message and "train.py" in message
    assert message == fails("test", "--cuda", -1)
    (folder / "code").mkdir()
    for name in reversed(DEFAULTS):
        (folder / "ckpt").mkdir(exist_ok=True)
        shutil.copy(checkpoint if name.endswith("ckpt") else exported, folder / "ckpt" / name)
        assert default_checkpoint().name == name
        result = run_script("demo", *flags)
        assert result.code == 0 and f"ckpt/{name}: am_promptir (tiny)" in result.out
    (folder / "ckpt").rename(folder / "code" / "ckpt")  # those that come with the code
    assert default_checkpoint() == folder / "code" / "ckpt" / DEFAULTS[0]


def rewrite(path, new, change=lambda text: text, **tensors):
    """The file with its text changed and tensors replaced, or left out for None."""
    weights = {**load_file(path), **tensors}
    weights = {name: value for name, value in weights.items() if value is not None}
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    save_file(weights, new, {DESCRIPTION: change(header["__metadata__"][DESCRIPTION])})


def test_bad_files(exported, fails, tmp_path):
    whole = exported.read_bytes()
    bad = tmp_path / "bad"
    bad.mkdir()
    write_image(bad / "in.png", np.zeros((16, 16, 3), np.uint8))
    (bad / "cut.safetensors").write_bytes(whole[:-1000])
    (bad / "empty.safetensors").write_bytes(b"")
    (bad / "claims.safetensors").write_bytes((2**62).to_bytes(8, "little") + whole[8:])
    (bad / "text.safetensors").write_text("hello world, this is text")
    save_file(load_file(exported), bad / "bare.safetensors")
    rewrite(exported, bad / "json.safetensors", lambda text: text[:-5])
    rewrite(exported, bad / "list.safetensors", lambda text: "[1]")
    rewrite(exported, bad / "other.safetensors", lambda t: t.replace("am_promptir", "resnet"))
    huge = '"width": 1048576'
    rewrite(exported, bad / "huge.safetensors", lambda text: text.replace('"width": 16', huge))
    rewrite(exported, bad / "shape.safetensors", **{"embed.weight": torch.zeros(16, 3, 5, 5)})
    rewrite(exported, bad / "gone.safetensors", **{"embed.weight": None})
    output = torch.zeros(3, 32, 3, 3)
    rewrite(exported, bad / "kind.safetensors", **{"output.weight": output.long()})
    rewrite(exported, bad / "diverged.safetensors", **{"output.weight": output + torch.inf})
    (bad / "folder").mkdir()
    expected = {
        "cut": "cut short",
        "empty": "damaged",
        "claims": "damaged",
        "text": "damaged",
        "bare": "names no network",
        "json": "damaged",
        "list": "damaged",
        "other": "made for the network 'resnet'",
        "huge": "width 1048576: expected at most 4096",
        "shape": "1 of another shape, first embed.weight",
        "kind": "1 of another kind of number, first output.weight",
        "gone": "1 missing, first embed.weight",
        "diverged": "not finite",
    }
    for name, words in expected.items():
        message = fails("demo", "--input", bad, "--ckpt_name", bad / f"{name}.safetensors")
        assert f"{name}.safetensors" in message and words in message, message
    message = fails("demo", "--input", bad, "--ckpt_name", bad / "folder")
    assert "folder: a folder without model.safetensors" in message


def test_export_that_cannot_be(exported, fails, tmp_path):
    flags = ["--ckpt_name", exported, "--format", "safetensors", "--output"]
    message = fails("scripts/export", *flags, tmp_path / "weights.pt")
    assert "weights.pt: expected a name ending in .safetensors" in message
    (tmp_path / "file").touch()
    message = fails("scripts/export", *flags, tmp_path / "file" / "a.safetensors")
    assert "file: a file; give the path of a folder" in message
    before = exported.read_bytes()
    message = fails("scripts/export", *flags, exported)
    assert "is the checkpoint itself" in message and exported.read_bytes() == before
    large = {"output.weight": torch.full((3, 32, 3, 3), 1e6)}
    rewrite(exported, tmp_path / "large.safetensors", **large)
    flags[1] = tmp_path / "large.safetensors"
    message = fails("scripts/export", *flags, tmp_path / "half.safetensors", "--half")
    assert "--half: output.weight holds values beyond 65504; leave it out" in message
    assert not (tmp_path / "half.safetensors").exists()


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A checkpoint whose prompts matter, its export as onnxruntime runs it, and the network."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    import onnxruntime

    folder = tmp_path_factory.mktemp("onnx")
    checkpoint = save_untrained(folder / "tiny.ckpt")
    command = [sys.executable, "-m", "scripts.export", "--ckpt_name", checkpoint]
    command += ["--format", "onnx", "--output", folder / "tiny.onnx"]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["tiny.ckpt", "tiny.onnx"]
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(folder / "tiny.onnx", providers=providers)
    return session, load_network(checkpoint).net


@pytest.mark.parametrize("shape", [(1, 64, 64), (1, 136, 72), (2, 8, 248)])
def test_onnx_gives_the_same(session, shape):
    session, net = session
    batch, height, width = shape
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, height, width, generator=generator)
    found = []
    for named in (torch.zeros(batch, 5), net.name_degradation(3, batch)):
        with torch.no_grad():
            expected, scores = net(image, named, with_scores=True)
        restored, weights = session.run(None, {"image": image.numpy(), "named": named.numpy()})
        assert np.abs(restored - expected.clamp(0, 1).numpy()).max() < 1e-4
        assert np.abs(weights - scores.softmax(dim=2).mean(dim=1).numpy()).max() < 1e-4
        found.append(restored)
    assert np.abs(found[0] - found[1]).max() > 1e-4  # so the text table is inside


def test_onnx_says_what_it_is(session):
    session, net = session
    told = json.loads(session.get_modelmeta().custom_metadata_map[DESCRIPTION])
    assert told == json.loads(json.dumps(net.origin))
    assert told["hyper_parameters"]["degradations"][3] == "derain"


def test_onnx_that_cannot_be(exported, fails, monkeypatch, tmp_path):
    flags = ["--ckpt_name", exported, "--format", "onnx", "--output", tmp_path / "a.onnx"]
    assert "--half: only for safetensors" in fails("scripts/export", *flags, "--half")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install -r requirements-demo.txt" in fails("scripts/export", *flags)
    assert not (tmp_path / "a.onnx").exists()
