"""What this process has asked of the store and of the node's cache so far, for whoever exports it."""

from __future__ import annotations

from collections import Counter

COUNTS: Counter[str] = Counter()
"""`store_retries`, `node_cache_hits`, `node_cache_misses`."""
