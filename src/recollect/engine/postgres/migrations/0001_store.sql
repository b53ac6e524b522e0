-- Text is compared by code point (COLLATE "C"), as SQLite does.
-- Times are milliseconds UTC, costs millionths of a dollar, flags and states whole numbers.
-- `session` is the inside number of a session and the distribution column of every table.

CREATE TABLE recollect_schema (version BIGINT NOT NULL);
INSERT INTO recollect_schema VALUES (0);

-- one sequence numbers sessions, messages, ledger rows and events
CREATE SEQUENCE store_sequence;
SELECT nextval('store_sequence');  -- from now on its last value is one that was taken

CREATE TABLE sessions (
  session BIGINT PRIMARY KEY,
  id TEXT COLLATE "C" UNIQUE,                       -- NULL: deleted, its rows are waiting to be erased
  kind TEXT COLLATE "C" NOT NULL,
  source TEXT COLLATE "C" NOT NULL,
  user_id TEXT COLLATE "C",
  user_late BIGINT NOT NULL DEFAULT 0, -- user_id was filled after messages had been indexed
  key TEXT COLLATE "C",
  model TEXT COLLATE "C",
  title TEXT COLLATE "C",
  status TEXT COLLATE "C" NOT NULL DEFAULT 'active',
  end_reason TEXT COLLATE "C",
  parent BIGINT REFERENCES sessions (session),
  relation TEXT COLLATE "C",
  lifecycle TEXT COLLATE "C" NOT NULL,
  spawn_depth BIGINT NOT NULL DEFAULT 0,
  spawn_tool_call_id TEXT COLLATE "C",
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  last_active_at BIGINT NOT NULL,
  activity BIGINT NOT NULL,             -- the second it lies in: the index below is then seldom rewritten
  ended_at BIGINT,
  preview TEXT COLLATE "C",
  message_count BIGINT NOT NULL DEFAULT 0,
  tool_call_count BIGINT NOT NULL DEFAULT 0,
  input_tokens BIGINT NOT NULL DEFAULT 0,
  output_tokens BIGINT NOT NULL DEFAULT 0,
  cache_read_tokens BIGINT NOT NULL DEFAULT 0,
  cache_write_tokens BIGINT NOT NULL DEFAULT 0,
  reasoning_tokens BIGINT NOT NULL DEFAULT 0,
  estimated_cost BIGINT,
  actual_cost BIGINT,
  cost_status TEXT COLLATE "C",
  cost_source TEXT COLLATE "C",
  pricing_version TEXT COLLATE "C",
  billing_provider TEXT COLLATE "C",
  billing_base_url TEXT COLLATE "C",
  billing_mode TEXT COLLATE "C",
  next_seq BIGINT NOT NULL DEFAULT 1,
  round_index BIGINT NOT NULL DEFAULT 0,
  send_index BIGINT NOT NULL DEFAULT 0,
  last_compaction_seq BIGINT NOT NULL DEFAULT 0,
  revision BIGINT NOT NULL DEFAULT 0,
  pending TEXT COLLATE "C",
  gone_id TEXT COLLATE "C",                         -- the id it had, until its events are erased…
  gone_before BIGINT                    -- …those with a lower id
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
  session BIGINT PRIMARY KEY REFERENCES sessions (session),
  system_prompt TEXT COLLATE "C",
  config TEXT COLLATE "C",
  metadata TEXT COLLATE "C"
);

