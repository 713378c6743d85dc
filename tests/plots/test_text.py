"""Class names in letters that DejaVu Sans lacks: another font that has them, or the number of the class."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image

from ifpn.evaluation import ConfusionMatrix
from ifpn.plots import draw_detections
from ifpn.plots.evaluation import draw_confusion
from ifpn.plots.text import _face, class_name, class_names, families, font

DEJAVU, STIX = (FT2Font(font_manager.findfont(name)) for name in ("DejaVu Sans", "STIXGeneral"))  # matplotlib has both
OTHER = next(
    chr(code)
    for code in sorted(STIX.get_charmap())
    if unicodedata.category(chr(code)) == "Lu" and not DEJAVU.get_char_index(code)
)
CHINESE = "猫"


@pytest.fixture(autouse=True)
def only_matplotlibs_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    names = ("DejaVu Sans", "STIXGeneral", "Last Resort High-Efficiency")
    own = [f for f in font_manager.fontManager.ttflist if f.name in names]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    _face.cache_clear()
    yield
    _face.cache_clear()


def test_a_name_is_kept_where_a_font_has_its_letters() -> None:
    names = ["cat", "Łódź\nщи", OTHER, CHINESE, ""]
    assert class_names(names) == ["cat", "Łódź щи", OTHER, "class 3", "class 4"]
    assert class_name(names, 9) == "class 9"
    assert families(names) == ["DejaVu Sans", "STIXGeneral"]
    assert font(12, "cat 0.50").getname()[0] == font(12, CHINESE).getname()[0] == "DejaVu Sans"
    assert font(12, f"{OTHER} 0.50 (missed)").getname()[0] == "STIXGeneral"
    assert font(12, bold=True).getname() == ("DejaVu Sans", "Bold")


def tag(name: str) -> np.ndarray:
    found = {
        "boxes": torch.tensor([[100.0, 100, 300, 300]]),
        "labels": torch.tensor([0]),
        "scores": torch.tensor([0.9]),
    }
    return np.asarray(draw_detections(torch.zeros(3, 640, 640, dtype=torch.uint8), found, [name], score_threshold=0))


def test_pictures_show_letters_or_the_number_and_no_empty_boxes() -> None:
    assert np.array_equal(tag(CHINESE), tag("class 0"))
    assert not np.array_equal(tag(OTHER), tag("class 0"))
    assert not np.array_equal(tag(OTHER), tag("\uffff"))


def test_figures_warn_of_no_missing_glyph(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    matrix = ConfusionMatrix(np.eye(4, dtype=np.int64), (OTHER, CHINESE, "cat"), 0.5, 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_confusion(matrix, tmp_path / "a.png")
    assert not caplog.records
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 300
