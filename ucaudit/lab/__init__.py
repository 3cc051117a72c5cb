"""The work that takes minutes to hours: compress, measure, attest."""
