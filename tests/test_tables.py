"""Intervals, results files, tables, other people's pictures, and comparisons of networks."""

import csv
import json
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm

from data.datasets import Sample, split
from data.degradations import TASKS
from data.pairing import find_data_sets
from tests.conftest import save_untrained
from utils.errors import UserError
from utils.evaluate import Score, evaluate
from utils.image_io import list_images, read_image, write_image
from utils.plots import plot_cost
from utils.published import PUBLISHED
from utils.report import Figure, read_results, summarise, write_results
from utils.statistics import interval_of_mean
from utils.tables import make_table


def make_results(psnr=30.0, images=100, data_set="Rain100L", degradation="derain", **origin):
    """The content of a results file: one data set, one PSNR for all of its images."""
    scores = [Score(str(i), 20.0, 0.5, 21.0, psnr, 0.9, 31.0, 1.0, 0.1) for i in range(images)]
    usual = dict(method="ours", protocol="paper", knowledge="blind", sha256="ab" * 32)
    usual |= dict(parameters=5e6, macs=2e9)
    return summarise([Figure(data_set, degradation, scores)], usual | origin)


def test_interval_of_mean_is_that_of_the_normal_law_for_many_values():
    values = np.random.default_rng(0).normal(30, 2, 400)
    low, high = interval_of_mean(values)
    half = norm.ppf(0.975) * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert interval_of_mean(values) == (low, high)  # from a fixed seed
    assert interval_of_mean(values[:9]) is None
    assert interval_of_mean([*values, float("inf")]) is None


@pytest.mark.parametrize(
    ("name", "images", "protocol", "shown"),
    [
        ("Rain100L", 100, "paper", True),
        ("derain", 100, "paper", True),
        ("Rain100H", 100, "paper", False),
        ("Rain100L", 2, "paper", False),
        ("Rain100L", 100, "clean", False),
    ],
)
def test_published_rows_stand_only_beside_comparable_figures(name, images, protocol, shown):
    content = make_results(images=images, data_set=name, protocol=protocol)
    text = make_table([content], PUBLISHED).to_markdown()
    assert ("38.32/0.983" in text) == shown
    assert text.count(", published [") == (len(PUBLISHED) if shown else 0)
    assert "30.00" in text and "20.00/0.500" in text


def test_published_means_are_those_of_their_columns():
    for entry in PUBLISHED:
        mean = sum(psnr for psnr, _ in entry.figures.values()) / 5
        assert mean == pytest.approx(entry.mean[0], abs=0.011), entry.method


def test_published_rows_say_whose_training_shares_test_scenes():
    sharing = {entry.method for entry in PUBLISHED if "76 of the 500" in entry.note}
    assert sharing == {"AirNet", "PromptIR", "AdaIR"}
    counted = {entry.method for entry in PUBLISHED if "GMACs counted" in entry.note}
    assert counted == {entry.method for entry in PUBLISHED if entry.gmacs}


def test_protocols_and_inputs_do_not_mix():
    with pytest.raises(AssertionError, match="one protocol"):
        make_table([make_results(), make_results(protocol="clean")], [])
    other = make_results(file="other/results.json")
    other["results"][0]["degraded_psnr"] += 0.01
    with pytest.raises(UserError, match=r"20\.010 dB in other/\S+, but 20\.000 in ours"):
        make_table([make_results(), other], [])


def test_rows_of_one_name_are_told_apart_by_their_checkpoint():
    text = make_table([make_results(), make_results(sha256="cd" * 32)], []).to_markdown()
    assert "ours [abababab]" in text and "ours [cdcdcdcd]" in text


