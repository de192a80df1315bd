"""Networks as folders and as models of the Hugging Face hub: weights, arguments and a model card.

`save_pretrained(FOLDER)` writes `model.safetensors` (`net.weights`), which alone decides what is
loaded, and for readers `config.json` (constructor arguments) and `README.md` (the model card).
`push_to_hub(NAME)` sends the same three. A local folder or file needs no internet.
"""

from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download

from net.weights import FILE_NAME, pack_weights
from utils.errors import UserError
from utils.files import check_writable, write_whole

FILE_ENDINGS = (".ckpt", ".safetensors")
CARD_NAME, CARD_START = "README.md", b"---"
CARD = """---
{{ card_data }}
---

# {{ title }}

All-in-one image restoration by one network: noise, rain and haze. An independent implementation of
*Adaptive Multi-modal Prompting for All-in-One Image Restoration Amidst Diverse Degradations*.

| | |
|---|---|
| configuration | {{ configuration }} |
| parameters | {{ parameters }} |
| text prompts from | {{ text_encoder }} |
| degradations it can be told | {{ degradations }} |
| trained on | {{ trained }} |
| steps | {{ steps }} |
| begun from weights of sha256 | {{ init }} |
| refitted since | {{ refitted }} |
| training seed | {{ seed }} |

Blind by default: what is wrong is read off the image. With the project's code:

```python
from net import AMPromptIR

net = AMPromptIR.from_pretrained("THIS MODEL")  # its name on the hub, or a folder
# RGB, float, (B, 3, H, W) in [0, 1], H and W multiples of 8
restored = net(image).clamp(0, 1)
```

or, for files of any size, `python demo.py --ckpt_name FOLDER --input photo.jpg`.

The weights are under the terms of the pictures that they were trained on, which this file does not
know; the project's code is under Apache-2.0.

It restores the kinds of damage that it was trained on, and was made for; others it leaves in, or
makes worse. Nothing here was tested for medical, legal or safety uses.
"""


class OnHub(
    PyTorchModelHubMixin,
    model_card_template=CARD,
    license="other",  # the code's is known, that of what weights were trained on is not
    pipeline_tag="image-to-image",
    tags=["image-restoration", "denoising", "deraining", "dehazing"],
):
    """What a network needs to be saved as a folder and loaded again, by `huggingface_hub`."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """A trained network in evaluation mode, on the CPU.

        Args:
            source: a folder that `save_pretrained` wrote, a `.safetensors` or `.ckpt` file, or the
                name of a model on the hub (OWNER/NAME); the others are of its download.

        Raises:
            UserError: it is none of these, cannot be had, or holds another network.
        """
        from net.checkpoint import load_network  # which imports every network

        path = Path(source)
        if not _is_there(path):
            path = _download(
                str(source),
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                token=token,
                local_files_only=local_files_only,
            )
        trained = load_network(path)
        if not isinstance(trained.net, cls):
            raise UserError(
                f"{source}: holds the network {trained.description['network']}, not {cls.__name__}"
            )
        return trained.net

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write the folder; options are the mixin's (`push_to_hub`, `repo_id`, ...).

        A model there is replaced, and so is its card; a README.md that is no card is kept.

        Raises:
            ValueError: the network comes from no checkpoint.
            UserError: the folder cannot be made or written to.
        """
        if self.origin is None:
            raise ValueError(
                "nothing is known of these weights: save a network that from_pretrained or "
                "net.checkpoint.load_network gave, or set its `origin`"
            )
        check_writable(Path(save_directory))
        return super().save_pretrained(save_directory, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        content = pack_weights(self, self.origin)
        write_whole(save_directory / FILE_NAME, lambda file: file.write(content))
        card = save_directory / CARD_NAME
        if card.is_file() and card.read_bytes().startswith(CARD_START):
            card.unlink()  # the mixin would keep it

    def generate_model_card(self, **texts: Any) -> ModelCard:
        """The card, with what the checkpoint tells; `texts` replace parts of it."""
        told = self.origin["hyper_parameters"]
        facts = {
            "title": f"AM-PromptIR ({told['configuration']})",
            "configuration": told["configuration"],
            "parameters": f"{sum(value.numel() for value in self.parameters()):,}",
            "text_encoder": told["text_encoder"],
            "degradations": ", ".join(told["degradations"]),
            "trained": ", ".join(told["trained"]),
            "steps": self.origin["global_step"],
            "seed": told.get("seed"),
            "init": (told.get("run") or {}).get("init") or "none",
            "refitted": "yes" if told.get("refitted") else "no",
        }
        return super().generate_model_card(**{**facts, **texts})


def _is_there(path: Path) -> bool:
    """Whether a path exists.

    Raises:
        UserError: it cannot be looked at; or it does not exist and is the name of a file, which is
            none on the hub.
    """
    try:
        if path.exists():
            return True
    except OSError as error:  # not allowed, too long a name
        raise UserError(f"{path}: cannot be read ({error.strerror}); give another path") from error
    if path.suffix in FILE_ENDINGS:
        raise UserError(
            f"{path}: no such file; give the path of a checkpoint, or of a folder that "
            "save_pretrained wrote"
        )
    return False


def _download(name: str, **options: Any) -> Path:
    """The weights of a model on the hub, as a file in its cache."""
    if "/" not in name:
        raise _unknown(name, "no OWNER/NAME")
    try:
        return Path(hf_hub_download(name, FILE_NAME, **options))
    except Exception as error:  # whatever the hub, the network or the name may raise
        raise _unknown(name, type(error).__name__) from error


def _unknown(name: str, reason: str) -> UserError:
    return UserError(
        f"{name}: no such file or folder, and no model of that name can be had from the hub "
        f"({reason}); give the path of a folder that save_pretrained wrote, or of a checkpoint"
    )
