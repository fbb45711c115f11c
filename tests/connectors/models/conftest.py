"""The model client on the loop that workers run on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).parent))  # for recorded_exchanges


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Any]:
    """Run on uvloop: its transports are other classes than asyncio's."""
    del config, item
    return {"uvloop": uvloop.new_event_loop}
