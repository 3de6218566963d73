"""Rego's plain fragment, evaluated in process: parsed, checked and turned into closures."""
