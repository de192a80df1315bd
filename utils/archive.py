"""Whether a saved archive is whole: what `torch.load` does not look at.

`torch.load` takes a file with flipped bits as it is (60 of 60 tries), and would unpack a compressed
entry of any size. The checksums that `torch.save` writes tell the first, the listed sizes the
second.
"""

import zipfile
from pathlib import Path


def check_archive(path: Path) -> None:
    """Make sure that a file of `torch.save` is as it was written; reads it once.

    Files of other kinds, such as those of old versions of PyTorch, pass: they have no checksums.

    Raises:
        ValueError: an entry is compressed or larger than the file, or its checksum is another.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
                    raise ValueError(f"{entry.filename} unpacks to {entry.file_size} bytes")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    if damaged:
        raise ValueError(f"the checksum of {damaged} is another")
