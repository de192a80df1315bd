"""The modules match the golden outputs; the network has the properties its documentation claims."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from net import NETWORKS
from net.attention import SMAM
from net.complexity import COUNTED_SIZE, count_macs, count_parameters
from net.feedforward import FFN
from net.fusion import FEFM
from net.prompts import FIM

TRAINABLE = {name: network for name, network in NETWORKS.items() if network.trainable}
EVERY_NETWORK = pytest.mark.parametrize(
    ("name", "configuration", "chosen"),
    [(name, size, {}) for name, network in TRAINABLE.items() for size in network.configurations]
    + [
        ("am_promptir", "tiny", chosen)
        for chosen in ({"text": "none"}, {"attention": "mdta"}, {"fusion": "concatenation"})
    ],
)
MODULES = {
    "smam": (lambda: SMAM(24), ("input",)),
    "ffn": (lambda: FFN(24, 2.66), ("input",)),
    "fefm": (lambda: FEFM(24, reduction=4), ("input",)),
    "fim": (lambda: FIM(48), ("image_prompt", "text_prompt")),
}


def build(name: str, configuration: str, seed: int = 0, **chosen: str) -> torch.nn.Module:
    """A network whose last convolution is not zero, as it would be after the first step."""
    torch.manual_seed(seed)
    if name == "am_promptir":
        chosen = {"text": "learned", **chosen}
    net = NETWORKS[name](**NETWORKS[name].configurations[configuration], **chosen)
    torch.nn.init.normal_(net.output.weight, std=0.02)
    return net


def relative_error(output: torch.Tensor, expected: torch.Tensor) -> float:
    return float((output - expected).detach().abs().max() / expected.detach().abs().max())


@pytest.mark.parametrize("name", MODULES)
def test_module_matches_golden(name, golden):
    make, input_names = MODULES[name]
    arrays = {
        key: torch.from_numpy(value) for key, value in np.load(golden / f"{name}.npz").items()
    }
    expected = arrays.pop("output")
    inputs = [arrays.pop(key) for key in input_names]
    module = make()
    module.load_state_dict(arrays)  # the golden names are ours, every weight is there
    with torch.no_grad():
        assert relative_error(module(*inputs), expected) < 1e-5  # 5e-7 was measured


def test_smam_rewrites_change_nothing():
    torch.manual_seed(0)
    module, x = SMAM(8).double(), torch.rand(2, 8, 12, 20, dtype=torch.double)
    local = module.local_out(F.relu(module.local_in(x)))
    rows = module.strip_rows(x.mean(3, keepdim=True)).expand(-1, -1, -1, 20)
    columns = module.strip_columns(x.mean(2, keepdim=True)).expand(-1, -1, 12, -1)
    gate = module.strip_gate(F.relu(module.strip_mix(rows + columns))).sigmoid()
    expected = module.project_out(torch.cat([local, gate * x], dim=1))
    assert relative_error(module(x), expected) < 1e-12


def test_fim_takes_a_constant_text_prompt_for_a_map():
    torch.manual_seed(0)
    module, image, text = FIM(32), torch.rand(2, 32, 9, 11), torch.rand(2, 32, 1, 1)
    expected = module(image, text.expand(-1, -1, 9, 11).contiguous())
    assert relative_error(module(image, text), expected) < 1e-6


@EVERY_NETWORK
def test_every_parameter_gets_a_gradient(name, configuration, chosen):
    without = None
    for seed in range(5):  # a ReLU of one unit (`tiny` has such) may be dead for one start
        net = build(name, configuration, seed, **chosen)
        net(torch.rand(2, 3, 16, 16)).square().mean().backward()
        dead = {key for key, weight in net.named_parameters() if not torch.any(weight.grad)}
        without = dead if without is None else without & dead
        if not without:
            break
    assert without == set()


@pytest.mark.parametrize("name", TRAINABLE)
def test_output_does_not_depend_on_the_rest_of_the_batch(name):
    net, images = build(name, "tiny").eval(), torch.rand(3, 3, 32, 40)
    with torch.no_grad():
        alone, together = net(images[:1]), net(images)[:1]
    assert torch.allclose(alone, together, atol=1e-6)


@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.parametrize("size", [(8, 8), (16, 72), (120, 88)])
def test_any_multiple_of_8(name, size):
    net = build(name, "tiny").eval()
    with torch.no_grad():
        assert net(torch.rand(1, 3, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize("name", TRAINABLE)
def test_wrong_size_is_named(name):
    with pytest.raises(ValueError, match=r"20 x 32 pixels.*multiples of 8"):
        build(name, "tiny")(torch.rand(1, 3, 20, 32))
    for shape in ((8, 3, 16), (1, 1, 16, 16)):
        with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
            build(name, "tiny")(torch.rand(shape))


def test_naming_changes_the_output_and_zeros_are_blind():
    net, image = build("am_promptir", "tiny").eval(), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        blind = net(image)
        assert torch.equal(net(image, torch.zeros(1, 5)), blind)
        named = [net(image, net.name_degradation(index, 1)) for index in range(5)]
    for index, output in enumerate(named):
        assert not torch.allclose(output, blind)
        assert not any(torch.allclose(output, other) for other in named[:index])


@pytest.mark.parametrize("name", TRAINABLE)
def test_training_starts_from_the_identity(name):
    image, chosen = torch.rand(1, 3, 16, 16), {"text": "learned"} if name == "am_promptir" else {}
    assert torch.equal(NETWORKS[name](width=8, **chosen)(image), image)


@pytest.mark.parametrize(
    ("choice", "expected"), [("attention", "smam, mdta"), ("text", "clip, learned, none")]
)
def test_a_wrong_choice_is_named(choice, expected):
    with pytest.raises(ValueError, match=f"{choice} 'bert': expected one of {expected}"):
        NETWORKS["am_promptir"](**{choice: "bert"})


@pytest.mark.parametrize("width", [4, 9])
def test_wrong_width_is_named(width):
    with pytest.raises(ValueError, match=f"width {width}: expected an even number"):
        NETWORKS["am_promptir"](width=width, text="learned")


def test_width_blocks_and_prompts_are_arguments():
    net = NETWORKS["am_promptir"](
        width=16, blocks=(1, 2, 1, 1), prompt_sizes=(6, 5, 4), num_degradations=7, text="learned"
    )
    assert net.prompts[0].generate.maps.shape == (7, 32, 6, 6)
    assert [len(stage) for stage in net.encoders] == [1, 2, 1]
    with torch.no_grad():
        assert net(torch.rand(1, 3, 16, 16)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("growth", [0.9, 3])
def test_wrong_growth_is_named(growth):
    with pytest.raises(ValueError, match=f"growth {growth}: expected a number from 1 to 2"):
        NETWORKS["am_promptir"](growth=growth, text="learned")


@pytest.mark.parametrize(
    ("name", "macs_per_pixel", "parameters"), [("tiny", 40e3, 1e6), ("small", 276e3, 6e6)]
)
def test_affordable_configurations_keep_their_budgets(name, macs_per_pixel, parameters):
    net = build("am_promptir", name)
    assert 0.85 < count_macs(net) / COUNTED_SIZE**2 / macs_per_pixel <= 1
    assert count_parameters(net) <= parameters


def test_paper_configuration_has_the_documented_size_and_cost():
    net = build("am_promptir", "paper")
    assert count_parameters(net) == pytest.approx(52.64e6, rel=1e-3)
    assert count_macs(net) == pytest.approx(26.3e9, rel=0.01)  # released code: 36.2
