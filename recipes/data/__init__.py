"""Clips of one's own: found in a folder or a table, encoded once into a cache, trained on.

``layouts`` finds clips with their captions, ``prepare`` writes the cache, ``check`` says what that
will take and what is wrong, ``training_clips`` hands the cache to a training recipe.
"""
