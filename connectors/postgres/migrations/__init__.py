"""Alembic's environment and revisions; the SQL itself lies in `../sql`."""
