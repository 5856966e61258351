"""
Make `unicode_table.py`: the letters, numbers and white space of Unicode 16, and the unassigned characters.

GPT-2's split pattern matches letters and numbers, and every Unicode version adds some. Token ids must not depend on
the version that an installed package has, so the project carries its own table. It is made once, by hand:

    pip install unicodedata2==16.0.0
    python -m tinygpt.tokenizer.make_unicode_table

Nothing else imports this file, and only `main` needs `unicodedata2`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

UNICODE_VERSION = "16.0.0"
CODE_POINTS = 0x110000
CONTROLS_THAT_ARE_SPACE = "\t\n\v\f\r\x85"  # the members of White_Space that are not of category Z (PropList.txt)

HEADER = '''"""
The letters, numbers and white space of Unicode {version}, as ranges of code points in hexadecimal, and what it leaves
unassigned.

Made by make_unicode_table.py: do not edit. Source: the Unicode Character Database, general categories L, N and Cn, and
the property White_Space. This is the version that tiktoken 0.14 and Hugging Face tokenizers 0.23 know.
"""

UNICODE_VERSION = "{version}"
'''


def ranges(belongs: Callable[[int], bool]) -> list[tuple[int, int]]:
    """Return the maximal runs (first, last) of the code points that belong.

    Examples
    --------
    >>> ranges(lambda code: code in (65, 66, 67, 97))
    [(65, 67), (97, 97)]
    """
    found: list[tuple[int, int]] = []
    for code in range(CODE_POINTS):
        if not belongs(code):
            continue
        if found and found[-1][1] == code - 1:
            found[-1] = (found[-1][0], code)
        else:
            found.append((code, code))
    return found


def table_source(category: Callable[[str], str], version: str) -> str:
    """Return the text of `unicode_table.py`.

    Parameters
    ----------
    category : callable
        Gives the two-letter general category of a character.
    version : str
        The Unicode version that `category` knows.
    """
    tables = {
        "LETTERS": ranges(lambda code: category(chr(code))[0] == "L"),
        "NUMBERS": ranges(lambda code: category(chr(code))[0] == "N"),
        "SPACES": ranges(lambda code: category(chr(code))[0] == "Z" or chr(code) in CONTROLS_THAT_ARE_SPACE),
        "UNASSIGNED": ranges(lambda code: category(chr(code)) == "Cn"),
    }
    parts = [HEADER.format(version=version)]
    for name, found in tables.items():
        words = " ".join(f"{first:x}" if first == last else f"{first:x}-{last:x}" for first, last in found)
        lines = textwrap.fill(words, width=120, break_on_hyphens=False)
        parts.append(f'{name} = """\n{lines}\n"""\n')
    return "\n".join(parts)


def main() -> None:
    """Write `unicode_table.py` next to this file."""
    import unicodedata2

    if unicodedata2.unidata_version != UNICODE_VERSION:
        raise ValueError(
            f"make_unicode_table: needs Unicode {UNICODE_VERSION}, unicodedata2 has {unicodedata2.unidata_version}; "
            f"pip install unicodedata2=={UNICODE_VERSION}"
        )
    source = table_source(unicodedata2.category, UNICODE_VERSION)
    Path(__file__).with_name("unicode_table.py").write_text(source, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