CREATE TABLE messages (
  id BIGINT PRIMARY KEY,
  session BIGINT NOT NULL REFERENCES sessions (session),
  state BIGINT NOT NULL DEFAULT 0,     -- 0 active, 1 compacted, 2 rewound, 3 cleared: to be erased
  seq BIGINT NOT NULL,                 -- 1, 2, 3… per session, never reused
  position BIGINT NOT NULL,            -- order in the transcript; = seq but for compaction notes
  role TEXT COLLATE "C" NOT NULL,
  content TEXT COLLATE "C",                         -- the words, searchable
  parts TEXT COLLATE "C",                           -- JSON, if the content was not a plain string
  name TEXT COLLATE "C",
  tool_calls TEXT COLLATE "C",
  calls BIGINT,                          -- how many it asks for; NULL: none
  tool_call_id TEXT COLLATE "C",
  round_index BIGINT,
  send_index BIGINT NOT NULL,
  compacted_by BIGINT,
  reasoning TEXT COLLATE "C",
  reasoning_details TEXT COLLATE "C",
  provider_items TEXT COLLATE "C",
  token_count BIGINT,
  finish_reason TEXT COLLATE "C",
  external_id TEXT COLLATE "C",
  metadata TEXT COLLATE "C",
  created_at BIGINT NOT NULL
);
-- serves both orders: seq differs from position in notes only, which have an index of their own
CREATE UNIQUE INDEX messages_position ON messages (session, state, position, seq);
CREATE UNIQUE INDEX messages_moved ON messages (session, seq) WHERE seq <> position;
CREATE UNIQUE INDEX messages_external ON messages (session, external_id) WHERE external_id IS NOT NULL;
CREATE INDEX messages_cleared ON messages (id) WHERE state = 3;

CREATE TABLE compactions (
  session BIGINT NOT NULL REFERENCES sessions (session),
  seq BIGINT NOT NULL,
  note_seq BIGINT NOT NULL,
  from_seq BIGINT NOT NULL,
  to_seq BIGINT NOT NULL,
  count BIGINT NOT NULL,
  before_tokens BIGINT,
  after_tokens BIGINT,
  round_index BIGINT,
  created_at BIGINT NOT NULL,
  undone_at BIGINT,
  PRIMARY KEY (session, seq)
);

-- a ledger: the token counters and costs of a session are its sums
CREATE TABLE usage_rounds (
  id BIGINT PRIMARY KEY,
  session BIGINT NOT NULL REFERENCES sessions (session),
  send_index BIGINT,
  round_index BIGINT,                  -- NULL: a correction
  model TEXT COLLATE "C",
  source TEXT COLLATE "C",
  prompt_tokens BIGINT NOT NULL,
  completion_tokens BIGINT NOT NULL,
  total_tokens BIGINT NOT NULL,
  cache_read_tokens BIGINT NOT NULL,
  cache_write_tokens BIGINT NOT NULL,
  reasoning_tokens BIGINT NOT NULL,
  estimated_cost BIGINT,
  actual_cost BIGINT,
  created_at BIGINT NOT NULL
);
CREATE INDEX usage_rounds_session ON usage_rounds (session, id);
CREATE UNIQUE INDEX usage_rounds_round ON usage_rounds (session, send_index, round_index)
  WHERE round_index IS NOT NULL;

CREATE TABLE events (
  id BIGINT PRIMARY KEY,
  at BIGINT NOT NULL,
  kind TEXT COLLATE "C" NOT NULL,
  session_id TEXT COLLATE "C",                      -- free text: events may know sessions the store does not
  run_id TEXT COLLATE "C",
  name TEXT COLLATE "C",
  action TEXT COLLATE "C",
  issue_id TEXT COLLATE "C",
  path TEXT COLLATE "C",
  anchor TEXT COLLATE "C",
  text TEXT COLLATE "C",                            -- searchable
  payload TEXT COLLATE "C",
  dedupe_key TEXT COLLATE "C",
  user_id TEXT COLLATE "C",                         -- whose it is
  user_late BIGINT NOT NULL DEFAULT 0, -- user_id was filled in after it had been recorded
  scope TEXT COLLATE "C" NOT NULL DEFAULT '',         -- the user it was recorded for: each has dedupe keys of his own
  -- of the kinds with a type of their own, also in the payload; flags are 0 and 1
  args_hash TEXT COLLATE "C",
  result_size BIGINT,
  bytes_in BIGINT,
  bytes_out BIGINT,
  cache_hit BIGINT,
  git_sha TEXT COLLATE "C",
  discovered_by TEXT COLLATE "C",
  state TEXT COLLATE "C",
  retries BIGINT,
  source TEXT COLLATE "C"
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
  id TEXT COLLATE "C" PRIMARY KEY,
  parent_session_id TEXT COLLATE "C",
  trigger_kind TEXT COLLATE "C" NOT NULL,
  trigger_metadata TEXT COLLATE "C" NOT NULL,
  status TEXT COLLATE "C" NOT NULL,
  autonomy_mode TEXT COLLATE "C" NOT NULL,
  started_at TEXT COLLATE "C" NOT NULL,
  started_instant BIGINT NOT NULL,      -- microseconds UTC
  ended_at TEXT COLLATE "C",
  diagnosis_path TEXT COLLATE "C" NOT NULL,
  plan_path TEXT COLLATE "C" NOT NULL,
  benchmark_before TEXT COLLATE "C" NOT NULL,
  benchmark_after TEXT COLLATE "C",
  git_checkpoint_pre TEXT COLLATE "C" NOT NULL,
  git_checkpoint_post TEXT COLLATE "C",
  teacher_cost_usd DOUBLE PRECISION NOT NULL,
  error TEXT COLLATE "C"
);
CREATE INDEX learning_sessions_started ON learning_sessions (started_instant, id);
CREATE INDEX learning_sessions_status ON learning_sessions (status, started_instant, id);

