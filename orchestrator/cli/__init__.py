"""`orch`: one command a file; the only place that knows terminals."""
