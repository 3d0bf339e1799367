"""Names of the stages of a segmentation, and of the ledgers of its journal.

::

    statistics ──> predict ──> cluster ──> check ──────────────────> clean ──> finish      stages
    statistics     predict     cluster/L   check/R account/R         clean/S   finish/L    ledgers
    field                                  match claim/P/T settle

L is a level (of a tile's halo; of the pyramid), R a round, P and T a pass and a turn, S a step. In
a series, ledger names begin with the timepoint: ``t00003/cluster/0``.
"""

from __future__ import annotations

import re
from enum import Enum, StrEnum

_TIMEPOINT = re.compile(r"t\d+")


class Stage(StrEnum):
    """Stages for which progress is counted, in the order of a run."""

    STATISTICS = "statistics"
    PREDICT = "predict"
    CLUSTER = "cluster"
    CHECK = "check"
    CLEAN = "clean"
    FINISH = "finish"


class LedgerKind(Enum):
    """Results of one kind in the journal."""

    STATISTICS = "statistics"
    FIELD = "field"
    PREDICT = "predict"
    CLUSTER = "cluster"
    COMPARE = "check"
    ACCOUNT = "account"
    MATCH = "match"
    CLAIM = "claim"
    SETTLE = "settle"
    CLEAN = "clean"
    FINISH = "finish"

    @property
    def stage(self) -> Stage:
        """The stage whose tasks have these results."""
        return _STAGES[self]

    def part(self, *parts: object) -> str:
        """Return the name of a part in the journal: ``CLUSTER.part(2)`` is ``cluster/2``."""
        return "/".join([self.value, *map(str, parts)])

    @classmethod
    def of(cls, name: str) -> LedgerKind | None:
        """Return the kind of ledger with a name; None for one unknown to this version."""
        parts = name.split("/")
        kind = parts[1] if len(parts) > 1 and _TIMEPOINT.fullmatch(parts[0]) else parts[0]
        return next((ledger for ledger in cls if ledger.value == kind), None)


_STAGES = {
    LedgerKind.STATISTICS: Stage.STATISTICS,
    LedgerKind.FIELD: Stage.STATISTICS,
    LedgerKind.PREDICT: Stage.PREDICT,
    LedgerKind.CLUSTER: Stage.CLUSTER,
    LedgerKind.COMPARE: Stage.CHECK,
    LedgerKind.ACCOUNT: Stage.CHECK,
    LedgerKind.MATCH: Stage.CHECK,
    LedgerKind.CLAIM: Stage.CHECK,
    LedgerKind.SETTLE: Stage.CHECK,
    LedgerKind.CLEAN: Stage.CLEAN,
    LedgerKind.FINISH: Stage.FINISH,
}
