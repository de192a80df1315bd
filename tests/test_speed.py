"""What makes the network fast leaves its function, its gradients and its training alone."""

import copy
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import net.attention
import net.feedforward
import net.windows
from net import AMPromptIR
from net.attention import SMAM
from net.checkpoint import read_checkpoint
from net.contract import RestorationNetwork
from net.depthwise import depthwise
from net.fusion import FEFM
from net.layers import TransformerBlock, Upsample
from net.windows import add_in_windows, bands, is_large
from tests.networks import Made, build
from tests.straightforward import Straightforward, transformer_block
from utils.losses import restoration_loss

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", AMPromptIR.configurations)
def test_the_function_is_the_straightforward_one(name):
    net = build(name)
    image = torch.rand(2, 3, 72, 104)
    with torch.inference_mode():
        assert (net(image) - Straightforward(net)(image)).abs().max() < 1e-5


@pytest.mark.parametrize("name", AMPromptIR.configurations)
@pytest.mark.parametrize("size", [(2, 72, 104), (1, 8, 264), (3, 136, 16)])
def test_large_images_take_no_second_one_and_change_nothing(name, size, monkeypatch):
    fast = build(name)
    image = torch.rand(size[0], 3, *size[1:])
    with torch.inference_mode():
        expected = Straightforward(fast)(image)
        monkeypatch.setattr(net.windows, "WINDOW_BYTES", 50_000)
        monkeypatch.setattr(net.windows, "LARGE_BYTES", 0)
        monkeypatch.setattr(net.windows, "_AddInWindows", None)  # it makes a second image
        assert (fast(image) - expected).abs().max() < 1e-5


def test_large_images_are_restored_where_they_are(monkeypatch):
    monkeypatch.setattr(net.windows, "WINDOW_BYTES", 10_000)
    monkeypatch.setattr(net.windows, "LARGE_BYTES", 0)
    torch.manual_seed(0)
    block, upsample = TransformerBlock(8, 2.66), Upsample(8, 8)
    x, small, skip = (
        torch.rand(1, 8, *size).to(memory_format=torch.channels_last)
        for size in ((64, 96), (64, 96), (128, 192))
    )
    with torch.no_grad():
        with Made() as made:
            block(x)
        assert max(made.sizes) < x.nbytes
        expected = torch.cat([upsample(small), skip], dim=1)
        with Made() as made:
            joined = upsample.beside(small, skip)
        assert torch.allclose(joined, expected, atol=1e-6)
        assert [size for size in made.sizes if size >= skip.nbytes] == [joined.nbytes]


@pytest.mark.parametrize("size", [(1, 61, 40), (3, 24, 17), (5, 8, 8), (5, 4, 6), (2, 1, 90)])
@pytest.mark.parametrize("expansion", [2.66, 3.0])  # an odd and an even number of hidden channels
def test_windows_change_neither_result_nor_gradients(size, expansion, monkeypatch):
    monkeypatch.setattr(net.windows, "WINDOW_BYTES", 10_000)
    torch.manual_seed(0)
    block = TransformerBlock(8, expansion).double()
    batch, height, width = size
    x = torch.randn(batch, 8, height, width, dtype=torch.float64, requires_grad=True)
    assert len(list(net.windows._windows(x.shape, 4, 42))) > 1
    weights = torch.randn_like(x)
    expected = transformer_block(x, block)
    result = block(x)
    assert torch.allclose(result, expected, rtol=0, atol=1e-12)
    leaves = [x, *block.parameters()]
    for found, right in zip(
        torch.autograd.grad((result * weights).sum(), leaves),
        torch.autograd.grad((expected * weights).sum(), leaves),
        strict=True,
    ):
        assert torch.allclose(found, right, rtol=1e-9, atol=1e-11)


def test_a_function_is_only_called_where_windows_do_not_pay(monkeypatch):
    calls = []

    def function(x, weight):
        calls.append(x.shape)
        return x * weight

    x, weight = torch.rand(1, 4, 64, 64), torch.rand(1)
    add_in_windows(x, function, [x], [weight], radius=1, channels=4)
    assert len(calls) == 1
    monkeypatch.setattr(net.windows, "WINDOW_BYTES", 4 * 4 * 40 * 40)
    with torch.autocast("cpu", torch.bfloat16):
        add_in_windows(x, function, [x], [weight], radius=1, channels=4)
    far = x.to("meta")
    add_in_windows(far, function, [far], [weight.to("meta")], radius=1, channels=4)
    assert len(calls) == 3
    add_in_windows(x, function, [x], [weight], radius=1, channels=4)
    assert len(calls) == 3 + 4


