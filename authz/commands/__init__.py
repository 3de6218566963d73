"""The command lines, one subject a file; `authz.cli` joins them."""
