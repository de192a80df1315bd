"""The text table, and CLIP from a local file of random weights (none can be downloaded)."""

from pathlib import Path

import pytest
import torch

from data.degradations import DEGRADATIONS
from net import AMPromptIR
from net.text import TextTable, embed, weigh_by_similarity
from net.transfer import check_same_texts, load_by_degradation
from utils.errors import UserError

TEXTS = [degradation.text for degradation in DEGRADATIONS]


def test_local_weights_and_both_activations(clip_model, clip_file, tmp_path):
    import open_clip

    with torch.no_grad():
        expected = clip_model.encode_text(open_clip.get_tokenizer("ViT-B-32")(TEXTS))

    embeddings, architecture = embed(TEXTS, str(clip_file), quick_gelu=True)
    assert architecture == f"CLIP ViT-B-32-quickgelu {clip_file.name}"
    assert torch.allclose(embeddings, expected, atol=1e-5)

    plain, architecture = embed(TEXTS, str(clip_file))  # nothing in the name asks for QuickGELU
    assert architecture == f"CLIP ViT-B-32 {clip_file.name}"
    assert not torch.allclose(plain, expected, atol=1e-3)

    (tmp_path / "openai").mkdir()  # a tag in the path, as hub caches have it
    (tmp_path / "openai" / "model.pt").symlink_to(clip_file)
    told, architecture = embed(TEXTS, str(tmp_path / "openai" / "model.pt"))
    assert architecture == "CLIP ViT-B-32-quickgelu model.pt"
    assert torch.allclose(told, expected, atol=1e-5)


def test_own_words_select_the_nearest_row(clip_file):
    embeddings, _ = embed(TEXTS, str(clip_file))
    weights = weigh_by_similarity(embeddings[3], embeddings)
    assert weights.argmax() == 3
    assert weights.sum() == pytest.approx(1, abs=1e-5)


def test_clip_is_not_part_of_the_network(clip_file):
    net = AMPromptIR(**AMPromptIR.configurations["tiny"])
    before = sum(weight.numel() for weight in net.parameters())
    net.text.fill(embed(TEXTS, str(clip_file))[0])
    assert sum(weight.numel() for weight in net.parameters()) == before
    assert "text.embeddings" in net.state_dict()
    assert not any("clip" in key or "transformer." in key for key in net.state_dict())
    assert torch.allclose(net.text().norm(dim=1), torch.ones(5), atol=1e-6)


def test_a_checkpoint_fills_the_table_without_clip():
    source, target = (AMPromptIR(**AMPromptIR.configurations["tiny"]) for _ in range(2))
    source.text.fill(torch.rand(5, 512))
    with pytest.raises(ValueError, match="table is empty"):
        target(torch.rand(1, 3, 8, 8))
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.text(), source.text())


def test_a_checkpoint_without_a_table_fills_none():
    target = AMPromptIR(**AMPromptIR.configurations["tiny"])
    empty = target.state_dict()
    for content in ({}, empty):
        target.load_state_dict(content, strict=False)
        with pytest.raises(ValueError, match="table is empty"):
            target(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: "no_such_tag", "neither a file nor one of"),
        (lambda folder: "laion2b_s34b_b79k", "cannot be had"),
        (lambda folder: _damaged(folder), "cannot be had"),
    ],
)
def test_missing_weights_name_two_remedies(make, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(UserError, match=expected) as error:
        embed(TEXTS, make(tmp_path))
    assert "--clip_pretrained" in str(error.value)
    assert "--text learned" in str(error.value)


def _damaged(folder):
    path = folder / "damaged.pt"
    path.write_bytes(b"no weights")
    return str(path)


def test_learned_rows_are_orthogonal_and_trainable():
    table = TextTable("learned", 5, 32)
    rows = table()
    assert rows.requires_grad
    assert torch.allclose(rows @ rows.T, torch.eye(5), atol=1e-5)
    with pytest.raises(ValueError, match="text='clip'"):
        table.fill(torch.rand(5, 32))


def test_texts_of_other_weights_are_refused():
    now = dict(zip("abcd", torch.randn(4, 512), strict=True))
    had = {name: torch.nn.functional.normalize(7 * now[name], dim=0) for name in "ca"}
    check_same_texts(Path("ours.ckpt"), "theirs.pt", had, now)
    exchanged = {"a": had["c"], "c": had["a"]}
    with pytest.raises(UserError, match="gives other texts than those in --init ours"):
        check_same_texts(Path("ours.ckpt"), "theirs.pt", exchanged, now)


def test_rows_go_over_by_name():
    had, has = ["x", "y", "z"], ["z", "new", "x"]
    arguments = {**AMPromptIR.configurations["tiny"], "text": "learned", "num_degradations": 3}
    source, target = AMPromptIR(**arguments), AMPromptIR(**arguments)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    load_by_degradation(target, source.state_dict(), had, has)
    rows = 0
    for name, value in target.state_dict().items():
        given = source.state_dict()[name]
        if name.endswith(AMPromptIR.degradation_rows):
            rows += 1
            assert torch.equal(value, torch.stack([given[2], before[name][1], given[0]])), name
        else:
            assert torch.equal(value, given), name
    assert rows == 1 + 3 * 3
