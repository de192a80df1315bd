"""The notebook, the documentation's worked example and the robustness table do what they say."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from net.checkpoint import default_checkpoint, read_checkpoint
from tests.conftest import ROOT, save_untrained
from utils.errors import UserError
from utils.image_io import write_image

CELL_PATIENCE = 300  # seconds


def test_notebook_runs(monkeypatch, tmp_path):
    """With the weights that it takes by itself, or untrained ones where there are none."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    monkeypatch.chdir(ROOT)
    try:
        default_checkpoint()
    except UserError:
        path = save_untrained(tmp_path / "tiny.ckpt")
        (cell,) = (cell for cell in notebook.cells if cell.source.startswith("checkpoint = None"))
        cell.source = cell.source.replace("None", repr(str(path)), 1)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = {"metadata": {"path": str(ROOT / "examples")}}
    client = nbclient.NotebookClient(notebook, timeout=CELL_PATIENCE, resources=folder)
    client.execute()

    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    told = " ".join(output["data"]["text/plain"] for output in outputs if "data" in output)
    for words in ("am_promptir (", "'half strength'", "uint16", "(256, 256, 1)"):
        assert words in told
    assert "(True, torch.Size([1, 3, 5]))" in told
    assert sum("image/png" in output.get("data", ()) for output in outputs) == 2


def test_documented_degradation(train_flags, test_flags, photos, tmp_path):
    """docs/custom_data.md as it is written, in a copy of the code."""
    copy = tmp_path / "code"
    for name in ("data", "net", "utils"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("Train"))
    for name in ("train.py", "test.py", "demo.py", "options.py", "am_promptir.py"):
        shutil.copy(ROOT / name, copy)
    text = (ROOT / "docs" / "custom_data.md").read_text()
    function, imports = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (row,) = re.findall(r"```\n(    Degradation.*?)```", text, re.DOTALL)
    synthesis = copy / "data" / "synthesis.py"
    synthesis.write_text(f"{synthesis.read_text()}\n\n{function}")
    table = copy / "data" / "degradations.py"
    lines, end = [], f"{row})\n"
    for line in table.read_text().splitlines(keepends=True):
        if line.startswith("from data.synthesis import"):
            line = imports
        elif line == ")\n" and end:  # of DEGRADATIONS, the first table
            line, end = end, ""
        lines.append(line)
    table.write_text("".join(lines))

    def run(command, *flags, code=0):
        script, *given = command.split()[1:]
        done = subprocess.run(
            [sys.executable, script, *given, *map(str, flags)],
            cwd=copy,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done

    write_image(copy / "photo.jpg", photos[0])
    train, blind, named, demo, tune = re.findall(r"^python .*$", text, re.MULTILINE)
    run(train, *train_flags, "--max_steps=1")
    assert (copy / "dejpeg" / "best.ckpt").is_file()
    run(blind, *test_flags, "--seed=5")
    run(named, *test_flags, "--seed=5")
    for knowledge in ("blind", "named"):
        files = copy.glob(f"output/paper_{knowledge}_seed_5/*/*/results.json")
        contents = {path.parent.name: json.loads(path.read_text()) for path in files}
        names = ("denoise_15", "denoise_25", "denoise_50", "dejpeg")
        assert contents.keys() == {f"bsd68_{name}" for name in names}
        content = contents["bsd68_dejpeg"]
        assert content["trained"] == ["dejpeg"] and content["seed"] == 5
        assert contents["bsd68_denoise_15"]["seed"] == 0  # of protocol `paper`
        assert len(list(copy.glob(f"output/paper_{knowledge}_seed_5/*/bsd68_dejpeg/*.png"))) == 2
        assert 20 < content["results"][0]["degraded_psnr"] < 40
    run(demo, "--cuda=-1")
    report = json.loads((copy / "restored" / "restored.json").read_text())
    assert report["named"]["dejpeg"] == 1 and len(report["named"]) == 6

    old = save_untrained(tmp_path / "old.ckpt")
    run(blind, *test_flags, "--ckpt_name", old)
    refused = run(named, *test_flags, "--ckpt_name", old, code=2)
    assert "knows only denoise_15" in refused.stderr and "not dejpeg" in refused.stderr
    flags = [*train_flags, "--init", old, f"--ckpt_dir={tmp_path / 'tuned'}", "--lr=1e-12"]
    begun = run(tune.replace(" --synthesize", ""), *flags, "--max_steps=1")  # there are pairs
    assert "does not know dejpeg" in begun.stderr
    weights = [read_checkpoint(path)["state_dict"] for path in (old, tmp_path / "tuned/last.ckpt")]
    rows = {name for name, value in weights[1].items() if value.shape != weights[0][name].shape}
    assert len(rows) == 1 + 3 * 3
    for name, value in weights[0].items():
        kept = weights[1][name][:5] if name in rows else weights[1][name]
        assert torch.allclose(kept, value, rtol=1e-5, atol=1e-7), name


def test_robustness(run_script, fails, photos, tmp_path):
    checkpoint = save_untrained(tmp_path / "tiny.ckpt")
    for index, photo in enumerate(photos[:2]):
        write_image(tmp_path / "photos" / f"{index}.png", photo)
    other = save_untrained(tmp_path / "other.ckpt", seed=1)
    flags = ["--ckpt_name", checkpoint, "--cuda", -1, "--clean"]
    result = run_script("scripts/robustness", *flags, tmp_path / "photos", "--versus", other)
    assert result.code == 0, result.err
    *_, row, last = result.out.splitlines()
    figures = json.loads(last)["figures"]
    for name, sigma in (("noise 15", 15), ("noise 60", 60), ("noise 25, grey", 25)):
        for before, after, versus in figures[name]:
            assert 5 < after < 60 and 5 < versus < 60 and after != versus
            assert before == pytest.approx(20 * np.log10(255 / sigma), abs=2.5)  # it is clipped
    assert [before for before, *_ in figures["clean"]] == [None, None]
    for name in ("rain", "haze"):
        both = figures[f"{name} and noise 25"]
        assert all(before < 21 for before, *_ in both)
        assert all(5 < before < 40 for before, *_ in figures[name])
    differences = [after - versus for _, after, versus in both]
    assert f" {np.mean(differences):+.2f} " in row
    assert "no pictures in it" in fails("scripts/robustness", *flags, tmp_path)
    (tmp_path / "photos" / "last.png").write_bytes(b"no picture")
    result = run_script("scripts/robustness", *flags, tmp_path / "photos")
    assert result.code == 2 and "last.png" in result.err
    assert "restoring" not in result.err  # nothing before all were read
