"""Rego as the back end of CUSTOM policies."""
