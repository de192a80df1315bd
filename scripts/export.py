"""A checkpoint in a format for others: python -m scripts.export --format safetensors --output FILE

safetensors: weights and what the checkpoint says of itself, in one file without code, for test.py,
demo.py and `AMPromptIR.from_pretrained`; `--half` stores float16, which is half as large.
"""

from pathlib import Path

from net.checkpoint import Trained, default_checkpoint, load_network
from net.weights import pack_weights
from options import DEFAULT_CHECKPOINT_HELP, Parser
from utils.errors import UserError, run
from utils.image_io import check_writable, write_whole

FORMATS = ("safetensors",)


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
    trained = load_network(options.ckpt_name or default_checkpoint())
    print(f"{trained.description['checkpoint']}: {trained.describe()}", flush=True)
    check_writable(options.output.parent)
    content = to_safetensors(trained, options.half)
    write_whole(options.output, lambda file: file.write(content))
    print(f"{options.output}: {len(content) / 1e6:.1f} MB")
    return 0


def to_safetensors(trained: Trained, half: bool) -> bytes:
    """The file's content. Raises `UserError`."""
    try:
        return pack_weights(trained.net, trained.net.origin, half)
    except OverflowError as error:
        raise UserError(f"--half: {error}; leave it out") from error


if __name__ == "__main__":
    run(main)
