"""The exceptions that mean: the user can fix this, and the message says how. Standard library only."""

import errno

# What the operating system says when there is no room for a file.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(ValueError):
    """A configuration, file or argument that cannot work. The text names the value, what is allowed and the fix.

    The command line prints it as one sentence instead of a traceback.
    """


class ConfigError(UserError):
    """A setting, a combination of settings, or a file named by one, that cannot work."""


class WeightsError(UserError):
    """Weights that are missing, unreadable or made for another network; the message says what to do."""
