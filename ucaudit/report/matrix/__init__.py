"""The public benchmark page: every row from signed evidence, verified again while it is built.

``build`` reads bundles and the ledger into one :class:`~ucaudit.core.records.benchmarks.Benchmarks`; ``markdown``
and ``page`` print it. Nothing here needs more than the base install.
"""
