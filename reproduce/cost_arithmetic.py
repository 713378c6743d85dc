"""What the paper's tables would cost, by arithmetic alone: multiply-adds of each row over an assumed speed.

    python -m reproduce.cost_arithmetic --tflops 6.3

Nothing here is measured (reproduce/cost_table.py is for that). GPU-hours = images of the schedule x 2 x multiply-adds
per image / (achieved TFLOPS x 3600). Backward counts as twice forward. Left out: the solver's own vector
operations, normalisation, input, evaluation, communication. So the hours are a lower bound, for i-FPN above all.
"""

from __future__ import annotations

import argparse

from reproduce.block_costs import rows
from reproduce.cost_table import images_of
from reproduce.paper import TABLES, Method, Row, Table

# 10^9 multiply-adds at 800 x 1344 with one projection to 256 channels per level
BACKBONES = {"resnet50": 88, "resnext101_64x4d": 332, "resnext152_32x8d": 525}  # at 224 px: 4.1, 15.5, 24.5
HEAD = 110  # two towers of four 3x3 convolutions on P3..P7; Faster R-CNN: RPN and 512 regions, 60
FASTER_RCNN_HEAD = 60
FASTER_RCNN_FPN = 61  # on P2..P5
PROJECTION = 4
FASTER_RCNN_CELLS = 4.0  # cells of P2..P5 over cells of P3..P7
FORWARD, PRODUCTS = 16, 15  # evaluations of G (15 and the one that is differentiated), vector-Jacobian products
LARGE_SCALE = 0.81  # mean area of 640 ... 800 over that of 800, Table 6


def g_macs(method: Method) -> float:
    """10^9 multiply-adds of one evaluation of G on P3..P7."""
    known = {row.name: row.reference.macs / 1e9 for row in rows()}
    blocks = {
        "none": 0.0,
        "bifpn": known["BiFPN layer, separable"],
        "nasfpn": known["NAS-FPN cell"],
        "dense": known["Dense-FPN (25 paths)"],
        "pyramid": known["Pyramid convolution, 13 own W_ij"],
    }
    if method.neck == "mdeq":
        return known["MDEQ function, expansion 1"]
    return blocks[method.csc or "none"] + ("rbl" in (method.components or "")) * known["RBL: 5 residual blocks"]


def training_macs(row: Row) -> float:
    """10^9 multiply-adds of one image in training, forward and backward."""
    method = row.method
    assert method is not None
    faster = method.detector == "faster_rcnn"
    head = FASTER_RCNN_HEAD if faster else HEAD
    fpn = (FASTER_RCNN_FPN if faster else 17) if method.neck == "fpn" else PROJECTION
    total: float = 3 * (BACKBONES[method.backbone or "resnet50"] + fpn + head)
    if method.neck in ("implicit", "mdeq"):
        # An evaluation that is differentiated costs three; a product costs one more evaluation, a backward pass two.
        evaluations = 3 * method.unroll if method.unroll is not None else FORWARD + PRODUCTS + 2
        total += evaluations * g_macs(method) * (FASTER_RCNN_CELLS if faster else 1.0)
    return total * (LARGE_SCALE if method.large else 1.0)


def hours(table: Table, row: Row, tflops: float) -> float:
    """GPU-hours of one training at an achieved speed of `tflops` (10^12 operations, two per multiply-add)."""
    return images_of(table, row) * training_macs(row) * 2e9 / (tflops * 1e12) / 3600


def markdown(tflops: float) -> str:
    """A line per table, and the total over different trainings."""
    lines = [["table", "rows", "GMAC per image, row by row", "GPU-hours", "days on 8 GPUs"], ["---"] * 5]
    once: dict[Method, float] = {}
    for table in TABLES:
        ours = [row for row in table.rows if row.method is not None and row.overrides]
        cost = [hours(table, row, tflops) for row in ours]
        once |= {row.method: h for row, h in zip(ours, cost, strict=True) if row.method is not None}
        macs = ", ".join(f"{training_macs(row):.0f}" for row in ours)
        lines.append([str(table.number), str(len(ours)), macs, f"{sum(cost):.0f}", f"{sum(cost) / 24 / 8:.1f}"])
    total = sum(once.values())
    words = (
        f"{len(once)} different trainings, one seed each: {total:.0f} GPU-hours, {total / 24 / 8:.0f} days on 8 GPUs."
    )
    note = f"Extrapolated by arithmetic from an assumed {tflops:g} TFLOPS; nothing was measured."
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{words} {note}\n"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--tflops", type=float, required=True, help="achieved, not peak: 6.3 is 40 %% of a V100 in fp32"
    )
    print(markdown(parser.parse_args().tflops), end="")


if __name__ == "__main__":
    main()
