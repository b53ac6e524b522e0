"""The vocabulary for operations of your own, run by `store.read` and `store.write`.

An operation is a plain generator function that yields statements and receives rows:

    def rename_source(old: str, new: str) -> Operation[int]:
        return (yield execute("UPDATE sessions SET source = :new WHERE source = :old", old=old, new=new))

    changed = await store.write(rename_source, "cli", "terminal")
"""

from .engine.operation import Operation, Row, Statement, all, execute, ids, lock, many, one, tuples

__all__ = ["Operation", "Row", "Statement", "all", "execute", "ids", "lock", "many", "one", "tuples"]
