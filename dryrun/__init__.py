"""What policies that are not enforced would have answered."""
