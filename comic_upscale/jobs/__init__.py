"""Jobs: the ledger that remembers every page, and the pipeline that does them."""
