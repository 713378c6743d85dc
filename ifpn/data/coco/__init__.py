"""COCO annotation files: where they lie, how they are read, and what is done about their defects."""
