"""The one exception type for problems a user can mend."""


class DynFocusError(ValueError):
    """A wrong file, directory, question or setting: the message names it and says what it must be.

    The command line prints the message as one line and exits with code 2; anything else is a bug of ours
    and keeps its traceback.
    """
