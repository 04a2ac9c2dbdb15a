"""The tools that come with Perdure. Each file makes its own from plain limits; ``registry.py`` gathers them."""
