"""The paper's numbers, once: Tables 1 to 6 with table, row and section, and what a run must be to stand beside one.

Wang, Zhang, Sun: Implicit Feature Pyramid Network for Object Detection. Facts only; box AP in percent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Method:
    """What makes a run a run of that row. Names are those of the groups in conf/; None: any.

    components: of G, "rbl+csc", "rbl" or "csc"; None where there is no such G. unroll: evaluations, None for an
    equilibrium. The head on B (no iteration at all) is neck="none". large: a network of Table 6, by its backbone or,
    where a small one stands in for it, by its deformable head.
    """

    detector: str
    neck: str
    csc: str | None = None
    components: str | None = None
    unroll: int | None = None
    backbone: str | None = None
    large: bool = False


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: unique within the table.
        labels: its first cells, as `Table.heads` names them.
        values: `METRICS` in percent; None where the paper gives no number.
        method: None for numbers that the paper quotes from others and that no run here can give.
        overrides: after `python train.py experiment=table<N>`, what runs this row; () with a method: not part of the
            table's own sweep.
        note: where our reading of the paper needs a word.
    """

    name: str
    labels: tuple[str, ...]
    values: Values
    method: Method | None = None
    overrides: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Table:
    """One table of the paper."""

    number: int
    section: str
    title: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    evaluated_on: str = "val2017"
    note: str = ""

    @property
    def experiment(self) -> str:
        """The option `experiment=` that runs it."""
        return f"table{self.number}"


@dataclass(frozen=True)
class Claim:
    """A gain of one row over another that the text states, in points of `metric`."""

    gain: float
    table: int
    better: str
    worse: str
    metric: str = "AP"
    note: str = ""


_ATSS_IFPN = (43.5, 61.0, 47.4, 26.0, 47.5, 57.2)
_ATSS_RBL = (38.0, 54.2, 41.4, 19.7, 40.5, 53.2)
_TABLE1 = {
    "retina": ("RetinaNet", (36.3, 56.1, 39.1, 21.3, 40.1, 47.9), (39.7, 59.3, 42.9, 22.9, 43.8, 52.5)),
    "faster_rcnn": ("Faster R-CNN", (37.7, 58.8, 41.0, 22.0, 41.1, 49.2), (40.9, 60.4, 44.8, 25.1, 43.8, 52.4)),
    "fcos": ("FCOS", (38.6, 57.8, 41.7, 23.2, 42.4, 49.7), (42.1, 60.3, 45.7, 25.7, 45.6, 54.7)),
    "atss": ("ATSS", (39.3, 57.5, 42.7, 22.9, 42.9, 51.2), _ATSS_IFPN),
    "autoassign": ("AutoAssign", (40.5, 59.8, 43.9, 23.1, 44.7, 52.9), (43.7, 61.4, 47.2, 25.3, 47.4, 58.3)),
}
_DISAGREEMENT = "Sec. 4.3 says +7.1 APl over FPN, the table gives 58.3 - 52.9 = +5.4"


def _table1() -> Iterator[Row]:
    for detector, (label, fpn, implicit) in _TABLE1.items():
        note = _DISAGREEMENT if detector == "autoassign" else ""
        over = (f"detector={detector}",)
        yield Row(f"{detector}_fpn", (label, "FPN"), fpn, Method(detector, "fpn"), (*over, "neck=fpn"))
        method = Method(detector, "implicit", "pyramid", "rbl+csc")
        yield Row(f"{detector}_ifpn", (label, "i-FPN"), implicit, method, (*over, "neck=implicit"), note)


def _table2() -> Iterator[Row]:
    unrolled = {
        0: (38.8, 57.5, 42.0, 20.5, 42.5, 52.0),
        1: (41.2, 59.8, 44.7, 23.2, 45.0, 53.8),
        2: (42.4, 60.7, 45.7, 24.4, 46.2, 55.5),
        4: (42.5, 60.4, 46.1, 23.5, 46.1, 56.0),
    }
    for n, values in unrolled.items():
        method = Method("autoassign", "implicit", "dense", "rbl+csc", unroll=n) if n else Method("autoassign", "none")
        note = "" if n else "no iteration: the head reads B"
        yield Row(f"unroll_{n}", ("unrolling", str(n)), values, method, (f"row=unroll_{n}",), note)
    method = Method("autoassign", "implicit", "dense", "rbl+csc")
    yield Row("broyden", ("Broyden", "∞"), (42.8, 60.8, 46.2, 24.2, 46.4, 56.7), method, ("row=broyden",))


