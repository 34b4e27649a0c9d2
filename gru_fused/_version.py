"""The version, read by setup.py without importing the extension."""

__version__ = "0.1.0"
