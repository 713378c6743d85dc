"""Errors of the configuration, and of the files it names."""

import errno

from ifpn.errors import UserError

# What the operating system says when there is no room for a file.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ConfigError(UserError):
    """A setting, a combination of settings, or a file named by one, that cannot work."""
