"""Metrics against scikit-image, the loss against its definition, schedules, tiles, signals."""

import itertools
import json
import math
import os
import platform
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import nn
from torch.utils.data import default_collate

from data.datasets import Sample
from net import AMPromptIR
from net.checkpoint import SHIPPED, load_network, read_checkpoint
from net.contract import RestorationNetwork
from net.restorer import Restorer
from options import with_saved_flags
from tests.conftest import ROOT, chelsea, save_untrained
from utils import callbacks, inference, memory
from utils.allocator import VARIABLES
from utils.devices import choose_machine
from utils.finite import FiniteSteps
from utils.flags import keep_flags, write_flags
from utils.inference import automatic_tile, restore
from utils.losses import charbonnier, classification_loss, spectral_l1
from utils.metrics import psnr, psnr_y, ssim
from utils.processes import STOPPING, end_as_ctrl_c_does
from utils.schedules import rate_factor

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(7, 7), (40, 56)])
def test_metrics_match_scikit_image(size, device):
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(3, *size, generator=generator)
    restored = (clean + 0.1 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    arrays = restored.double().numpy(), clean.double().numpy()
    restored, clean = restored.to(device), clean.to(device)
    expected = structural_similarity(*arrays, channel_axis=0, data_range=1)
    assert ssim(restored, clean) == pytest.approx(expected, abs=1e-9)
    expected = peak_signal_noise_ratio(*arrays[::-1], data_range=1)
    assert psnr(restored, clean) == pytest.approx(expected, abs=1e-9)
    luminances = [rgb2ycbcr(array, channel_axis=0)[0] for array in arrays]  # MATLAB's, 16 to 235
    expected = peak_signal_noise_ratio(*luminances[::-1], data_range=255)
    assert psnr_y(restored, clean) == pytest.approx(expected, abs=1e-9)


def test_metrics_at_the_edges():
    flat = torch.full((3, 8, 8), 0.5)
    assert psnr(flat, flat) == float("inf")
    assert ssim(flat, flat) == pytest.approx(1)
    with pytest.raises(ValueError, match="7 pixels"):
        ssim(flat[:, :6], flat[:, :6])


@pytest.mark.parametrize("width", [7, 8])
def test_spectral_loss_is_the_mean_modulus_of_the_whole_spectrum(width):
    one, two = torch.rand(2, 2, 3, 6, width)
    expected = nn.functional.l1_loss(torch.fft.fft2(one), torch.fft.fft2(two))
    assert spectral_l1(one, two) == pytest.approx(float(expected), rel=1e-5)


def test_classification_of_what_is_not_damaged():
    scores = torch.tensor([[[2.0, -1, 0]], [[2, -1, 0]]])  # (B, L, K)
    rows = torch.tensor([0, 0])
    logarithms = scores[0, 0].log_softmax(0)
    for untouched, wanted in (
        ((False, False), -logarithms[0]),
        ((True, True), -logarithms.mean()),
        ((True, False), -(logarithms.mean() + logarithms[0]) / 2),
    ):
        loss = classification_loss(scores, rows, torch.tensor(untouched))
        assert loss == pytest.approx(wanted.item(), abs=1e-6)


def test_training_has_what_is_not_damaged_even(tmp_path, monkeypatch):
    saved = read_checkpoint(save_untrained(tmp_path / "tiny.ckpt"))["hyper_parameters"]
    module = Restorer(**saved | {"classification_weight": 1.0})
    logged = {}
    monkeypatch.setattr(module, "log", lambda name, value: logged.update({name: value.item()}))
    monkeypatch.setattr(module, "_draw_named", lambda tasks, index: torch.zeros(len(tasks), 5))
    image = torch.rand(1, 3, 32, 32)
    scores = module.net(image, with_scores=True)[1][0].log_softmax(1)  # (3, K)
    for untouched, wanted in ((False, scores[:, 4]), (True, scores)):
        sample = Sample(image[0], image[0], "dehaze", "photo", untouched)
        module.training_step(default_collate([sample]), 0)
        assert logged["train/classification"] == pytest.approx(-wanted.mean().item(), abs=1e-6)


def test_charbonnier():
    zero = torch.zeros(1)
    assert charbonnier(zero, zero) == pytest.approx(1e-3)
    assert charbonnier(zero, zero + 1) == pytest.approx(1, abs=1e-5)


def test_cosine_schedule_warms_up_and_anneals():
    factors = [rate_factor("cosine", step, 200, 10) for step in range(200)]
    assert factors[0] == pytest.approx(1 / 20)
    assert factors[19] == max(factors) == 1
    assert factors[-1] == pytest.approx(0, abs=1e-12)
    assert all(a > b for a, b in itertools.pairwise(factors[20:]))
    assert rate_factor("cosine", 0, 1, 1) == 1


def test_timed_schedule_follows_the_time_or_the_steps_if_these_end_first():
    factors = [rate_factor("timed", 0, 10**9, 1, share) for share in (0.05, 0.1, 0.55, 1.0)]
    assert factors == pytest.approx([0.5, 1, 0.5, 0])
    assert rate_factor("timed", 99, 100, 1, 0.2) == pytest.approx(0)
    assert rate_factor("timed", 0, 100, 1, 0.0) > 0


def test_published_schedule_matches_golden(golden):
    expected = json.loads((golden / "protocol.json").read_text())["published_lr_by_epoch"]
    steps_per_epoch = 3
    found = [
        2e-4 * rate_factor("published", step, 0, steps_per_epoch)
        for step in range(len(expected) * steps_per_epoch)
    ]
    assert found == pytest.approx(np.repeat(expected, steps_per_epoch), abs=1e-12)


class Blur(RestorationNetwork):
    """A network that sees 3 pixels far, so tiles that overlap more must not show."""

    size_multiple = 8
    inference_bytes_per_pixel = 1000

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 7, padding=3, padding_mode="replicate")
        self.sizes = []

    def forward(self, image, named=None):
        self.sizes.append(tuple(image.shape[2:]))
        return self.conv(image).sigmoid()


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (13, 50)])
def test_restore_keeps_any_size(size):
    net = Blur()
    assert restore(net, torch.rand(3, *size)).shape == (3, *size)
    assert all(side % 8 == 0 for side in net.sizes[0])


