"""The fault gym: who brings runs with a known fault through: ``make bench-gym``."""
