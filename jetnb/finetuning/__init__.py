"""What is pretraining worth: encoders frozen, finetuned and from scratch, over label budgets and
seeds, in one table.

planning: which runs there are, and their labels. study: tune and run them. settings: what all runs
share. trials: one run. stacked: linear and small heads for many seeds. ledger: results in a file,
so that nothing is done twice. tables: curves of the results.
"""

from jetnb.finetuning.planning import draw
from jetnb.finetuning.settings import GRIDS, MODES
from jetnb.finetuning.study import measure, probe
from jetnb.finetuning.tables import curves, probabilities

__all__ = ["GRIDS", "MODES", "curves", "draw", "measure", "probabilities", "probe"]
