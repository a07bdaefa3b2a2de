"""The one exception that means: the input is wrong, and here is what to change."""


class TransporterError(ValueError):
    """Bad input. The message names the field, the value and the fix; the command line prints it without a traceback."""
