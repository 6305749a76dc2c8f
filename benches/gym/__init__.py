"""The fault gym: training runs with a known fault, and who brings them through: ``make bench-gym``."""
