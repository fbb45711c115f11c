"""The tool ledger."""

from __future__ import annotations

from turnstream.connectors.postgres.migrate import run_sql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the table and its functions."""
    run_sql("tool_calls")


def downgrade() -> None:
    """Refuse: a tool whose call was forgotten would act again."""
    msg = "recorded tool calls cannot be taken back"
    raise RuntimeError(msg)
