"""Gyrostat's spike detector beside its peers: ``make bench-spikes``."""
