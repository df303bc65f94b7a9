"""The parts of the generation recipes: plans, output files, records, snapshots and commands."""
