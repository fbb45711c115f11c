r"""Text in which a character beyond the first plane is cut in two; pure.

Some servers escape such a character as `\ud83d\ude00` and send its halves in two chunks.
"""

from __future__ import annotations

from turnstream.schemas.text import clean_text


def split_half(text: str) -> tuple[str, str]:
    """Return the text as UTF-8 can hold it, and the half character at its end, if there is one.

    The caller puts the half before the next piece. A half without its other half becomes U+FFFD.
    """
    half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
    whole = text[:-1] if half else text
    try:
        whole.encode()
    except UnicodeEncodeError:
        pairs = whole.encode("utf-16-le", "surrogatepass")
        whole = clean_text(pairs.decode("utf-16-le", "surrogatepass"))
    return whole, half
