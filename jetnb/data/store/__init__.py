"""The store: a folder of plain columns, memory-mapped, read as awkward jets or gathered as packed
batches.

`meta.json` holds schema version, counts, provenance and a sha256 per column; `offsets.npy`,
`jet_*.npy` and `constituent_*.npy` hold the columns, each a 128-byte NumPy header and the values,
so `np.load` reads them too. Opening maps the files and reads the offsets alone, 8 bytes a jet, to
see that they rise. Writing goes block by block into a hidden folder beside the target, which is
renamed into place when complete and on disk: there is never half a store.
"""

from jetnb.data.store.reading import Store, open
from jetnb.data.store.record import FORMAT, HEADER, VERSION, StoreError, StoreExistsError
from jetnb.data.store.writing import write

__all__ = [
    "FORMAT",
    "HEADER",
    "VERSION",
    "Store",
    "StoreError",
    "StoreExistsError",
    "open",
    "write",
]
