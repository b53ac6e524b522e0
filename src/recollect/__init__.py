"""recollect: an asyncio-native session store for agents."""

from typing import TYPE_CHECKING

from .changes import BEGINNING
from .errors import (
    ForkedStore,
    InvalidQuery,
    InvalidRecord,
    InvalidTitle,
    KeyTaken,
    NotAStore,
    NotGuarded,
    QueueFull,
    ReadOnly,
    SchemaTooNew,
    SearchTimeout,
    SequenceConflict,
    SessionExists,
    SessionNotFound,
    SpawnTooDeep,
    StoreBusy,
    StoreClosed,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreReplaced,
    TitleTaken,
    TurnLost,
    TurnTaken,
    WriteUnknown,
    WrongLoop,
)
from .events.mapping import map_event
from .events.typed import (
    Correction,
    Event,
    FileEvent,
    IssueEvent,
    LoopEvent,
    RecordedEvent,
    ToolEvent,
    args_hash,
)
from .messages.receipt import Receipt
from .models import (
    Change,
    Compaction,
    ContextLine,
    Hit,
    Kind,
    Lifecycle,
    Message,
    MessageRef,
    MessageState,
    NewMessage,
    NewUsage,
    Page,
    Relation,
    Row,
    Session,
    State,
    Status,
    UsageRound,
    UsageTotal,
)
from .options import Durability, Limits, Overflow, Timeouts
from .reports import Backfilled, Copied, CopiedTable, Erased, Imported, Problem, Rejection, Report, Stats
from .scoped import ScopedStore
from .sessions.titles import clean_title
from .sessions.turns import Turn
from .store import AsyncSessionStore
from .transport import EventTransport, SyncTransport, TransportStatistics, Unwritten
from .watch import Watch

if TYPE_CHECKING:
    from .bus import BusStatistics, EventBus, Subscription
    from .learning.models import (
        AutonomyMode,
        BenchmarkSnapshot,
        Edit,
        EditOp,
        EditOutcome,
        EditPillar,
        EditRiskTier,
        FailureCluster,
        LearningPlan,
        LearningSession,
        LearningStatus,
        OutcomeStatus,
        Rebuilt,
        RecordedOutcome,
        TriggerKind,
    )

__version__ = "0.1.0"

__all__ = [
    "BEGINNING",
    "AsyncSessionStore",
    "AutonomyMode",
    "Backfilled",
    "BenchmarkSnapshot",
    "BusStatistics",
    "Change",
    "Compaction",
    "ContextLine",
    "Copied",
    "CopiedTable",
    "Correction",
    "Durability",
    "Edit",
    "EditOp",
    "EditOutcome",
    "EditPillar",
    "EditRiskTier",
    "Erased",
    "Event",
    "EventBus",
    "EventTransport",
    "FailureCluster",
    "FileEvent",
    "ForkedStore",
    "Hit",
    "Imported",
    "InvalidQuery",
    "InvalidRecord",
    "InvalidTitle",
    "IssueEvent",
    "KeyTaken",
    "Kind",
    "LearningPlan",
    "LearningSession",
    "LearningStatus",
    "Lifecycle",
    "Limits",
    "LoopEvent",
    "Message",
    "MessageRef",
    "MessageState",
    "NewMessage",
    "NewUsage",
    "NotAStore",
    "NotGuarded",
    "OutcomeStatus",
    "Overflow",
    "Page",
    "Problem",
    "QueueFull",
    "ReadOnly",
    "Rebuilt",
    "Receipt",
    "RecordedEvent",
    "RecordedOutcome",
    "Rejection",
    "Relation",
    "Report",
    "Row",
    "SchemaTooNew",
    "ScopedStore",
    "SearchTimeout",
    "SequenceConflict",
    "Session",
    "SessionExists",
    "SessionNotFound",
    "SpawnTooDeep",
    "State",
    "Stats",
    "Status",
    "StoreBusy",
    "StoreClosed",
    "StoreDamaged",
    "StoreError",
    "StoreFull",
    "StoreReplaced",
    "Subscription",
    "SyncTransport",
    "Timeouts",
    "TitleTaken",
    "ToolEvent",
    "TransportStatistics",
    "TriggerKind",
    "Turn",
    "TurnLost",
    "TurnTaken",
    "Unwritten",
    "UsageRound",
    "UsageTotal",
    "Watch",
    "WriteUnknown",
    "WrongLoop",
    "args_hash",
    "clean_title",
    "map_event",
]


def __getattr__(name: str) -> object:
    """What few need is loaded when it is asked for: the bus, with the streams of anyio, and the records of learning."""
    if name in ("BusStatistics", "EventBus", "Subscription"):
        from . import bus

        return getattr(bus, name)
    if name in __all__:
        from .learning import models

        return getattr(models, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
