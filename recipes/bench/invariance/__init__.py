"""`longlive bench --invariance`: which operations give a row the same bits beside any others."""