def test_data_sets_of_one_method_share_a_row():
    parts = [
        make_results(sha256=None, parameters=None, file="a"),
        make_results(31.0, 500, "SOTS", "dehaze", sha256=None, file="b"),
    ]
    table = make_table([*parts, parts[0]], [])  # the same figures twice are no contradiction
    degraded, ours = table.rows
    assert [cell.psnr for cell in ours.cells.values()] == [30.0, 31.0]
    assert ours.mean.psnr == 30.5 and degraded.mean.psnr == 20 and ours.parameters == 5
    text = make_table([*parts, make_results(29.0, sha256=None, file="c")], []).to_markdown()
    assert all(f"ours [{file}]" in text for file in "abc")
    other = make_results(29.0, file="b")  # of one checkpoint
    text = make_table([make_results(file="a"), other], []).to_markdown()
    assert "ours [a]" in text and "ours [b]" in text
    other = make_results(31.0, 500, "SOTS", "dehaze", sha256=None, parameters=6e6, file="b")
    text = make_table([make_results(sha256=None, file="a"), other], []).to_markdown()
    assert "ours [a]" in text and "ours [b]" in text  # of another size, so another network


@pytest.mark.parametrize(
    ("last", "complete"), [("CBSD68 denoise_50", True), ("outdoor dehaze", False)]
)
def test_published_means_stand_beside_their_five_columns_only(last, complete):
    columns = ("SOTS dehaze", "Rain100L derain", "CBSD68 denoise_15", "CBSD68 denoise_25", last)
    images = {"SOTS": 500, "outdoor": 500, "Rain100L": 100, "CBSD68": 68}
    parts = [
        make_results(30.0, images[name], name, degradation)
        for name, degradation in map(str.split, columns)
    ]
    published = [row for row in make_table(parts, PUBLISHED).rows if row.published]
    assert [len(row.cells) for row in published] == [5] * len(PUBLISHED)
    assert {row.mean is not None for row in published} == {complete}


def test_rows_say_what_to_mind():
    results = [
        make_results(run={"exclude_test_scenes": False}),
        make_results(method="other", scored="pictures", not_restored=3),
        make_results(method="third", run={"exclude_test_scenes": True}, not_restored=0),
    ]
    table = make_table(results, [])
    text = table.to_markdown()
    assert "ours [1]" in text and "[1] trained without leaving out the scenes" in text
    assert "other [2]" in text and "[2] scored from 8-bit pictures" in text
    assert "3 more images of Rain100L" in text and "| third  " in text
    rows = list(csv.DictReader(table.to_csv().splitlines()))
    assert [row["knowledge"] for row in rows] == ["", "blind", "blind", "blind"]
    assert [bool(row["note"]) for row in rows] == [False, True, True, False]


def test_names_cannot_break_a_table_or_plot(tmp_path):
    content = make_results(method="a|b\nc\\d^e~f_g $_^$", images=3)
    for measure in ("psnr", "ssim", "psnr_y"):
        content["results"][0][f"degraded_{measure}"] = None
    table = make_table([content], [])
    assert r"| a\|b c\d^e~f_g $_^$ |" in table.to_markdown()
    assert "degraded input" not in table.to_markdown() and "±" not in table.to_markdown()
    latex = table.to_latex()
    assert latex.startswith("% protocol paper\n")
    assert r"a|b c\textbackslash{}d\textasciicircum{}e\textasciitilde{}f\_g \$" in latex
    assert plot_cost(table, tmp_path / "cost.png")


@pytest.mark.parametrize("psnr", [30.0, float("inf")])
def test_results_are_read_as_they_were_written(psnr, tmp_path):
    content = make_results(psnr)
    write_results(tmp_path, [], content)
    found = read_results(tmp_path / "results.json")
    assert found.pop("file") == str(tmp_path / "results.json")
    assert found == json.loads(json.dumps(content))


def test_results_are_written_when_the_scores_are(tmp_path):
    (tmp_path / "scores.csv").mkdir()
    with pytest.raises((OSError, UserError)):
        write_results(tmp_path, [], make_results())
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("sha256",), 3, "its 'sha256' is 3"),
        (("macs",), 10**400, "its 'macs' is huge"),
        (("results", 0, "psnr"), True, "its 'psnr' is True"),
        (("results",), [], "no figure in it"),
        (("results",), [3], "no 'data_set' in it"),
        (("results", 0, "psnr"), None, "its 'psnr' is None"),
        (("results", 0, "psnr"), float("nan"), "NaN is no figure"),
        (("results", 0, "intervals"), {"psnr": [1]}, "an interval is [1]"),
        (("protocol",), "other", "its protocol is 'other'"),
    ],
)
def test_damaged_results_are_named(place, value, message, fails, tmp_path):
    content = make_results()
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (tmp_path / "results.json").write_text(json.dumps(content))
    error = fails("scripts/table", tmp_path, "--output", tmp_path / "out")
    assert message in error and str(tmp_path / "results.json") in error


