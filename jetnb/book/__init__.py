"""Notebooks: the runner of `jetnb run`, and the gallery of what they drew."""
