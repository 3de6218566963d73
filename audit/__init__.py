"""The record of decisions: written, chained, verified, exported.

Ground floor: it knows records, not policies.
"""
