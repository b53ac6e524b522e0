"""Every method of every room, and what it means."""