@pytest.mark.parametrize("size", [(152, 208), (64, 304), (136, 72)])
def test_tiles_leave_no_seams(size, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(inference, "TILE_OVERLAP", 16)
    net, image = Blur(), torch.rand(3, *size)
    whole, tiled = restore(net, image), restore(net, image, tile=64)
    assert 48 <= max(max(shape) for shape in net.sizes[1:]) <= 64
    # a tile's border sees padding; the ramp leaves it at most 3 of 17 parts of that error
    assert (whole - tiled).abs().max() < 0.03
    assert (whole - tiled).abs().mean() < 2e-3
    flat = torch.full((3, *size), 0.25)
    identity = lambda tile, named: tile  # noqa: E731
    monkeypatch.setattr(net, "forward", identity)
    assert torch.allclose(restore(net, flat, tile=64), flat, atol=1e-6)
    assert torch.allclose(restore(net, image, tile=64), image, atol=1e-6)


@pytest.mark.parametrize("degradation", ["denoise_25", "derain"])
def test_seams_cost_nothing_with_trained_weights(degradation):
    """Haze is another matter: it is told from the whole picture (PERFORMANCE.md)."""
    net = load_network(ROOT / "ckpt" / SHIPPED[0]).net
    clean, degraded = chelsea(degradation)
    parts = []
    whole = restore(net, degraded)
    tiled = restore(net, degraded, tile=256, on_part=parts.append)
    assert len(parts) == 6
    before, after = (-10 * (image - clean).square().mean().log10() for image in (whole, tiled))
    assert after - -10 * (degraded - clean).square().mean().log10() > 10  # it does restore
    assert abs(before - after) < 0.05


def test_automatic_tile_follows_free_memory(monkeypatch):
    net, image = Blur(), torch.rand(3, 96, 160)
    monkeypatch.setattr(inference, "free_memory", lambda device: 2 * 1000 * 96 * 160)
    restore(net, image, tile=None)
    monkeypatch.setattr(inference, "free_memory", lambda device: 2 * 1000 * 70 * 70)
    restore(net, image, tile=None)
    monkeypatch.setattr(inference, "free_memory", lambda device: 0)
    restore(net, image, tile=None)
    assert net.sizes[0] == (96, 160)
    assert set(net.sizes[1:]) == {(64, 64)}


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/job/step", "job", ("memory.max", "memory.current", "inactive_file")),
        (
            "4:cpu,memory:/hidden",
            "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_memory_is_that_of_the_container(line, folder, names, tmp_path, monkeypatch):
    group = tmp_path / "groups" / folder
    group.mkdir(parents=True)
    for name, content in zip(names, ("3000", "2500", "x 1\n{} 700\n"), strict=True):
        stem = name if name.startswith("memory.") else "memory.stat"
        (group / stem).write_text(content.format(name))
    (tmp_path / "table").write_text(f"1:pids:/\n{line}\n")
    monkeypatch.setattr(memory, "ROOT", tmp_path / "groups")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "table")
    assert memory.available_memory() == 3000 - 2500 + 700
    (group / names[0]).write_text("max")
    assert memory.available_memory() > 10**6
    (tmp_path / "table").unlink()
    assert memory.available_memory() > 10**6


def test_flags_given_take_the_place_of_saved_ones():
    saved = ["--de_type", "derain", "dehaze", "--lr=1", "--cuda", "-1", "--no-exclude", "--compile"]
    given = ["--exclude", "--lr", "2", "--de_type=denoise_15", "--resume"]
    assert keep_flags(saved, given) == ["--cuda", "-1", "--compile"]
    left_out = ["--lr", "--de_type"]
    assert keep_flags(saved, ["-h", "--num_gpus=0"], left_out) == ["--no-exclude", "--compile"]
    assert keep_flags([*saved, "--lr", "3"], without=["--de_type"]) == [
        *("--cuda", "-1", "--no-exclude", "--compile", "--lr", "3")
    ]


def test_a_run_that_saved_nothing_still_starts_from_its_weights(tmp_path):
    write_flags(tmp_path, ["--init", "a.ckpt", "--lr", "1", "--ckpt_dir", "elsewhere"])
    given = ["--resume", "--ckpt_dir", str(tmp_path)]
    file = tmp_path / "flags.json"
    kept = ["--init", "a.ckpt", "--lr", "1"]
    assert with_saved_flags(given) == (
        [*given, *kept],
        f"with the flags in {file}: --init a.ckpt --lr 1",
    )
    (tmp_path / "downloaded.ckpt").touch()  # which is not of the run
    assert with_saved_flags(given)[0] == [*given, *kept]
    (tmp_path / "last.ckpt").touch()
    assert with_saved_flags(given) == ([*given, "--lr", "1"], f"with the flags in {file}: --lr 1")
    assert with_saved_flags(given[1:]) == (given[1:], "")
    missing = ["--resume", str(tmp_path / "none.ckpt")]
    assert with_saved_flags(missing) == (missing, "")
    file.unlink()
    told = f"there is no {file}, so flags that are not given are the defaults"
    assert with_saved_flags(given) == (given, told)


def test_automatic_tile_knows_of_windows():
    net = AMPromptIR(**AMPromptIR.configurations["tiny"], text="learned")
    pixels = 2000 * 1000
    held = 2 * (net.windows_bytes + pixels * net.windowed_bytes_per_pixel)
    assert held < 2 * pixels * net.inference_bytes_per_pixel  # too little without windows
    assert automatic_tile(net, 1000, 2000, held + 10) == 0
    assert automatic_tile(net, 1000, 2000, held - 10**6) == 0  # another way (net/streaming.py)
    net.streamed_bytes_per_pixel = None
    assert 1000 < automatic_tile(net, 1000, 2000, held - 10**6) < 1000 * 2**0.5
    assert automatic_tile(net.to("meta"), 1000, 2000, held + 10) > 0  # no windows but on the CPU


@pytest.mark.parametrize("tile", [0, 64])
def test_self_ensemble_mirrors_with_the_image(tile):
    torch.manual_seed(0)
    net, image, parts = Blur(), torch.rand(3, 80, 96), []
    result = restore(net, image, tile=tile, on_part=parts.append, self_ensemble=True)
    assert [part.done for part in parts] == list(range(1, parts[-1].total + 1))
    assert len(parts) == (4 if tile == 0 else 4 * 4)
    for axis in (1, 2):
        mirrored = restore(net, image.flip(axis), tile=tile, self_ensemble=True)
        assert torch.allclose(mirrored, result.flip(axis), atol=1e-6)
        alone = restore(net, image.flip(axis)), restore(net, image).flip(axis)
        assert not torch.allclose(*alone, atol=1e-3)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="a terminal's end is no signal here")
