"""Istio's policy resources: read, checked, indexed, matched."""
