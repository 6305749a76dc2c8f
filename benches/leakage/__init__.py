"""Near duplicates in two corpora that anyone can rebuild: speed, memory, precision and recall beside the peers."""
