"""Values that every room may use: ids, sizes, times, events, the error tree. Nothing here does anything."""
