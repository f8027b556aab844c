"""The demo's atlas and cohort: simulated, with a known truth, offline."""
