"""The tool `current_time`."""

from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field

from turnstream.graph.ports.tools import ToolCallContext
from turnstream.graph.tools.function import FunctionTool
from turnstream.schemas.errors import ToolArgumentsError


class CurrentTimeArguments(BaseModel):
    """Arguments of `current_time`."""

    model_config = ConfigDict(extra="forbid")

    zone: str = Field(
        "UTC", max_length=64, description="IANA time zone, such as Asia/Seoul or Europe/Berlin"
    )


def current_time_tool(
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> FunctionTool[CurrentTimeArguments]:
    """Return the tool; `now` gives an aware time."""

    async def current_time(
        arguments: CurrentTimeArguments, _context: ToolCallContext
    ) -> dict[str, str]:
        """Tell the current date and time in a time zone."""
        try:
            zone = ZoneInfo(arguments.zone)
        except (KeyError, ValueError, OSError) as error:  # unknown; a path; a folder such as "Asia"
            raise ToolArgumentsError(
                f"{arguments.zone!r} is no IANA time zone; one is Asia/Seoul"
            ) from error
        local = now().astimezone(zone)
        return {
            "zone": arguments.zone,
            "time": local.isoformat(timespec="seconds"),
            "weekday": local.strftime("%A"),
        }

    return FunctionTool(current_time, CurrentTimeArguments, timeout_s=5.0, effects=None)
