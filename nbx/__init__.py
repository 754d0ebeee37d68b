"""nbx: a real-time next-best-experience decisioning service."""

__version__ = "0.1.0"
