"""The errors of a call."""


class CallError(Exception):
    """A call failed.

    Attributes:
        call: Method and path.
        attempts: How often it was sent.
        status: Of the last response; `None` if there was none.
        code: The server's error code (`invalid`, `busy`, ...), or the client's if the server sent none.
        message: For people.
    """

    def __init__(self, call: str, attempts: int, code: str, message: str, status: int | None = None) -> None:
        status_and_code = f"{status} {code}" if status else code
        tried = f" after {attempts} attempts" if attempts > 1 else ""
        super().__init__(f"{call}: {status_and_code}{tried}: {message}")
        self.call, self.attempts, self.status, self.code, self.message = call, attempts, status, code, message


class RequestRejectedError(CallError):
    """The server rejects the request, and a retry cannot help: the request, the token or the address is wrong."""


class BusyError(CallError):
    """The server could not process the request (429, 5xx) within the allowed retries."""


class UnreachableError(CallError):
    """No response: connections were refused, reset or lost until the retries were used up."""


class DeadlineExceededError(CallError):
    """The deadline of the call has passed."""


class InvalidResponseError(CallError):
    """The response does not match this API, or is from another version of it."""
