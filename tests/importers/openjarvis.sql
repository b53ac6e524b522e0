-- What two learning sessions of OpenJarvis look like: its tables, and rows as its store writes them. The second
-- session follows the first; the outcome e1 of the first was saved twice, which made another row.
CREATE TABLE learning_sessions (
  id TEXT PRIMARY KEY, parent_session_id TEXT REFERENCES learning_sessions (id), trigger TEXT NOT NULL,
  trigger_metadata TEXT NOT NULL DEFAULT '{}', status TEXT NOT NULL, autonomy_mode TEXT NOT NULL,
  started_at TEXT NOT NULL, ended_at TEXT, diagnosis_path TEXT NOT NULL, plan_path TEXT NOT NULL,
  benchmark_before TEXT NOT NULL, benchmark_after TEXT, git_checkpoint_pre TEXT NOT NULL, git_checkpoint_post TEXT,
  teacher_cost_usd REAL NOT NULL DEFAULT 0.0, error TEXT
);
CREATE TABLE edit_outcomes (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL REFERENCES learning_sessions (id),
  edit_id TEXT NOT NULL, pillar TEXT NOT NULL, op TEXT NOT NULL, target TEXT NOT NULL, risk_tier TEXT NOT NULL,
  status TEXT NOT NULL, benchmark_delta REAL, cluster_deltas TEXT NOT NULL DEFAULT '{}',
  rationale TEXT NOT NULL DEFAULT '', error TEXT, applied_at TEXT
);
CREATE INDEX idx_sessions_started_at ON learning_sessions (started_at);
CREATE INDEX idx_sessions_status ON learning_sessions (status);
CREATE INDEX idx_outcomes_session ON edit_outcomes (session_id);
CREATE INDEX idx_outcomes_op ON edit_outcomes (op);

INSERT INTO learning_sessions VALUES
  ('session-2', 'session-1', 'on_demand', '{}', 'executing', 'auto', '2026-03-01T08:00:00+00:00', NULL, '/d.md',
   '/p.json', '{"benchmark_version":"v1","overall_score":0.5,"cluster_scores":{},"task_count":0,"elapsed_seconds":0.0}',
   NULL, 'def', NULL, 0.0, NULL),
  ('session-1', NULL, 'scheduled', '{"why": "cluster 7", "n": [1, 2]}', 'completed', 'tiered',
   '2026-03-01T09:00:00.123456+02:00', '2026-03-01T10:00:00+00:00', 'd.md', 'p.json',
   '{"benchmark_version":"v1","overall_score":0.5,"cluster_scores":{"c":0.25},"task_count":3,"elapsed_seconds":1.5}',
   '{"benchmark_version":"v1","overall_score":0.75,"cluster_scores":{},"task_count":3,"elapsed_seconds":2.0}',
   'abc', 'def', 0.1, NULL);

INSERT INTO edit_outcomes VALUES
  (1, 'session-1', 'e1', 'agent', 'patch_system_prompt', 'agents.simple.prompt', 'review', 'applied', 0.25,
   '{"c": 0.5}', 'it forgets', NULL, '2026-03-01T09:30:00+00:00'),
  (2, 'session-1', 'e2', 'tools', 'add_tool_to_agent', 'agents.simple.tools', 'auto', 'rejected_by_gate', NULL,
   '{}', '', 'worse', NULL),
  (3, 'session-1', 'e1', 'agent', 'patch_system_prompt', 'agents.simple.prompt', 'review', 'rolled_back', 0.25,
   '{"c": 0.5}', 'it forgets', NULL, '2026-03-01T09:30:00+00:00'),
  (4, 'session-2', 'e1', 'intelligence', 'lora_finetune', 'models.small', 'manual', 'skipped', NULL, '{}', '', NULL,
   NULL);
