-- Times are milliseconds UTC, costs millionths of a dollar, flags and states whole numbers.
-- `session` is the inside number of a session and the distribution column of every table.

-- one sequence numbers sessions, messages, ledger rows and events
CREATE TABLE sequence (single INTEGER PRIMARY KEY CHECK (single = 1), last INTEGER NOT NULL);
INSERT INTO sequence VALUES (1, 0);

CREATE TABLE sessions (
  session INTEGER PRIMARY KEY,
  id TEXT UNIQUE,                       -- NULL: deleted, its rows are waiting to be erased
  kind TEXT NOT NULL,
  source TEXT NOT NULL,
  user_id TEXT,
  user_late INTEGER NOT NULL DEFAULT 0, -- user_id was filled after messages had been indexed
  key TEXT,
  model TEXT,
  title TEXT,
  status TEXT NOT NULL DEFAULT 'active',
  end_reason TEXT,
  parent INTEGER REFERENCES sessions (session),
  relation TEXT,
  lifecycle TEXT NOT NULL,
  spawn_depth INTEGER NOT NULL DEFAULT 0,
  spawn_tool_call_id TEXT,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  last_active_at INTEGER NOT NULL,
  activity INTEGER NOT NULL,             -- the second it lies in: the index below is then seldom rewritten
  ended_at INTEGER,
  preview TEXT,
  message_count INTEGER NOT NULL DEFAULT 0,
  tool_call_count INTEGER NOT NULL DEFAULT 0,
  input_tokens INTEGER NOT NULL DEFAULT 0,
  output_tokens INTEGER NOT NULL DEFAULT 0,
  cache_read_tokens INTEGER NOT NULL DEFAULT 0,
  cache_write_tokens INTEGER NOT NULL DEFAULT 0,
  reasoning_tokens INTEGER NOT NULL DEFAULT 0,
  estimated_cost INTEGER,
  actual_cost INTEGER,
  cost_status TEXT,
  cost_source TEXT,
  pricing_version TEXT,
  billing_provider TEXT,
  billing_base_url TEXT,
  billing_mode TEXT,
  next_seq INTEGER NOT NULL DEFAULT 1,
  round_index INTEGER NOT NULL DEFAULT 0,
  send_index INTEGER NOT NULL DEFAULT 0,
  last_compaction_seq INTEGER NOT NULL DEFAULT 0,
  revision INTEGER NOT NULL DEFAULT 0,
  pending TEXT,
  gone_id TEXT,                         -- the id it had, until its events are erased…
  gone_before INTEGER                    -- …those with a lower id
);
CREATE UNIQUE INDEX sessions_title ON sessions (title) WHERE title IS NOT NULL;
CREATE INDEX sessions_key ON sessions (key, session) WHERE key IS NOT NULL;
-- live are those that are active: one for each key
CREATE UNIQUE INDEX sessions_live ON sessions (key) WHERE key IS NOT NULL AND status = 'active';
CREATE INDEX sessions_parent ON sessions (parent, created_at) WHERE parent IS NOT NULL;
CREATE INDEX sessions_activity ON sessions (activity, session);
CREATE INDEX sessions_user ON sessions (user_id, activity, session) WHERE user_id IS NOT NULL;
CREATE INDEX sessions_created ON sessions (created_at, session);
CREATE INDEX sessions_gone ON sessions (gone_id) WHERE gone_id IS NOT NULL;
CREATE INDEX sessions_late ON sessions (user_id, session) WHERE user_late = 1;

-- long texts stand apart: in the counters' row they would be rewritten with every append
CREATE TABLE session_texts (
  session INTEGER PRIMARY KEY REFERENCES sessions (session),
  system_prompt TEXT,
  config TEXT,
  metadata TEXT
);

