"""The page in a browser, end to end; skipped where gradio, selenium or Chromium is missing."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.conftest import ROOT, save_untrained
from utils.pictures import Picture, read_picture, write_picture
from utils.uploads import UPLOAD_NAME, GuardedUploads, names_other_files, rename_uploads

PATIENCE = 60  # seconds
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def test_uploads_are_renamed_and_nothing_else():
    content = b'\r\n\r\nbytes filename="kept" \x00\xff\r\n'
    body = b"".join(
        b"--XY\r\nContent-Disposition: form-data; name=" + head + content
        for head in (
            b'"files"; filename="../../secret.png"\r\nContent-Type: image/png',
            b'"files"; filename="a\\"; b.png"',
            b"\"files\"; filename*=utf-8''secret%20name.png",
            b'"other"',
        )
    )
    body += b"--XY--\r\n"
    renamed = rename_uploads(body, b"XY")
    assert renamed.count(content) == 4
    heads = renamed.replace(content, b"").split(b"--XY\r\n")[1:]
    assert [b'; filename="' + UPLOAD_NAME + b'"' in head for head in heads] == [True] * 3 + [False]
    assert not any(word in renamed for word in (b"secret", b"b.png", b".."))


@pytest.mark.parametrize("kind", ["boundary=XY", 'BOUNDARY="XY"', "Boundary = XY", ""])
def test_uploads_are_renamed_whatever_the_header(kind):
    stored, answers = [], []

    async def app(scope, receive, send):
        stored.append((await receive())["body"])

    async def receive():
        return {
            "type": "http.request",
            "body": b'--XY\r\na: b; filename="secret"\r\n\r\n--XY--\r\n',
        }

    async def send(message):
        answers.append(message)

    header = (b"content-type", f"multipart/form-data; {kind}".encode())
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": [header]}
    asyncio.run(GuardedUploads(app, 1000, Path("/uploads"))(scope, receive, send))
    assert not any(b"secret" in body for body in stored)
    assert stored if kind else answers[0]["status"] == 400


@pytest.mark.parametrize(
    "path", ["http://127.0.0.1:1/a.png", "/etc/passwd", "/uploads/../etc/passwd", "a.png", 3, ["/"]]
)
def test_requests_name_uploads_alone(path):
    folder = Path("/uploads")

    def body(path):
        return json.dumps({"data": [{"path": path, "meta": {}}, "blind", 1]}).encode()

    assert names_other_files(body(path), folder)
    assert names_other_files(body(path).replace(b"path", b"p\\u0061th"), folder)
    assert not names_other_files(body("/uploads/1f/picture"), folder)
    assert not names_other_files(b'{"data": [null, "blind", 1]}', folder)
    assert not names_other_files(b"", folder)
    assert names_other_files(b"no JSON", folder)


def test_without_gradio_and_wrong_flags(fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "pip install -r requirements-demo.txt" in fails("app")
    assert "a whole number from 1 to 65535" in fails("app", "--port", 70000)
    assert "above 0" in fails("app", "--max_mb", 0)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of a running page, its process, and the folder for its files."""
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("page")
    checkpoint = save_untrained(folder / "tiny.ckpt")
    files = folder / "files"
    files.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--ckpt_name", str(checkpoint), "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--cuda=-1", "--tile=64", "--max_mb=1", "--max_megapixels=1"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(files), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("open http"):
            break
    else:
        pytest.fail(f"the page did not open: {process.wait()}")
    yield f"http://127.0.0.1:{port}", process, files
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    """A headless browser that has the page open; downloads go to `browser.downloads`."""
    selenium = pytest.importorskip("selenium.webdriver")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no Chromium with its driver here (Debian: chromium, chromium-driver)")
    from selenium.webdriver.chrome.service import Service

    options = selenium.ChromeOptions()
    options.binary_location = program
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1200,1000"):
        options.add_argument(f"--{flag}")
    downloads = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    browser = selenium.Chrome(options=options, service=Service(driver))
    browser.downloads = downloads
    browser.get(page[0])
    yield browser
    browser.quit()


def wait(condition):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise TimeoutError


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def shown(browser, selector):
    """The text of an element; nothing while the page replaces it."""
    try:
        return "".join(element.text for element in find(browser, selector))
    except Exception as error:
        assert "stale element" in str(error)
        return ""


def upload(browser, path):
    for button in find(browser, "#upload button[aria-label='Clear']"):
        button.click()
    wait(lambda: find(browser, "#upload input[type=file]"))[0].send_keys(str(path))
    wait(lambda: path.stem in shown(browser, "#upload"))


def restore(browser):
    find(browser, "button#restore")[0].click()


