"""A worker on the real stack: a command in, events and a result out, the ledger closed."""

from __future__ import annotations


from turnstream.schemas.events import TurnCompleted
from turnstream.schemas.transcript import text_sha256, transcript


async def test_a_turn_from_end_to_end(scene) -> None:
    async with scene.worker():
        turn = await scene.start("t1", "tokens=20", correlation_id="c-1")
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCompleted)
        shown = transcript(view).messages[-1]
        assert shown.intact
        assert shown.text == view.terminal.text
        assert view.terminal.sha256 == text_sha256(shown.text)
        assert not view.partial
        assert view.gaps == 0
        result = (await scene.until(lambda: scene.results))[0]
        assert result.correlation_id == "c-1"
        assert result.text == shown.text
        row = await scene.closed(turn)
        assert row["attempts"] is None or row["attempts"] == 1
        assert [u.output_tokens for u in result.usage] == [20]
