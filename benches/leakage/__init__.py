"""Near duplicates in two corpora that anyone can rebuild, beside the peers."""
