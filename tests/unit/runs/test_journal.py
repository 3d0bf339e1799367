"""The journal: what was noted is found again, by whoever comes next."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedseg_large.errors import RunError
from embedseg_large.runs import journal as module
from embedseg_large.runs.journal import Journal, Ledger, Note, Section
from embedseg_large.storage.open import folder_at

VALUES = st.integers(0, 2**32 - 2)
MORE = st.one_of(st.none(), st.integers(0, 2**32 - 1), st.lists(st.integers()))


@given(st.lists(st.tuples(st.integers(0, 5000), st.tuples(VALUES, MORE))))
def test_a_ledger_knows_the_last_note_of_each_task(notes: list[tuple[int, Note]]) -> None:
    ledger, expected = Ledger(), {}
    for number, (value, more) in notes:
        ledger.put(number, (value, more))
        expected[number] = (value, more)
    assert ledger.count == len(expected)
    has_numbers = any(isinstance(more, int) for _, (_, more) in notes)
    for number in {*expected, 5001, 10**6}:
        found, wanted = ledger.get(number), expected.get(number)
        if wanted is None or isinstance(wanted[1], list) or not has_numbers:
            assert found == wanted
        else:  # a column of numbers has a number for every task
            assert found is not None
            assert found[0] == wanted[0]
            assert wanted[1] is None or found[1] == wanted[1]


def test_notes_outlive_the_client(tmp_path: Path) -> None:
    folder = folder_at(str(tmp_path / "journal"))
    first = Journal(folder, 1)
    first.note("predict", 3, (17, 2**32 - 1))
    first.note("check/0", 9, (1, {"0": [4, [2**63]]}))
    Section(first, "t00002").note("predict", 3, (99, None))
    first.flush()
    second = Journal(folder, 2).load()
    second.note("predict", 3, (18, 5))
    second.flush()
    third = Journal(folder, 3).load()
    assert third.find("predict", 3) == (18, 5)
    assert third.find("check/0", 9) == (1, {"0": [4, [2**63]]})
    assert Section(third, "t00002").find("predict", 3) == (99, None)
    assert third.find("predict", 4) is None
    assert third.counts == {"predict": 1, "check/0": 1, "t00002/predict": 1}


def test_few_files_hold_many_notes(tmp_path: Path) -> None:
    folder = folder_at(str(tmp_path / "journal"))
    journal = Journal(folder)
    for number in range(2 * module.FLUSH_LINES):
        journal.note("predict", number, (5, None))
    journal.flush()
    assert len(list(folder.names())) < 10
    assert Journal(folder).load().counts == {"predict": 2 * module.FLUSH_LINES}


def test_a_client_that_lost_the_run_writes_nothing(tmp_path: Path) -> None:
    folder = folder_at(str(tmp_path / "journal"))

    def lost() -> None:
        raise RunError("taken over")

    journal = Journal(folder, guard=lost)
    journal.note("predict", 1, (5, None))
    with pytest.raises(RunError, match="taken over"):
        journal.flush()
    assert list(folder.names()) == []
