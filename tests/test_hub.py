"""A network saved as a folder, sent to the hub and loaded again; no hub is reached."""

import json
import shutil

import pytest
import torch
from huggingface_hub import HfApi, ModelCard

from net import AMPromptIR
from net.checkpoint import load_network
from tests.conftest import save_untrained
from utils.errors import UserError
from utils.image_io import write_image


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("checkpoint") / "tiny.ckpt")


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    """The checkpoint as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    AMPromptIR.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


def same_output(net, checkpoint):
    image = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(net(image), load_network(checkpoint).net(image))


def test_folder_comes_back(checkpoint, folder, run_script, photos, tmp_path):
    for source in (folder, str(folder), folder / "model.safetensors"):
        net = AMPromptIR.from_pretrained(source)
        assert same_output(net, checkpoint) and not net.training
    config = json.loads((folder / "config.json").read_text())
    assert AMPromptIR(**config).state_dict().keys() == net.state_dict().keys()
    assert load_network(folder).degradations == load_network(checkpoint).degradations
    net.save_pretrained(tmp_path / "again")
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    write_image(tmp_path / "in.png", photos[0])
    flags = ["--input", tmp_path / "in.png", "--output", tmp_path / "out", "--cuda", -1]
    assert run_script("demo", *flags, "--ckpt_name", folder).code == 0


def test_model_card_says_what_it_is(folder):
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "other" and card.data.pipeline_tag == "image-to-image"
    lines = [line.strip("| ").split(" | ") for line in card.text.splitlines()]
    rows = dict(line for line in lines if len(line) == 2)
    assert rows["configuration"] == "tiny" and rows["trained on"] == "derain"
    net = AMPromptIR.from_pretrained(folder)
    assert rows["parameters"] == f"{sum(value.numel() for value in net.parameters()):,}"


def test_pushed_and_fetched(checkpoint, folder, monkeypatch, tmp_path):
    class Made:
        repo_id = "someone/model"

    def upload(api, *, repo_id, folder_path, **options):
        shutil.copytree(folder_path, tmp_path / repo_id)
        return "address"

    def download(name, file, **options):
        assert options["revision"] == "main"
        return str(tmp_path / name / file)

    monkeypatch.setattr(HfApi, "create_repo", lambda api, **options: Made)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    assert AMPromptIR.from_pretrained(folder).push_to_hub("someone/model") == "address"
    monkeypatch.setattr("net.hub.hf_hub_download", download)
    assert same_output(AMPromptIR.from_pretrained("someone/model", revision="main"), checkpoint)


def test_what_cannot_be_loaded_or_saved(folder, tmp_path):
    for name in ("no/model", "no such name", "/no/such/folder"):
        with pytest.raises(UserError, match=f"{name}: no such file or folder, and no model"):
            AMPromptIR.from_pretrained(name, local_files_only=True)
    with pytest.raises(UserError, match=r"a folder without model\.safetensors"):
        AMPromptIR.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="nothing is known of these weights"):
        AMPromptIR(**AMPromptIR.configurations["tiny"]).save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_another_network_in_the_same_folder(checkpoint, folder, tmp_path):
    other = save_untrained(tmp_path / "other.ckpt", seed=1)
    content = torch.load(other, weights_only=True)
    torch.save({**content, "global_step": 7}, other)
    saved = tmp_path / "model"
    shutil.copytree(folder, saved)
    AMPromptIR.from_pretrained(other).save_pretrained(saved)
    assert "| steps | 7 |" in (saved / "README.md").read_text()
    (saved / "README.md").write_text("notes")
    AMPromptIR.from_pretrained(checkpoint).save_pretrained(saved)
    assert (saved / "README.md").read_text() == "notes"


def test_paths_that_cannot_be(folder, monkeypatch, tmp_path):
    def fail(*arguments, **options):
        raise AssertionError("the hub is asked")

    monkeypatch.setattr("net.hub.hf_hub_download", fail)
    for name in ("ckpt/none.ckpt", "none.safetensors"):
        with pytest.raises(UserError, match=f"{name}: no such file; give the path"):
            AMPromptIR.from_pretrained(name)
    with pytest.raises(UserError, match=r"mistyped: .* from the hub \(no OWNER/NAME\)"):
        AMPromptIR.from_pretrained("mistyped")
    with pytest.raises(UserError, match="File name too long"):
        AMPromptIR.from_pretrained("x" * 300)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file: a file; give the path of a folder"):
        AMPromptIR.from_pretrained(folder).save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"
