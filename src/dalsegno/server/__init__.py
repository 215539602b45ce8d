"""The HTTP API: routes and rights."""
