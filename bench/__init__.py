"""What the house is measured by: one module a question, each with its stated goals."""
