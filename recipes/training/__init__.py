"""What all training recipes share: runs and their folders, schedules, ranks, checkpoints."""
