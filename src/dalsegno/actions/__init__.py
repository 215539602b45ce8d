"""What the system can do, one verb per file; every door calls these."""