CREATE TABLE messages (
  id INTEGER PRIMARY KEY,
  session INTEGER NOT NULL REFERENCES sessions (session),
  state INTEGER NOT NULL DEFAULT 0,     -- 0 active, 1 compacted, 2 rewound, 3 cleared: to be erased
  seq INTEGER NOT NULL,                 -- 1, 2, 3… per session, never reused
  position INTEGER NOT NULL,            -- order in the transcript; = seq but for compaction notes
  role TEXT NOT NULL,
  content TEXT,                         -- the words, searchable
  parts TEXT,                           -- JSON, if the content was not a plain string
  name TEXT,
  tool_calls TEXT,
  calls INTEGER,                          -- how many it asks for; NULL: none
  tool_call_id TEXT,
  round_index INTEGER,
  send_index INTEGER NOT NULL,
  compacted_by INTEGER,
  reasoning TEXT,
  reasoning_details TEXT,
  provider_items TEXT,
  token_count INTEGER,
  finish_reason TEXT,
  external_id TEXT,
  metadata TEXT,
  created_at INTEGER NOT NULL
);
-- serves both orders: seq differs from position in notes only, which have an index of their own
CREATE UNIQUE INDEX messages_position ON messages (session, state, position, seq);
CREATE UNIQUE INDEX messages_moved ON messages (session, seq) WHERE seq <> position;
CREATE UNIQUE INDEX messages_external ON messages (session, external_id) WHERE external_id IS NOT NULL;
CREATE INDEX messages_cleared ON messages (id) WHERE state = 3;

CREATE TABLE compactions (
  session INTEGER NOT NULL REFERENCES sessions (session),
  seq INTEGER NOT NULL,
  note_seq INTEGER NOT NULL,
  from_seq INTEGER NOT NULL,
  to_seq INTEGER NOT NULL,
  count INTEGER NOT NULL,
  before_tokens INTEGER,
  after_tokens INTEGER,
  round_index INTEGER,
  created_at INTEGER NOT NULL,
  undone_at INTEGER,
  PRIMARY KEY (session, seq)
);

-- a ledger: the token counters and costs of a session are its sums
CREATE TABLE usage_rounds (
  id INTEGER PRIMARY KEY,
  session INTEGER NOT NULL REFERENCES sessions (session),
  send_index INTEGER,
  round_index INTEGER,                  -- NULL: a correction
  model TEXT,
  source TEXT,
  prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  total_tokens INTEGER NOT NULL,
  cache_read_tokens INTEGER NOT NULL,
  cache_write_tokens INTEGER NOT NULL,
  reasoning_tokens INTEGER NOT NULL,
  estimated_cost INTEGER,
  actual_cost INTEGER,
  created_at INTEGER NOT NULL
);
CREATE INDEX usage_rounds_session ON usage_rounds (session, id);
CREATE UNIQUE INDEX usage_rounds_round ON usage_rounds (session, send_index, round_index)
  WHERE round_index IS NOT NULL;

