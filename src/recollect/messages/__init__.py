"""Messages: appended through the writer in one coalesced operation, read back in pages."""

from .room import Messages, Receipt

__all__ = ["Messages", "Receipt"]
