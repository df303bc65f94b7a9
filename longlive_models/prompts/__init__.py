"""Prompts: storyboards and the blocks they become, files of them, events that change them."""
