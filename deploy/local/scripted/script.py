r"""What a scripted model is told to do: directives in a message or a model name; pure.

A directive is `key=value` at the start of a message, or after white space or one of `,;&:?`. Those
in the model's name (`scripted:tokens=100,rate=50`) hold for every request, those in the last user
message stand above them. A message without any is echoed.

| directive | meaning |
| --- | --- |
| `tokens=N` | answer with N words, a token each |
| `text="…"` | answer with this text: a JSON string, or unquoted all up to the message's end |
| `reasoning=N` | say N tokens of reasoning before |
| `tool=name({…})` | call this tool, then answer; several: in parallel; bad JSON is sent as it is |
| `rounds=N` | ask for the tools in the first N answers of a turn (1), if tools are offered |
| `insist=1` | ask for them even where none are offered |
| `rate=F` | tokens a second (0: 16 at a time, as fast as they are read) |
| `ttft=F` | seconds before the first token |
| `finish=WORD` | finish_reason |
| `seed=N` | another choice of words |
| `usage=0` | never send usage |
| `stamp=1` | a token's text is CLOCK_MONOTONIC in ns at its write, and a space |
| `split=N` | cut the stream's bytes into pieces of N, sent apart |
| `reasoning_field=NAME` | where reasoning stands: `reasoning_content` (default) or `reasoning` |
| `error=N` | answer with this HTTP status; `error=context`: as vLLM when the context is too long |
| `retry_after=F` | with a Retry-After header |
| `error_after=N` | an error object after N tokens |
| `stall_after=N` | say nothing more after N tokens |
| `cut_after=N` | close the connection after N tokens |
| `hangup=1` | close the connection instead of an answer |
| `error_times=N` | all of these faults only the first N times that this message comes |
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One request's directives; see the module's docstring. -1 means never."""

    tokens: int = -1
    text: str = ""
    reasoning: int = 0
    tool: tuple[tuple[str, str], ...] = ()  # name, arguments as they are sent
    rounds: int = 1
    insist: bool = False
    rate: float = 0.0
    ttft: float = 0.0
    finish: str = ""
    seed: int = 0
    usage: bool = True
    stamp: bool = False
    split: int = 0
    reasoning_field: str = "reasoning_content"
    error: str = ""
    error_times: int = -1
    retry_after: float = 0.0
    error_after: int = -1
    stall_after: int = -1
    cut_after: int = -1
    hangup: bool = False

    @property
    def fails(self) -> bool:
        """Whether the answer is to go wrong."""
        late = self.error_after, self.stall_after, self.cut_after
        return self.hangup or bool(self.error) or max(late) >= 0

    def without_faults(self) -> Script:
        """Return the script of a server that is well again."""
        return replace(self, hangup=False, error="", error_after=-1, stall_after=-1, cut_after=-1)


_KINDS: dict[str, type[Any]] = {f.name: type(f.default) for f in fields(Script)}
_KEY = re.compile(rf"(?:^|(?<=[\s,;&:?]))({'|'.join(_KINDS)})=")
_TOOL = re.compile(r"([\w.-]+)\(")
_PLAIN = re.compile(r"[^\s,;&]*")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_JSON = msgspec.json.Decoder()


def read_script(text: str, before: Script | None = None) -> Script:
    """Return a text's directives on top of those before; what cannot be read is none."""
    found: dict[str, Any] = {}
    tools: list[tuple[str, str]] = []
    position = 0
    while match := _KEY.search(text, position):
        key, position = match[1], match.end()
        if key == "tool":
            name, arguments, position = _tool(text, position)
            if name:
                tools.append((name, arguments))
            continue
        value, position = _text(text, position) if key == "text" else _plain(text, position)
        kind = _KINDS[key]
        try:
            found[key] = value == "1" if kind is bool else kind(value)
        except ValueError:
            continue
    if tools:
        found["tool"] = tuple(tools)
    script = before or Script()
    return replace(script, **found)


def _plain(text: str, position: int) -> tuple[str, int]:
    match = _PLAIN.match(text, position)
    return (match[0], match.end()) if match else ("", position)


def _text(text: str, position: int) -> tuple[str, int]:
    if match := _QUOTED.match(text, position):
        try:
            return str(msgspec.json.decode(match[0])), match.end()
        except msgspec.DecodeError:
            pass
    return text[position:], len(text)


def _tool(text: str, position: int) -> tuple[str, str, int]:
    """Return name, arguments and the position behind them.

    The arguments end at the first `)` before which they are JSON.
    """
    match = _TOOL.match(text, position)
    if match is None:
        return "", "", position
    start = match.end()
    first = end = text.find(")", start)
    while end >= 0:
        arguments = text[start:end]
        try:
            _JSON.decode(arguments or "{}")
        except msgspec.DecodeError:
            end = text.find(")", end + 1)
        else:
            return match[1], arguments or "{}", end + 1
    return (match[1], text[start:first], first + 1) if first >= 0 else ("", "", start)
