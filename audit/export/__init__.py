"""The record in forms that people and their tools read: JSON lines, CSV, one HTML page."""