def test_a_network_that_gives_no_numbers_has_no_figures():
    class Broken(torch.nn.Conv2d):
        size_multiple = 1
        streamed_bytes_per_pixel = None
        weights_kept = nullcontext

        def forward(self, image, named=None):
            return super().forward(image)

    net = Broken(3, 3, 1)
    torch.nn.init.constant_(net.weight, float("nan"))
    image = torch.zeros(3, 8, 8)
    with pytest.raises(UserError, match="photo7: the network gives values that are not numbers"):
        evaluate(net, [Sample(image, image, "derain", "photo7")], tile=0)


def test_protocols_have_a_table_each(run_script, tmp_path):
    for protocol in ("clean", "paper"):
        write_results(tmp_path / protocol, [], make_results(protocol=protocol))
    result = run_script("scripts/table", tmp_path, "--output", tmp_path / "table")
    assert result.code == 0, result.err
    assert "0.900/31.00" in (tmp_path / "table" / "table_clean.md").read_text()
    paper = (tmp_path / "table" / "table_paper.md").read_text()
    assert "0.900/31.00" not in paper and "38.32/0.983" in paper


@pytest.fixture
def checkpoints(tmp_path):
    """Two untrained checkpoints."""
    return [save_untrained(tmp_path / f"{seed}.ckpt", seed) for seed in range(2)]


def test_several_checkpoints_make_one_table(run_script, checkpoints, test_flags, tmp_path):
    flags = ["--mode", 3, "--output_path", tmp_path / "out", "--ckpt_name", *checkpoints]
    result = run_script("test", *test_flags, *flags, "--protocol", "clean")
    assert result.code == 0, result.err
    table = [line for line in result.out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3  # heading, degraded input, two checkpoints
    contents = [json.loads(path.read_text()) for path in tmp_path.rglob("results.json")]
    assert len({content["sha256"] for content in contents}) == 2 and len(contents) == 2 * 5
    for content in contents:
        assert content["parameters"] > 1e5 and content["macs"] > 1e8
        assert content["versions"]["numpy"] == np.__version__
        for figure in content["results"]:
            assert figure["degraded_psnr"] != figure["psnr"] != figure["psnr_y"]
            assert figure["intervals"]["psnr"] is None  # of two images
            assert figure["scoring_seconds"] > 0

    merged = run_script("scripts/table", tmp_path / "out", "--output", tmp_path / "table")
    assert merged.code == 0, merged.err
    rows = [line for line in merged.out.splitlines() if line.startswith("|")]
    assert sorted(rows) == sorted(table)  # folders are read in the order of their names
    latex = (tmp_path / "table" / "table_clean.tex").read_text()
    assert latex.count(r"\\") == 4 and r"denoise\_15" in latex
    rows = list(csv.DictReader((tmp_path / "table" / "table_clean.csv").open()))
    assert len(rows) == 3 * 6  # five columns and their mean
    for content in contents:
        named = [row for row in rows if content["sha256"][:8] in row["method"]]
        for figure in content["results"]:
            [row] = [row for row in named if row["degradation"] == figure["degradation"]]
            assert float(row["psnr"]) == figure["psnr"]
    with Image.open(tmp_path / "table" / "cost_clean.png") as picture:
        assert picture.size[0] == 1200


def test_a_checkpoint_given_twice_is_refused(fails, checkpoints, test_flags):
    flags = ["--ckpt_name", checkpoints[0], checkpoints[1], checkpoints[0]]
    assert "give each one once" in fails("test", *test_flags, *flags)


def test_table_of_files_that_are_none(fails, tmp_path):
    (tmp_path / "results.json").write_text("{}")
    assert "no 'method' in it" in fails("scripts/table", tmp_path)
    (tmp_path / "results.json").write_text("{")
    assert "cannot be read as JSON" in fails("scripts/table", tmp_path)
    assert "no results.json there" in fails("scripts/table", tmp_path / "nowhere")
    (tmp_path / "scores.csv").touch()
    assert "give a results.json of test.py" in fails("scripts/table", tmp_path / "scores.csv")


def test_rows_stand_as_given_and_columns_by_degradation(run_script, tmp_path):
    """A row without all columns has no mean, and then the input has none; nor is there a plot."""
    for method, degradation in (("first", "dehaze"), ("second", "derain")):
        content = make_results(method=method, sha256=method)
        content["results"][0]["degradation"] = degradation
        write_results(tmp_path / method, [], content)
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "cost_paper.png").touch()  # of an earlier table
    flags = ["--output", tmp_path / "table", "--no-published"]
    result = run_script("scripts/table", tmp_path / "first", tmp_path / "second", *flags)
    assert result.code == 0, result.err
    header, _, *rows = [line.split("|")[1:-1] for line in result.out.splitlines() if "|" in line]
    assert [cell.split()[1] for cell in header[3:]] == ["derain", "dehaze"]
    assert [row[0].strip() for row in rows] == ["degraded input", "first", "second"]
    assert not (tmp_path / "table" / "cost_paper.png").exists()


