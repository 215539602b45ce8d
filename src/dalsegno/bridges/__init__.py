"""Other programs' front doors: the Amanda application."""
