"""A second verifier, and its agreement with the first."""
