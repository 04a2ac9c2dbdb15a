"""Schedules: what is stored of them, when they fire, what is wrong with one. No I/O but the zone database."""
