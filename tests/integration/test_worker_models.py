"""One worker on a model server that speaks every dialect: each turn ends with its code or text."""

from __future__ import annotations

import sys
from pathlib import Path

from turnstream.schemas.events import TurnCompleted, TurnFailed
from turnstream.schemas.transcript import transcript

sys.path.insert(0, str(Path(__file__).parents[1] / "connectors" / "models"))
from recorded_exchanges import ReplayServer, exchanges

# a call of a tool asks the server again, for the tool's answer
PLAYED = [one for one in exchanges() if "calls" not in one.expected]


async def test_each_dialect_ends_its_turn_with_the_right_code_and_text(scene) -> None:
    async with (
        ReplayServer(PLAYED) as server,
        scene.worker(model_url=server.url, model_tries_max=1) as worker,
    ):
        turns = {
            one.name: await scene.start(f"t{number}", one.name) for number, one in enumerate(PLAYED)
        }
        wrong = {}
        for number, one in enumerate(PLAYED):
            view = await scene.done(f"t{number}", turns[one.name])
            said = transcript(view).messages
            found = {
                "code": getattr(view.terminal, "code", ""),
                "message": getattr(view.terminal, "message", ""),
                "retryable": getattr(view.terminal, "retryable", False),
                "text": said[-1].text if said else "",
                "reasoning": said[-1].reasoning if said else "",
            }
            right = {name: one.expected.get(name, type(value)()) for name, value in found.items()}
            kind = TurnFailed if right["code"] else TurnCompleted
            if found != right or not isinstance(view.terminal, kind):
                wrong[one.name] = found, right
        assert not wrong
        await scene.until(lambda: len({r.turn_id for r in scene.results}) == len(PLAYED))
        assert not worker.not_ready()
        codes = {result.turn_id: result.code for result in scene.results}
        assert codes == {turns[one.name]: one.expected.get("code", "") for one in PLAYED}