def _table3() -> Iterator[Row]:
    found = {
        "no_fpn": (("", ""), (35.2, 51.4, 38.0, 15.9, 37.6, 51.2), Method("atss", "none")),
        "rbl": (("x", ""), _ATSS_RBL, Method("atss", "implicit", "none", "rbl")),
        "csc": (("", "x"), (40.3, 57.8, 44.1, 24.1, 44.4, 53.4), Method("atss", "implicit", "pyramid", "csc")),
        "rbl_csc": (("x", "x"), _ATSS_IFPN, Method("atss", "implicit", "pyramid", "rbl+csc")),
    }
    for name, (labels, values, method) in found.items():
        yield Row(name, labels, values, method, (f"row={name}",))


def _table4() -> Iterator[Row]:
    found = {
        "none": ("no CSC", _ATSS_RBL),
        "bifpn": ("Bi-FPN", (41.5, 59.2, 44.8, 24.9, 45.1, 53.7)),
        "nasfpn": ("NAS-FPN", (41.5, 58.9, 44.7, 24.6, 45.2, 53.8)),
        "dense": ("Dense-FPN", (42.4, 59.9, 45.8, 25.7, 46.0, 55.9)),
        "pyramid": ("Pyramid-FPN", _ATSS_IFPN),
    }
    for csc, (label, values) in found.items():
        components = "rbl" if csc == "none" else "rbl+csc"
        yield Row(csc, (label,), values, Method("atss", "implicit", csc, components), (f"csc={csc}",))


def _table5() -> Iterator[Row]:
    values = (37.2, None, None, None, None, None)
    note = "only AP is known: 38.0 less the stated gain of 0.8"
    yield Row("mdeq", ("MDEQ",), values, Method("retina", "mdeq"), ("neck=mdeq",), note)
    method = Method("retina", "implicit", "dense", "rbl+csc")
    yield Row(
        "rliter", ("RLIter",), (38.0, 57.3, 40.9, 21.4, 42.0, 50.8), method, ("neck=implicit",),
        "the paper does not say which G gives 38.0 here and 39.7 in Table 1; csc=dense is assumed",
    )  # fmt: skip


# name, method, backbone, iterations in thousands, the six numbers
_QUOTED: tuple[tuple[str, str, str, int, Values], ...] = (
    ("rfcn", "R-FCN", "ResNet-101", 280, (29.9, 51.9, None, 10.8, 32.8, 45.0)),
    ("faster_rcnn_fpn", "Faster R-CNN w FPN", "R-101", 100, (36.2, 59.1, 39.0, 18.2, 39.0, 48.2)),
    ("mask_rcnn", "Mask R-CNN", "X-101", 120, (39.8, 62.3, 43.4, 22.1, 43.2, 51.2)),
    ("cascade_rcnn", "Cascade R-CNN", "R-101", 135, (42.8, 62.1, 46.3, 23.7, 45.5, 55.2)),
    ("tridentdet", "TridentDet", "R-101-DCN", 270, (46.8, 67.6, 51.5, 28.0, 51.2, 60.5)),
    ("cbnet_dual", "CBNet", "Dual-X152", 130, (50.0, 68.8, 54.6, None, None, None)),
    ("cbnet_triple", "CBNet", "Triple-X152", 130, (50.7, 69.8, 55.5, None, None, None)),
    ("retinanet", "RetinaNet", "R-101", 180, (39.1, 59.1, 42.3, 21.8, 42.7, 50.2)),
    ("cornernet", "CornerNet", "HG-104", 500, (40.5, 56.5, 43.1, 19.4, 42.7, 53.9)),
    ("centernet", "CenterNet", "HG-104", 750, (42.1, 61.1, 45.9, 24.1, 45.5, 52.8)),
    ("reppoints", "RepPoints", "R-101-DCN", 180, (45.0, 66.1, 49.0, 26.6, 48.6, 57.5)),
    ("fsaf", "FSAF", "X-64x4d-101", 180, (42.9, 63.8, 46.3, 26.6, 46.2, 52.7)),
    ("freeanchor", "FreeAnchor", "X-64x4d-101", 180, (44.9, 64.4, 48.4, 26.5, 48.0, 56.5)),
    ("fcos", "FCOS", "X-64x4d-101", 180, (43.2, 62.8, 46.6, 26.5, 46.2, 53.3)),
    ("atss_fpn_x101", "ATSS", "X-64x4d-101-DCN", 180, (47.7, 66.5, 51.9, 29.7, 50.8, 59.4)),
    ("borderdet", "BorderDet", "X-64x4d-101-DCN", 180, (48.0, 67.1, 52.1, 29.4, 50.7, 60.5)),
    ("autoassign_fpn_x101", "AutoAssign", "X-64x4d-101-DCN", 180, (48.3, 67.4, 52.7, 29.2, 51.0, 60.3)),
    ("paa_x101", "PAA", "X-64x4d-101-DCN", 180, (49.0, 67.8, 53.3, 30.2, 52.8, 62.2)),
    ("paa_x152", "PAA", "X-32x8d-152-DCN", 180, (50.8, 69.7, 55.1, 31.4, 54.7, 65.2)),
)
_OWN: tuple[tuple[str, str, str, Values], ...] = (
    ("atss_x101", "ATSS w/ i-FPN", "X-64x4d-101-DCN", (49.1, 67.3, 53.1, 32.0, 52.9, 63.5)),
    ("atss_x152", "ATSS w/ i-FPN", "X-32x8d-152-DCN", (49.9, 68.4, 54.0, 32.0, 53.6, 64.2)),
    ("autoassign_x101", "AutoAssign w/ i-FPN", "X-64x4d-101-DCN", (50.6, 69.4, 54.9, 31.2, 53.3, 63.7)),
    ("autoassign_x152", "AutoAssign w/ i-FPN", "X-32x8d-152-DCN", (52.2, 70.9, 56.5, 32.5, 55.1, 65.8)),
)
LARGE_BACKBONES = {"x101": "resnext101_64x4d", "x152": "resnext152_32x8d"}


