"""The layouts in which others store the model's weights: names, forms of numbers, files."""