CREATE TABLE events (
  id INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  kind TEXT NOT NULL,
  session_id TEXT,                      -- free text: events may know sessions the store does not
  run_id TEXT,
  name TEXT,
  action TEXT,
  issue_id TEXT,
  path TEXT,
  anchor TEXT,
  text TEXT,                            -- searchable
  payload TEXT,
  dedupe_key TEXT,
  user_id TEXT,                         -- whose it is
  user_late INTEGER NOT NULL DEFAULT 0, -- user_id was filled in after it had been recorded
  scope TEXT NOT NULL DEFAULT '',         -- the user it was recorded for: each has dedupe keys of his own
  -- of the kinds with a type of their own, also in the payload; flags are 0 and 1
  args_hash TEXT,
  result_size INTEGER,
  bytes_in INTEGER,
  bytes_out INTEGER,
  cache_hit INTEGER,
  git_sha TEXT,
  discovered_by TEXT,
  state TEXT,
  retries INTEGER,
  source TEXT
);
CREATE INDEX events_kind ON events (kind, id);
CREATE INDEX events_session ON events (session_id, id) WHERE session_id IS NOT NULL;
CREATE INDEX events_user ON events (user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX events_run ON events (run_id, id) WHERE run_id IS NOT NULL;
CREATE INDEX events_issue ON events (issue_id, id) WHERE issue_id IS NOT NULL;
CREATE INDEX events_path ON events (path, id) WHERE path IS NOT NULL;
CREATE UNIQUE INDEX events_dedupe ON events (dedupe_key, scope) WHERE dedupe_key IS NOT NULL;

-- what each kind with a type of its own has
CREATE VIEW tool_events AS
SELECT id, at, session_id, run_id, action, path, name AS tool_name, args_hash, result_size, bytes_in, bytes_out,
  cache_hit
FROM events WHERE kind = 'tool';
CREATE VIEW file_events AS
SELECT id, at, session_id, run_id, name AS tool_name, path, action AS op, issue_id, git_sha
FROM events WHERE kind = 'file';
CREATE VIEW issue_events AS
SELECT id, at, session_id, run_id, path, name AS title, issue_id, action AS transition, discovered_by
FROM events WHERE kind = 'issue';
CREATE VIEW loop_events AS
SELECT id, at, session_id, run_id, issue_id, name AS loop_name, state, action AS transition, retries
FROM events WHERE kind = 'loop';
CREATE VIEW user_corrections AS
SELECT id, at, session_id, run_id, text AS content, source
FROM events WHERE kind = 'correction';

-- an index of the `session.json` files, which are the truth; times as they were written, beside the instants
CREATE TABLE learning_sessions (
  id TEXT PRIMARY KEY,
  parent_session_id TEXT,
  trigger_kind TEXT NOT NULL,
  trigger_metadata TEXT NOT NULL,
  status TEXT NOT NULL,
  autonomy_mode TEXT NOT NULL,
  started_at TEXT NOT NULL,
  started_instant INTEGER NOT NULL,      -- microseconds UTC
  ended_at TEXT,
  diagnosis_path TEXT NOT NULL,
  plan_path TEXT NOT NULL,
  benchmark_before TEXT NOT NULL,
  benchmark_after TEXT,
  git_checkpoint_pre TEXT NOT NULL,
  git_checkpoint_post TEXT,
  teacher_cost_usd REAL NOT NULL,
  error TEXT
);
CREATE INDEX learning_sessions_started ON learning_sessions (started_instant, id);
CREATE INDEX learning_sessions_status ON learning_sessions (status, started_instant, id);

CREATE TABLE edit_outcomes (
  id INTEGER PRIMARY KEY,
  session_id TEXT NOT NULL REFERENCES learning_sessions (id),
  edit_id TEXT NOT NULL,
  pillar TEXT,
  op TEXT,
  target TEXT,
  risk_tier TEXT,
  status TEXT NOT NULL,
  benchmark_delta REAL,
  cluster_deltas TEXT NOT NULL,
  rationale TEXT NOT NULL,
  error TEXT,
  applied_at TEXT,
  UNIQUE (session_id, edit_id)
);
CREATE INDEX edit_outcomes_op ON edit_outcomes (op, id);

CREATE TABLE leases (
  session INTEGER PRIMARY KEY REFERENCES sessions (session),
  holder TEXT NOT NULL,
  acquired_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  fence INTEGER NOT NULL
);

-- where an importer stands in a source; committed with the rows it brought
CREATE TABLE import_cursors (
  importer TEXT NOT NULL,
  version INTEGER NOT NULL,
  source TEXT NOT NULL,
  device INTEGER NOT NULL,
  inode INTEGER NOT NULL,
  position INTEGER NOT NULL,
  size INTEGER NOT NULL,
  tail_hash TEXT NOT NULL,
  state TEXT,                           -- JSON: what the importer must know to go on
  PRIMARY KEY (importer, version, source)
);

-- how far the search index has read; the index itself is made and remade by the keeper
CREATE TABLE index_state (
  single INTEGER PRIMARY KEY CHECK (single = 1),
  watermark INTEGER NOT NULL,           -- every row up to this id is indexed
  version INTEGER NOT NULL,             -- of the segmenter it was built by; 0 = to be made anew
  row_bytes INTEGER NOT NULL,           -- of a row's text so much was indexed
  unindexed_bytes INTEGER NOT NULL,      -- and so much was not, in all
  erased INTEGER NOT NULL,               -- rows ever taken out of the index
  purged INTEGER NOT NULL                -- of these, those whose words have left its pages too
);
INSERT INTO index_state VALUES (1, 0, 0, 0, 0, 0, 0);
