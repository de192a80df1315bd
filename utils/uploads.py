"""What a page's users send: uploads with names of ours, and nothing else in place of a picture."""

import email.message
import json
import re
from pathlib import Path
from typing import Any

UPLOADS = "/gradio_api/upload"  # where files are sent to
UPLOAD_NAME = b"picture"
MAX_HEADERS = 65_536  # bytes before the content of an uploaded file
MAX_REQUEST = 1_000_000  # bytes of any other request
FILE_NAME = re.compile(rb"filename\*?=(\"(?:[^\"\\]|\\.)*\"|[^;\r\n]*)", re.IGNORECASE)


class GuardedUploads:
    """Middleware before gradio's application.

    Every uploaded file gets a name of ours before anything is written. A request that names as its
    file what was not uploaded is refused: given an address, gradio would fetch it. Both are held in
    memory, and refused when too large.

    Args:
        app: the application.
        max_bytes: of an uploaded file.
        folder: where uploads are kept.
    """

    def __init__(self, app: Any, max_bytes: int, folder: Path) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.folder = folder

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        boundary = find_boundary(headers.get(b"content-type", b""))
        is_upload = bool(boundary) and scope["path"].rstrip("/").endswith(UPLOADS)
        limit = self.max_bytes + MAX_HEADERS if is_upload else MAX_REQUEST
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > limit:
                expected = self.max_bytes if is_upload else MAX_REQUEST
                words = f"Too large; expected at most {expected / 1e6:g} MB."
                return await _refuse(send, 413, words)
        if is_upload:
            body = rename_uploads(bytes(body), boundary)
        elif names_other_files(bytes(body), self.folder):
            return await _refuse(send, 400, "Not an uploaded file; upload it first.")
        headers[b"content-length"] = str(len(body)).encode()
        told = False

        async def receive_again() -> dict:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return await self.app({**scope, "headers": [*headers.items()]}, receive_again, send)


def find_boundary(content_type: bytes) -> bytes:
    """Between the parts of a multipart form, by its header; empty if it is none."""
    kind = email.message.Message()
    kind["content-type"] = content_type.decode("latin-1")
    is_form = kind.get_content_type() == "multipart/form-data"
    return (kind.get_boundary() or "").encode("latin-1") if is_form else b""


def rename_uploads(body: bytes, boundary: bytes) -> bytes:
    """A multipart body with another file name in the headers of each part."""
    parts = body.split(b"--" + boundary)
    for index, part in enumerate(parts):
        headers, blank, content = part.partition(b"\r\n\r\n")
        headers = FILE_NAME.sub(b'filename="' + UPLOAD_NAME + b'"', headers)
        parts[index] = headers + blank + content
    return (b"--" + boundary).join(parts)


def names_other_files(body: bytes, folder: Path) -> bool:
    """Whether a body is JSON with a "path" outside the folder of the uploads, or no JSON."""
    if not body:
        return False
    try:
        found = [json.loads(body)]
    except (ValueError, RecursionError):
        return True  # such as a form with a boundary that only gradio understands
    while found:
        value = found.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if path is not None and not _is_inside(path, folder):
                return True
            found += value.values()
        elif isinstance(value, list):
            found += value
    return False


def _is_inside(path: Any, folder: Path) -> bool:
    inside = isinstance(path, str) and Path(path).is_relative_to(folder)
    return inside and ".." not in Path(path).parts


async def _refuse(send: Any, status: int, words: str) -> None:
    headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})