def test_published_rows_in_every_form(run_script, tmp_path):
    content = make_results()
    write_results(tmp_path, [], content)
    result = run_script("scripts/table", tmp_path, "--output", tmp_path / "table")
    assert result.code == 0, result.err
    assert "the AM-PromptIR paper's Table 1; named; 331" in result.out
    rows = list(csv.DictReader((tmp_path / "table" / "table_paper.csv").open()))
    assert [row["published"] for row in rows] == ["0", "0"] + ["1"] * len(PUBLISHED)
    assert rows[1]["parameters_m"] == "5.0" and rows[1]["gmacs"] == "2.0"
    assert float(rows[1]["psnr_low"]) == float(rows[1]["psnr_high"]) == 30
    flags = ["--output", tmp_path / "table", "--no-published"]
    result = run_script("scripts/table", tmp_path / "results.json", *flags)
    assert "ours" in result.out and ", published [" not in result.out


@pytest.mark.parametrize("protocol", ["paper", "clean"])
@pytest.mark.parametrize(("mode", "task"), [(1, "derain"), (2, "dehaze")])
def test_scored_pictures_have_the_figures_of_test_py(
    mode, task, protocol, run_script, checkpoints, test_flags, data_folder, tmp_path
):
    flags = ["--mode", mode, "--ckpt_name", checkpoints[0], "--output_path", tmp_path]
    assert run_script("test", *test_flags, *flags, "--protocol", protocol).code == 0
    top = next((data_folder / "test" / task).iterdir())
    [folder] = tmp_path.glob(f"{protocol}_blind/*/{top.name}_{task}")
    expected = json.loads((folder / "results.json").read_text())
    flags = ["--restored", folder]
    if protocol == "paper":  # the pictures are cropped, degraded ones are cropped to them
        flags += ["--degraded", top / "input"]
    flags += ["--target", top / "target", "--degradation", task, "--protocol", protocol]
    result = run_script("scripts/score", *flags, "--output", tmp_path / "scored")
    assert result.code == 0, result.err
    found = json.loads((tmp_path / "scored" / "results.json").read_text())
    tolerance = {"paper": 0.02, "clean": 1e-9}[protocol]  # `paper` scores before rounding
    for measure in ("psnr", "ssim", "psnr_y"):
        assert found["results"][0][measure] == pytest.approx(
            expected["results"][0][measure], abs=tolerance
        )
    assert found["results"][0]["data_set"] == expected["results"][0]["data_set"]
    degraded = found["results"][0]["degraded_psnr"]
    assert degraded == (
        pytest.approx(expected["results"][0]["degraded_psnr"], abs=1e-9)
        if protocol == "paper"
        else None
    )
    table = run_script("scripts/table", tmp_path, "--output", tmp_path / "table")
    assert table.code == 0, table.err


