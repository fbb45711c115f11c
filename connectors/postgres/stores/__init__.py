"""What lies beside the ledger: threads' metadata, dead letters, usage, places in the log."""