@pytest.mark.parametrize("ignored", [False, True])
def test_nohup_is_left_alone(ignored):
    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        end_as_ctrl_c_does()
        assert signal.getsignal(signal.SIGTERM) == signal.default_int_handler
        left = signal.SIG_IGN if ignored else signal.default_int_handler
        assert signal.getsignal(signal.SIGHUP) == left
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_only_a_later_signal_ends_at_once(monkeypatch, tmp_path):
    sent, now = [], [100.0]
    monkeypatch.setattr(callbacks.signal, "signal", lambda *handler: None)
    monkeypatch.setattr(callbacks.os, "kill", lambda process, number: sent.append(number))
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    control = callbacks.RunControl(tmp_path / "last.ckpt", FiniteSteps(tmp_path), 1, 1, 0, None)
    for later, number, expected in (
        (0, signal.SIGTERM, []),
        (0.5, signal.SIGTERM, []),  # the same one, passed on
        (5, signal.SIGINT, []),
        (6, signal.SIGTERM, [signal.SIGTERM]),
    ):
        now[0] = 100 + later
        control._note_signal(number, None)
        assert sent == expected


@pytest.mark.parametrize(
    ("environment", "devices", "num_nodes"),
    [
        ({}, 1, 1),
        ({"WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3"}, 3, 2),  # torchrun
        ({"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "3"}, 2, 2),  # srun
        ({"SLURM_NTASKS": "4", "SLURM_NNODES": "2"}, 1, 1),  # sbatch without srun: one process
    ],
)
def test_processes_are_those_that_were_started(environment, devices, num_nodes, monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS", "SLURM_NNODES", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    machine = choose_machine(num_gpus=0, num_nodes=1, index=None, precision="auto")
    assert (machine.devices, machine.num_nodes) == (devices, num_nodes)
    assert machine.num_processes == devices * num_nodes
    assert (machine.accelerator, machine.precision) == ("cpu", "32-true")


FAULTS = """
import resource, utils.start, torch
for turn in range(20):
    if turn == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(5 * 2**20) for _ in range(4)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc")
@pytest.mark.parametrize(
    ("set_already", "kept"),
    [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "0"}, False), ({"MALLOC_TOP_PAD_": "0"}, False)],
)
def test_freed_memory_is_kept_unless_the_environment_says_otherwise(set_already, kept):
    """Four blocks of 20 MiB are 20,480 pages of 4 KiB, here asked for ten times."""
    command = [sys.executable, "-c", FAULTS]
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= set_already
    faults = int(subprocess.check_output(command, env=environment, cwd=ROOT))
    assert faults < 500 if kept else faults > 10_000


@pytest.mark.parametrize("tile", [64, 96, 512])
@pytest.mark.parametrize("length", [8, 63, 64, 65, 100, 481, 1225])
def test_tiles_are_equal_and_no_more_than_needed(length, tile):
    overlap = min(inference.TILE_OVERLAP, tile // 2)
    spans = inference._spans(length, tile, overlap, 8)
    sides = {stop - start for start, stop in spans}
    assert len(sides) == 1 and max(sides) <= tile
    assert spans[0][0] == 0 and spans[-1][1] == length
    for (_, stop), (start, _) in itertools.pairwise(spans):
        assert stop - start >= overlap
    assert len(spans) == max(1, math.ceil((length - overlap) / (tile - overlap)))
    assert len(spans) * max(sides) <= length + (len(spans) - 1) * overlap + 8 * len(spans)
