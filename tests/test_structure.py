"""Rules of the code base that a reader relies on: imports go one way, every flag is read."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import options
from data.degradations import DEGRADATIONS, Degradation, Task
from data.synthesis import Synthesis
from tests.conftest import ROOT

PACKAGES = ("data", "net", "utils")
SCRIPTS = ("train", "test", "demo", "app")
NETWORK_FLAGS = {
    "configuration": "tiny",
    "width": "16",
    "expansion": "2",
    "text": "learned",
    "attention": "mdta",
    "fusion": "concatenation",
}
ALLOWED = {"utils": {"utils"}, "data": {"data", "utils"}, "net": {"net", "utils"}}


def imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package):
    ours = {*PACKAGES, *SCRIPTS, "options", "scripts", "am_promptir"}
    for path in (ROOT / package).rglob("*.py"):
        assert imported_packages(path) & ours <= ALLOWED[package], path


def test_nothing_imports_a_script():
    for path in [*ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        assert not imported_packages(path) & set(SCRIPTS), path


def test_scripts_settle_streams_and_signals_before_they_import():
    paths = [ROOT / f"{script}.py" for script in SCRIPTS] + [*(ROOT / "scripts").glob("[!_]*.py")]
    assert len(paths) > 10
    for path in paths:
        lines = path.read_text().splitlines()
        first = next(line for line in lines if re.match("import |from |if ", line))
        after = lines[lines.index(first) + 1]
        assert first == 'if __name__ == "__main__":', path
        assert after.startswith("    import utils.start"), path


@pytest.mark.parametrize(
    ("module", "others"),
    [("net", ["lightning", "open_clip"]), ("demo, app, scripts.export", ["gradio", "onnx"])],
)
def test_optional_packages_are_imported_late(module, others):
    code = f"import sys, {module}; print([name for name in {others} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_read(script):
    required = ["--input", "x"] if script == "demo" else []
    flags = vars(getattr(options, f"{script}_options")(required))
    flags = [name for name in flags if name not in NETWORK_FLAGS]
    patterns = {name: rf"options\.{name}\b" for name in flags}
    for task in ("denoise", "derain", "dehaze"):  # read by name, once for all tasks
        for kind in ("dir", "path"):
            patterns[f"{task}_{kind}"] = rf'getattr\(options, f"{{task\.name}}_{kind}"\)'
    paths = [ROOT / f"{script}.py"] + [ROOT / "data/training.py"] * (script == "train")
    source = "".join(path.read_text() for path in paths)
    assert [name for name in flags if not re.search(patterns[name], source)] == []


@pytest.mark.parametrize("flag", NETWORK_FLAGS)
def test_every_flag_of_the_network_changes_it(flag):
    usual, other = (
        options.network_arguments(options.train_options(flags))
        for flags in ([], [f"--{flag}", NETWORK_FLAGS[flag]])
    )
    assert usual != other


@pytest.mark.parametrize("entry", [Degradation, Task, Synthesis])
def test_every_field_of_the_table_is_read(entry):
    files = [
        *ROOT.glob("*.py"),
        *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py")),
    ]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text()))]
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert set(entry._fields) <= read


def test_every_degradation_can_be_made_from_clean_images():
    for entry in DEGRADATIONS:
        assert (entry.sigma is None) != (entry.synthesis is None), entry.name


def test_requirements_are_what_is_imported():
    renamed = {"open_clip_torch": "open_clip", "scikit-image": "skimage"}
    renamed |= {"opencv-python-headless": "cv2", "pillow": "PIL"}
    listed = set()
    for file in ("requirements.txt", "requirements-demo.txt"):
        for line in (ROOT / file).read_text().splitlines():
            name = re.match(r"[\w-]+", line)[0]
            listed.add(renamed.get(name, name))
    listed.remove("-r")
    files = [
        *ROOT.glob("*.py"),
        *(path for folder in (*PACKAGES, "scripts") for path in (ROOT / folder).rglob("*.py")),
    ]
    imported = set.union(*map(imported_packages, files))
    third_party = (
        imported
        - set(sys.stdlib_module_names)
        - {*PACKAGES, "options", "scripts", "tests", "am_promptir", ""}
        - {"triton"}  # comes with PyTorch where it serves, and is left alone elsewhere
    )
    through_others = {"tensorboard", "wandb", "onnx", "onnxscript"}  # lightning, torch.onnx
    assert third_party == listed - through_others
