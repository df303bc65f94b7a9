"""What a model will take, before it runs: memory by part, seconds, and what would make it fit."""
