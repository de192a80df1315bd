"""AMPromptIR written from the equations, one operation after another: the oracle to compare with.

It shares no code and no rewrite with `net`, only the names and shapes of the parameters, so that it
runs on the same weights. Nothing is fused, composed, reordered or done in place. Blind only.

Shapes: B batch, C channels, H x W pixels, K degradations, E text-embedding width.
"""

import torch
from torch import Tensor, nn

from net.contract import RestorationNetwork


class Straightforward(RestorationNetwork):
    """The published function of an `AMPromptIR`, on its parameters."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor, named: Tensor | None = None) -> Tensor:
        """Restored (B, 3, H, W) of a degraded one."""
        assert named is None
        net = self.net
        x = convolve(image, net.embed)
        skips = []
        for encoder, downsample in zip(net.encoders, net.downsamples, strict=True):
            x = run_blocks(x, encoder)
            skips.append(x)
            x = torch.pixel_unshuffle(convolve(x, downsample.conv), 2)
        x = run_blocks(x, net.latent)
        for level in (2, 1, 0):
            x = run_prompt_block(x, net.prompts[level], net.text())
            x = torch.pixel_shuffle(convolve(x, net.upsamples[level].conv), 2)
            x = torch.cat([x, skips[level]], dim=1)
            if level > 0:
                x = fefm(x, net.fusions[level])
            x = run_blocks(x, net.decoders[level])
        x = run_blocks(x, net.refinement)
        return image + convolve(x, net.output)


def convolve(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """A convolution with a layer's weights, padded to keep the size."""
    return torch.conv2d(x, layer.weight, layer.bias, padding=layer.padding, groups=layer.groups)


def run_blocks(x: Tensor, blocks: nn.Module) -> Tensor:
    """Transformer blocks one after another."""
    for block in blocks:
        x = transformer_block(x, block)
    return x


def transformer_block(x: Tensor, block: nn.Module) -> Tensor:
    """x + SMAM(LN(x)), then x + FFN(LN(x))."""
    x = x + smam(layer_norm(x, block.attention_norm), block.attention)
    return x + ffn(layer_norm(x, block.feedforward_norm), block.feedforward)


def layer_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """Normalised over the channels of each pixel, with biased variance."""
    mean = x.mean(dim=1, keepdim=True)
    variance = (x - mean).square().mean(dim=1, keepdim=True)
    normal = (x - mean) / (variance + 1e-5).sqrt()
    return normal * norm.weight[:, None, None] + norm.bias[:, None, None]


def smam(x: Tensor, module: nn.Module) -> Tensor:
    """Local branch beside a gate from the row means and column means."""
    local = convolve(convolve(x, module.local_in).relu(), module.local_out)
    rows = convolve(x.mean(dim=3, keepdim=True), module.strip_rows)
    columns = convolve(x.mean(dim=2, keepdim=True), module.strip_columns)
    strips = convolve(rows + columns, module.strip_mix)  # (B, 3C, H, W)
    gate = convolve(strips.relu(), module.strip_gate).sigmoid()
    return convolve(torch.cat([local, gate * x], dim=1), module.project_out)


def ffn(x: Tensor, module: nn.Module) -> Tensor:
    """Two depth-wise scales, exchanged by halves."""
    x = convolve(x, module.project_in)
    fine_a, fine_b = convolve(x, module.depthwise_3x3).relu().chunk(2, dim=1)
    coarse_a, coarse_b = convolve(x, module.depthwise_5x5).relu().chunk(2, dim=1)
    a = convolve(torch.cat([fine_a, coarse_a], dim=1), module.merge_3x3).relu()
    b = convolve(torch.cat([fine_b, coarse_b], dim=1), module.merge_5x5).relu()
    return convolve(torch.cat([a, b], dim=1), module.project_out)


def fefm(z: Tensor, module: nn.Module) -> Tensor:
    """(1 - W) a + W v."""
    v = convolve(z, module.reduce)
    a = convolve(
        convolve(z.mean(dim=(2, 3), keepdim=True), module.channel_in).relu(), module.channel_out
    )
    w = convolve(convolve(v, module.spatial_in).relu(), module.spatial_out).sigmoid()
    return (1 - w) * a + w * v


def run_prompt_block(x: Tensor, module: nn.Module, text_table: Tensor) -> Tensor:
    """AMPG, then a transformer block over features and prompt, before or after they are joined."""
    prompt = ampg(x, module.generate, text_table)
    joined = torch.cat([x, prompt], dim=1)
    if module.wide:
        return convolve(transformer_block(joined, module.block), module.reduce)
    return transformer_block(convolve(joined, module.reduce), module.block)


def ampg(x: Tensor, module: nn.Module, text_table: Tensor) -> Tensor:
    """Blind: the weights read off the image mix the learned maps and the texts."""
    weights = torch.softmax(module.weigh(x.mean(dim=(2, 3))), dim=1)  # (B, K)
    image_prompt = (weights[:, :, None, None, None] * module.maps).sum(dim=1)
    image_prompt = nn.functional.interpolate(
        image_prompt, x.shape[2:], mode="bilinear", align_corners=False
    )
    texts = module.project_text(text_table)  # (K, C)
    text_prompt = (weights[:, :, None] * texts).sum(dim=1)[:, :, None, None].expand_as(image_prompt)

    fim = module.interact
    statistics = torch.cat(
        [text_prompt.amax(dim=1, keepdim=True), text_prompt.mean(dim=1, keepdim=True)], dim=1
    )
    spatial_gate = convolve(statistics, fim.spatial_gate).sigmoid()

    def mlp(pooled: Tensor) -> Tensor:
        return convolve(convolve(pooled, fim.channel_gate_in).relu(), fim.channel_gate_out)

    average = mlp(image_prompt.mean(dim=(2, 3), keepdim=True))
    strongest = mlp(image_prompt.amax(dim=(2, 3), keepdim=True))
    channel_gate = (average + strongest).sigmoid()
    joined = convolve(spatial_gate * image_prompt + channel_gate * text_prompt, fim.project)
    return module.prompt_scale * joined + module.feature_scale * x
