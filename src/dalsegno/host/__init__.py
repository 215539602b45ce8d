"""The live file system of this host: scanned into trees, restored from trees."""
