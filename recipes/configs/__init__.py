"""What a command may be asked: frozen configs with their checks and presets."""
