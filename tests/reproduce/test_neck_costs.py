"""Exact parameters and multiply-adds of every block and neck, and the command that prints them."""

import json
from pathlib import Path

import pytest

from ifpn.csc import PyramidConv
from ifpn.necks import ImplicitFPN, NoFPN
from reproduce.block_costs import REFERENCE_CHANNELS, REFERENCE_IMAGE, RESNET50, Row, rows
from reproduce.cost import block_cost, level_sizes, neck_cost
from reproduce.neck_costs import main

COUNTED = Path(__file__).parents[1] / "golden" / "block_costs_800x1344.json"


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_row_is_exact(row: Row) -> None:
    assert row.cost(REFERENCE_CHANNELS, *REFERENCE_IMAGE) == row.reference


def test_table_holds_the_independent_counts() -> None:
    """The fixture was counted by another program."""
    counted = {(row["params"], row["macs"]) for row in json.loads(COUNTED.read_text()).values()}
    assert counted <= {(row.reference.params, row.reference.macs) for row in rows()}
    assert len(counted) == 14


def test_formula_of_the_pyramid_convolution() -> None:
    """A kernel has 9 C^2 weights; 5 own outputs, 4 from finer, 4 from coarser (at the coarser size)."""
    pixels = [h * w for h, w in level_sizes(100, 52, (8, 16, 32, 64, 128))]
    macs = 9 * 16**2 * (sum(pixels) + 2 * sum(pixels[1:]))
    assert block_cost(lambda: PyramidConv(16, 5), 16, 100, 52).macs == macs


def test_offset_convolutions_are_counted() -> None:
    plain = block_cost(lambda: PyramidConv(256, 5), 256, 800, 1344)
    deform = block_cost(lambda: PyramidConv(256, 5, deform=True), 256, 800, 1344)
    assert deform.params - plain.params == 11 * 41_490  # kernels whose output is P4 or coarser


def test_implicit_neck_is_projection_and_one_g() -> None:
    """The count is of one evaluation. Gains of weight norm: 23 convolutions x 256."""
    whole = neck_cost(lambda: ImplicitFPN(RESNET50, 256), 800, 1344)
    b = neck_cost(lambda: NoFPN(RESNET50, 256), 800, 1344)
    assert whole.gains == 23 * 256
    assert whole.params - whole.gains - b.params == 13_574_400
    assert whole.macs - b.macs == 46_242_201_600


def test_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    lines = capsys.readouterr().out.splitlines()
    default = next(line for line in lines if "default G" in line)
    assert default.split()[-4:] == ["13,574,400", "46.24", "13,574,400", "46.24"]


def test_command_prints_one_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--neck", "implicit", "--channels", "256", "csc.share=true", "neck.weight_norm=false"])
    printed = capsys.readouterr().out
    assert f"{5_903_360 + 1_770_240:,}" in printed
    main(["--neck", "stack", "--csc", "bifpn", "neck.repeats=7", "neck.extra_levels=c5"])
    assert f"{3_827_845 + 6_227_200:,}" in capsys.readouterr().out
