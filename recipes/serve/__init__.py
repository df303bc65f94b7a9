"""A server of videos that are watched and steered while they are made, and its page."""
