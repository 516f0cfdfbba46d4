"""The exception for errors that a user can fix, and what the system reports as such."""

import errno


class UserError(ValueError):
    """An error that the user can fix. Its message, one or two lines, names the problem and the fix.

    Programs print the message without a traceback and exit with code 2.
    """


_FULL = (errno.ENOSPC, errno.EDQUOT)
_STORAGE = (*_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)


def storage_problem(error: OSError) -> str | None:
    """What a user can mend if a file cannot be created, read or written; None for other errors of the system."""
    if error.errno not in _STORAGE or (error.filename is None and error.errno not in _FULL):
        return None
    advice = "free space" if error.errno in _FULL else "correct its permissions"
    return f"{error.filename or 'writing failed'}: {error.strerror}; {advice}, or choose another place"
