"""Where the page is served: on this computer alone."""

__all__ = ["HOST"]

HOST = "127.0.0.1"
