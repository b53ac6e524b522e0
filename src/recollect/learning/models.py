"""The records of `store.learning`. Those that come out are frozen; times are aware, with the offset they were given.

The bounds in the annotations are checked wherever a record goes in. Paths are `pathlib.Path`, so that
`msgspec.json.encode` wants `enc_hook=str`.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ..reports import Rejection

Share = Annotated[float, Meta(ge=0, le=1)]
Amount = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0, le=2**53)]


class TriggerKind(StrEnum):
    """What began a learning session."""

    SCHEDULED = "scheduled"
    CLUSTER = "cluster"
    USER_FLAG = "user_flag"
    ON_DEMAND = "on_demand"


class AutonomyMode(StrEnum):
    """Who decides about edits: nobody (AUTO), a person for some of them (TIERED), a person (MANUAL)."""

    AUTO = "auto"
    TIERED = "tiered"
    MANUAL = "manual"


class LearningStatus(StrEnum):
    """Where a learning session is; any may follow any."""

    INITIATED = "initiated"
    DIAGNOSING = "diagnosing"
    PLANNING = "planning"
    EXECUTING = "executing"
    AWAITING_REVIEW = "awaiting_review"
    COMPLETED = "completed"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"


class OutcomeStatus(StrEnum):
    """What became of an edit."""

    APPLIED = "applied"
    REJECTED_BY_GATE = "rejected_by_gate"
    PENDING_REVIEW = "pending_review"
    REJECTED_BY_USER = "rejected_by_user"
    ROLLED_BACK = "rolled_back"
    SKIPPED = "skipped"


class EditPillar(StrEnum):
    """Which part of an agent an edit changes."""

    INTELLIGENCE = "intelligence"
    AGENT = "agent"
    TOOLS = "tools"
    ENGINE = "engine"


class EditRiskTier(StrEnum):
    """Who has to agree to an edit."""

    AUTO = "auto"
    REVIEW = "review"
    MANUAL = "manual"


class EditOp(StrEnum):
    """What an edit does."""

    SET_MODEL_FOR_QUERY_CLASS = "set_model_for_query_class"
    SET_MODEL_PARAM = "set_model_param"
    PATCH_SYSTEM_PROMPT = "patch_system_prompt"
    REPLACE_SYSTEM_PROMPT = "replace_system_prompt"
    SET_AGENT_CLASS = "set_agent_class"
    SET_AGENT_PARAM = "set_agent_param"
    EDIT_FEW_SHOT_EXEMPLARS = "edit_few_shot_exemplars"
    ADD_TOOL_TO_AGENT = "add_tool_to_agent"
    REMOVE_TOOL_FROM_AGENT = "remove_tool_from_agent"
    EDIT_TOOL_DESCRIPTION = "edit_tool_description"
    LORA_FINETUNE = "lora_finetune"


class BenchmarkSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """How an agent did in a benchmark."""

    benchmark_version: str
    overall_score: Share
    cluster_scores: dict[str, float] = {}
    task_count: Count
    elapsed_seconds: Amount


class Edit(msgspec.Struct, frozen=True, kw_only=True):
    """A change that was proposed; `target` is the dotted name of what it changes."""

    id: str
    pillar: EditPillar
    op: EditOp
    target: str
    payload: dict[str, Any] = {}
    rationale: str = ""
    expected_improvement: str = ""
    risk_tier: EditRiskTier
    references: list[str] = []


class FailureCluster(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks that fail alike."""

    id: str
    description: str
    sample_trace_ids: list[str] = []
    student_failure_rate: Share
    teacher_success_rate: Share
    skill_gap: str
    addressed_by_edit_ids: list[str] = []


class LearningPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a learning session is about to do."""

    session_id: str
    diagnosis_summary: str
    failure_clusters: list[FailureCluster] = []
    edits: list[Edit] = []
    teacher_model: str
    estimated_cost_usd: Amount
    created_at: datetime


class EditOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one edit; `benchmark_delta` is the change of the overall score."""

    edit_id: str
    status: OutcomeStatus
    benchmark_delta: float | None = None
    cluster_deltas: dict[str, float] = {}
    error: str | None = None
    applied_at: datetime | None = None


class RecordedOutcome(EditOutcome, frozen=True, kw_only=True):
    """The same with all that the store knows of the edit: whose it is, and what it was. The latter are
    texts as they were given; the known ones are `EditPillar`, `EditOp` and `EditRiskTier`."""

    session_id: str
    pillar: str | None = None
    op: str | None = None
    target: str | None = None
    risk_tier: str | None = None
    rationale: str = ""


class LearningSession(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of an agent to improve itself."""

    id: str
    parent_session_id: str | None = None
    trigger: TriggerKind
    trigger_metadata: dict[str, Any] = {}
    status: LearningStatus
    autonomy_mode: AutonomyMode
    started_at: datetime
    ended_at: datetime | None = None
    diagnosis_path: Path
    plan_path: Path
    benchmark_before: BenchmarkSnapshot
    benchmark_after: BenchmarkSnapshot | None = None
    edit_outcomes: list[EditOutcome] = []
    git_checkpoint_pre: str
    git_checkpoint_post: str | None = None
    teacher_cost_usd: Amount = 0.0
    error: str | None = None


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild of the table from the files found."""

    files: int
    """`session.json` files, also those that were rejected"""
    sessions: int
    """that are in the table as their files say"""
    outcomes: int
    """in those files"""
    rejected: Counter[str]
    """`sessions`: files that cannot be understood, their rows stay as they were; `plans`: likewise, their
    sessions came without; `parents`: not there, the sessions came even so"""
    rejections: tuple[Rejection, ...]
    """the first 1,000 of them, with their files"""
    without_file: tuple[str, ...]
    """ids in the table that no file has; they stay as they were"""
