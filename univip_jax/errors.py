"""The one exception for what a user can put right."""


class UserError(Exception):
    """Something that a user can put right: a flag, a path, a file, a data set.

    The message is one line that names the thing, its value and the way out. Command lines print it to stderr
    without a traceback and exit with code 1.
    """


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read, or whose bits are not those that were saved."""
