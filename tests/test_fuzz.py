"""Random pictures, files and flags: a result or one line of error, never anything else.

The suite tries some hundred inputs, the same ones each time; `make fuzz` many more, new each time.
"""

import contextlib
import io
import os
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

import options
from data.datasets import TrainingSet
from data.degradations import DEGRADATION_NAMES
from data.pairing import Pair, read_names
from net import AMPromptIR
from net.checkpoint import load_network
from tests.conftest import save_untrained
from utils.errors import UserError
from utils.image_io import read_image, read_size, to_pixels, to_tensor, write_image
from utils.inference import restore
from utils.pictures import read_picture

SCALE = int(os.environ.get("FUZZ_SCALE", "1"))
TRIED: Counter[str] = Counter()

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")
ENDINGS = ("png", "jpg", "webp", "tif", "bmp", "ppm")
SIDES = st.integers(1, 70)


def tries(number):
    """So many random inputs; in the suite always the same ones. One may take 20 seconds at most."""
    return settings(
        max_examples=number * SCALE,
        deadline=20_000,
        derandomize=SCALE == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module", autouse=True)
def report():
    yield
    print(f"\ninputs tried: {sum(TRIED.values())} {dict(TRIED)}")


@contextlib.contextmanager
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@st.composite
def pictures(draw):
    """A picture's bytes, its ending, and (width, height) if it is undamaged and can be read."""
    width, height, mode, ending = (
        draw(SIDES),
        draw(SIDES),
        draw(st.sampled_from(MODES)),
        draw(st.sampled_from(ENDINGS)),
    )
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
    if mode == "I;16":
        image = Image.fromarray(generator.integers(0, 2**16, (height, width), dtype=np.uint16))
    elif mode == "LA":
        image = image.convert("L").convert("LA")
    else:
        image = image.convert(mode)
    kept = {}
    if draw(st.booleans()):
        exif = Image.Exif()
        exif[0x0112] = draw(st.integers(0, 10))
        kept = {"exif": exif.tobytes()}
    buffer = io.BytesIO()
    try:
        with quiet():
            image.save(buffer, Image.registered_extensions()[f".{ending}"], **kept)
    except (OSError, ValueError, KeyError):  # this format has no such mode
        assume(False)
    content = buffer.getvalue()
    damage = draw(st.sampled_from(["none", "bytes", "cut", "zeros", "swapped"]))
    if damage == "none":
        odd = mode == "F" or (
            mode == "YCbCr" and ending == "tif"
        )  # Pillow cannot read all it writes
        return content, ending, None if odd else {width, height}
    return draw(damaged(content, damage)), ending, None


@st.composite
def damaged(draw, content, damage):
    """Bytes that are changed, cut short, zeroed to the end, or in another order."""
    content = bytearray(content)
    place = draw(st.integers(0, len(content) - 1))
    if damage == "bytes":
        for _ in range(draw(st.integers(1, 20))):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    elif damage == "cut":
        del content[place:]
    elif damage == "zeros":
        content[place:] = bytes(len(content) - place)
    else:
        content = content[place:] + content[:place]
    return bytes(content)


def attempt(function, *arguments):
    """The result, or None after a `UserError`, which is a line that says something."""
    try:
        with quiet():
            return function(*arguments)
    except UserError as error:
        assert str(error).strip()
        return None


@tries(250)
@given(pictures())
def test_any_picture_is_read_or_refused(picture):
    TRIED["pictures"] += 1
    content, ending, sides = picture
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{ending}"
        path.write_bytes(content)
        size, pixels = attempt(read_size, path), attempt(read_image, path)
        if sides is not None:
            assert pixels is not None and {*pixels.shape[:2]} == sides and pixels.shape[2] == 3
        if pixels is not None:
            assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
            assert size == pixels.shape[1::-1]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    arguments = {**AMPromptIR.configurations["tiny"], "text": "learned", "width": 8}
    net = AMPromptIR(**arguments, num_degradations=len(DEGRADATION_NAMES)).eval()
    torch.nn.init.normal_(net.output.weight, std=0.1)
    return net


@tries(60)
@given(
    height=SIDES,
    width=SIDES,
    channels=st.sampled_from(["L", "LA", "RGB", "RGBA"]),
    kind=st.sampled_from(["random", "black", "white"]),
    tile=st.sampled_from([0, 64, 72, None]),
    named=st.one_of(st.none(), st.sampled_from(DEGRADATION_NAMES)),
    seed=st.integers(0, 2**32),
)
def test_any_picture_is_restored(net, height, width, channels, kind, tile, named, seed):
    TRIED["restored"] += 1
    shape = (height, width, len(channels))
    levels = {"random": (0, 256), "black": (0, 1), "white": (255, 256)}[kind]
    values = np.random.default_rng(seed).integers(*levels, shape, dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(values.squeeze(2) if channels == "L" else values).save(f"{folder}/a.png")
        degraded = to_tensor(attempt(read_image, Path(folder) / "a.png"))
        if named is not None:
            named = net.name_degradation(DEGRADATION_NAMES.index(named), 1)
        restored = restore(net, degraded, named, tile)
        assert restored.shape == (3, height, width)
        assert restored.isfinite().all() and restored.min() >= 0 and restored.max() <= 1
        write_image(Path(folder) / "b.png", to_pixels(restored))
        assert read_image(Path(folder) / "b.png").shape == (height, width, 3)


@tries(40)
@given(
    sizes=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=4),
    patch_size=st.sampled_from([8, 16, 64, 72]),
    degradation=st.sampled_from(["denoise_15", "denoise_50", "derain", "dehaze"]),
    paired=st.booleans(),
    spoiled=st.integers(-3, 3),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_training_images_give_patches(sizes, patch_size, degradation, paired, spoiled, seed):
    TRIED["training sets"] += 1
    generator = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder, quiet():
        pairs = []
        for index, (width, height) in enumerate(sizes):
            clean, degraded = (Path(folder) / f"{kind}{index}.png" for kind in ("clean", "bad"))
            for path in (clean, degraded):
                write_image(path, generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
            pairs.append(Pair(degraded if paired and "noise" not in degradation else None, clean))
        if 0 <= spoiled < len(pairs) - 1:
            pairs[spoiled].clean.write_bytes(b"no image")
        data_set = TrainingSet({degradation: pairs}, patch_size, seed)
        for index in (0, 1, len(data_set), 10**6):
            sample = data_set[index]
            for image in (sample.degraded, sample.clean):
                assert image.shape == (3, patch_size, patch_size) and image.isfinite().all()
                assert image.min() >= 0 and image.max() <= 1


WORDS = (
    "0 1 2 8 -1 -8 64 0.5 1e-9 1e400 nan inf auto tiny small paper clip learned none smam mdta "
    "fefm concatenation cosine timed published equal derain dehaze denoise_15 am_promptir promptir "
    "restormer airnet clean fp32 bf16 99999999999999999999 -- - ."
)
VALUES = st.one_of(st.sampled_from(WORDS.split(" ")), st.text(max_size=5))
NAMES = {
    script: sorted(vars(getattr(options, f"{script}_options")(required)))
    for script, required in (("train", []), ("test", []), ("demo", ["--input", "x"]))
}


@tries(300)
@given(
    script=st.sampled_from(sorted(NAMES)),
    data=st.data(),
)
def test_any_flags_are_understood_or_refused(script, data):
    TRIED["command lines"] += 1
    words = []
    for name in data.draw(st.lists(st.sampled_from(NAMES[script]), max_size=5)):
        words += [f"--{name}", *data.draw(st.lists(VALUES, max_size=2))]
    found = attempt(getattr(options, f"{script}_options"), words)
    if found is not None:
        assert sorted(vars(found)) == NAMES[script]
        if script == "train":
            attempt(options.network_arguments, found)


@tries(200)
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_any_list_gives_names_without_folders(content):
    TRIED["lists"] += 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.txt"
        path.write_bytes(content)
        names = attempt(read_names, path)
        assert names is None or (names and not any("/" in name for name in names))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("checkpoint") / "a.ckpt").read_bytes()


@tries(25)
@given(data=st.data(), damage=st.sampled_from(["bytes", "cut", "zeros", "swapped"]))
def test_any_damage_of_a_checkpoint_is_seen_or_harmless(checkpoint, data, damage):
    TRIED["checkpoints"] += 1
    content = data.draw(damaged(checkpoint, damage))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.ckpt"
        path.write_bytes(content)
        found = attempt(load_network, path)
        if found is not None:
            path.write_bytes(checkpoint)
            whole = load_network(path).net.state_dict()
            weights = found.net.state_dict()
            assert all(torch.equal(value, weights[name]) for name, value in whole.items())


COMBINATIONS = {
    "de_type": [["derain"], ["denoise_50", "dehaze"], ["denoise_15", "derain", "dehaze"]],
    "text": [["learned"], ["none"]],
    "attention": [["smam"], ["mdta"]],
    "fusion": [["fefm"], ["concatenation"]],
    "balance": [["equal"], ["published"]],
    "schedule": [["cosine"], ["published"]],
    "accumulate": [["1"], ["2"]],
    "batch_size": [["1"], ["3"]],
    "patch_size": [["8"], ["24"], ["104"], ["12"]],
    "classification_weight": [["0"], ["0.1"]],
    "named_probability": [["0"], ["1"], ["2"]],
    "val_images": [["0"], ["1"], ["99"]],
    "val_every": [["1"], ["100"]],
    "num_workers": [["0"], ["1"]],
    "cache_gb": [["0"], ["1e-5"], ["nan"]],
    "lr": [["1e-3"], ["1e30"]],
    "fft_weight": [["0"], ["0.1"]],
    "max_pixels": [["7679"], ["7680"]],
    "precision": [["fp32"], ["bf16"]],
    "seed": [["0"], ["9223372036854775807"]],
    "strict_data": [[]],
    "deterministic": [[]],
    "synthesize": [[]],
    "max_minutes": [["0.00001"]],
}


CHOICES = {name: st.sampled_from(values) for name, values in COMBINATIONS.items()}


@tries(8)
@given(chosen=st.fixed_dictionaries({}, optional=CHOICES))
def test_any_options_train_or_are_refused(chosen, train_flags, run_script):
    TRIED["trainings"] += 1
    flags = [word for name, words in chosen.items() for word in (f"--{name}", *words)]
    folders = [flag for flag in train_flags if "rain_dir" not in flag and "haze_dir" not in flag]
    folders = folders if "synthesize" in chosen else train_flags
    with tempfile.TemporaryDirectory() as folder:
        run = ["--width", "8", "--max_steps", "2", "--ckpt_dir", f"{folder}/run"]
        result = run_script("train", *folders, *run, *flags)
        torch.use_deterministic_algorithms(False)
        assert "Traceback" not in result.err, result.err
        assert result.code == 2 * len(result.error_lines), result
        if result.code:
            assert len(result.error_lines) == 1
        else:
            weights = load_network(Path(folder) / "run" / "last.ckpt").net.state_dict()
            assert all(value.isfinite().all() for value in weights.values())


@tries(25)
@given(picture=pictures(), tile=st.sampled_from(["0", "64", "auto"]))
def test_any_picture_goes_through_the_demo(picture, tile, run_script, checkpoint):
    TRIED["demos"] += 1
    content, ending, sides = picture
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.ckpt").write_bytes(checkpoint)
        path = Path(folder) / f"in.{ending}"
        path.write_bytes(content)
        flags = ["--ckpt_name", f"{folder}/a.ckpt", "--output", f"{folder}/out", "--cuda", -1]
        result = run_script("demo", "--input", path, *flags, "--tile", tile)
        assert "Traceback" not in result.err, result.err
        assert result.code == (0 if attempt(read_picture, path) is not None else 1), result
        assert result.code == 0 or sides is None
        assert result.code or (Path(folder) / "out" / path.name).exists()
