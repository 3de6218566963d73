"""What of the policies under test no test came to: rules, their alternatives, lines of Rego."""