@pytest.mark.parametrize(("batch", "width", "most"), [(1, 50, 10), (2, 50, 5), (1, 5000, 1)])
def test_bands_fit_into_a_window_and_fill_the_image(batch, width, most, monkeypatch):
    monkeypatch.setattr(net.windows, "WINDOW_BYTES", 4 * 8 * 50 * 10)  # 10 rows of 50, 8 channels
    spans = bands(torch.empty(batch, 3, 97, width, device="meta"), channels=8, radius=1)
    assert [row for span in spans for row in range(97)[span.write]] == list(range(97))
    assert max(len(range(97)[span.write]) for span in spans) == most
    for span in spans:
        read = range(97)[span.read]
        assert list(read)[span.inner] == list(range(97)[span.write])
        assert read[0] == max(0, span.write.start - 1) and read[-1] == min(96, span.write.stop)


def test_images_are_large_above_some_size_where_no_gradient_goes():
    pixels = net.windows.LARGE_BYTES // 4
    for extra, large in ((0, False), (1, True)):
        with torch.no_grad():
            assert is_large(torch.empty(1, 1, 1, pixels + extra)) is large
        assert not is_large(torch.empty(1, 1, 1, pixels + extra))
    with torch.no_grad():
        assert not is_large(torch.empty(1, 1, 2, pixels, device="meta"))


