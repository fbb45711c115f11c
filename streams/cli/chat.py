"""`turnstream chat`: talk to an agent in the terminal. Needs the edge only."""

import asyncio
import json
import signal
import sys
import uuid
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turnstream.schemas.ids import check_thread_id
from turnstream.schemas.text import visible_text
from turnstream.streams.cli.options import HERE, Dir, parsed

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from rich.console import Console

    from turnstream.streams.client.pieces import End, Piece
    from turnstream.streams.client.terminal import Chat

EXIT_FAILED = 1
EXIT_CANCELLED = 130


def chat(
    *,
    url: Annotated[str, typer.Option(help="The edge; default: the configured or local one.")] = "",
    token: Annotated[
        str, typer.Option(help="Bearer token.", envvar="TURNSTREAM_TOKEN", show_envvar=True)
    ] = "",
    thread: Annotated[str, typer.Option(help="Thread to continue; default: a new one.")] = "",
    assistant: Annotated[str, typer.Option(help="Graph that answers.")] = "agent",
    folder: Dir = HERE,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line a turn, nothing else.")
    ] = (False),
) -> None:
    """Talk to an agent; shows tokens and tool calls as they come.

    Ctrl-C stops the turn and keeps its text; at the prompt it ends the chat, as Ctrl-D does. Text
    on standard input is one message: `echo hello | turnstream chat`. Exit code 1: the turn failed;
    130: it was stopped.
    """
    from rich.console import Console

    from turnstream.streams.client.terminal import Chat, check_edge_url

    thread = parsed(check_thread_id, thread, "--thread") if thread else str(uuid.uuid4())
    url = parsed(check_edge_url, url, "--url") if url else _edge_url(folder)
    err = Console(stderr=True, highlight=False)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        talk = runner.run(
            stack.enter_async_context(Chat(url, thread, token=token, assistant=assistant))
        )
        try:
            if not sys.stdin.isatty():
                code = _one(runner, talk, sys.stdin.read().strip(), Screen(as_json), err)
                raise typer.Exit(code)
            err.print(f"thread {thread}; Ctrl-C stops a turn, Ctrl-D leaves", style="dim")
            _converse(runner, talk, as_json, err)
        finally:
            runner.run(stack.aclose())


def _edge_url(folder: Path) -> str:
    from turnstream.streams.cli.configured import configured
    from turnstream.streams.client.terminal import check_edge_url

    settings = configured(folder=folder)
    if settings.edge_url:
        return parsed(check_edge_url, settings.edge_url, "TURNSTREAM_EDGE_URL")
    return f"http://{settings.edge_host}:{settings.edge_port}"


def _one(runner: asyncio.Runner, talk: "Chat", text: str, screen: "Screen", err: "Console") -> int:
    if not text:
        err.print("nothing on standard input")
        return 2
    end, questions = runner.run(_turn(talk, talk.send(text), screen))
    for question in questions:
        err.print(f"the agent asks ({question.id}): {question.text}", markup=False)
    return _exit_code(end)


def _converse(runner: asyncio.Runner, talk: "Chat", as_json: bool, err: "Console") -> None:
    import readline  # noqa: F401  gives input() its line editing

    from turnstream.schemas.errors import TurnstreamError

    questions: list[Piece] = []
    while True:
        try:
            typed = input("answer> " if questions else "you> ")
        except (EOFError, KeyboardInterrupt):
            err.print()
            return
        if not typed.strip():
            continue
        asked = questions[0] if questions else None
        call = talk.answer(asked.id, _value(typed)) if asked is not None else talk.send(typed)
        try:
            _, questions = runner.run(_turn(talk, call, Screen(as_json)))
        except TurnstreamError as error:
            err.print(f"error ({error.code}): {error}", style="red", markup=False)


