"""SQLite through aiosqlite: one connection that writes, a small pool that reads."""
