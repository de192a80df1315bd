"""Images restored as a whole in less memory come out as they would with more."""

from unittest.mock import Mock, call

import pytest
import torch

import net.streaming
import net.windows
from net import AMPromptIR
from net.checkpoint import SHIPPED, load_network
from tests.conftest import ROOT, chelsea
from tests.networks import Made, build, peak_of_tensors
from tests.straightforward import Straightforward
from utils import inference
from utils.inference import automatic_tile, is_streamed, restore


@pytest.mark.parametrize("name", AMPromptIR.configurations)
@pytest.mark.parametrize("size", [(2, 72, 104), (1, 8, 136)])
def test_the_function_is_the_straightforward_one(name, size, monkeypatch):
    monkeypatch.setattr(net.streaming, "PART", 40)
    streaming, image = build(name), torch.rand(size[0], 3, *size[1:])
    with torch.inference_mode():
        for named in (None, torch.eye(5)[: size[0]]):
            whole, scores = streaming(image, named, with_scores=True)
            tell = Mock()
            restored, found = streaming(image, named, True, streamed=True, on_region=tell)
            total = tell.call_count
            assert tell.call_args_list == [call(done, total) for done in range(1, total + 1)] != []
            assert (restored - whole).abs().max() < 1e-5
            assert (found - scores).abs().max() < 1e-5
        restored = streaming(image, streamed=True)
        assert (restored - Straightforward(streaming)(image)).abs().max() < 1e-5


def test_no_map_at_full_resolution_is_made(monkeypatch):
    monkeypatch.setattr(net.streaming, "PART", 64)
    monkeypatch.setattr(net.windows, "WINDOW_BYTES", 200_000)
    monkeypatch.setattr(net.windows, "LARGE_BYTES", 0)
    streaming, image = build("tiny"), torch.rand(1, 3, 256, 320)
    map_bytes = 16 / 3 * image.nbytes
    largest = []
    with torch.inference_mode():
        for streamed in (False, True):
            with Made() as made:
                streaming(image, streamed=streamed)
            largest.append(max(made.sizes))
    assert largest[0] >= 2 * map_bytes
    assert largest[1] <= map_bytes / 2  # that of [upsampled, skip] at level 2


def test_nothing_is_held_that_is_not_needed(monkeypatch):
    """Bytes a pixel at the peak, of `tiny`."""
    streaming, peaks = build("tiny"), {}
    image = torch.rand(1, 3, 512, 512)
    with torch.inference_mode():
        assert peak_of_tensors(lambda: streaming(image)) / 512**2 < 420  # 405 were measured
        monkeypatch.setattr(net.windows, "WINDOW_BYTES", net.windows.WINDOW_BYTES // 64)
        monkeypatch.setattr(net.windows, "LARGE_BYTES", net.windows.LARGE_BYTES // 64)
        monkeypatch.setattr(net.streaming, "PART", net.streaming.PART // 8)
        for side in (256, 512):
            part = image[:, :, :side, :side]
            peaks[side] = peak_of_tensors(lambda part=part: streaming(part, streamed=True))
    assert (peaks[512] - peaks[256]) / (512**2 - 256**2) < 66  # 63 were measured


def test_it_is_taken_where_memory_is_short(monkeypatch):
    streaming, image = build("tiny"), torch.rand(3, 61, 100)
    streaming.windows_bytes = 0  # far more than such an image takes
    pixels = 64 * 104
    fits = 2 * pixels * streaming.windowed_bytes_per_pixel
    fits_streamed = 2 * pixels * streaming.streamed_bytes_per_pixel
    asked = []
    forward = streaming.forward
    monkeypatch.setattr(
        streaming, "forward", lambda *given, **ways: asked.append(ways) or forward(*given, **ways)
    )
    results = []
    for free, tile in ((fits, None), (fits_streamed, None), (fits_streamed, 0), (0, 0)):
        results.append(restore(streaming, image, tile=tile, free=free))
    assert asked == [{}, *3 * [{"streamed": True, "on_region": None}]]
    for result in results[1:]:
        assert (result - results[0]).abs().max() < 1e-5
    asked.clear()
    restore(streaming, image, self_ensemble=True, free=0)
    restore(streaming, image, tile=64, free=0)
    assert [ways["streamed"] for ways in asked] == (4 + 3) * [True]
    with pytest.raises(ValueError, match="only with attention smam"):
        build("tiny", attention="mdta")(image[None, :, :56, :96], streamed=True)


@pytest.mark.parametrize(("tile", "given_back"), [(None, 1), (0, 1), (64, 0)])
def test_memory_that_is_kept_is_given_back_before(tile, given_back, monkeypatch):
    network, image = build("tiny"), torch.rand(3, 64, 104)
    network.windows_bytes = 0
    short, ample = 2 * 64 * 104 * network.windowed_bytes_per_pixel - 2, 10**12
    calls, free = [], iter([short, ample])
    monkeypatch.setattr(inference, "give_back_memory", lambda: calls.append(1) or True)
    monkeypatch.setattr(inference, "free_memory", lambda device: next(free))
    parts = []
    restore(network, image, tile=tile, on_part=parts.append)
    assert len(calls) == given_back and parts[0].tiles == (3 if tile else 1)
    monkeypatch.setattr(inference, "free_memory", lambda device: ample)
    restore(network, image, tile=tile)
    assert len(calls) == given_back


def test_when_it_is_taken():
    network, height, width = build("tiny"), 1000, 2000
    pixels = height * width
    whole = 2 * (network.windows_bytes + pixels * network.windowed_bytes_per_pixel)
    streamed = 2 * (1.5 * network.windows_bytes + pixels * network.streamed_bytes_per_pixel)
    for free, ways in (
        (whole, (False, True)),
        (whole - 10, (True, True)),
        (streamed, (True, True)),
        (streamed - 10, (True, False)),
    ):
        found = is_streamed(network, height, width, free)
        assert (found, automatic_tile(network, height, width, free) == 0) == ways
    assert not is_streamed(network, 512, 512, 0)  # where it would take no less
    assert not is_streamed(build("tiny", attention="mdta"), height, width, 0)
    assert not is_streamed(network.to("meta"), height, width, 0)  # that was not measured


def test_haze_comes_out_as_with_more_memory(monkeypatch):
    """In tiles it would not: it is told from the whole picture (PERFORMANCE.md)."""
    monkeypatch.setattr(net.streaming, "PART", 128)
    network = load_network(ROOT / "ckpt" / SHIPPED[0]).net
    clean, degraded = chelsea("dehaze")
    parts = []
    whole = restore(network, degraded)
    network.windows_bytes = 0
    free = 2 * 304 * 456 * network.streamed_bytes_per_pixel
    streamed = restore(network, degraded, tile=None, on_part=parts.append, free=free)
    assert not torch.equal(whole, streamed)
    # 3 x 4 regions are read for the strips of three blocks, for level 2 and for the result
    assert [part[:3] for part in parts] == [
        (done, 61, 300 * 451 if done == 61 else 0) for done in range(1, 62)
    ]
    assert all((part.scores is None, part.tiles) == (part.done < 61, 1) for part in parts)
    before, after = (-10 * (image - clean).square().mean().log10() for image in (whole, streamed))
    assert after > 20
    assert abs(before - after) < 0.001
