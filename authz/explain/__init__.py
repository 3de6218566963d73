"""`policy explain`: one decision told as a story, out of the server's own walk."""
