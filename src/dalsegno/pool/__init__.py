"""Objects into packs, packs into a backend, found again; refs; collect and check."""
