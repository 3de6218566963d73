"""The demo: the whole house on loopback, real requests through real Envoys, and a table.

Run it with `make demo`, or `python -m examples.demo` from the repository's root.
"""
