"""Model folders and weight files: finding, reading, packing in four bits, and hashing them."""
