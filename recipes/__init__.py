"""Lightning recipes that compose the primitives and the models."""
