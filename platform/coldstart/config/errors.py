"""The exception for errors that a user can fix."""


class UserError(ValueError):
    """An error that the user can fix. Its message, one or two lines, names the problem and the fix.

    Programs print the message without a traceback and exit with code 2.
    """
