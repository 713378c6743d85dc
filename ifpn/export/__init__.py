"""A trained detector as one file for other runtimes: image bytes in, boxes out, nothing of Python needed."""

from ifpn.export.graph import ExportedDetector
from ifpn.export.write import FORMATS, SUFFIXES, applications, check_exportable, check_whole, export

__all__ = ["FORMATS", "SUFFIXES", "ExportedDetector", "applications", "check_exportable", "check_whole", "export"]
