"""The table of degradation texts, and the frozen CLIP text encoder that fills it.

Source: the paper's AMPG figure (text side).

Shapes: K degradations, E text-embedding width (512 for CLIP ViT-B/32).

Deviations: the released code never calls CLIP. Here CLIP embeds each description once, before
training; the table is then part of the network, so that nothing after training needs CLIP. CLIP is
never a submodule: its weights enter neither checkpoint, optimizer nor parameter count. Rows have
unit length. `learned` replaces CLIP by a trainable table and has no language prior.
"""

import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.errors import UserError

CLIP_ARCHITECTURE = "ViT-B-32"
CLIP_WIDTH = 512
CLIP_PRETRAINED = "laion2b_s34b_b79k"  # an open_clip tag
CLIP_TEMPERATURE = 0.01  # CLIP's own logit scale is 100
TEXT_SOURCES = ("clip", "learned", "none")


class TextTable(nn.Module):
    """One unit-length embedding a degradation: a buffer (`clip`) or a parameter (`learned`).

    Shape: () -> (K, E).
    """

    def __init__(self, source: str, num_degradations: int, width: int) -> None:
        super().__init__()
        self.from_clip = source == "clip"
        self.filled = not self.from_clip
        if not self.from_clip:
            rows = nn.init.orthogonal_(torch.empty(num_degradations, width))
            self.embeddings = nn.Parameter(rows)
        else:
            self.register_buffer("embeddings", torch.zeros(num_degradations, width))
            self.register_load_state_dict_post_hook(TextTable._mark_filled)

    def fill(self, embeddings: Tensor) -> None:
        """Store the CLIP embeddings (K, E), any length; rows are scaled to unit length."""
        if not self.from_clip or embeddings.shape != self.embeddings.shape:
            raise ValueError(
                f"embeddings {tuple(embeddings.shape)}: expected {tuple(self.embeddings.shape)} "
                "and a table built with text='clip'"
            )
        self.embeddings.copy_(nn.functional.normalize(embeddings, dim=1))
        self.filled = True

    def forward(self) -> Tensor:
        if not self.filled and not self.embeddings.is_meta:  # counting costs needs no content
            raise ValueError(
                "the text table is empty: fill it from CLIP (net.text.embed), load a checkpoint, "
                "or build the network with text='learned'"
            )
        return self.embeddings

    @staticmethod
    def _mark_filled(table: "TextTable", incompatible_keys: object) -> None:
        table.filled = table.embeddings.is_meta or bool(table.embeddings.any())


def embed(
    texts: Sequence[str], pretrained: str, quick_gelu: bool | None = None
) -> tuple[Tensor, str]:
    """Embed texts by the frozen CLIP text encoder.

    Args:
        texts: K of them.
        pretrained: an open_clip tag of ViT-B-32, or the path of a local weights file.
        quick_gelu: whether the weights were trained with QuickGELU; None decides by the tag, and
            for a file by its kind (OpenAI's TorchScript archive) or a tag named in its path.

    Returns:
        (K, 512) float32 on the CPU, not normalised; and the encoder's name, as checkpoints have it.

    Raises:
        UserError: open_clip or the weights cannot be had.
    """
    remedies = (
        "give --clip_pretrained the path of a ViT-B-32 weights file that you have, "
        "or do without CLIP (train.py --text learned; demo.py without --text)"
    )
    try:
        import open_clip
    except ImportError as error:
        raise UserError(
            f"CLIP needs the package open_clip_torch ({error}): install it, or {remedies}"
        ) from error

    path = Path(pretrained).expanduser()
    tags = {
        tag: bool(open_clip.get_pretrained_cfg(CLIP_ARCHITECTURE, tag).get("quick_gelu"))
        for tag in open_clip.list_pretrained_tags_by_model(CLIP_ARCHITECTURE)
    }
    if path.is_file():
        is_archive = _is_torchscript(path)
        if quick_gelu is None:
            named = [tags[tag] for tag in sorted(tags, key=len) if tag in path.as_posix().lower()]
            quick_gelu = bool(named) and named[-1]
    elif pretrained not in tags:
        raise UserError(
            f"--clip_pretrained {pretrained}: neither a file nor one of {', '.join(sorted(tags))}; "
            f"{remedies}"
        )
    elif quick_gelu is None:
        quick_gelu = tags[pretrained]

    if path.is_file() and is_archive:
        quick_gelu = True  # written into its code
    architecture = CLIP_ARCHITECTURE + ("-quickgelu" if quick_gelu else "")
    logging.disable(logging.ERROR)  # the hub's retries; what matters is said below
    try:
        if path.is_file() and is_archive:
            model = open_clip.load_openai_model(str(path), precision="fp32", device="cpu")
        else:
            model = open_clip.create_model(
                CLIP_ARCHITECTURE,
                pretrained=str(path) if path.is_file() else pretrained,
                force_quick_gelu=quick_gelu,
            )
    except Exception as error:  # whatever the hub, the network or the file may raise
        reason = (
            "damaged, or not of ViT-B-32"
            if path.is_file()
            else f"no download, {type(error).__name__}"
        )
        raise UserError(
            f"--clip_pretrained {pretrained}: CLIP's weights cannot be had: {reason}; {remedies}"
        ) from error
    finally:
        logging.disable(logging.NOTSET)

    model.eval()
    with torch.no_grad():
        embeddings = model.encode_text(open_clip.get_tokenizer(CLIP_ARCHITECTURE)(texts))
    return embeddings.float(), f"CLIP {architecture} {path.name}"


def weigh_by_similarity(text: Tensor, table: Tensor) -> Tensor:
    """How much each degradation is meant by a text of the user's own.

    Shape: text (E,) and table (K, E), any length -> (K,), non-negative, sums to 1.
    """
    cosine = nn.functional.cosine_similarity(text[None], table, dim=1)
    return (cosine / CLIP_TEMPERATURE).softmax(dim=0)


def _is_torchscript(path: Path) -> bool:
    """Whether a file is an archive with code, as OpenAI's weights are, not only tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())
