"""npumon: which ops of the deployed models silently left the accelerator, since when, and why.

The package is the version and nothing else, so that importing it costs nothing: the command starts fast, and the
parent stays small.
"""

__version__ = "0.1.0"
