"""Cut a stream, name an object, keep a realm's keys. Pure."""
