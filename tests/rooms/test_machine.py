"""Anything that can be done to sessions and messages, in any order, against plain lists of dicts."""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from recollect import AsyncSessionStore, Durability, InvalidRecord, Limits, TitleTaken
from recollect.search import keeper
from recollect.testing.engines import Target
from recollect.testing.postgres import in_schema

from .outside import indexed, is_server

Dict = dict[str, Any]

# -- the plain model -------------------------------------------------------------------------------


def new_session(parent: str | None = None, relation: str | None = None, title: str | None = None) -> Dict:
    return {
        "rows": [], "next": 1, "compactions": {}, "last": 0, "send": 0, "parent": parent, "relation": relation,
        "title": title, "ended": False, "archived": False, "rounds": [],
    }  # fmt: skip


def transcript(session: Dict) -> list[Dict]:
    return [row for row in sorted(session["rows"], key=place_of) if row["state"] == "active"]


def place_of(row: Dict) -> tuple[int, int]:
    return row["place"], row["seq"]


def row_of(session: Dict, seq: int) -> Dict | None:
    return next((row for row in session["rows"] if row["seq"] == seq), None)


def add_row(session: Dict, message: Dict, *, new_send: bool = True) -> int:
    """Appends a message of the model, unless its external id is there; its seq."""
    external = message["external_id"]
    known = next((row for row in session["rows"] if external is not None and row["external_id"] == external), None)
    if known is not None:
        return known["seq"]
    if message["role"] == "user" and new_send:
        session["send"] += 1
    seq = session["next"]
    session["next"] += 1
    row = {**message, "seq": seq, "place": seq, "state": "active", "by": None, "send": session["send"]}
    session["rows"].append(row)
    return seq


def put_away(session: Dict, rows: list[Dict], note: Dict) -> None:
    session["last"] += 1
    place = min(row["place"] for row in rows)
    for row in rows:
        row["state"], row["by"] = "compacted", session["last"]
    seq = session["next"]
    session["next"] += 1
    session["rows"].append({**note, "seq": seq, "place": place, "state": "active", "by": None, "send": session["send"]})
    session["compactions"][session["last"]] = {"note": seq, "undone": False}


def below(session: Dict, number: int) -> list[Dict]:
    """Everything that is under the note of a compaction."""
    found = [row for row in session["rows"] if row["by"] == number]
    notes = {made["note"]: n for n, made in session["compactions"].items() if not made["undone"]}
    for row in list(found):
        if row["seq"] in notes:
            found += below(session, notes[row["seq"]])
    return found


def undo(session: Dict, number: int) -> None:
    made = session["compactions"][number]
    made["undone"] = True
    row_of(session, made["note"])["state"] = "compacted"
    for row in session["rows"]:
        if row["by"] == number:
            row["state"], row["by"] = "active", None


def can_undo(session: Dict, number: int) -> bool:
    made = session["compactions"].get(number)
    return made is not None and not made["undone"] and row_of(session, made["note"])["state"] == "active"


def land(session: Dict, seq: int) -> Dict | None:
    """The session with its transcript up to `seq`, what stands behind it taken back; None if that cannot be."""
    session = copy.deepcopy(session)
    if seq == 0:
        place = (-1, -1)
    else:
        target = row_of(session, seq)
        if target is None:
            return None
        hidden_by: list[int] = []
        row = target
        while row["by"] is not None:
            hidden_by.insert(0, row["by"])
            row = row_of(session, session["compactions"][row["by"]]["note"])
        if row["state"] != "active":
            return None
        for number in hidden_by:
            undo(session, number)
        while (number := across(session, target)) is not None:
            undo(session, number)
        place = place_of(target)
    for row in transcript(session):
        if place_of(row) > place:
            row["state"] = "rewound"
    return session


def across(session: Dict, target: Dict) -> int | None:
    """A compaction whose note is shown, of which a part stands behind the target and another not."""
    for number in session["compactions"]:
        if can_undo(session, number) and session["compactions"][number]["note"] != target["seq"]:
            places = [row["place"] for row in below(session, number)]
            if min(places) <= target["place"] < max(places):
                return number
    return None


