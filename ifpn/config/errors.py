"""Errors of the configuration."""

from ifpn.errors import UserError


class ConfigError(UserError):
    """A setting, a combination of settings, or a file named by one, that cannot work."""