def test_only_this_machine_reaches_it(page):
    process = psutil.Process(page[1].pid)
    connections = getattr(process, "net_connections", process.connections)(kind="tcp")
    listening = [entry.laddr.ip for entry in connections if entry.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]


def test_large_uploads_are_refused(page):
    head = b'--XY\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    for size, expected in ((1000, 200), (2_000_000, 413)):
        request = urllib.request.Request(
            f"{page[0]}/gradio_api/upload",
            head + bytes(size) + b"\r\n--XY--\r\n",
            {"Content-Type": "multipart/form-data; boundary=XY"},
        )
        try:
            with urllib.request.urlopen(request) as answer:
                code = answer.status
        except urllib.error.HTTPError as error:
            code = error.code
        assert code == expected


@pytest.mark.parametrize("kind", ["application/json", "application/json; boundary=x"])
@pytest.mark.parametrize(
    "where", ["queue/join", "run/answer", "run/upload", "api/upload/", "call/answer"]
)
def test_no_address_is_fetched(where, kind, page):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.png"
        file = {"path": address, "meta": {"_type": "gradio.FileData"}}
        body = {"data": [file, "blind", 1], "fn_index": 1, "session_hash": "a", "trigger_id": 1}
        request = urllib.request.Request(
            f"{page[0]}/gradio_api/{where}",
            json.dumps(body).encode(),
            {"Content-Type": kind},
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code == 400 and b"upload it first" in refused.value.read()
        with pytest.raises(TimeoutError):
            server.accept()


def test_picture_is_restored(page, browser, photos, tmp_path):
    colours = photos[0].astype(np.uint16) * 257
    picture = Picture(colours, np.full(colours.shape[:2], 30_000, np.uint16))
    path = tmp_path / "my secret name.png"
    write_picture(path, picture)
    upload(browser, path)
    restore(browser)
    wait(lambda: "96 x 80 pixels, PNG" in shown(browser, "#notes"))
    wait(lambda: len(find(browser, "#result img")) == 2)
    weights = shown(browser, "#weights")
    for name in ("denoise_15", "denoise_25", "denoise_50", "derain", "dehaze"):
        assert name in weights
    assert weights.count("%") == 5

    find(browser, "#download")[0].click()
    wait(lambda: (browser.downloads / "restored.png").exists())
    restored = read_picture(browser.downloads / "restored.png")
    assert restored.pixels.dtype == np.uint16 and restored.size == (96, 80)
    assert np.array_equal(restored.alpha, picture.alpha)
    assert not np.array_equal(restored.pixels, picture.pixels)
    written = [file.name for file in page[2].rglob("*")]
    assert UPLOAD_NAME.decode() in written and not any("secret" in name for name in written)

    (derain,) = (e for e in find(browser, "#task label") if "(derain)" in e.text)
    derain.click()
    restore(browser)
    wait(lambda: shown(browser, "#notes") and not shown(browser, "#weights"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text.png", "not an image"),
        ("cut.png", "cannot be read"),
        ("large.png", "more than --max_megapixels 1;"),
    ],
)
def test_what_is_no_picture_is_refused(name, words, page, browser, tmp_path):
    path = tmp_path / name
    path.write_text("no image")
    if name != "text.png":
        size = (2000, 900) if name == "large.png" else (90, 200)
        write_picture(path, Picture(np.zeros((*size, 3), np.uint8)))
    if name == "cut.png":
        path.write_bytes(path.read_bytes()[:-40])
    upload(browser, path)
    restore(browser)
    wait(lambda: words in shown(browser, ".toast-body"))
    assert not find(browser, "#result img") and not shown(browser, "#notes")  # of the one before
    assert find(browser, "#download[disabled]")
    closing = "document.querySelectorAll('.toast-close').forEach(button => button.click())"
    browser.execute_script(closing)  # of those that have not gone by themselves


def test_a_port_that_is_taken(page, fails, tmp_path):
    checkpoint = save_untrained(tmp_path / "tiny.ckpt")
    message = fails("app", "--port", page[0].rsplit(":")[-1], "--ckpt_name", checkpoint)
    assert "--port" in message and "cannot listen there, it is taken" in message
    for host in ("", "no such host", "203.0.113.1"):
        message = fails("app", "--host", host, "--ckpt_name", checkpoint)
        assert f"--host {host!r}: cannot listen there" in message


def test_nothing_is_left_at_the_end(page):
    """Last, since it ends the page."""
    _, process, files = page
    assert any(files.glob("am_promptir_*"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert not any(files.glob("am_promptir_*"))
    assert Path(files).is_dir()
