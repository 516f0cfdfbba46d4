"""The one exception a user is meant to read."""


class UserError(ValueError):
    """Something the user can mend: a message of one or two lines that names the thing and the fix.

    Programs print the message without a traceback and leave with exit code 2.
    """
