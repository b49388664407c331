"""The league: every strategy with one encoder and one budget, judged alike, in one table.

rows: who takes part, and the rules that all share. columns: what each is judged by. runs: pretrain
and judge, one file for each row and seed. tables: what the files say, and which differences count.
"""

from jetnb.league.columns import COLUMNS, Task
from jetnb.league.rows import ROWS, Row, Rules
from jetnb.league.runs import run
from jetnb.league.tables import Ranking, read, scores, show, verdict

__all__ = [
    "COLUMNS",
    "ROWS",
    "Ranking",
    "Row",
    "Rules",
    "Task",
    "read",
    "run",
    "scores",
    "show",
    "verdict",
]
