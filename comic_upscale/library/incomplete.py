"""How the notes of volumes begin whose archives end early, so that pages may be missing. A ledger counts these."""

CUT_SHORT = "the archive is cut short"
DAMAGED_AFTER = "the archive is damaged after"
