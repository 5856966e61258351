"""
The bytes of a text file to text: UTF-8, without a byte order mark, every line end a newline.

Other bytes are an error that names the file and the place. A text in the wrong encoding would be learned as it is.
"""

from __future__ import annotations


def decode_text(raw: bytes, name: str) -> str:
    r"""
    Read the bytes of a text file: UTF-8, byte order mark off, every line end a ``"\n"``.

    Parameters
    ----------
    raw : bytes
    name : str
        What an error calls the text: its file.

    Raises
    ------
    ValueError
        If the bytes are empty or blank, hold a NUL, or are not UTF-8.

    Examples
    --------
    >>> decode_text(b"\xef\xbb\xbfOnce\r\nupon", "tale.txt")
    'Once\nupon'
    """
    text = plain_text(raw, name)
    if not text.strip():
        raise ValueError(f"{name}: must hold text, is empty; fill it or leave it out")
    return text


def plain_text(raw: bytes, name: str) -> str:
    r"""
    Do what `decode_text` does, for a text that may be blank.

    Examples
    --------
    >>> plain_text(b"\r\n", "prompt.txt")
    '\n'
    """
    if b"\0" in raw:
        offset = raw.index(b"\0")
        raise ValueError(f"{name}: must be UTF-8 text, got a NUL byte at offset {offset}; save it as UTF-8 plain text")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        got = f"byte 0x{raw[error.start]:02x} at offset {error.start}"
        raise ValueError(f"{name}: must be UTF-8 text, got {got}; save it as UTF-8") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
