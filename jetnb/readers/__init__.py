"""One module per file format. Each has the same three functions.

`read(path, *, block_size=10_000, start=0, stop=None, tally=None)` yields blocks of jets of the rows
`start` to `stop - 1`, in the order of the file; rows are jets, or events where the format is one of
events, and `block_size` counts rows. The form of the file is checked before the first block, so at
the call; values block by block. It raises `FileNotFoundError`, `PermissionError`, and `ValueError`
that names file, column, row and value, and says what to do: nothing else, whatever is in the file
(the decorator `_common.explaining` sees to it). `event` is the same whatever the range of rows.
`tally`, a mapping if given, counts what was not taken as it stands:
    rows          rows read so far
    jets          jets left out: pt <= 0, or a needed value that is not finite
    constituents  constituents left out: pt <= 0, or a four-momentum that is not finite
    tracks        has_track made False because a track parameter is not finite
    unsorted      jets whose constituents were not by falling pt, and were sorted
`count(path)` is the number of rows, from the header alone. `recognises(path)` says whether the file
has this format, by its keys, columns and shapes alone, and never raises.

Three constants of a module are read by others, where it has them:
    HINTS         kind of file (HDF5, ROOT, Parquet, zip) -> patterns of names in it, `tree/branch`
                  for ROOT. A file with two such names that is not recognised is taken for one of
                  this format with something missing, and its reader says what.
    SELECTION     `sample` of a provenance -> field -> lowest and highest value that the selection
                  of the dataset allows, for `jetnb.check`
    INCOMPLETE    samples whose constituents are not meant to add up to their jet

Nothing in a file is executed or unpickled. What a format lacks is absent from the jets, never
invented.
"""