def test_equal_pictures_have_an_infinite_psnr(run_script, data_folder, tmp_path):
    target = data_folder / "test" / "derain" / "Rain100L" / "target"
    flags = ["--restored", target, "--target", target, "--degradation", "derain"]
    result = run_script("scripts/score", *flags, "--output", tmp_path)
    assert result.code == 0, result.err
    assert "inf/1.000" in result.out and "PSNR-Y inf" in result.out
    figure = json.loads((tmp_path / "results.json").read_text())["results"][0]
    assert figure["psnr"] == "inf" and figure["degraded_psnr"] is None
    assert "inf/1.000" in run_script("scripts/table", tmp_path, "--output", tmp_path / "t").out


def test_what_cannot_be_scored_is_named(fails, data_folder, tmp_path):
    target = data_folder / "test" / "derain" / "Rain100L" / "target"
    flags = ["--target", target, "--degradation", "derain", "--output", tmp_path / "out"]
    assert "no pictures there" in fails("scripts/score", "--restored", tmp_path, *flags)
    shutil.copytree(target, tmp_path / "restored")
    first, *_ = list_images(tmp_path / "restored")
    write_image(first, read_image(first)[:40])
    message = fails("scripts/score", "--restored", tmp_path / "restored", *flags)
    assert "96 x 40 pixels; expected 96 x 80" in message
    first.rename(first.with_stem("unknown"))
    message = fails("scripts/score", "--restored", tmp_path / "restored", *flags)
    assert "1 of 2 restored images have no clean partner (unknown.png)" in message
    assert "desnow" in fails(
        "scripts/score", "--restored", target, "--target", target, "--degradation", "desnow"
    )
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    ("rows", "columns", "code"),
    [((0, 70), (0, 88), 0), ((3, 67), (4, 84), 0), ((0, 69), (0, 87), 2)],
)
def test_only_whole_or_centre_cropped_pictures_are_scored(
    rows, columns, code, run_script, photos, tmp_path
):
    target = photos[0][:70, :88]  # its centre crop is 64 x 80, as is that of 69 x 87
    write_image(tmp_path / "target" / "1.png", target)
    write_image(tmp_path / "restored" / "1.png", target[slice(*rows), slice(*columns)])
    flags = ["--restored", tmp_path / "restored", "--target", tmp_path / "target"]
    flags += ["--degradation", "derain", "--output", tmp_path / "out"]
    result = run_script("scripts/score", *flags)
    assert result.code == code, result.err
    assert ("inf/1.000" in result.out) == (code == 0)


