"""The configs of commands: frozen dataclasses with checks and presets."""
