"""What is pretraining worth: encoders frozen, finetuned and from scratch, over label budgets and
seeds, in one table.

study: the functions, and the choices that are made for all runs. trials: one run. stacked: linear
and small heads for many seeds at once. ledger: results in a file, so that nothing is done twice.
"""

from jetnb.finetuning.study import GRIDS, MODES, curves, draw, measure, probe

__all__ = ["GRIDS", "MODES", "curves", "draw", "measure", "probe"]
