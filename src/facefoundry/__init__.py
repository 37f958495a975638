"""From no real face data at all to a face-recognition engine on an edge device."""

__version__ = "0.1.0"
