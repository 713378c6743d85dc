"""The paper's numbers: against each other, and against the text of the paper where it is at hand."""

from __future__ import annotations

import re

import pytest

from reproduce.paper import CLAIMS, METRICS, TABLES, Claim, Row, Table
from tests.conftest import ROOT

TEXT = ROOT.parent / "shared" / "paper.txt"
NUMBER = re.compile(r"\d+\.\d")


def rows(table: Table) -> dict[str, Row]:
    return {row.name: row for row in table.rows}


def test_names_are_unique_and_every_row_has_six_values_in_range() -> None:
    for table in TABLES:
        assert len(rows(table)) == len(table.rows)
        for row in table.rows:
            assert len(row.values) == len(METRICS)
            assert len(row.labels) == len(table.heads)
            known = [v for v in row.values if v is not None]
            assert known, row
            assert all(10 < v < 75 for v in known)
            ap, ap50, ap75, small, medium, large = row.values
            # AP is a mean over thresholds from .50 on; in all of the paper's rows small < medium < large.
            assert ap50 is None or ap is None or ap50 > ap
            assert ap75 is None or ap50 is None or ap75 < ap50
            assert small is None or medium is None or large is None or small < medium < large


def test_rows_that_are_one_experiment_have_one_set_of_values() -> None:
    """ATSS with i-FPN stands in Tables 1, 3 and 4, "no CSC" in 3 and 4."""
    seen: dict[object, tuple[float | None, ...]] = {}
    for table in TABLES:
        for row in table.rows:
            if row.method is not None:
                # Table 5 gives another number for RetinaNet with i-FPN than Table 1, but for another G.
                assert seen.setdefault(row.method, row.values) == row.values, row


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: f"{c.better}-{c.worse}-{c.metric}")
def test_gains_stated_in_the_text_are_differences_of_rows(claim: Claim) -> None:
    table = rows(TABLES[claim.table - 1])
    index = METRICS.index(claim.metric)
    a, b = table[claim.better].values[index], table[claim.worse].values[index]
    assert a is not None
    assert b is not None
    if claim.note:
        assert abs(a - b - claim.gain) > 0.1, "the note says that text and table disagree"
    else:
        assert a - b == pytest.approx(claim.gain, abs=1e-9)


def printed_tables() -> dict[int, list[list[set[str]]]]:
    """Of the paper's text: per table, its lines with numbers, each a list of cells, each the numbers in it.

    A table stands before its caption. The transcription put four rows' AP75 into one cell of Table 3.
    """
    found: dict[int, list[list[set[str]]]] = {}
    lines: list[list[set[str]]] = []
    for line in TEXT.read_text(encoding="utf-8").splitlines():
        caption = re.match(r"Table (\d)\. ", line)
        if caption:
            found[int(caption[1])], lines = lines, []
        elif line.startswith("|") and NUMBER.search(line):
            lines.append([set(NUMBER.findall(cell)) for cell in line.strip("|").split("|")])
    return found


def matches(row: Row, line: list[set[str]]) -> bool:
    cells = line[-len(METRICS) :]
    return len(cells) == len(METRICS) and all(
        not numbers if value is None else f"{value:.1f}" in numbers
        for value, numbers in zip(row.values, cells, strict=True)
    )


@pytest.mark.skipif(not TEXT.is_file(), reason="the paper's text is not part of this repository: ../shared/paper.txt")
@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.experiment)
def test_the_text_of_the_paper_has_these_rows_and_no_others(table: Table) -> None:
    printed = printed_tables()[table.number]
    # The transcription lost the numbers of MDEQ's row; the text gives its AP by a difference.
    expected = [row for row in table.rows if row.name != "mdeq"]
    assert len(printed) == len(expected)
    for row, line in zip(expected, printed, strict=True):
        assert matches(row, line), (row, line)


@pytest.mark.skipif(not TEXT.is_file(), reason="the paper's text is not part of this repository: ../shared/paper.txt")
def test_the_text_of_the_paper_states_these_gains() -> None:
    text = TEXT.read_text(encoding="utf-8")
    for claim in CLAIMS:
        said = [rf"\+?{claim.gain}( ?mAP|%| mAP improvement)", rf"\+{claim.gain},", rf"by {claim.gain}%"]
        assert any(re.search(pattern, text) for pattern in said), claim
