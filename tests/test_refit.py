"""Learning anew what a trained network takes pictures for, without touching the rest of it."""

import itertools

import numpy as np
import pytest
import torch

import scripts.refit
from data.datasets import add_map
from data.degradations import DEGRADATIONS
from data.pairing import Pair
from data.synthesis import Synthesis
from net.checkpoint import BESIDE_CODE, SHIPPED, load_network
from scripts.refit import UNHARMED, Features, Refit, Stage, cost_of, kinds_of, look, take
from tests.conftest import save_untrained
from utils.errors import UserError
from utils.image_io import write_image
from utils.metrics import psnr

TINY = BESIDE_CODE / SHIPPED[-1]
TABLE = {entry.name: entry for entry in DEGRADATIONS}


def show_map(image, found, generator):
    """In place of damage: the map in the last channel."""
    return np.dstack([image[..., :2], found.astype(np.uint8)])


COPY = TABLE["dehaze"]._replace(synthesis=Synthesis(show_map))


@pytest.fixture
def folder(photos, tmp_path):
    for index, photo in enumerate(photos[:3]):
        write_image(tmp_path / "photos" / f"{index}.png", photo)
    return tmp_path / "photos"


@pytest.fixture
def large(photos):
    """640 x 768."""
    return np.kron(photos[0], np.ones((8, 8, 1), np.uint8))


def taken(photo, kind, side=256, seed=0):
    degradation = TABLE.get(kind, TABLE["denoise_15"])
    images = add_map([photo], degradation, Pair(None, "photo"))
    return take(images, degradation, side, kind == UNHARMED, np.random.default_rng(seed))


@pytest.mark.parametrize("half", [False, True])
def test_only_the_stage_changes(run_script, folder, tmp_path, half):
    flags = ["--clean", folder, "--ckpt_name", TINY, "--steps", 2, "--batch_size", 2, "--cuda", -1]
    flags += ["--half"] * half
    files = [tmp_path / f"{index}.safetensors" for index in range(3)]
    for file, seed in zip(files, (5, 5, 6), strict=True):
        result = run_script("scripts/refit", *flags, "--output", file, "--seed", seed)
        assert result.code == 0, result.err
        assert "of 1 held out" in result.out and "| dehaze" in result.out
    contents = [file.read_bytes() for file in files]
    assert contents[0] == contents[1] and contents[0] != contents[2]
    assert (len(contents[0]) < 1.2 * TINY.stat().st_size) == half  # as that file is

    before, after = load_network(TINY), load_network(files[0])
    told = after.net.origin["hyper_parameters"].pop("refitted")
    assert told["of"] == before.description["sha256"]
    assert (told["steps"], told["batch_size"], told["seed"]) == (2, 2, 5)
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


