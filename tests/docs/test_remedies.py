"""Whoever does what an error says is helped: each error is provoked, and each remedy done."""

from __future__ import annotations

from pathlib import Path

import pytest
import remedies.arguments
import remedies.calls
import remedies.inputs
import remedies.stale
import remedies.tables  # noqa: F401 (the cases of the five join CASES)
from remedies.cases import CASES, Case


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("message", "case"), CASES, ids=[case.__name__ for _, case in CASES])
def test_each_remedy_that_an_error_names_works(message: str, case: Case, tmp_path: Path) -> None:
    number = done = 1
    while done <= number:
        folder = tmp_path / str(done)
        folder.mkdir()
        provoke, *follow = case(folder)
        with pytest.raises(Exception, match=f"(?s){message}"):
            provoke()
        follow[done - 1]()
        number, done = len(follow), done + 1
