"""What everything else stands on: errors, digests, strict parsing, signed records, statistics. Light."""
