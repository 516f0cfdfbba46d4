"""What a call may end with other than its answer."""


class CallError(Exception):
    """A call came to nothing.

    Attributes:
        call: Method and path.
        attempts: How often it was sent.
        status: Of the last answer; None if there was none.
        code: The server's word for it (`invalid`, `busy`, ...), or the client's where the server did not speak.
        message: For people.
    """

    def __init__(self, call: str, attempts: int, code: str, message: str, status: int | None = None) -> None:
        said = f"{status} {code}" if status else code
        tried = f" after {attempts} attempts" if attempts > 1 else ""
        super().__init__(f"{call}: {said}{tried}: {message}")
        self.call, self.attempts, self.status, self.code, self.message = call, attempts, status, code, message


class RefusedError(CallError):
    """The server will not do this, however often it is asked: the request, the token or the address is wrong."""


class BusyError(CallError):
    """The server could not take the request (429, 5xx) as long as the retries lasted."""


class UnreachableError(CallError):
    """No answer: refused, reset or lost connections as long as the retries lasted."""


class DeadlineError(CallError):
    """The time given to the call is over."""


class UnusableAnswerError(CallError):
    """What answered does not speak this API, or another version of it."""
