"""Where jets come from and how they are kept.

catalogue: samples and files by name, `load`; source and drawing: blocks of their jets, and some at
random. published and datasets: what others published; download: fetching it, with archives, answers
and received. store: memory-mapped columns. report: what is in a file, and what is wrong with it.
commands: `jetnb data`.
Formats of files are in `jetnb.readers`.
"""