def test_scores_of_several_data_sets_make_one_row(run_script, data_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for task, name in (("derain", "Rain100L"), ("dehaze", "SOTS")):
        target = data_folder / "test" / task / name / "target"
        restored = tmp_path / f"restored_{task}"
        shutil.copytree(target, restored)
        list_images(restored)[0].unlink()
        flags = ["--restored", restored, "--target", target, "--degradation", task]
        result = run_script("scripts/score", *flags, "--method", "The/irs")
        assert result.code == 0, result.err
        assert "warning: 1 of 2 targets have no restored picture (photo3.png)" in result.err
    files = sorted((tmp_path / "output" / "scored" / "paper_unknown" / "The_irs").iterdir())
    assert [file.name for file in files] == ["Rain100L_derain", "SOTS_dehaze"]
    assert json.loads((files[0] / "results.json").read_text())["not_restored"] == 1
    result = run_script("scripts/table", "output/scored")
    assert result.code == 0, result.err
    [row] = [line for line in result.out.splitlines() if line.startswith("| The/irs")]
    assert row.count("inf/1.000") == 3  # two data sets and their mean


def test_photographs_become_a_test_set(run_script, checkpoints, data_folder, tmp_path):
    flags = ["--clean", data_folder / "test" / "denoise" / "bsd68"]
    for output in ("one", "two"):
        result = run_script("scripts/synthesize", *flags, "--output", tmp_path / output)
        assert result.code == 0, result.err
    one, two = (list_images(tmp_path / output, recursive=True) for output in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    flags = ["--ckpt_name", checkpoints[0], "--output_path", tmp_path / "out", "--cuda=-1"]
    for mode, task, folder in ((1, "derain", "Derain"), (2, "dehaze", "Dehaze")):
        place = ["--mode", mode, f"--{task}_path", tmp_path / "one" / folder]
        result = run_script("test", *flags, *place)
        assert result.code == 0, result.err
        assert f"bsd68_synthetic {task} (2)" in result.out  # never taken for a published set
        [file] = tmp_path.glob(f"out/paper_blind/*/bsd68_synthetic_{task}/results.json")
        content = json.loads(file.read_text())
        assert 5 < content["results"][0]["degraded_psnr"] < 45
    result = run_script("test", *flags, *place, "--self_ensemble")
    assert result.code == 0 and "blind, self-ensemble |" in result.out, result.err
    [file] = tmp_path.glob("out/paper_blind_self_ensemble/*/*/results.json")
    assert json.loads(file.read_text())["self_ensemble"] is True


def test_photographs_become_pairs_to_train_on(run_script, fails, train_flags, photos, tmp_path):
    for index, photo in enumerate(photos):
        write_image(tmp_path / "clean" / f"photo_{index}.png", photo)
    flags = ["--clean", tmp_path / "clean", "--output", tmp_path / "Train"]
    assert run_script("scripts/synthesize", *flags, "--variants", 2).code == 0
    assert "is not empty" in fails("scripts/synthesize", *flags)
    assert "no pictures in it" in fails("scripts/synthesize", "--clean", tmp_path, *flags[2:])
    folders = [
        f"--{task}_dir={tmp_path / 'Train' / task.title()}"
        for task in ("denoise", "derain", "dehaze")
    ]
    result = run_script(
        "train",
        *train_flags,
        *folders,
        "--max_steps",
        1,
        "--ckpt_dir",
        tmp_path / "run",
        "--val_images",
        0,
    )
    assert result.code == 0, result.err
    assert "derain: 10 images" in result.out and "dehaze: 10 images" in result.out
    held_out = []
    for task in TASKS:
        [data_set] = find_data_sets(tmp_path / "Train" / task.train_folders[0], task)
        training, validation = split(data_set.pairs, 1)
        held_out += [pair.clean.stem for pair in validation]
        assert len(training) == (4 if task.name == "denoise" else 8)
        assert not any(held_out[0] in pair.name for pair in training)
    assert len(held_out) == 3 and len(set(held_out)) == 1  # one photograph, in every task


def test_photographs_that_cannot_become_pairs(fails, run_script, photos, tmp_path):
    clean, output = tmp_path / "clean", tmp_path / "Train"
    write_image(clean / "a_1.png", photos[0])
    flags = ["--clean", clean, "--output"]
    assert "must lie outside" in fails("scripts/synthesize", *flags, clean / "Train")
    assert "must lie outside" in fails("scripts/synthesize", *flags, tmp_path)
    output.write_text("")
    assert "is a file" in fails("scripts/synthesize", *flags, output)
    output.unlink()
    write_image(clean / "a-1.jpg", photos[1])
    message = fails("scripts/synthesize", *flags, output)
    assert "a_1.png" in message and "a-1.jpg" in message
    cut = (clean / "a-1.jpg").rename(clean / "b.jpg")
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    assert "b.jpg: cannot be read as an image" in fails("scripts/synthesize", *flags, output)
    assert [path.name for path in tmp_path.iterdir()] == ["clean"]
    cut.unlink()
    output.mkdir()  # empty, so it may be there
    result = run_script("scripts/synthesize", *flags, output)
    assert result.code == 0 and "1 photograph, 1 rainy and hazy" in result.out
    assert (output / "Dehaze" / "clean_synthetic" / "original" / "a-1.png").is_file()
