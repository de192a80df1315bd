"""Learning anew what a trained network takes pictures for, without touching the rest of it."""

from argparse import Namespace

import numpy as np
import pytest
import torch

from data.degradations import DEGRADATIONS
from net.checkpoint import BESIDE_CODE, SHIPPED, load_network
from scripts.refit import UNHARMED, Features, Stage, damage, fit, taken_right
from tests.conftest import save_untrained
from utils.image_io import write_image
from utils.metrics import psnr

TINY = BESIDE_CODE / SHIPPED[-1]


@pytest.fixture
def folder(photos, tmp_path):
    for index, photo in enumerate(photos[:3]):
        write_image(tmp_path / "photos" / f"{index}.png", photo)
    return tmp_path / "photos"


def test_only_the_stage_changes(run_script, folder, tmp_path):
    new = tmp_path / "new.safetensors"
    flags = ["--clean", folder, "--ckpt_name", TINY, "--steps", 2, "--batch_size", 2, "--cuda", -1]
    result = run_script("scripts/refit", *flags, "--output", new)
    assert result.code == 0, result.err
    assert "of 1 held out" in result.out and "| dehaze" in result.out

    before, after = load_network(TINY), load_network(new)
    assert before.net.origin == after.net.origin
    changed = {
        name
        for (name, value), other in zip(
            before.net.state_dict().items(), after.net.state_dict().values(), strict=True
        )
        if not torch.equal(value, other)
    }
    stage = {name for name in changed if name.startswith(("latent.", "prompts.2.generate.weigh."))}
    assert stage == changed and "prompts.2.generate.weigh.weight" in changed
    assert any(name.startswith("latent.") for name in changed)


def test_it_learns_and_hands_on_what_it_did():
    net = load_network(TINY).net
    rows = {UNHARMED: 0, "dehaze": 4}
    generator = torch.Generator().manual_seed(0)
    channels = net.latent[0].attention.channels
    samples = []
    for index in range(16):  # told apart by one channel, which the network pays no heed to
        inputs = torch.randn(channels, 8, 8, generator=generator)
        inputs[0] += 3 * (index % 2)
        samples.append(Features(inputs.half(), ("dehaze", UNHARMED)[index % 2], 1.0))
    image = torch.rand(1, 3, 64, 64, generator=generator)
    haze = torch.eye(5)[[4]]
    with torch.no_grad():
        before = net(image, haze)[0].clamp(0, 1)
    right = sum(taken_right(Stage(net), samples, rows).values())
    fit(Stage(net), samples, rows, Namespace(seed=0, steps=60, batch_size=8, lr=3e-3))
    assert right < 16 and taken_right(Stage(net), samples, rows) == {UNHARMED: 8, "dehaze": 8}
    with torch.no_grad():
        assert psnr(net(image, haze)[0].clamp(0, 1), before) > 30


def test_cost_and_size_of_samples(photos):
    haze = next(entry for entry in DEGRADATIONS if entry.task == "dehaze")
    photo = np.kron(photos[0], np.ones((8, 8, 1), np.uint8))  # 640 x 768
    costs = []
    for seed in range(12):
        degraded, cost = damage(photo, haze, 256, np.random.default_rng(seed))
        assert degraded.shape == (256, 256, 3)
        costs.append(cost)
    assert all(0.25 <= cost <= 2 for cost in costs) and max(costs) > 2 * min(costs)
    assert damage(photo, None, None, np.random.default_rng(0))[0].shape == (512, 512, 3)
    assert damage(photos[0], None, 256, np.random.default_rng(0))[0].shape == (80, 96, 3)


def test_mistakes_of_a_user(fails, folder, photos, tmp_path):
    flags = ["--cuda", -1, "--ckpt_name", TINY, "--clean"]
    new = tmp_path / "new.safetensors"
    assert "expected a name ending in .safetensors" in fails(
        "scripts/refit", *flags, folder, "--output", tmp_path / "new.ckpt"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "leaves none to train on" in fails("scripts/refit", *flags, empty, "--output", new)
    assert "leaves none to train on" in fails(
        "scripts/refit", *flags, folder, "--output", new, "--hold_out", 1
    )
    short = ["--steps", 20, "--batch_size", 2, "--lr", 1e30]
    assert "--lr 1e+30: the training diverged" in fails(
        "scripts/refit", *flags, folder, "--output", new, *short
    )
    rain_only = save_untrained(tmp_path / "rain.ckpt")
    flags[3] = rain_only
    assert "trained on noise" in fails("scripts/refit", *flags, folder, "--output", new)
    flags[3] = TINY
    write_image(folder / "small.png", photos[0][:40])
    assert "small.png: smaller than 64" in fails("scripts/refit", *flags, folder, "--output", new)
    new.touch()
    assert "is there already" in fails("scripts/refit", *flags, folder, "--output", new)
