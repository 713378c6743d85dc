"""Layers that cross-scale blocks, necks, heads and backbones share."""
