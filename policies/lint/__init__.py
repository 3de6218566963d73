"""The policy linter: rules over policies that load, named by a catalogue."""
