"""Importers: one module per foreign format. Files in, sessions and messages out, through the rooms' own operations."""
