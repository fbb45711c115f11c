"""Decisions about dead letters."""

from __future__ import annotations

from turnstream.connectors.postgres.migrate import run_sql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the table and its function."""
    run_sql("letters")


def downgrade() -> None:
    """Refuse: letters that were requeued would be requeued again."""
    msg = "what was decided of dead letters cannot be taken back"
    raise RuntimeError(msg)
