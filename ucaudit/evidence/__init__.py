"""Keys, signatures, trust, ledger, bundle, policy, verification and gate. Light."""
