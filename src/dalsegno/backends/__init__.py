"""Places that keep named bytes for a pool; all obey one contract (contract.py)."""