def preview_of(rows: Iterable[Dict]) -> str | None:
    for row in rows:
        if row["role"] == "user" and (words := " ".join(row["text"].strip().splitlines())):
            return words if len(words) <= 60 else words[:60] + "..."
    return None


# -- the machine -----------------------------------------------------------------------------------

PICK = st.integers(0, 63)
MESSAGES = st.fixed_dictionaries({
    "role": st.sampled_from(["user", "assistant", "tool"]), "kind": st.sampled_from(["text", "parts", "long", "none"]),
    "calls": st.integers(0, 2), "external_id": st.none() | st.sampled_from(["e1", "e2", "e3"]),
})  # fmt: skip
COMMON = "common"
"""a word of every message that has any"""


class Store(RuleBasedStateMachine):
    """A store, and what it must contain."""

    def __init__(self, places: Places, eventually: Callable[..., Coroutine[Any, Any, None]]) -> None:
        super().__init__()
        self.places = places
        self.eventually = eventually
        self.runner = asyncio.Runner()
        self.words = 0
        self.names = 0
        self.model: dict[str, Dict] = {}
        self.store = self.opened(self.new_place())

    def teardown(self) -> None:
        try:
            self.run(self.erased())
        finally:
            self.run(self.store.aclose())
            self.runner.close()
            self.places.clear()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def new_place(self) -> Target:
        self.place = self.places.new()
        return self.place

    def opened(self, place: Target) -> AsyncSessionStore:
        async def open_() -> AsyncSessionStore:
            store = AsyncSessionStore(place, durability=Durability.PROCESS, limits=Limits(spawn_depth=99))
            return await store.open()

        return self.run(open_())

    # -- choosing --------------------------------------------------------------------------------

    def name(self, pick: int) -> str:
        """One of the sessions, most often the first, so that much is done to one."""
        return sorted(self.model)[max(0, pick - 40) % len(self.model)]

    def fresh(self) -> str:
        self.names += 1
        return f"s{self.names}"

    def seq(self, session: Dict, pick: int) -> int:
        """Any seq there is, 0, and one that is not there yet."""
        return pick % (session["next"] + 1)

    def said(self, given: Dict) -> tuple[Dict, Dict]:
        """A message to append, and as the model has it."""
        self.words += 1
        text = {"none": "", "long": f" {COMMON}\n w{self.words}" + " und so weiter" * 6}.get(
            given["kind"], f"{COMMON} w{self.words}"
        )
        content: Any = [{"type": "text", "text": text}] if given["kind"] == "parts" else text or None
        calls = [{"id": f"c{n}", "function": {"name": "f", "arguments": "{}"}} for n in range(given["calls"])] or None
        message = {"role": given["role"], "content": content, "tool_calls": calls, "external_id": given["external_id"]}
        return message, {**message, "text": text}

    def note(self) -> tuple[str, Dict]:
        message, row = self.said({"role": "system", "kind": "text", "calls": 0, "external_id": None})
        return message["content"], row

    def refused(self, error: type[Exception], work: Coroutine[Any, Any, Any]) -> None:
        with pytest.raises(error):
            self.run(work)

    # -- sessions --------------------------------------------------------------------------------

    @initialize(given=st.lists(MESSAGES, min_size=5, max_size=9))
    def first(self, given: list[Dict]) -> None:
        self.create(0, None)
        self.append_many(0, given)

    @precondition(lambda self: self.model)
    @rule(pick=PICK, what=st.sampled_from([None, "A", "B", " C  D ", "archive", "unarchive", "end", "reopen"]))
    def manage(self, pick: int, what: str | None) -> None:
        if what is None or what[:1] in "AB ":
            self.set_title(pick, what)
        else:
            self.change_status(pick, what)

    @precondition(lambda self: len(self.model) < 6)
    @rule(parent=PICK, relation=st.none() | st.sampled_from(["spawn", "continuation", "fork", "followup"]))
    def create(self, parent: int, relation: str | None) -> None:
        name = self.fresh()
        above = self.name(parent) if relation and self.model else None
        given = {"parent_id": above, "relation": relation} if above else {}
        self.run(self.store.sessions.create(name, **given))
        self.model[name] = new_session(above, relation if above else None)

    def set_title(self, pick: int, title: str | None) -> None:
        name = self.name(pick)
        wanted = None if title is None else " ".join(title.split())
        if wanted and any(each["title"] == wanted for other, each in self.model.items() if other != name):
            self.refused(TitleTaken, self.store.sessions.set_title(name, title))
        else:
            assert self.run(self.store.sessions.set_title(name, title)) == wanted
            self.model[name]["title"] = wanted

    def change_status(self, pick: int, how: str) -> None:
        session = self.model[self.name(pick)]
        method = getattr(self.store.sessions, how)
        self.run(method(self.name(pick), *["done"] * (how == "end")))
        session.update({
            "archive": {"archived": True}, "unarchive": {"archived": False}, "end": {"ended": True},
            "reopen": {"ended": False},
        }[how])  # fmt: skip

    @precondition(lambda self: self.model and len(self.model) < 6)
    @rule(pick=PICK, at=st.none() | PICK)
    def fork(self, pick: int, at: int | None) -> None:
        origin = self.model[self.name(pick)]
        seq = None if at is None else self.seq(origin, at)
        landed = origin if seq is None else land(origin, seq)
        name = self.fresh()
        work = self.store.sessions.fork(self.name(pick), at_seq=seq, session_id=name)
        if landed is None:
            self.refused(InvalidRecord, work)
            return
        self.run(work)
        made = new_session(self.name(pick), "fork")
        for n, row in enumerate(transcript(landed), start=1):
            made["rows"].append({**row, "seq": n, "place": n})
            made["next"] = n + 1
            made["send"] = max(made["send"], row["send"])
        self.model[name] = made

    @precondition(lambda self: len(self.model) > 1)
    @rule(pick=PICK, cascade=st.booleans())
    def delete(self, pick: int, cascade: bool) -> None:
        going = [self.name(pick)]
        for above in going if cascade else ():
            going += [n for n, each in self.model.items() if each["parent"] == above and each["relation"] == "spawn"]
        assert set(self.run(self.store.sessions.delete(going[0], cascade=cascade))) == set(going)
        self.forget(going)

    def forget(self, going: list[str]) -> None:
        for name in going:
            del self.model[name]
        for each in self.model.values():
            if each["parent"] in going:
                each["parent"] = None

    # -- messages --------------------------------------------------------------------------------

    def append(self, pick: int, given: Dict) -> None:
        message, row = self.said(given)
        ref = self.run(self.store.messages.append(self.name(pick), **message))
        assert ref.seq == add_row(self.model[self.name(pick)], row)

    @precondition(lambda self: self.model)
    @rule(pick=PICK, given=st.lists(MESSAGES, min_size=1, max_size=6))
    def append_some(self, pick: int, given: list[Dict]) -> None:
        if len(given) == 1:
            self.append(pick, given[0])
        else:
            self.append_many(pick, given)

    def append_many(self, pick: int, given: list[Dict]) -> None:
        messages = [self.said(each) for each in given]
        refs = self.run(self.store.messages.append_many(self.name(pick), [message for message, _ in messages]))
        assert [ref.seq for ref in refs] == [add_row(self.model[self.name(pick)], row) for _, row in messages]

    @precondition(lambda self: self.model)
    @rule(pick=PICK, first=st.none() | PICK, last=st.none() | PICK)
    def compact_range(self, pick: int, first: int | None, last: int | None) -> None:
        session = self.model[self.name(pick)]
        bounds = [None if each is None else self.seq(session, each) for each in (first, last)]
        places = [row_of(session, seq or 0) for seq in bounds]
        rows = [
            row for row in transcript(session)
            if (bounds[0] is None or (places[0] or {"place": bounds[0]})["place"] <= row["place"])
            and (bounds[1] is None or row["place"] <= (places[1] or {"place": bounds[1]})["place"])
        ]  # fmt: skip
        if any(seq is not None and not 1 <= seq < session["next"] for seq in bounds):
            rows = []
        self.compact(pick, rows, {"from_seq": bounds[0], "to_seq": bounds[1]})

    @precondition(lambda self: self.model)
    @rule(pick=PICK, chosen=st.frozensets(st.integers(0, 9), max_size=5))
    def compact_set(self, pick: int, chosen: frozenset[int]) -> None:
        rows = [row for at, row in enumerate(transcript(self.model[self.name(pick)])) if at in chosen]
        self.compact(pick, rows, {"seqs": [row["seq"] for row in rows]})

    def compact(self, pick: int, rows: list[Dict], which: Dict) -> None:
        text, note = self.note()
        work = self.store.messages.compact(self.name(pick), note=text, **which)
        if not rows:
            self.refused(InvalidRecord, work)
            return
        made = self.run(work)
        session = self.model[self.name(pick)]
        put_away(session, rows, note)
        assert (made.seq, made.note_seq, made.count) == (session["last"], session["next"] - 1, len(rows))

    @precondition(lambda self: self.model)
    @rule(pick=PICK, which=PICK)
    def uncompact(self, pick: int, which: int) -> None:
        session = self.model[self.name(pick)]
        numbers = [*session["compactions"], session["last"] + 1]
        number = numbers[which % len(numbers)]
        work = self.store.messages.uncompact(self.name(pick), number)
        if can_undo(session, number):
            assert self.run(work).undone_at is not None
            undo(session, number)
        else:
            self.refused(InvalidRecord, work)

    @precondition(lambda self: self.model)
    @rule(pick=PICK, to=PICK, how=st.sampled_from(["rewind", "rewind and restore", "rewind", "restore"]))
    def take_back(self, pick: int, to: int, how: str) -> None:
        if "rewind" in how:
            self.rewind(pick, to)
        if "restore" in how:
            self.restore(pick)

    def rewind(self, pick: int, to: int) -> None:
        session = self.model[self.name(pick)]
        seq = self.seq(session, to)
        landed = land(session, seq)
        work = self.store.messages.rewind(self.name(pick), seq)
        if landed is None:
            self.refused(InvalidRecord, work)
            return
        was = sum(row["state"] == "rewound" for row in session["rows"])
        assert self.run(work) == sum(row["state"] == "rewound" for row in landed["rows"]) - was
        self.model[self.name(pick)] = landed

    def restore(self, pick: int) -> None:
        back = [row for row in self.model[self.name(pick)]["rows"] if row["state"] == "rewound"]
        assert self.run(self.store.messages.restore(self.name(pick))) == len(back)
        for row in back:
            row["state"] = "active"

    @precondition(lambda self: self.model)
    @rule(pick=PICK, given=st.none() | st.lists(MESSAGES, max_size=4))
    def rewrite(self, pick: int, given: list[Dict] | None) -> None:
        if given is None:
            self.clear(pick)
        else:
            self.replace(pick, given)

    def replace(self, pick: int, given: list[Dict]) -> None:
        session = self.model[self.name(pick)]
        messages = [self.said(each) for each in given]
        refs = self.run(self.store.messages.replace(self.name(pick), [message for message, _ in messages]))
        for row in session["rows"]:
            row["state"], row["by"] = "compacted", None
        for made in session["compactions"].values():
            made["undone"] = True
        taken = {row["external_id"] for _, row in messages}
        for row in session["rows"]:
            if row["external_id"] in taken:
                row["external_id"] = None
        assert [ref.seq for ref in refs] == [add_row(session, row, new_send=False) for _, row in messages]

    def clear(self, pick: int) -> None:
        session = self.model[self.name(pick)]
        assert self.run(self.store.messages.clear(self.name(pick))) == len(transcript(session))
        session["rows"], session["compactions"] = [], {}

    # -- usage -----------------------------------------------------------------------------------

    @precondition(lambda self: self.model)
    @rule(
        pick=PICK, how=st.sampled_from(["round", "add", "set"]), tokens=st.integers(0, 1000), round_index=st.integers(0, 2),
        cost=st.none() | st.integers(-5, 10**6),
    )  # fmt: skip
    def use(self, pick: int, how: str, tokens: int, round_index: int, cost: int | None) -> None:
        name = self.name(pick)
        given: Dict = {"prompt_tokens": tokens, "estimated_cost_usd": None if cost is None else cost / 1_000_000}
        if how == "round":
            self.run(self.store.usage.record_round(name, round_index=round_index, completion_tokens=1, **given))
        elif how == "add":
            self.run(self.store.usage.add(name, reasoning_tokens=-tokens, **given))
        else:
            self.run(self.store.usage.set(name, **given))
        self.model[name]["rounds"] = self.run(self.rounds(name))

    async def rounds(self, name: str) -> list[tuple[Any, ...]]:
        return [
            (row.send_index, row.round_index, row.prompt_tokens, row.completion_tokens, row.reasoning_tokens,
             row.estimated_cost_usd, row.created_at)
            for row in await self.store.usage.rounds(name)
        ]  # fmt: skip

    # -- moving ----------------------------------------------------------------------------------

    @precondition(lambda self: self.model)
    @rule(
        pick=PICK, how=st.sampled_from(["reopen", "import_what_is_there", "delete_and_import", "move_to_another_store"])
    )
    def transfer(self, pick: int, how: str) -> None:
        getattr(self, how)(pick)

    def reopen(self, _: int) -> None:
        self.run(self.store.aclose())
        self.store = self.opened(self.place)

    def import_what_is_there(self, pick: int) -> None:
        async def work() -> tuple[Any, Any, Any]:
            record = await self.store.sessions.export(self.name(pick))
            imported = await self.store.sessions.import_([record])
            return record, imported, await self.store.sessions.export(self.name(pick))

        before, imported, after = self.run(work())
        assert imported.existing == (self.name(pick),)
        assert after == before

    def delete_and_import(self, pick: int) -> None:
        name = self.name(pick)

        async def work() -> tuple[Any, Any, Any]:
            record = await self.store.sessions.export(name)
            await self.store.sessions.delete(name, cascade=False)
            imported = await self.store.sessions.import_([record])
            return record, imported, await self.store.sessions.export(name)

        session = self.model[name]
        before, imported, after = self.run(work())
        self.forget([name])
        self.model[name] = session
        assert (imported.existing, imported.rejections) == ((), ())
        assert after == before

    def move_to_another_store(self, _: int) -> None:
        async def take(store: AsyncSessionStore) -> list[Dict]:
            return [record async for record in store.sessions.export_all()]

        records = self.run(take(self.store))
        assert {record["id"] for record in records} == set(self.model)
        self.run(self.store.aclose())
        self.store = self.opened(self.new_place())
        imported = self.run(self.store.sessions.import_(records))
        assert (imported.existing, imported.rejections) == ((), ())
        assert sorted(self.run(take(self.store)), key=str) == sorted(records, key=str)

    # -- what always holds -------------------------------------------------------------------------

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        self.run(self.check())

    async def check(self) -> None:
        assert {each.id for each in await self.store.sessions.list(limit=None)} == set(self.model)
        checks = [check(*each) for each in self.model.items() for check in (self.check_messages, self.check_session)]
        await asyncio.gather(*checks, self.check_search())
        dangling = await self.store.query(
            "SELECT c.id FROM sessions c LEFT JOIN sessions p ON p.session = c.parent"
            " WHERE c.parent IS NOT NULL AND (p.id IS NULL OR c.id IS NULL)"
        )
        assert dangling == []

    async def check_messages(self, name: str, session: Dict) -> None:
        everything = (await self.store.messages.list(name, state="all")).items
        assert [
            (each.seq, each.position, each.role, each.content, each.tool_calls, each.external_id, each.send_index,
             str(each.state), each.compacted_by)
            for each in everything
        ] == [
            (row["seq"], row["place"], row["role"], row["content"], row["tool_calls"], row["external_id"], row["send"],
             row["state"], row["by"])
            for row in sorted(session["rows"], key=place_of)
        ]  # fmt: skip
        active = [each for each in everything if each.state == "active"]
        assert (await self.store.messages.list(name)).items == active
        turns = await self.store.messages.conversation(name)
        assert [turn["content"] for turn in turns] == [each.content for each in active]
        found = await self.store.sessions.get(name)
        assert found.message_count == len(active)
        assert found.tool_call_count == sum(len(each.tool_calls or []) for each in active)
        assert found.preview == preview_of({"role": each.role, "text": each.text or ""} for each in active)
        made = await self.store.messages.compactions(name, undone=True)
        assert {each.seq: {"note": each.note_seq, "undone": each.undone_at is not None} for each in made} == (
            session["compactions"]
        )

    async def check_session(self, name: str, session: Dict) -> None:
        found = await self.store.sessions.get(name)
        status = "archived" if session["archived"] else "ended" if session["ended"] else "active"
        assert (found.title, str(found.status), found.parent_id) == (session["title"], status, session["parent"])
        assert (found.relation and str(found.relation)) == session["relation"]
        state = await self.store.sessions.state(name)
        assert (state.next_seq, state.send_index, state.last_compaction_seq) == (
            session["next"], session["send"], session["last"],
        )  # fmt: skip
        rounds = await self.rounds(name)
        assert rounds == session["rounds"]
        sums = [sum(amounts) for amounts in zip(*(row[2:5] for row in rounds), strict=True)] or [0, 0, 0]
        assert [found.input_tokens, found.output_tokens, found.reasoning_tokens] == sums
        costs = [row[5] for row in rounds if row[5] is not None]
        assert found.estimated_cost_usd == (pytest.approx(sum(costs), abs=1e-9) if costs else None)

    async def check_search(self) -> None:
        for include_rewound in (False, True):
            hits = self.store.search(COMMON, limit=None, order="oldest", context=0, include_rewound=include_rewound)
            assert sorted([(hit.session_id, hit.seq) async for hit in hits]) == sorted(
                (name, row["seq"])
                for name, session in self.model.items()
                for row in session["rows"]
                if row["text"] and (include_rewound or row["state"] != "rewound")
            )

    async def erased(self) -> None:
        """In the end, the tables and the index hold what there is, and nothing of what was deleted."""

        async def none_left() -> bool:
            gone = "SELECT 1 AS n FROM sessions WHERE id IS NULL UNION ALL SELECT 1 FROM messages WHERE state > 2"
            return not await self.store.query(gone)

        await self.eventually(none_left)
        await self.store.flush(index=True)
        rows = await self.store.query("SELECT id FROM messages WHERE content <> '' OR tool_calls IS NOT NULL")
        assert await indexed(self.store) == {row.id for row in rows}
        kept = sum(len(session["rows"]) for session in self.model.values())
        assert (await self.store.query("SELECT COUNT(*) AS n FROM messages"))[0].n == kept


