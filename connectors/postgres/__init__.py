"""Postgres: the ledger, leases, checkpoints and their migrations."""
