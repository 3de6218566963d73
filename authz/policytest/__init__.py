"""`policy test`: cases in YAML, run through the server's own walk."""
