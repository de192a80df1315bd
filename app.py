"""A page to restore pictures on: python app.py, then open http://127.0.0.1:7860 in a browser.

Needs the packages of requirements-demo.txt. The page is for this machine alone unless `--host` says
otherwise; it asks nobody for a password. Files and pictures are bounded in size, uploads get names
of our own, and what was uploaded and made is removed at the latest when the page is closed.
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
import html
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
import warnings
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from am_promptir import load, name_degradation, restore_picture
from data.degradations import DEGRADATIONS
from net.checkpoint import Trained
from options import app_options
from utils.errors import UserError, run
from utils.inference import Part
from utils.pictures import encode, parse_picture
from utils.processes import end_as_ctrl_c_does
from utils.uploads import GuardedUploads

TITLE = "AM-PromptIR: restore a picture"
BLIND = "blind"
LONGEST_PREVIEW = 1600  # pixels
KEPT = 3600  # seconds that results stay at least
ENDINGS = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp"}
CSS = """
footer {display: none !important}
#weights .container {padding-top: 1.4em}
#task label {width: 100%}
"""


def main() -> int:
    options = app_options()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            f"app.py needs the package gradio ({error}); pip install -r requirements-demo.txt"
        ) from error
    trained = load(options.ckpt_name, options.cuda)
    print(f"{trained.description['checkpoint']}: {trained.describe()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="am_promptir_", ignore_cleanup_errors=True) as folder:
        files = Path(folder).resolve()
        os.environ["GRADIO_TEMP_DIR"] = str(files)  # for uploads and previews
        serve(gradio, build_page(gradio, trained, options, files), options, files)
    return 0


def serve(gradio: Any, page: Any, options: Namespace, folder: Path) -> None:
    """Show the page until Ctrl-C or SIGTERM, with uploads in `folder`. Raises `UserError`."""
    limit = int(options.max_mb * 1e6)
    guard = (GuardedUploads, (), {"max_bytes": limit, "folder": folder})
    page.queue(max_size=20)
    check_address(options.host)
    try:
        page.launch(
            server_name=options.host,
            server_port=options.port,
            max_file_size=limit,
            app_kwargs={"middleware": [guard]},
            theme=gradio.themes.Soft(font="system-ui", font_mono="monospace"),
            css=CSS,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise UserError(
            f"--port {options.port}: cannot listen there, it is taken or not allowed; give another"
        ) from error
    print(f"open http://{options.host}:{options.port} in a browser; Ctrl-C ends", flush=True)
    end_as_ctrl_c_does()
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        page.close(verbose=False)


def check_address(host: str) -> None:
    """Raise `UserError` if one cannot listen at an address."""
    try:
        if not host:
            raise OSError("empty")
        with socket.socket() as probe:
            probe.bind((host, 0))
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--host {host!r}: cannot listen there ({error}); give an IPv4 address of this "
            "machine, such as 127.0.0.1"
        ) from error


def build_page(gradio: Any, trained: Trained, options: Namespace, folder: Path) -> Any:
    """The page, as gradio's Blocks, with `folder` for results."""
    max_pixels = int(options.max_megapixels * 1e6)
    texts = {degradation.name: degradation.text for degradation in DEGRADATIONS}
    choices = [("Let the network decide (blind)", BLIND)]
    choices += [(_label(name, texts.get(name, "")), name) for name in trained.degradations]

    def answer(
        upload: str | None,
        task: str,
        strength: float,
        progress=gradio.Progress(),  # noqa: B008, gradio's way
    ) -> Iterator[tuple[Any, Any, Any, str]]:
        no_download = gradio.DownloadButton(value=None, interactive=False)
        yield None, gradio.Label(visible=False), no_download, ""  # nothing of an earlier picture
        if upload is None:
            raise gradio.Error("Choose a picture first.", print_exception=False)
        progress(0, "reading")

        def show(part: Part) -> None:
            words = "restoring" if part.total == 1 else f"part {part.done} of {part.total}"
            progress((part.done, part.total), words)

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                picture, kind = parse_picture(Path(upload).read_bytes(), "The file", max_pixels)
                progress(0, "restoring")
                named = name_degradation(trained, None if task == BLIND else task)
                result = restore_picture(
                    picture,
                    trained,
                    named,
                    strength=strength,
                    tile=options.tile,
                    on_part=show,
                    self_ensemble=options.self_ensemble,
                )
                kind = kind if kind in ENDINGS else "PNG"
                content = encode(result.after, "JPEG" if kind == "MPO" else kind, "The result")
            except UserError as error:
                words = html.escape(str(error))
                raise gradio.Error(words, duration=None, print_exception=False) from error
        file = _store(folder, content, f"restored.{ENDINGS[kind]}")
        width, height = picture.size
        notes = [f"{width} x {height} pixels, {kind}", *(str(entry.message) for entry in caught)]
        images = tuple(_shrink(image.preview()) for image in (result.before, result.after))
        weights = result.weights
        yield (
            images,
            gradio.Label(weights, visible=weights is not None),
            gradio.DownloadButton(value=str(file), interactive=True),
            " · ".join(notes),
        )

    with gradio.Blocks(title=TITLE, delete_cache=(KEPT, KEPT)) as page:
        gradio.Markdown(f"# {TITLE}")
        with gradio.Row():
            with gradio.Column(scale=2, min_width=300):
                upload = gradio.File(
                    label=f"PNG, JPEG, WebP, TIFF, BMP; {options.max_mb} MB",
                    height=190,
                    elem_id="upload",
                )
                task = gradio.Radio(choices, value=BLIND, label="What is wrong?", elem_id="task")
                strength = gradio.Slider(0, 1, 1, step=0.05, label="Strength")
                button = gradio.Button("Restore", variant="primary", elem_id="restore")
            with gradio.Column(scale=3, min_width=320):
                slider = gradio.ImageSlider(
                    label="Before | after",
                    interactive=False,
                    max_height=520,
                    format="png",  # what is compared must not be compressed with loss
                    buttons=["fullscreen"],  # the download is below, as deep as the upload
                    elem_id="result",
                )
                notes = gradio.Markdown(elem_id="notes")
                download = gradio.DownloadButton(
                    "Download the result", interactive=False, elem_id="download"
                )
                weights = gradio.Label(
                    label="What the network saw", show_heading=False, elem_id="weights"
                )
        button.click(
            answer,
            [upload, task, strength],
            [slider, weights, download, notes],
            api_name=False,
            show_progress_on=slider,
            trigger_mode="always_last",  # a click while another picture is restored counts too
        )
    return page


def _label(name: str, text: str) -> str:
    words = text.removeprefix("a photo with ")
    return f"{words[:1].upper()}{words[1:]} ({name})" if words else name


def _shrink(pixels: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3), no longer than what a page shows."""
    scale = LONGEST_PREVIEW / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _store(folder: Path, content: bytes, name: str) -> Path:
    """Write a result into a folder of its own, and remove those that are old."""
    results = folder / "results"
    results.mkdir(exist_ok=True)
    for old in results.iterdir():
        if time.time() - old.stat().st_mtime > KEPT:
            shutil.rmtree(old, ignore_errors=True)
    path = results / uuid.uuid4().hex / name
    path.parent.mkdir()
    path.write_bytes(content)
    return path


if __name__ == "__main__":
    run(main)