class Places:
    """Where the stores of a machine are: files beside the one that is given, or schemas beside that of the server."""

    def __init__(self, given: Target) -> None:
        self._given = os.fspath(given)
        self._made: list[str] = []

    def new(self) -> Target:
        """A place in which no store has anything."""
        name = f"machine{len(self._made)}_{os.getpid()}"
        self._made.append(name)
        if not is_server(self._given):
            return f"{self._given}.{name}"
        self._execute(f"CREATE SCHEMA {name}")
        return in_schema(self._given, name)

    def clear(self) -> None:
        """Takes all of them away."""
        for name in self._made:
            if is_server(self._given):
                self._execute(f"DROP SCHEMA {name} CASCADE")
            else:
                for file in Path(self._given).parent.glob(f"*.{name}*"):
                    file.unlink()
        self._made.clear()

    def _execute(self, sql: str) -> None:
        with psycopg.connect(self._given, autocommit=True) as connection:
            connection.execute(sql.encode())


def explore(place: Target, eventually: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    monkeypatch.setattr(keeper, "REST_S", 0.0)
    run_state_machine_as_test(
        lambda: Store(Places(place), eventually),
        settings=settings(derandomize=True, deadline=None, suppress_health_check=[*HealthCheck], **options),
    )


def test_whatever_is_done_the_store_holds_what_a_plain_list_would(path: Target, eventually, monkeypatch):
    """Order, content, counters, ledger, lineage and search, after every step of any sequence, across reopening
    and moving to another store."""
    explore(path, eventually, monkeypatch, max_examples=12, stateful_step_count=30)


@pytest.mark.slow
def test_whatever_is_done_the_store_holds_what_a_plain_list_would_at_length(path: Target, eventually, monkeypatch):
    """The same with more and longer sequences."""
    explore(path, eventually, monkeypatch, max_examples=200, stateful_step_count=50)
