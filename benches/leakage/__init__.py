"""Near duplicates in two corpora that anyone can rebuild, ours beside the peers."""
