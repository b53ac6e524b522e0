"""Sessions: their life, their listing."""

from .room import Sessions

__all__ = ["Sessions"]
