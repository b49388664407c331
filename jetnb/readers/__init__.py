"""One module per file format: `read(path)` yields blocks of jets."""
