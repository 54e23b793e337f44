"""The report of runs: one page with curves, tables and every debate, which opens from disk and needs no network."""
