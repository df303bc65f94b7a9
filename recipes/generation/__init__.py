"""What stands around a stream: plans, files and records, snapshots to go on from, commands."""
