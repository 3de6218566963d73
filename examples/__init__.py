"""Examples that run as they stand: policies, their Rego, and the demo."""