CREATE TABLE edit_outcomes (
  id BIGINT PRIMARY KEY,
  session_id TEXT COLLATE "C" NOT NULL REFERENCES learning_sessions (id),
  edit_id TEXT COLLATE "C" NOT NULL,
  pillar TEXT COLLATE "C",
  op TEXT COLLATE "C",
  target TEXT COLLATE "C",
  risk_tier TEXT COLLATE "C",
  status TEXT COLLATE "C" NOT NULL,
  benchmark_delta DOUBLE PRECISION,
  cluster_deltas TEXT COLLATE "C" NOT NULL,
  rationale TEXT COLLATE "C" NOT NULL,
  error TEXT COLLATE "C",
  applied_at TEXT COLLATE "C",
  UNIQUE (session_id, edit_id)
);
CREATE INDEX edit_outcomes_op ON edit_outcomes (op, id);

CREATE TABLE leases (
  session BIGINT PRIMARY KEY REFERENCES sessions (session),
  holder TEXT COLLATE "C" NOT NULL,
  acquired_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  fence BIGINT NOT NULL
);

-- where an importer stands in a source; committed with the rows it brought
CREATE TABLE import_cursors (
  importer TEXT COLLATE "C" NOT NULL,
  version BIGINT NOT NULL,
  source TEXT COLLATE "C" NOT NULL,
  device BIGINT NOT NULL,
  inode BIGINT NOT NULL,
  position BIGINT NOT NULL,
  size BIGINT NOT NULL,
  tail_hash TEXT COLLATE "C" NOT NULL,
  state TEXT COLLATE "C",                           -- JSON: what the importer must know to go on
  PRIMARY KEY (importer, version, source)
);

-- how far the search index has read; the index itself is made and remade by the keeper
CREATE TABLE index_state (
  single SMALLINT PRIMARY KEY CHECK (single = 1),
  watermark BIGINT NOT NULL,           -- every row up to this id is indexed
  version BIGINT NOT NULL,             -- of the segmenter it was built by; 0 = to be made anew
  row_bytes BIGINT NOT NULL,           -- of a row's text so much was indexed
  unindexed_bytes BIGINT NOT NULL,      -- and so much was not, in all
  erased BIGINT NOT NULL,               -- rows ever taken out of the index
  purged BIGINT NOT NULL                -- of these, those whose words have left its pages too
);
INSERT INTO index_state VALUES (1, 0, 0, 0, 0, 0, 0);

-- the full-text index: words already folded and separated by the segmenter, keys of scopes among them;
-- a row longer than a tsvector can tell the places of stands in several parts, the first of which has all its words
CREATE TABLE search_terms (
  id BIGINT NOT NULL,
  part BIGINT NOT NULL,
  parts BIGINT NOT NULL,
  words TSVECTOR NOT NULL,
  PRIMARY KEY (id, part)
);
CREATE INDEX search_terms_words ON search_terms USING GIN (words);