@pytest.mark.parametrize("size", [3, 5])
def test_gradients_of_a_depthwise_convolution(size):
    torch.manual_seed(0)
    x = torch.randn(2, 6, 9, 12, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(6, 1, size, size, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(x)
    expected = F.conv2d(x, kernel, padding=size // 2, groups=6)
    result = depthwise(x, kernel)
    assert torch.equal(result, expected)
    for found, right in zip(
        torch.autograd.grad((result * weights).sum(), [x, kernel]),
        torch.autograd.grad((expected * weights).sum(), [x, kernel]),
        strict=True,
    ):
        assert torch.allclose(found, right, rtol=1e-12, atol=1e-12)


def test_only_without_gradients_the_input_may_hold_the_result(monkeypatch):
    monkeypatch.setattr(net.windows, "WINDOW_BYTES", 10_000)
    torch.manual_seed(0)
    block = TransformerBlock(8, 2.66)
    kept = torch.randn(1, 8, 40, 48).to(memory_format=torch.channels_last)
    expected = block(kept.clone())
    for gradients in (True, False):
        x = kept.clone()
        with torch.set_grad_enabled(gradients):
            assert torch.allclose(block(x), expected, atol=1e-6)
        assert torch.equal(x, kept) == gradients


def test_kept_weights_are_made_once_and_let_go(monkeypatch):
    calls = []
    prepare = SMAM.prepare
    monkeypatch.setattr(SMAM, "prepare", lambda module: calls.append(module) or prepare(module))
    fast = build().eval()
    image = torch.rand(1, 3, 32, 40)
    with torch.inference_mode():
        expected = fast(image)
        blocks = len(calls)
        assert blocks == len(set(calls)) > 0
        keepers = [fast.weights_kept(), fast.weights_kept()]
        for keeper in keepers:
            keeper.__enter__()
        assert torch.equal(fast(image), expected)
        keepers[0].__exit__(None, None, None)  # as threads may end, in any order
        assert torch.equal(fast(image), expected)
        assert torch.allclose(fast(image, streamed=True), expected, atol=1e-6)
        keepers[1].__exit__(None, None, None)
        assert len(calls) == 2 * blocks
        fast.latent[0].attention.local_out.weight.zero_()
        assert not torch.equal(fast(image), expected)


def test_kept_weights_serve_neither_gradients_nor_copies():
    fast, other = build().eval(), build().eval()
    for weight in other.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    image = torch.rand(1, 3, 32, 40)
    with fast.weights_kept():
        copied = copy.deepcopy(fast)
        fast(image).sum().backward()
    assert all(parameter.grad is not None for parameter in fast.parameters())
    copied.load_state_dict(other.state_dict())
    with torch.inference_mode():
        assert torch.equal(copied(image), other(image))


def test_the_gate_of_fefm_leaves_no_map_but_its_input_and_result(monkeypatch):
    monkeypatch.setattr(net.windows, "WINDOW_BYTES", 20_000)
    fusion, x = FEFM(16, reduction=4), torch.rand(1, 32, 64, 96)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), Made() as made:
        result = fusion(x)
    assert sum(size >= result.nbytes / 2 for size in made.sizes) == 2


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_kept_weights_are_not_for_what_is_compiled_or_traced(monkeypatch):
    """On a GPU kernels take them in a form of their own, which others cannot use."""
    fast = build(width=10).eval()  # a number of channels that is padded there
    image = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        expected = fast(image)
        for module in (net.attention, net.feedforward):
            monkeypatch.setattr(
                module,
                "is_eager_gpu",
                lambda x: not (torch.compiler.is_compiling() or torch.jit.is_tracing()),
            )
        with fast.weights_kept():
            traced = torch.jit.trace(fast, image, check_trace=False)  # not eagerly
            assert torch.allclose(traced(image), expected, atol=1e-6)
            fast.compile_blocks(backend="eager")
            assert torch.allclose(fast(image), expected, atol=1e-6)


def test_training_goes_as_with_the_straightforward_network(monkeypatch):
    """The first 20 losses from one seed."""
    monkeypatch.setattr(net.windows, "WINDOW_BYTES", 200_000)
    fast = build()
    slow = Straightforward(copy.deepcopy(fast))
    losses = []
    for network in (fast, slow):
        generator = torch.Generator().manual_seed(0)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        losses.append([])
        for _ in range(20):
            clean = torch.rand(2, 3, 32, 32, generator=generator)
            noise = torch.randn(2, 3, 32, 32, generator=generator)
            loss = restoration_loss(network(clean + 0.1 * noise), clean, 0.01)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0][-1] < losses[0][0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0][:5] == pytest.approx(losses[1][:5], rel=1e-5)


def test_the_benchmark_says_what_it_measured(run_script):
    flags = "--configuration tiny --sizes 40 64x48 --rounds 1 --batch_size 1 --patch_size 16"
    result = run_script("scripts/benchmark", *flags.split(), "--cuda", -1)
    assert result.code == 0, result.err
    report = json.loads(result.out.splitlines()[-1])
    networks = {"am_promptir", "straightforward", "promptir", "restormer"}
    for key in (
        "parameters",
        "macs",
        "training_seconds",
        "moved_bytes",
        "peak_bytes",
        "training_peak_bytes",
    ):
        assert set(report[key]) == networks
    assert list(report["inference_seconds"]) == ["40", "64x48"]
    assert report["macs"]["am_promptir"] < report["macs"]["straightforward"]
    assert report["moved_bytes"]["am_promptir"] > 2 * 4 * 3 * 64 * 48
    assert report["largest_difference"] < 1e-5


def test_the_benchmark_of_sizes(run_script):
    flags = "--configuration tiny --megapixels 0.005 0.02 --memory_gb 0.02"
    result = run_script("scripts/benchmark_size", *flags.split())
    assert result.code == 0, result.err
    small, large = json.loads(result.out.splitlines()[-1])
    assert (small["way"], large["way"]) == ("whole", "in tiles of 72")
    assert 0 < small["cpu_seconds"] < large["cpu_seconds"]
    assert small["peak"] > 0


@pytest.mark.parametrize("size", ["0", "99999", "64x", "ax3", "1x2x3", "-8"])
def test_sizes_of_the_benchmark(size, fails):
    assert "expected pixels a side" in fails("scripts/benchmark", f"--sizes={size}")


def test_other_limits_of_the_benchmarks(fails):
    assert "a multiple of 8" in fails("scripts/benchmark", "--patch_size=12")
    for size in ("1e-7", "1e9"):
        assert "from 0.001 to 1000" in fails("scripts/benchmark_size", f"--megapixels={size}")


def test_a_traced_network_computes_the_same():
    """What torch.compile traces, without the code generation, which needs a compiler."""
    net = build()
    traced = copy.deepcopy(net)
    traced.compile_blocks(backend="aot_eager")
    image = torch.rand(1, 3, 32, 40)
    outputs = [network(image) for network in (net, traced)]
    assert torch.allclose(*outputs, atol=1e-5)
    other, copied = build(), copy.deepcopy(traced)
    other.load_state_dict({name: 0.9 * value for name, value in net.state_dict().items()})
    copied.load_state_dict(other.state_dict())
    assert torch.allclose(copied(image), other(image), atol=1e-5)  # with its own weights
    gradients = [
        torch.autograd.grad(output.square().mean(), list(network.parameters()))
        for output, network in zip(outputs, (net, traced), strict=True)
    ]
    for plain, compiled in zip(*gradients, strict=True):
        assert torch.allclose(plain, compiled, rtol=1e-3, atol=1e-6)


def test_a_compiled_training_saves_what_any_does(run_script, train_flags, monkeypatch, tmp_path):
    compile_blocks = RestorationNetwork.compile_blocks
    monkeypatch.setattr(
        RestorationNetwork, "compile_blocks", lambda net: compile_blocks(net, backend="aot_eager")
    )
    flags = ["--de_type", "denoise_25", "--max_steps", 2, "--seed", 0]
    runs = {"plain": [], "compiled": ["--compile"]}
    for name, more in runs.items():
        result = run_script("train", *train_flags, *flags, *more, "--ckpt_dir", tmp_path / name)
        assert result.code == 0, result.err
        assert "validation PSNR" in result.out + result.err
    plain, compiled = (
        read_checkpoint(tmp_path / name / "last.ckpt")["state_dict"] for name in runs
    )
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        assert torch.allclose(value, compiled[name], atol=1e-3), name


def run_kernels(script):
    """What a script prints that runs the GPU's kernels on the CPU, in Triton's interpreter."""
    pytest.importorskip("triton", reason="comes with PyTorch for CUDA")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [float(value) for value in done.stdout.split()]


def test_one_kernel_normalises_as_layer_norm_does():
    errors = run_kernels(NORMALISE)
    assert len(errors) == 12 and max(errors) < 1e-5


def test_fused_parts_compute_what_operations_do():
    """Outputs and gradients in float32 and bfloat16, and that NaN is not hidden."""
    errors = run_kernels(FUSED)
    assert len(errors) == 2 * 42
    assert max(errors[::2]) < 1e-5 and max(errors[1::2]) < 5e-3


KERNELS = {  # with what a network of `small` gives each at full resolution
    "fused._spread": dict(channels=204, size=1024),
    "fused._gather": dict(channels=204, side=16, padded=256, band=32),
    "fused._gate": dict(size=1024),
    "fused._gate_back": dict(size=1024),
    "fused._add_first": dict(wide_channels=72, channels=68, size=1024),
    "fused._widen": dict(wide_channels=72, channels=68, size=1024),
    "fused._exchange": dict(hidden=45, size=1024),
    "fused._exchange_back": dict(hidden=45, size=1024),
    "fused._merge": dict(hidden=45, size=1024),
    "fused._merge_back": dict(hidden=45, size=1024),
    "channel_norm._forward": dict(channels=68, rows=16, columns=128),
    "channel_norm._backward": dict(channels=68, rows=16, columns=128),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_compiled_for_a_gpu(name):
    """To machine code, which takes no GPU: the interpreter also runs what a GPU cannot."""
    pytest.importorskip("triton", reason="comes with PyTorch for CUDA")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    module, function = name.split(".")
    kernel = getattr(importlib.import_module(f"net.{module}"), function)
    constants = KERNELS[name]
    kinds = {"epsilon": "fp32", **dict.fromkeys(constants, "constexpr")}
    signature = {
        argument: "*bf16" if argument.endswith("_pointer") else kinds.get(argument, "i32")
        for argument in kernel.arg_names
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = compile(source, target=GPUTarget("cuda", 80, 32))
    assert compiled.asm["cubin"]


def test_a_network_of_kernels_is_the_straightforward_one():
    """Outputs, those of kept weights, and gradients, of `tiny` and of blocks as published."""
    values = run_kernels(WHOLE)
    assert len(values) == 6
    outputs, kept, gradients = (values[start::3] for start in range(3))
    assert max(outputs + kept) < 1e-5 and max(gradients) < 1e-4


NORMALISE = """
import torch
from net.channel_norm import ChannelNorm

for channels, height, width in ((34, 5, 7), (68, 33, 20), (3, 1, 1)):
    x = torch.randn(2, channels, height, width, requires_grad=True)
    weight, bias = torch.randn(2, channels).unbind()
    inputs = x, weight.requires_grad_(), bias.requires_grad_()
    gradient = torch.randn_like(x)
    results = []
    for double in (False, True):
        if double:
            inputs = [value.detach().double().requires_grad_() for value in inputs]
            rows = inputs[0].permute(0, 2, 3, 1)
            result = torch.layer_norm(rows, (channels,), *inputs[1:], 1e-5).permute(0, 3, 1, 2)
        else:
            result = ChannelNorm.apply(*inputs, 1e-5)
        found = torch.autograd.grad(result, inputs, gradient.to(result.dtype))
        results.append((result, *found))
    for ours, right in zip(*results, strict=True):
        print(((ours - right).norm() / (1e-3 + right.norm())).item())
"""

FUSED = """
import torch
from net.fused import AddFirst, Exchange, Gate, MergePairs, SpreadStrips

def exchange(fine, coarse):
    pairs = zip(fine.relu().chunk(2, dim=1), coarse.relu().chunk(2, dim=1))
    return tuple(torch.cat(pair, dim=1) for pair in pairs)

def merge(*images):
    return torch.cat([image[:, ::2] + image[:, 1::2] for image in images], dim=1).relu()

cases = []
for batch, channels, height, width in ((2, 9, 35, 7), (1, 3, 5, 70), (2, 204, 33, 20)):
    strips = torch.randn(batch, channels, height, 1), torch.randn(batch, channels, 1, width)
    cases.append((SpreadStrips, lambda rows, columns: (rows + columns).relu(), strips))
for hidden, height, width in ((5, 7, 9), (4, 33, 6), (45, 12, 11)):
    images = torch.randn(2, 2, 2 * hidden, height, width)
    cases += [(Exchange, exchange, images), (MergePairs, merge, images)]
for channels, wide in ((5, 8), (68, 72)):
    x, other = torch.randn(2, 2, channels, 7, 9)
    cases.append((Gate, lambda scores, x: scores.sigmoid() * x, (x, other)))
    added = torch.randn(2, wide, 7, 9), x
    cases.append((AddFirst, lambda wide, x: wide[:, : x.shape[1]] + x, added))

for ours, right, inputs in cases:
    results = []
    gradients = None
    for value in inputs:  # a relu of exactly 0
        value[..., :2, :1] = 0
    functions = (torch.float32, ours.apply), (torch.bfloat16, ours.apply), (torch.float64, right)
    for dtype, function in functions:
        leaves = [value.bfloat16().to(dtype).requires_grad_() for value in inputs]
        outputs = function(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        gradients = gradients or [torch.randn_like(output).bfloat16() for output in outputs]
        found = torch.autograd.grad(outputs, leaves, [value.to(dtype) for value in gradients])
        results.append((*outputs, *found))
    for exact, coarse, wanted in zip(*results, strict=True):
        assert exact.shape == coarse.shape == wanted.shape and coarse.dtype == torch.bfloat16
        print(*(((one - wanted).norm() / wanted.norm()).item() for one in (exact, coarse)))
    for index, value in enumerate(inputs):
        broken = list(inputs)
        broken[index] = torch.full_like(value, torch.nan)
        outputs = ours.apply(*broken)
        for output in outputs if isinstance(outputs, tuple) else (outputs,):
            assert output.isnan().any()
"""

WHOLE = """
import torch
from net import AMPromptIR, attention, feedforward, layers
from tests.straightforward import Straightforward

for module in (attention, feedforward, layers):
    module.is_eager_gpu = lambda x: True
published = dict(width=10, blocks=(1, 1, 1, 1), refinement_blocks=0, prompt_sizes=(4, 2, 2))
for arguments in (AMPromptIR.configurations["tiny"], published):
    torch.manual_seed(0)
    net = AMPromptIR(**arguments, text="learned").double()
    for parameter in net.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    image = torch.rand(2, 3, 8, 16).double()
    gradients = []
    for function in (Straightforward(net), net):
        output = function(image)
        found = torch.autograd.grad((output - 0.3).square().mean(), list(net.parameters()))
        gradients.append(torch.cat([value.flatten() for value in found]))
        if function is not net:
            expected = output
    with torch.no_grad(), net.weights_kept():
        kept = net(image)
    print((output - expected).abs().max().item(), (kept - expected).abs().max().item())
    print(((gradients[1] - gradients[0]).norm() / gradients[0].norm()).item())
"""
