"""A checkpoint in a format for others: python -m scripts.export --format safetensors --output FILE

safetensors: weights and what the checkpoint says of itself, in one file without code, for test.py,
demo.py and `AMPromptIR.from_pretrained`; `--half` stores float16, which is half as large.

onnx: the network of a checkpoint of am_promptir with its text table inside (needs the packages of
requirements-demo.txt). Inputs: `image`, float32 (B, 3, H, W) in [0, 1], H and W any multiples of 8,
and `named`, (B, K), zeros for blind or a one-hot row that names the degradation. Outputs:
`restored`, clipped to [0, 1], and `weights`, (B, K), what the network saw. The degradations' names
are in the file's metadata.
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
import importlib.util
import json
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from net import AMPromptIR
from net.checkpoint import Trained, default_checkpoint, load_network
from net.weights import DESCRIPTION
from options import DEFAULT_CHECKPOINT_HELP, Parser
from utils.errors import UserError, run
from utils.files import check_writable, write_whole

FORMATS = ("safetensors", "onnx")
ONNX_PACKAGES = ("onnx", "onnxscript")  # which torch.onnx imports


class ForExport(nn.Module):
    """A network whose inputs and outputs are tensors alone."""

    def __init__(self, net: AMPromptIR) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor, named: Tensor) -> tuple[Tensor, Tensor]:
        restored, scores = self.net(image, named, with_scores=True)
        return restored.clamp(0, 1), scores.softmax(dim=2).mean(dim=1)


def main() -> int:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--ckpt_name",
        type=Path,
        metavar="FILE",
        help="checkpoint: a path, or a name inside ckpt/; " + DEFAULT_CHECKPOINT_HELP,
    )
    parser.add_argument("--format", choices=FORMATS, required=True, help="of the file to write")
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    parser.add_argument("--half", action="store_true", help="float16 weights (safetensors)")
    options = parser.parse_args()
    if options.output.suffix != f".{options.format}":
        raise UserError(f"--output {options.output}: expected a name ending in .{options.format}")
    if options.half and options.format != "safetensors":
        raise UserError(f"--half: only for safetensors, not {options.format}; leave it out")
    trained = load_network(options.ckpt_name or default_checkpoint())
    print(f"{trained.description['checkpoint']}: {trained.describe()}", flush=True)
    if options.output.exists() and options.output.samefile(trained.description["checkpoint"]):
        raise UserError(
            f"--output {options.output}: is the checkpoint itself, which would be overwritten; "
            "give another name"
        )
    check_writable(options.output.parent)
    content = to_onnx(trained) if options.format == "onnx" else trained.pack(options.half)
    write_whole(options.output, lambda file: file.write(content))
    print(f"{options.output}: {len(content) / 1e6:.1f} MB")
    return 0


def to_onnx(trained: Trained) -> bytes:
    """The file's content, for any batch, height and width. Raises `UserError`."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format onnx: needs the packages {' and '.join(ONNX_PACKAGES)}; "
            "pip install -r requirements-demo.txt"
        )
    if not isinstance(trained.net, AMPromptIR):
        raise UserError(f"--format onnx: only for am_promptir, not {trained.title}")
    batch, rows, columns = (torch.export.Dim(name, min=1) for name in ("batch", "rows", "columns"))
    image = torch.zeros(2, 3, 64, 72)  # different numbers, so that none is taken for another
    named = torch.zeros(2, trained.net.num_degradations)
    multiple = trained.net.size_multiple
    sizes = {0: batch, 2: multiple * rows, 3: multiple * columns}
    logging.disable(logging.WARNING)  # what the exporter folds, and what it does not
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                ForExport(trained.net).eval(),
                (image, named),
                dynamo=True,
                dynamic_shapes=(sizes, {0: batch}),
                input_names=["image", "named"],
                output_names=["restored", "weights"],
                verbose=False,
            )
    finally:
        logging.disable(logging.NOTSET)
    program.model.metadata_props[DESCRIPTION] = json.dumps(trained.net.origin)
    return program.model_proto.SerializeToString()


if __name__ == "__main__":
    run(main)
