"""Shell 2: one effect per file. Adapters are injected; vendor trouble is translated here into the words
Temporal retries by. Each activity looks in the journal before it acts and commits before it reports.
"""