def fitted(fidelity, monkeypatch):
    """A network whose stage learnt what one channel of 16 samples tells; how many it knew before,
    and does after, the departure, and in dB how near its results with haze named stayed."""
    monkeypatch.setattr(scripts.refit, "FIDELITY", fidelity)
    net = load_network(TINY).net
    rows = {UNHARMED: 0, "dehaze": 4}
    generator = torch.Generator().manual_seed(0)
    channels = net.latent[0].attention.channels
    samples = []
    for index in range(16):  # a channel that the network pays no heed to; of two shapes
        inputs = torch.randn(channels, 8, 8 + index // 15, generator=generator)
        inputs[0] += 3 * (index % 2)
        samples.append(Features(inputs.half(), ("dehaze", UNHARMED)[index % 2], 1.0))
    image = torch.rand(1, 3, 64, 64, generator=generator)
    haze = torch.eye(5)[[4]]
    with torch.no_grad():
        before = net(image, haze)[0].clamp(0, 1)
    refit = Refit(net, samples, rows, seed=0)
    known, unmoved = refit.measure(samples)
    assert unmoved == 0
    refit.fit(steps=100, patches=8, lr=3e-3)
    right, departure = refit.measure(samples)
    with torch.no_grad():
        return known.total(), right, departure, psnr(net(image, haze)[0].clamp(0, 1), before)


def test_it_learns_and_hands_on_what_it_did(monkeypatch):
    known, right, departure, nearness = fitted(5.0, monkeypatch)
    assert known < 10 and min(right[UNHARMED], right["dehaze"]) >= 7
    known, right, free_departure, free_nearness = fitted(0.0, monkeypatch)
    assert known < 10 and min(right[UNHARMED], right["dehaze"]) >= 7
    assert departure < 0.2 * free_departure and nearness > free_nearness + 10


def test_the_dearer_label_wins_and_all_shapes_are_drawn():
    net = load_network(TINY).net
    generator = torch.Generator().manual_seed(0)
    samples, right = [], []
    for size, dear in ((8, "dehaze"), (48, UNHARMED)):  # the latter of more pixels than a patch
        inputs = torch.randn(net.latent[0].attention.channels, size, size, generator=generator)
        for kind in ("dehaze", UNHARMED):
            samples.append(Features(inputs.half(), kind, 3.0 if kind == dear else 0.3))
            right.append(int(kind == dear))
    refit = Refit(net, samples, {UNHARMED: 0, "dehaze": 4}, seed=0)
    refit.fit(steps=60, patches=8, lr=3e-3)
    found = [refit.measure([sample])[0].total() for sample in samples]
    assert found == right


def test_damage(large):
    clean = taken(large, UNHARMED, seed=1)
    assert clean.untouched and psnr(clean.degraded, clean.clean) > 30  # JPEG at most
    harm = [psnr(*taken(large, f"denoise_{sigma}")[:2]) for sigma in (15, 25, 50)]
    assert np.allclose(harm, [24.6, 20.2, 14.6], atol=1)  # 20 log10(255 / sigma), a bit clipped
    rainy = taken(large, "derain", seed=2)
    assert (rainy.degraded - rainy.clean).mean() > 0.005  # streaks are bright
    samples = [taken(large, UNHARMED, seed=seed) for seed in range(40)]
    grey = [np.ptp(sample.clean.numpy(), axis=0).max() == 0 for sample in samples]
    compressed = [not torch.equal(sample.degraded, sample.clean) for sample in samples]
    assert 0 < sum(grey) < 20 and 0 < sum(compressed) < 20


def test_the_denser_the_haze_the_dearer_a_mistake(large):
    samples = [taken(large, "dehaze", seed=seed) for seed in range(12)]
    harm = [psnr(sample.degraded, sample.clean) for sample in samples]
    costs = [cost_of(sample, "dehaze") for sample in samples]
    order = np.argsort(harm)
    assert np.all(np.diff(np.array(costs)[order]) <= 0) and costs[order[0]] > 2 * costs[order[-1]]
    assert all(0.25 <= cost <= 2 for cost in costs)


def test_windows():
    """A photograph of its own coordinates, and its map, stay together."""
    rows, columns = np.mgrid[:128, :192].astype(np.uint8)
    photo, seen = np.stack([rows, columns, rows], axis=2), set()
    for seed in range(40):
        images = [columns.astype(np.float32), photo]
        window = take(images, COPY, 64, False, np.random.default_rng(seed)).degraded * 255
        if window[0, 0, 0] == window[0, 0, 1] and window[0, 1, 0] - window[0, 0, 0] == 1:
            step = int(window[1, 0, 1] - window[1, 0, 0])
            assert torch.equal(window[1], window[2]) and abs(step) == 1
            seen.add((int(window[0, 0, 0]), step))
    assert len({top for top, _ in seen}) > 5 and {step for _, step in seen} == {1, -1}


def test_sizes(large, photos):
    assert taken(large, "dehaze").degraded.shape == (3, 256, 256)
    assert taken(large, UNHARMED, None).degraded.shape == (3, 512, 512)
    assert taken(photos[0], "dehaze", None).degraded.shape == (3, 64, 64)  # of 80 x 96


@torch.no_grad()
def test_features_are_what_the_stage_takes_in(large, tmp_path):
    write_image(tmp_path / "0.png", large[:256, :256])
    write_image(tmp_path / "1.png", large[-256:, -256:])
    files = sorted(tmp_path.iterdir())
    trained = load_network(TINY)
    kinds, rows = kinds_of(trained)
    assert rows == {**{name: row for row, name in enumerate(TABLE)}, UNHARMED: 0}
    sides = {"dehaze": (64, 64), UNHARMED: (None,)}
    samples = list(look(trained.net, files, kinds, sides, seed=0))
    assert [sample.kind for sample in samples] == 2 * ["dehaze", "dehaze", UNHARMED]
    again = list(look(trained.net, files, kinds, sides, seed=0))
    assert all(torch.equal(one.inputs, two.inputs) for one, two in zip(samples, again, strict=True))
    others = list(look(trained.net, files, kinds, sides, seed=1))
    found = [sample.inputs for sample in samples + others if sample.kind == "dehaze"]
    assert not any(torch.equal(one, two) for one, two in itertools.combinations(found, 2))

    clean = take(
        [large[:256, :256]], TABLE["denoise_15"], None, True, np.random.default_rng((0, 0, 2))
    )
    taken_in = []
    trained.net.latent.register_forward_pre_hook(lambda module, x: taken_in.append(x[0].clone()))
    scores = trained.net(clean.degraded[None], with_scores=True)[1][:, 0]
    inputs = samples[2].inputs[None]
    assert torch.equal(inputs, taken_in[0].half())
    assert torch.allclose(Stage(trained.net)(inputs.float())[1], scores, atol=0.02)


def test_features_beyond_16_bits(folder):
    trained = load_network(TINY)
    torch.nn.init.constant_(trained.net.downsamples[2].conv.weight, 1e6)
    kinds, _ = kinds_of(trained)
    with pytest.raises(UserError, match="than 16 bits hold"):
        list(look(trained.net, sorted(folder.iterdir()), kinds, {UNHARMED: (64,)}, seed=0))


def test_which_photographs_are_held_out(folder, capsys, photos, tmp_path, monkeypatch):
    seen = []

    def note(net, photos, *others):
        seen.append([photo.name for photo in photos])
        return look(net, photos, *others)

    flags = ["--clean", folder, "--ckpt_name", TINY, "--output", tmp_path / "new.safetensors"]
    flags += ["--steps", 1, "--hold_out", 2, "--cuda", -1]
    write_image(folder / "101085.png", photos[0])
    monkeypatch.setattr("scripts.refit.look", note)
    monkeypatch.setattr("sys.argv", ["refit.py", *map(str, flags)])
    assert scripts.refit.main() == 0
    assert seen == [["1.png"], ["0.png", "2.png"]]
    told = "left out: photographs that by their names show 1 scene of CBSD68"
    assert told in capsys.readouterr().out


def test_rows_of_another_order_or_number():
    trained = load_network(TINY)
    turned = trained._replace(degradations=trained.degradations[::-1])
    expected = {**{name: 4 - row for row, name in enumerate(TABLE)}, UNHARMED: 4}
    assert kinds_of(turned)[1] == expected
    assert kinds_of(trained._replace(degradations=[]))[1][UNHARMED] == 0  # of a net without text
    for names in (["denoise_15", "derain"], ["a", "b", "c", "d", "e"]):
        with pytest.raises(UserError, match="is not known"):
            kinds_of(trained._replace(degradations=names))


def test_mistakes_of_a_user(fails, folder, photos, tmp_path):
    flags = ["--cuda", -1, "--ckpt_name", TINY, "--clean"]
    new = tmp_path / "new.safetensors"
    assert "expected a file name like new.safetensors" in fails(
        "scripts/refit", *flags, folder, "--output", tmp_path / "new.ckpt"
    )
    empty = tmp_path / "empty"
    assert "no such file or directory" in fails("scripts/refit", *flags, empty, "--output", new)
    empty.mkdir()
    assert "no pictures in it" in fails("scripts/refit", *flags, empty, "--output", new)
    assert "leaves none to train on" in fails(
        "scripts/refit", *flags, folder, "--output", new, "--hold_out", 1
    )
    assert "--batch_size" in fails(
        "scripts/refit", *flags, folder, "--output", new, "--batch_size", 2**62
    )
    for steps in (1, 20):
        short = ["--steps", steps, "--batch_size", 2, "--lr", 1e30]
        assert "--lr 1e+30: the training diverged" in fails(
            "scripts/refit", *flags, folder, "--output", new, *short
        )
    untrained = tmp_path / "rain.ckpt"
    flags[3] = save_untrained(untrained)
    assert "trained on noise" in fails("scripts/refit", *flags, folder, "--output", new)
    content = torch.load(untrained, weights_only=True)
    content["hyper_parameters"]["trained"] = ["denoise_25"]
    torch.save(content, untrained)
    message = fails("scripts/refit", *flags, folder, "--output", new)
    assert "was not trained to tell degradations apart" in message
    flags[3] = TINY
    write_image(folder / "small.png", photos[0][:40])
    assert "small.png: smaller than 64" in fails("scripts/refit", *flags, folder, "--output", new)
    new.touch()
    assert "is there already" in fails("scripts/refit", *flags, folder, "--output", new)
    assert not new.read_bytes()