def _table6() -> Iterator[Row]:
    for name, label, backbone, thousands, values in _QUOTED:
        detector, _, size = name.partition("_fpn_")
        method = Method(detector, "fpn", backbone=LARGE_BACKBONES[size], large=True) if size else None
        yield Row(name, (label, backbone, f"{thousands}k"), values, method, note="quoted by the paper")
    for name, label, backbone, values in _OWN:
        detector, size = name.split("_")
        method = Method(detector, "implicit", "pyramid", "rbl+csc", backbone=LARGE_BACKBONES[size], large=True)
        yield Row(name, (label, backbone, "180k"), values, method, (f"row={name}",))


TABLES: tuple[Table, ...] = (
    Table(1, "4.3", "FPN and i-FPN in five detectors", ("detector", "pyramid"), tuple(_table1())),
    Table(
        2, "4.4", "Unrolling and the Broyden solver", ("solver", "iterations"), tuple(_table2()),
        note="AutoAssign with the G of Fig. 4(b): residual blocks and Dense-FPN, so 42.8 and not the 43.7 of Table 1.",
    ),
    Table(3, "4.4", "Residual block (RBL) and cross-scale connection (CSC)", ("RBL", "CSC"), tuple(_table3())),
    Table(4, "4.4", "Cross-scale connections", ("CSC",), tuple(_table4())),
    Table(5, "4.4", "MDEQ's function and the residual-like iteration", ("function",), tuple(_table5())),
    Table(
        6, "4.5", "Large backbones", ("method", "backbone", "steps"), tuple(_table6()), "test-dev",
        note="The paper's numbers are on test-dev, whose annotations are not public.",
    ),
)  # fmt: skip

# Gains that the text states (Sec. 1, 4.3, 4.4, 4.5); each must be the difference of two rows.
CLAIMS: tuple[Claim, ...] = (
    Claim(3.4, 1, "retina_ifpn", "retina_fpn"),
    Claim(3.2, 1, "faster_rcnn_ifpn", "faster_rcnn_fpn"),
    Claim(3.5, 1, "fcos_ifpn", "fcos_fpn"),
    Claim(4.2, 1, "atss_ifpn", "atss_fpn"),
    Claim(3.2, 1, "autoassign_ifpn", "autoassign_fpn"),
    Claim(2.2, 1, "autoassign_ifpn", "autoassign_fpn", "APs"),
    Claim(7.1, 1, "autoassign_ifpn", "autoassign_fpn", "APl", _DISAGREEMENT),
    Claim(2.4, 2, "unroll_1", "unroll_0"),
    Claim(1.2, 2, "unroll_2", "unroll_1"),
    Claim(0.1, 2, "unroll_4", "unroll_2"),
    Claim(8.3, 3, "rbl_csc", "no_fpn"),
    Claim(0.9, 4, "dense", "bifpn"),
    Claim(1.1, 4, "pyramid", "dense"),
    Claim(0.8, 5, "rliter", "mdeq"),
    Claim(1.4, 6, "atss_x101", "atss_fpn_x101"),
    Claim(2.3, 6, "autoassign_x101", "autoassign_fpn_x101"),
    Claim(1.6, 6, "autoassign_x101", "paa_x101"),
    Claim(1.4, 6, "autoassign_x152", "paa_x152"),
)


def table(number: int) -> Table:
    """Table `number` of the paper, 1 to 6."""
    return TABLES[number - 1]
