"""The one exception that means: the user can fix this, and the message says how."""


class ConfigError(ValueError):
    """A configuration, a file or an argument that cannot work. Its text names the value, what is allowed and the fix."""
