"""The one kind of exception that means: the user can fix this, and the message says how."""


class UserError(ValueError):
    """A configuration, file or argument that cannot work. The text names the value, what is allowed and the fix.

    The command line prints it as one sentence instead of a traceback.
    """
