"""Incarnations of topics."""

from __future__ import annotations

from turnstream.connectors.postgres.migrate import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table and its function."""
    run_sql("incarnations")


def downgrade() -> None:
    """Refuse: cursors that are out would mean other records."""
    msg = "incarnations cannot be taken back"
    raise RuntimeError(msg)
