"""The one exception that stands for a mistake of the user's and not for one of ours."""


class MosaicError(Exception):
    """Something in the request cannot be done: what was expected, what was got, what to do next.

    The command line prints it as one line and exits with code 2; every other exception keeps its traceback.
    """
