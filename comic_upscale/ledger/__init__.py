"""The ledger: the SQLite file that records every page of a job."""
