"""From settings to an open session: the only files that name every concrete class."""
