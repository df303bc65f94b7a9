"""Model folders and weight files: found, read, packed in four bits, and told apart by hashes."""
