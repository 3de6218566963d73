"""The record of decisions: written, chained, verified, exported. Ground floor: knows records, not policies."""
