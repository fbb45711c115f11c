"""Reasoning that a model writes into its text, between tags at the answer's start; pure.

A server without a reasoning parser sends `<think>…</think>` as text. Tags elsewhere in an answer
stay text, because an answer may write about them.
"""

from __future__ import annotations

from typing import Literal

TAGS = {"<think>": "</think>", "<thinking>": "</thinking>", "[THINK]": "[/THINK]"}
SPACES_MAX = 64
"""White space before a tag; an answer that begins with more has none."""

Part = tuple[Literal["text", "reasoning"], str]


class Thinking:
    """Splits an answer's text; `plain`: all that follows is text."""

    __slots__ = ("_close", "_held", "_strips", "plain")

    def __init__(self) -> None:
        self.plain = False
        self._held = ""  # may be the beginning of a tag
        self._close = ""  # the tag that ends the reasoning, once it has begun
        self._strips = False  # the white space at the edges of the reasoning is not kept

    def feed(self, text: str) -> list[Part]:
        """Return the parts of a piece of text, in order."""
        text, self._held = self._held + text, ""
        if self.plain:
            return self._text(text)
        return self._inside(text) if self._close else self._before(text)

    def flush(self) -> list[Part]:
        """Return what is held back: no text follows for now."""
        text, self._held = self._held, ""
        return [("reasoning" if self._close and not self.plain else "text", text)] if text else []

    def _before(self, text: str) -> list[Part]:
        begun = text.lstrip()
        if begun and begun[0] not in "<[":
            self.plain = True
            return [("text", text)]
        for opening, closing in TAGS.items():
            if begun.startswith(opening):
                self._close, self._strips = closing, True
                return self._inside(begun[len(opening) :])
        if len(text) <= SPACES_MAX and any(opening.startswith(begun) for opening in TAGS):
            self._held = text
            return []
        self.plain = True
        return [("text", text)]

    def _inside(self, text: str) -> list[Part]:
        if self._strips:
            text = text.lstrip()
            self._strips = not text
        said, found, rest = text.partition(self._close)
        if found:
            self.plain, self._strips = True, True
            reasoning: list[Part] = [("reasoning", said)] if said else []
            return reasoning + self._text(rest)
        kept = next(
            (n for n in range(len(self._close) - 1, 0, -1) if text.endswith(self._close[:n])), 0
        )
        if kept:
            text, self._held = text[:-kept], text[-kept:]
        return [("reasoning", text)] if text else []

    def _text(self, text: str) -> list[Part]:
        if self._strips:
            text = text.lstrip()
            self._strips = not text
        return [("text", text)] if text else []

    @property
    def watched(self) -> str:
        """Return the character without which a piece is nothing but reasoning; "" for any piece."""
        return "" if self.plain or self._strips or self._held else self._close[:1]

    @property
    def idle(self) -> bool:
        """Whether text needs no look any more."""
        return self.plain and not self._strips
