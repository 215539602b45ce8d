"""Archive media: targets that hold dumps, labels, the spool, and the catalog of what is where."""
