"""The errors that a person is meant to read: each says what is wrong and what to do next."""


class B3Error(Exception):
    """Something is wrong that the reader of the message can do something about. The command exits with 1."""

    exit_code = 1


class UsageError(B3Error):
    """The command was called wrongly: a path that is not there, a value that cannot be. Exits with 2."""

    exit_code = 2
