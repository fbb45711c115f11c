"""What forgets old rows."""

from __future__ import annotations

from turnstream.connectors.postgres.migrate import run_sql

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create the function."""
    run_sql("purge")


def downgrade() -> None:
    """Refuse: going back is a restore, not a migration."""
    msg = "rows that were forgotten do not come back"
    raise RuntimeError(msg)
