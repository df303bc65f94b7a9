"""`longlive bench --preset`: one model's stages apart and together, in several configurations."""
