"""Prompts: storyboards and their blocks, prompt files, and events that change a running video."""
