"""What `policy init` writes: one policy, its tests, and the step of a CI server."""
