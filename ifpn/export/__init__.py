"""A trained detector as one file for other runtimes: image bytes in, boxes out, nothing of Python needed."""

from ifpn.export.graph import ExportedDetector
from ifpn.export.write import FORMATS, export

__all__ = ["FORMATS", "ExportedDetector", "export"]
