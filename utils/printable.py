"""Names of files as a terminal can show them."""


def printable(text: object) -> str:
    """A text in one line: control characters, and bytes that are not UTF-8, are escaped."""
    text = str(text).encode(errors="backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