async def _turn(
    talk: "Chat", call: "Awaitable[None]", screen: "Screen"
) -> "tuple[End, list[Piece]]":
    """Run one turn to its end; Ctrl-C asks for its cancel, a second one leaves at once."""
    from turnstream.streams.client.pieces import End

    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Task[None]] = []
    me = asyncio.current_task()

    def stop() -> None:
        if stopping or not talk.run_id:
            if me is not None:
                me.cancel()
            return
        screen.note("stopping; the text so far is kept")
        stopping.append(loop.create_task(talk.cancel()))

    talk.run_id = ""
    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        await call
        async with aclosing(talk.turn()) as pieces:
            async for piece in pieces:
                if isinstance(piece, End):
                    screen.end(piece, talk)
                    return piece, screen.questions
                screen.piece(piece)
        raise AssertionError("a turn ends with its End")
    except asyncio.CancelledError:
        raise typer.Exit(EXIT_CANCELLED) from None
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        for task in stopping:
            await asyncio.gather(task, return_exceptions=True)


class Screen:
    """Shows one turn: text on standard output, what is about it on standard error."""

    def __init__(self, as_json: bool) -> None:
        from rich.console import Console

        self._json = as_json
        self._tty = sys.stdout.isatty()
        self._err = Console(stderr=True, highlight=False)
        self._texts: dict[str, str] = {}
        self._tools: list[dict[str, str]] = []
        self._column = 0
        self._thinking = False
        self._dropped = False
        self.questions: list[Piece] = []

    def piece(self, piece: "Piece") -> None:
        """Show one piece."""
        self._show(piece)
        self._dropped = piece.kind == "dropped"

    def _show(self, piece: "Piece") -> None:
        match piece.kind:
            case "text":
                self._texts[piece.id] = self._texts.get(piece.id, "") + piece.text
                self._leave_thought()
                self._write(piece.text)
            case "reasoning":
                self._think(piece.text)
            case "message-end":
                self._line()
            case "rewound":
                self._texts.pop(piece.id, None)
                self.note(f"— {piece.text} —")
            case "tool-started":
                self.note(f"⚙ {piece.name} {piece.text}")
            case "tool-finished" | "tool-failed":
                self._tools.append({"name": piece.name, "state": piece.kind, "output": piece.text})
                mark = "→" if piece.kind == "tool-finished" else "✗"
                self.note(f"  {mark} {piece.text}")
            case "tool-progress":
                self.note(f"  … {piece.text}")
            case "question":
                self.questions.append(piece)
                self.note(f"? {piece.text}")
            case "dropped" if not self._dropped:
                self.note("connection lost, coming back")

    def end(self, end: "End", talk: "Chat") -> None:
        """Show how the turn ended."""
        self._leave_thought()
        self._line()
        if self._json:
            line = {
                "thread_id": talk.thread_id,
                "run_id": talk.run_id,
                "status": end.status,
                "error": end.error,
                "text": "\n".join(self._texts.values()),
                "tools": self._tools,
                "questions": [{"id": q.id, "payload": q.text} for q in self.questions],
            }
            typer.echo(json.dumps(line, ensure_ascii=False))
        elif end.status == "failed":
            self.note("stopped" if end.error == "cancelled" else f"failed: {end.error}")

    def note(self, text: str) -> None:
        """Print a line about the turn, unless only JSON is wanted."""
        if not self._json:
            self._leave_thought()
            if self._tty:  # elsewhere the text is all that standard output shall hold
                self._line()
            self._err.print(visible_text(text, lines=True), style="dim", markup=False)

    def _write(self, text: str) -> None:
        if not self._json and text:
            shown = visible_text(text, lines=True)
            sys.stdout.write(shown)
            sys.stdout.flush()
            self._column = 0 if shown.endswith("\n") else 1

    def _think(self, text: str) -> None:
        if self._tty and not self._json:
            self._thinking = True
            self._err.print(
                visible_text(text, lines=True), style="dim italic", end="", markup=False
            )

    def _leave_thought(self) -> None:
        if self._thinking:
            self._thinking = False
            self._err.print()

    def _line(self) -> None:
        if self._column:
            self._write("\n")


def _value(typed: str) -> object:
    """Return what was typed as JSON where it is JSON, else as text."""
    try:
        return json.loads(typed)
    except ValueError:
        return typed


def _exit_code(end: "End") -> int:
    if end.status != "failed":
        return 0
    return EXIT_CANCELLED if end.error == "cancelled" else EXIT_FAILED
