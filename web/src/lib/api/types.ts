// The hub's API as the page calls it. Generated from the hub's routes: ./dev docs writes it anew.
/* eslint-disable */

/** The answer to a mutating call: it is durable; `flow` is where its progress can be read. `warm`: it begins in a box that was made ahead, whose agent runs already. */
export interface Accepted {
  flow: string;
  name: string;
  box: string;
  run: string;
  warm: boolean;
}

/** One agent of the box that is not the run's own; `name` is `NAME.2` for the first of them. `state` and `reason` are as those of a thopter, and `ended` when its process is over (`problem` says how, when that was not as it should be). `by`: who started it, `agent` or `person`, empty when that is not known. `because`: what its state rests on, strongest first. Words are a box's. */
export interface AgentView {
  name: string;
  number: number;
  session: string;
  kind: string;
  state: string;
  reason: string;
  since_ms: number;
  by: string;
  pid: number;
  tty: string;
  pane: string;
  cwd: string;
  headless: boolean;
  first_ms: number;
  last_message: string;
  last_message_ms: number;
  problem: string;
  contradiction: string;
  because: Evidence[];
}

/** `POST /v1/thopters/{name}/egress/allow`. `once`: the next connection, within ten minutes and the life of the gateway's process; `run`: as long as the box lives; `always`: written to the policy. */
export interface AllowRequest {
  host: string;
  port?: number | undefined;
  scope?: "always" | "once" | "run" | undefined;
}

/** What is allowed now, in canonical spelling, and how far that reaches. */
export interface Allowed {
  host: string;
  port: number;
  scope: string;
  policy: string;
}

/** `POST /v1/approvals/{id}`. `digest` is that of the approval as it was shown; another one is refused. `answers`: to a question, one for each in their order. */
export interface AnswerRequest {
  digest: string;
  allow: boolean;
  message?: string | undefined;
  for_run?: boolean | undefined;
  answers?: string[] | undefined;
}

/** One thing that an agent asked while it waits. `state`: `open` nobody has answered; `answering` an answer is recorded and on its way to the agent; `approved` and `denied` the agent's hook got that answer; `elsewhere` it was closed without us, at the agent's own terminal; `expired` nobody can answer it here any more, `detail` says why. `digest` binds an answer to exactly this `tool` with this `input`. `whole`: false when the input was too long to be recorded in full: it can be denied here, not approved. `for_run`: what approving for the rest of the run would allow. `agent`: the further agent of its box that asks (`NAME.2`), empty for its own. Words in here are an agent's: hostile text. */
export interface Approval {
  id: string;
  name: string;
  box: string;
  run: string;
  kind: string;
  tool: string;
  summary: string;
  digest: string;
  state: string;
  asked_ms: number;
  changed_ms: number;
  input: Record<string, unknown>;
  whole: boolean;
  for_run: string;
  questions: Question[];
  message: string;
  answers: string[];
  allowed_for_run: boolean;
  detail: string;
  agent: string;
}

/** `GET /v1/approvals?name=&all=`: oldest first; `all`: also those that are over. */
export interface ApprovalList {
  approvals: Approval[];
}

/** Something wrong with the chain, at record `seq` (0: at none). */
export interface AuditFault {
  seq: number;
  text: string;
}

/** One record. `by`: who asked for it (`hub`: nobody waited for it); `name`: of the thopter; `hash`: of this record and all before it. */
export interface AuditLine {
  seq: number;
  at_ms: number;
  kind: string;
  by: string;
  box: string;
  name: string;
  run: string;
  flow: string;
  data: Record<string, unknown>;
  hash: string;
}

/** Records in order. `next`: read on after this number; `head`: the newest number there is. */
export interface AuditPage {
  lines: AuditLine[];
  next: number;
  head: number;
}

/** Whether the chain is whole. `head` is `NUMBER:HASH`, to be written down elsewhere and given to `expect` another time; `anchored`: the newest number in the file of anchors. */
export interface AuditVerdict {
  ok: boolean;
  records: number;
  head: string;
  anchors: number;
  anchored: number;
  expected: string;
  file: string;
  faults: AuditFault[];
}

/** `POST /v1/secrets/bind`. `policy` empty: the default one. `env` None: made from the name. */
export interface BindRequest {
  name: string;
  host: string;
  port?: number | undefined;
  header?: string | undefined;
  format?: string | undefined;
  methods?: string[] | undefined;
  paths?: string[] | undefined;
  addresses?: string[] | undefined;
  policy?: string | undefined;
  env?: string | null | undefined;
}

/** A secret that the egress gateway adds for boxes of a policy: on this host and port, in this header, for these methods and paths (none: any). `env`: the variable in which boxes find its placeholder. */
export interface Binding {
  policy: string;
  name: string;
  host: string;
  port: number;
  header: string;
  format: string;
  methods: string[];
  paths: string[];
  addresses: string[];
  env: string;
}

/** What holds now. `stored` False: the secret is not there yet. `older`: thopters that are under the policy already: their tools don't have `env`, the gateway adds the secret all the same. */
export interface Bound {
  binding: Binding;
  stored: boolean;
  older: string[];
}

/** Dollars by list prices, tokens of every kind, answers of the model, hours of work; 0 says nothing. */
export interface BudgetAmount {
  usd: number;
  tokens: number;
  turns: number;
  hours: number;
}

/** One limit. Amounts in dollars, tokens, turns or hours by `what`; `whose`: what it binds. */
export interface BudgetLine {
  what: string;
  whose: string;
  most: number;
  spent: number;
  daily: boolean;
  text: string;
}

/** `POST /v1/thopters/{name}/budget`: `set` anew what is not 0, then `add`. `go_on`: tell an agent that was stopped by its budget to go on. */
export interface BudgetRequest {
  add?: Partial<BudgetAmount> | undefined;
  set?: Partial<BudgetAmount> | undefined;
  go_on?: boolean | undefined;
}

/** `GET /v1/thopters/{name}/budget`. `spent` is the thopter's own, by all that is counted; `cut_off`: answers that were cut off, whose end is estimated in it; `under_way`: calls now. `told_to_go_on`: its agent hears that it can go on. `problem`: why calls can't be counted now. */
export interface BudgetView {
  name: string;
  box: string;
  limits: BudgetLine[];
  spent: BudgetAmount;
  cut_off: number;
  under_way: number;
  told_to_go_on: boolean;
  problem: string;
}

/** `POST /v1/snapshot-builds`: from `debian:SUITE` or the absolute path of an OCI image folder or tar, with these packages in it. */
export interface BuildRequest {
  source: string;
  name?: string | undefined;
  packages?: string[] | undefined;
}

/** `GET /v1/thopters/{name}/changes`: base to working tree, untracked files included, renames as a removed and an added file. `truncated`: there are more than are listed. */
export interface ChangeList {
  files: FileChange[];
  commits: number;
  dirty: number;
  head: string;
  truncated: boolean;
}

/** One line of `thopter doctor`. `level`: ok, warn, fail. */
export interface Check {
  name: string;
  level: string;
  text: string;
  fix: string;
}

/** `GET /v1/thopters/{name}/check`. */
export interface CheckResult {
  tmux: boolean;
  agent: boolean;
  box: boolean;
}

/** One more repository, cloned below `/work`: source and branch as in `RunRequest`. */
export interface Checkout {
  repo: string;
  branch?: string | undefined;
}

/** `POST /v1/thopters/{name}/checkpoints`. */
export interface CheckpointRequest {
  label?: string | undefined;
}

/** `GET /v1/doctor`. */
export interface Checks {
  checks: Check[];
}

/** `POST /v1/thopters`: a box with the agent at its prompt, waiting (no task yet). */
export interface CreateRequest {
  name?: string | undefined;
  repo?: string | undefined;
  branch?: string | undefined;
  agent?: string | undefined;
  snapshot?: string | undefined;
  fresh?: boolean | undefined;
  keep_alive?: number | null | undefined;
  idle_timeout?: number | null | undefined;
  furnishing?: Partial<Furnishing> | undefined;
  policy?: string | undefined;
  isolation?: "any" | "gvisor" | "namespaces" | "vm" | undefined;
  budget?: Partial<BudgetAmount> | undefined;
}

/** `POST /v1/tokens`. `seconds`: how long it is good for, 0 for ever. */
export interface CreateToken {
  name: string;
  scopes: ("admin" | "approve" | "operate" | "read")[];
  seconds?: number | undefined;
}

/** `POST /v1/variables/delete`. */
export interface DeleteVariable {
  name: string;
}

/** Its answer; `found` False: there was none, which is as good as deleted. */
export interface Deleted {
  found: boolean;
}

/** `GET /v1/push/subscriptions`: an admin's has all, others see their own. */
export interface DeviceList {
  devices: DeviceView[];
}

/** A device that gets notes. `target`: its name for `thopter notify test`; `service`: whose push service brings them; the address itself is a secret and never shown. */
export interface DeviceView {
  id: string;
  target: string;
  session: string;
  device: string;
  service: string;
  created_ms: number;
  kinds: string[];
  quiet: Quiet | null;
  current: boolean;
}

/** First message of `WS /v1/thopters/{name}/dial`: connect to `port` on the box's loopback (127.0.0.1, else ::1). Then as with exec: binary `0 + data` to it, `1 + data` from it. */
export interface DialRequest {
  port: number;
}

/** `GET /v1/thopters/{name}/diff`: base to working tree, untracked files included. `head`: the last commit in the box, empty when it could not be told. */
export interface DiffResult {
  diff: string;
  stat: string;
  commits: number;
  dirty: number;
  truncated: boolean;
  head: string;
}

/** `POST /v1/thopters/{name}/done`: a person declares the work done, or (`undo`) not done. */
export interface DoneRequest {
  text?: string | undefined;
  undo?: boolean | undefined;
}

/** `POST /v1/messages/{id}/edit`: other words for a message that is still queued. */
export interface EditRequest {
  text: string;
}

/** One connection, request or refusal; `count` above 1 stands for so many alike. Texts come from a box: hostile. */
export interface EgressLine {
  at_ms: number;
  verdict: string;
  code: string;
  reason: string;
  method: string;
  host: string;
  port: number;
  path: string;
  rule: string;
  status: number;
  sent: number;
  received: number;
  count: number;
}

/** `GET /v1/thopters/{name}/egress`. `why`: why it has that policy. `up`: the gateway serves it. `lines`: refusals (from the events), and with `all` what the gateway's process still remembers. `isolation`: of its box; `least`: the tier that was asked for it, empty for any. */
export interface EgressView {
  name: string;
  policy: string;
  why: string;
  up: boolean;
  sent: number;
  received: number;
  allowed: number;
  refused: number;
  grants: Grant[];
  lines: EgressLine[];
  info: PolicyInfo | null;
  isolation: string;
  least: string;
}

/** `POST /v1/sessions/end-all`: how many were ended. */
export interface Ended {
  ended: number;
}

/** One item of a transcript; `at_ms` is the event's own time, never the time of reading. `key` is unique and stable within a session (reading the same line twice gives the same key), so storing is idempotent. `summary` is one line of at most 200 characters. */
export interface Entry {
  session: string;
  key: string;
  at_ms: number;
  role: Role;
  summary: string;
  text: string;
  tool: string;
  is_error: boolean;
  sidechain: boolean;
}

/** Every answer that is not a success: `{"error": {…}}`. */
export interface ErrorBody {
  error: ErrorInfo;
}

/** The wire form of an error; see `model.errors`. */
export interface ErrorInfo {
  code: string;
  message: string;
  hint: string;
  data: Record<string, unknown>;
}

/** One event. `seq` is 0 until the store has numbered it; readers ignore unknown kinds. Kinds so far: `hub.started`, `box.created`, `box.state`, `box.destroyed`, `run.created`, `run.state`, `run.told`, `flow.step`, `flow.done`, `entry` (data is an Entry), `note`, `message` (a kept message changed its state), `label` (note or status line set), `box.said` (what the box's own `thopter-status` reported). `egress.denied`, `egress.asked` (of a box by the egress gateway), `egress.allowed` (by a person). `run.budget` (`data.level`: near, spent, raised, unpriced). `approval.asked` and `approval.answered` (`data.state` says how). */
export interface Event {
  kind: string;
  at_ms: number;
  seq: number;
  box: string;
  run: string;
  flow: string;
  data: Record<string, unknown>;
}

/** One fact. `at_ms`: when it happened (its own clock); `seen_ms`: when the hub read it. */
export interface Evidence {
  source: Source;
  fact: Fact;
  at_ms: number;
  seen_ms: number;
  detail: string;
  data: Record<string, unknown>;
}

/** First message of `WS /v1/thopters/{name}/exec`. `env` null: the box's default one and the operator's variables; `cwd` empty: the box's work folder; `stdin` false: the command reads an empty stdin. */
export interface ExecRequest {
  argv: string[];
  env: Record<string, string> | null;
  cwd: string;
  pty: PtySize | null;
  stdin: boolean;
}

/** What was observed. Agents translate their own vocabulary into these. */
export type Fact = "activity" | "answered" | "box_alive" | "box_frozen" | "box_gone" | "box_silent" | "budget_raised" | "busy" | "declared_done" | "declared_open" | "declared_waiting" | "idle" | "interrupted" | "launched" | "over_budget" | "permission_asked" | "process_alive" | "process_exited" | "question_asked" | "rate_limited" | "session_ended" | "session_started" | "stop_requested" | "turn_ended" | "turn_failed" | "turn_started";

/** One file. `id` stands for its name whatever bytes are in that (`path` is to be read: hostile). `status`: `A` added, `M` changed, `D` removed, `T` of another kind. A binary one has no lines. */
export interface FileChange {
  id: string;
  path: string;
  status: string;
  added: number;
  removed: number;
  binary: boolean;
}

/** `GET /v1/thopters/{name}/changes/diff?file=`: one file's unified diff, hostile text like all of a box. `truncated`: it goes on. */
export interface FileDiff {
  id: string;
  path: string;
  diff: string;
  binary: boolean;
  truncated: boolean;
}

/** Something about a line of a policy file. */
export interface Finding {
  line: number;
  text: string;
}

/** What is wrong with it (then nothing of it would be used), and what is unwise. */
export interface Findings {
  problems: Finding[];
  warnings: Finding[];
}

/** `GET /v1/flows/{id}`. `status`: running, done, failed. */
export interface FlowView {
  id: string;
  kind: string;
  status: string;
  name: string;
  steps: Step[];
  error: Record<string, unknown> | null;
  result: Record<string, unknown>;
}

/** The names are taken; the flow's result says of each fork what became of it. */
export interface ForkAccepted {
  flow: string;
  names: string[];
}

/** `POST /v1/thopters/{name}/fork`. `count` forks, each told `prompt` when there is one. `name` is the beginning of their names. `as_is`: leave the repository in them as it is; otherwise each gets a branch of its own. `live`: with the running processes. */
export interface ForkRequest {
  count?: number | undefined;
  prompt?: string | undefined;
  name?: string | undefined;
  as_is?: boolean | undefined;
  live?: boolean | undefined;
}

/** `home`: the agent works in the home folder. `post_create`: a shell command run in the work folder of the new box; when it fails the box is not made. `uploads` are written after everything else and may replace what thopter wrote; all of them together at most 32 MiB. `limits`: settings `box.*` in place of the hub's own (memory_mb, pids, cpus, disk_mb). `instructions`: the text that takes the place of what thopter tells the agent of its box; empty: as the hub's setting says. */
export interface Furnishing {
  home?: boolean | undefined;
  checkouts?: Partial<Checkout>[] | undefined;
  uploads?: Partial<Upload>[] | undefined;
  post_create?: string | undefined;
  limits?: Record<string, number> | undefined;
  instructions?: string | undefined;
}

/** What a person allowed a thopter besides its policy. */
export interface Grant {
  host: string;
  port: number;
  at_ms: number;
}

/** `GET /v1/hub`. */
export interface HubInfo {
  version: string;
  pid: number;
  state_dir: string;
  started_ms: number;
  ready: boolean;
  boxes: number;
  warm: number;
  problem: string;
  listeners: string[];
}

/** `POST /v1/thopters/{name}/keepalive`. Minutes, 0 for no end; null leaves a length as it is. `on_idle`: freeze, suspend, stop, destroy or none; empty leaves it. */
export interface KeepAliveRequest {
  keep_alive?: number | null | undefined;
  idle_timeout?: number | null | undefined;
  on_idle?: string | undefined;
}

/** Something on this machine made by a provider that no recorded box accounts for. */
export interface Leak {
  kind: string;
  what: string;
  key: string;
}

/** `GET /v1/doctor/leaks`; `POST /v1/doctor/sweep` answers those it removed. */
export interface Leaks {
  leaks: Leak[];
}

/** How long a box may go on: minutes (0: no end) and when that is (0: never, or it is not idle). */
export interface LeaseView {
  name: string;
  keep_alive: number;
  expires_ms: number;
  idle_timeout: number;
  idle_until_ms: number;
  on_idle: string;
}

/** The words of a note, safe for any channel: one line of title, text without control characters. `priority`: `min low default high max`; `tags`: comma-separated; `click`: a URL or empty. */
export interface Letter {
  title: string;
  body: string;
  priority: string;
  tags: string;
  click: string;
}

/** `POST /v1/sessions/links`: a link for somebody who may do that much. */
export interface LinkRequest {
  role?: "admin" | "operator" | "viewer" | undefined;
}

/** One thing that the hub did or saw. `text` is for a person; words in it may be a box's. */
export interface LogLine {
  seq: number;
  at_ms: number;
  kind: string;
  text: string;
}

/** `GET /v1/thopters/{name}/log/steps`, oldest first. Events of `box` and `flow` bring more. */
export interface LogLines {
  lines: LogLine[];
  box: string;
  flow: string;
}

/** The answer to a login, with a cookie: `key` is told this once and goes into `X-Thopter`. */
export interface Login {
  session: SessionView;
  key: string;
}

/** Its answer: good once, until `expires_ms`. The code is behind the `#`, so that no browser sends it. `qr`: the address as a QR code, rows of `0` and `1` without a margin. `local`: other machines can't reach that address. */
export interface LoginLink {
  url: string;
  role: "admin" | "operator" | "viewer";
  expires_ms: number;
  local: boolean;
  qr: string[];
}

/** `POST /v1/sessions`. `device`: what the person calls it; empty: told from the browser. */
export interface LoginRequest {
  code: string;
  device?: string | undefined;
}

/** A message that the hub keeps. `state`: `queued` waits for its moment; `sending` is being typed; `delivered` the agent has it; `working` (an ask) its turn is under way; `asking` (an ask) that turn waits for a person: `reason` permission or question, `asks` what; `answered` `answer` is the last the agent said in that turn; `failed` `problem` says why (`answer` may hold a part); `unclear` it may or may not have arrived, and is not sent again; `dropped` somebody took it back. A queued ask with a `reason` is kept back by that dialog, and asked when it is closed. `held`: why a queued one is not delivered now. `turn_ms`: from the moment the agent took it to the end of its turn. `heard_ms`: when a delivered one was seen in the agent's conversation, 0 not yet: should its agent end before, it is queued again when it comes back. `kind`: `tell` (kept for its moment), `ask`, `said` (told at once), `prompt` (what its start said), `go_on` (said by the hub to an agent whose turn was cut short). `tools`: the tools used in it, in order. */
export interface Message {
  id: string;
  name: string;
  box: string;
  run: string;
  kind: string;
  state: string;
  text: string;
  created_ms: number;
  changed_ms: number;
  held: string;
  receipt: string;
  evidence: string;
  answer: string;
  problem: string;
  reason: string;
  asks: string;
  tools: string[];
  turn_ms: number;
  taken_ms: number;
  heard_ms: number;
}

/** `GET /v1/thopters/{name}/messages`: oldest first, those that are over last shown as kept. */
export interface Messages {
  messages: Message[];
}

/** Of one model. `cost_usd` is null when its price is not known: nothing is guessed. `cache_write_tokens` includes `cache_write_1h_tokens`. */
export interface ModelUse {
  model: string;
  requests: number;
  failed: number;
  input_tokens: number;
  output_tokens: number;
  cache_read_tokens: number;
  cache_write_tokens: number;
  cache_write_1h_tokens: number;
  cost_usd: number | null;
}

/** `POST /v1/notes/mute`. `name` empty: everything. */
export interface MuteRequest {
  name?: string | undefined;
  muted: boolean;
}

/** Its answer: the only time at which the token is told. The hub keeps a digest. */
export interface NewToken {
  token: string;
  view: TokenView;
}

/** One note. `key` names its episode: one note for each key, ever. `held`: why it is sent to nobody, empty when it is. */
export interface Note {
  id: string;
  key: string;
  kind: NoteKind;
  letter: Letter;
  created_ms: number;
  box: string;
  run: string;
  name: string;
  held: string;
}

/** What a note is about; `notify.on` names those that are wanted. */
export type NoteKind = "budget" | "disk" | "done" | "failed" | "rate_limit" | "stopped" | "stuck" | "test" | "turn_end" | "unknown" | "waiting_permission" | "waiting_question";

/** `POST /v1/thopters/{name}/note`: the operator's own note; empty removes it. Kept for ever. */
export interface NoteRequest {
  text?: string | undefined;
}

/** A note and its fate. `fate`: held, queued, sent, given_up, partly_sent (some targets gave up). */
export interface NoteView {
  note: Note;
  fate: string;
  sends: Send[];
}

/** `GET /v1/notes`: the newest first. */
export interface Notes {
  notes: NoteView[];
}

/** `{}`: the body of a call that needs none, and the answer when "done" says it all. */
export interface Nothing {

}

/** `GET /v1/notes/state`: where notes go, about what, and who is muted. */
export interface NotifyState {
  targets: Target[];
  on: string[];
  muted: boolean;
  muted_thopters: string[];
  queued: number;
  given_up: number;
}

/** `GET /v1/page`: who asks, what they may, and where events stand. `session` null: they call with a token. `event`: the newest event's number, of before this answer: list all, then follow from there. `kinds`: what notes can be about; `on`: those that are sent now. */
export interface PageInfo {
  version: string;
  owner: string;
  session: SessionView | null;
  scopes: string[];
  event: number;
  now_ms: number;
  kinds: string[];
  on: string[];
  url: string;
}

/** `GET /v1/policies`. `source` says what is in force: `shipped` (there is no file), `file`, `last good` (the file has the `problem`), `closed` (it has, and there was none before). */
export interface PolicyBook {
  file: string;
  source: string;
  default: string;
  problem: string;
  warnings: Finding[];
  repos: Record<string, string>;
  policies: PolicyInfo[];
}

/** One policy. `origin`: `shipped` or `file`; `policy`: its fields, as the gateway gets them. */
export interface PolicyInfo {
  name: string;
  origin: string;
  doc: string;
  policy: Record<string, unknown>;
}

/** `POST /v1/policies/check`: the text of a policy file. */
export interface PolicyText {
  text: string;
}

/** `POST /v1/pools/clear`: keep no boxes ready of `snapshot` any more; empty: of none at all. */
export interface PoolClear {
  snapshot?: string | undefined;
}

/** `POST /v1/pools`: keep `want` boxes ready (0: none any more). `snapshot`: a snapshot's name, or `golden`; the rest as in a run's request, but that nothing can be uploaded. */
export interface PoolRequest {
  snapshot: string;
  want: number;
  repo?: string | undefined;
  agent?: string | undefined;
  permission_mode?: string | undefined;
  model?: string | undefined;
  furnishing?: Partial<Furnishing> | undefined;
}

/** A pool. `ready`: boxes that a run can take now; `filling`: boxes under way; `taken`: how many runs took one; `problem`: why the last filling failed, tried again at `retry_ms` (0: at once). */
export interface PoolView {
  snapshot: string;
  repo: string;
  agent: string;
  want: number;
  ready: number;
  filling: number;
  taken: number;
  problem: string;
  retry_ms: number;
  permission_mode: string;
  model: string;
  boxes: WarmBox[];
}

/** `GET /v1/pools`; also what `clear` has cleared. */
export interface Pools {
  pools: PoolView[];
}

/** `POST /v1/snapshot-prunings`. Checkpoints of thopters that are gone always go. `older_ms`: also checkpoints made before that moment; `named`: and snapshots with a name (never the default). `dry_run`: only say which. */
export interface PruneRequest {
  older_ms?: number | undefined;
  named?: boolean | undefined;
  dry_run?: boolean | undefined;
}

/** A terminal's size in character cells. */
export interface PtySize {
  rows: number;
  cols: number;
}

/** `POST /v1/thopters/{name}/pull` answer; the bundle is then at `GET .../bundle`. `head` is the commit that branch `thopter/<name>` has in the mirror; `dirty` counts files changed but not committed (included in `head` only when `wip` was asked). */
export interface PullInfo {
  branch: string;
  head: string;
  base: string;
  commits: number;
  dirty: number;
  wip: boolean;
}

/** `POST /v1/thopters/{name}/pull`. `wip`: commit what is not committed, first. `checkout`: another repository of the box than its main one, by its folder below /work. */
export interface PullRequest {
  wip?: boolean | undefined;
  checkout?: string | undefined;
}

/** `GET /v1/push/key`: the `applicationServerKey` to subscribe with. */
export interface PushKey {
  key: string;
}

/** The keys of a browser's subscription, as it gives them. */
export interface PushKeys {
  p256dh: string;
  auth: string;
}

/** Every repository of a thopter, the main one first. */
export interface PushList {
  pushes: PushView[];
}

/** Push now. `checkout` names a repository (a folder below /work; empty: the main one). `force`: replace what is upstream, whatever it is. */
export interface PushRequest {
  checkout?: string | undefined;
  force?: boolean | undefined;
}

/** One repository of a thopter. `head`: its branch in the mirror ("" nothing was pushed there); `wanted`: what is to be upstream; `has`: what is there as far as we know. `state`: `none` (nothing was to go upstream), `queued`, `sent`, `blocked`. `allowed`: the box's pushes go on by themselves. */
export interface PushView {
  source: string;
  folder: string;
  branch: string;
  policy: string;
  allowed: boolean;
  head: string;
  wanted: string;
  has: string;
  state: string;
  attempts: number;
  due_ms: number;
  changed_ms: number;
  problem: string;
}

/** One question of an agent to a person; `several` of its options may be chosen. */
export interface Question {
  text: string;
  options: string[];
  several: boolean;
}

/** Hours in which a device stays silent: from minute to minute of the day (over midnight, too), in a zone such as `Europe/Berlin`. `urgent`: what waits for you rings all the same. */
export interface Quiet {
  start: number;
  end: number;
  zone: string;
  urgent: boolean;
}

/** `POST /v1/credentials/renew`: the thopters whose model calls go out with a stored credential. */
export interface Renewed {
  thopters: string[];
}

/** `POST /v1/thopters/{name}/restart`. `fresh`: with a new session, the old one stays in its files. */
export interface RestartRequest {
  fresh?: boolean | undefined;
}

/** `POST /v1/thopters/{name}/resume`. `go_on`: an agent that died in the middle of its turn is told to go on with it, where the setting `run.go_on` says so too. */
export interface ResumeRequest {
  go_on?: boolean | undefined;
}

/** `POST /v1/tokens/revoke`; `hub` is the one in the hub's state folder: it is replaced. */
export interface RevokeToken {
  name: string;
}

/** `before`: the checkpoint that holds what was there until now. */
export interface RewindAccepted {
  flow: string;
  name: string;
  checkpoint: string;
  before: string;
}

/** `POST /v1/thopters/{name}/rewind`. `checkpoint`: its id (or the beginning of it) or label; empty: the newest one. */
export interface RewindRequest {
  checkpoint?: string | undefined;
}

/** Who speaks in a transcript entry. */
export type Role = "assistant" | "system" | "tool_result" | "tool_use" | "user";

/** `POST /v1/runs`: a box with an agent at work on `prompt`. `repo`: absolute path of a local git repository, or an `https://`/`ssh://`/`git@` URL; empty for none. `branch`: where to start, default the repository's HEAD. `name`: empty for a friendly one. `snapshot`: start from that saved box (name or id), not from the default one; `fresh`: from none. `keep_alive`, `idle_timeout`: minutes, 0 for no end, null for the settings'. `trust`: who wrote the prompt's text: the operator, somebody who may write to the repository, others. `isolation`: the least tier of its box; it can be more than the policy asks for, never less. `budget`: what it may spend of its models; what is 0 is as the setting `run.budget` says. */
export interface RunRequest {
  prompt: string;
  name?: string | undefined;
  repo?: string | undefined;
  branch?: string | undefined;
  agent?: string | undefined;
  permission_mode?: string | undefined;
  model?: string | undefined;
  snapshot?: string | undefined;
  fresh?: boolean | undefined;
  keep_alive?: number | null | undefined;
  idle_timeout?: number | null | undefined;
  furnishing?: Partial<Furnishing> | undefined;
  policy?: string | undefined;
  trust?: "operator" | "outsider" | "writer" | undefined;
  isolation?: "any" | "gvisor" | "namespaces" | "vm" | undefined;
  budget?: Partial<BudgetAmount> | undefined;
}

/** One run of `GET /v1/usage`. `gone`: its thopter was destroyed. */
export interface RunUsage {
  name: string;
  box: string;
  run: string;
  usage: Usage;
  gone: boolean;
}

/** `GET /v1/thopters/{name}/screen`: the pane as plain text, hostile like all box text. */
export interface ScreenText {
  screen: string;
}

/** `POST /v1/secrets/changed`: the store holds another value of it now, or none. */
export interface SecretChanged {
  name: string;
  change: "deleted" | "set";
}

/** `GET /v1/secrets`. */
export interface SecretList {
  secrets: SecretView[];
}

/** One secret. `stored` False: policies name it, and there is none. */
export interface SecretView {
  name: string;
  stored: boolean;
  bindings: Binding[];
}

/** One note on its way to one target. `state`: queued, sent, given_up. `problem`: why the last attempt failed; `next_ms`: when the next one is. */
export interface Send {
  note: string;
  target: string;
  state: string;
  attempts: number;
  next_ms: number;
  problem: string;
  sent_ms: number;
}

/** `POST /v1/thopters/{name}/messages`. `tell`: kept until the agent is at its prompt, then said once. `ask`: said now, and the end of the turn that takes it is waited for. */
export interface SendRequest {
  text: string;
  kind?: "ask" | "tell" | undefined;
}

/** `GET /v1/sessions`: an admin's has all, others see their own. */
export interface SessionList {
  sessions: SessionView[];
}

/** Somebody's page that is logged in. `agent`: what its browser says it is; `current`: who asks. */
export interface SessionView {
  id: string;
  role: "admin" | "operator" | "viewer";
  device: string;
  agent: string;
  created_ms: number;
  seen_ms: number;
  expires_ms: number;
  current: boolean;
}

/** `POST /v1/variables`: all are set, or none. */
export interface SetVariables {
  values: Record<string, string>;
}

/** It is durable; `flow` is where its progress can be read. */
export interface SnapshotAccepted {
  flow: string;
  id: string;
  name: string;
}

/** `GET /v1/snapshots`, `GET /v1/thopters/{name}/checkpoints`. `default`: the name that new thopters start from, which may be that of none. */
export interface SnapshotList {
  snapshots: SnapshotView[];
  default: string;
}

/** `POST /v1/snapshots`: save `thopter`. `name` empty: a friendly one. `replace`: `name` exists, and goes when the new one is there. */
export interface SnapshotRequest {
  thopter: string;
  name?: string | undefined;
  replace?: boolean | undefined;
}

/** One saved box. `size`: bytes of disk that would be free without it (-1: not known); `depth`: layers it stands on; `source` is the thopter it was made of, empty for one built or imported; `missing`: programs that a thopter from it lacks, with what needs them. */
export interface SnapshotView {
  id: string;
  name: string;
  kind: string;
  state: string;
  provider: string;
  source: string;
  created_ms: number;
  size: number;
  depth: number;
  default: boolean;
  label: string;
  agent: string;
  repo: string;
  cwd: string;
  session: string;
  parent: string;
  golden: string;
  turn_ms: number;
  missing: Record<string, string>;
}

/** Where a fact comes from. */
export type Source = "declared" | "gateway" | "heartbeat" | "hook" | "hub" | "process" | "provider" | "screen" | "transcript";

/** `POST /v1/thopters/{name}/statusline`: the line shown as its task; empty gives it back to the agent. What the operator sets counts until then, or until another run begins in the box. */
export interface StatuslineRequest {
  text?: string | undefined;
}

/** Progress of a flow, also the `data` of `flow.step` events. `status`: started, progress (`title` is a line of its output), done, failed, undone. `ms` is how long it took. */
export interface Step {
  name: string;
  status: string;
  title: string;
  ms: number;
  error: Record<string, unknown> | null;
}

/** `POST /v1/push/subscriptions`: this page's browser wants notes. `kinds`: only of these kinds, empty for all of `notify.on`. The same `endpoint` again: what it wants is replaced. */
export interface SubscribeRequest {
  endpoint: string;
  keys: Partial<PushKeys>;
  kinds?: string[] | undefined;
  quiet?: Partial<Quiet> | null | undefined;
}

/** `POST /v1/thopters/{name}/suspend`. `disk`: end its processes (its files stay). */
export interface SuspendRequest {
  disk?: boolean | undefined;
}

/** `state`: the box's state now; `reclaimed`: bytes of memory given back (0: there was no swap to put them into); `flow`: where the progress can be read, empty when it is done. */
export interface SuspendResult {
  name: string;
  state: string;
  reclaimed: number;
  flow: string;
}

/** Where notes go. `address` shows no secret; `problem`: why it can't be used. */
export interface Target {
  name: string;
  address: string;
  problem: string;
}

/** `POST /v1/thopters/{name}/tell`. `receipt_timeout_ms` bounds the wait for a receipt. */
export interface TellRequest {
  text: string;
  interrupt?: boolean | undefined;
  receipt_timeout_ms?: number | undefined;
}

/** `receipt`: `taken` (the agent has it as its prompt) or `queued` (it is busy, its own queue holds the message). Anything else is an error, never a guess. `evidence` says how. */
export interface TellResult {
  receipt: string;
  evidence: string;
  ms: number;
}

/** `POST /v1/notes/test`. `target`: only this one, empty for all; the answer is the fate after at most `patience_ms`. */
export interface TestRequest {
  target?: string | undefined;
  patience_ms?: number | undefined;
}

/** `GET /v1/thopters/{name}`: the line, the evidence it rests on, and recent log lines. */
export interface ThopterDetail {
  view: ThopterView;
  because: Evidence[];
  evidence: Evidence[];
  log: string[];
  prompt: string;
  session: string;
  cwd: string;
  model_endpoint: string;
  limits: Record<string, unknown>;
  queue: Message[];
  approvals: Approval[];
  checkouts: Record<string, string>;
  pushes: PushView[];
}

/** One line of `thopter status`; the names in T3-014 of the old JSON are given by the CLI. `task`: the status line where there is one, else the prompt's beginning. `queued`: how many messages the hub keeps for it. */
export interface ThopterView {
  name: string;
  id: string;
  owner: string;
  provider: string;
  box_state: string;
  isolation: string;
  agent: string;
  run: string;
  state: string;
  reason: string;
  since_ms: number;
  task: string;
  repo: string;
  branch: string;
  created_ms: number;
  heartbeat_ms: number;
  alive: boolean;
  agent_running: boolean;
  last_message: string;
  last_message_ms: number;
  resets_ms: number;
  problem: string;
  contradiction: string;
  note: string;
  statusline: string;
  statusline_by: string;
  queued: number;
  pool: string;
  approvals: number;
  usage: Usage | null;
  agents: AgentView[];
}

/** `GET /v1/thopters`. */
export interface Thopters {
  thopters: ThopterView[];
}

/** Good once, until `expires_ms`, as `?ticket=` of that path; it may what its caller may. */
export interface Ticket {
  ticket: string;
  expires_ms: number;
}

/** `POST /v1/tickets`: a ticket for one WebSocket or one stream of events at exactly `path`. */
export interface TicketRequest {
  path: string;
}

/** `GET /v1/tokens`. */
export interface TokenList {
  tokens: TokenView[];
}

/** A token as it is listed; the token itself is told once, when it is made. `expires_ms` 0: never. `used_ms`: when it was last shown to this hub since it started, 0 for not yet. */
export interface TokenView {
  name: string;
  scopes: string[];
  created_ms: number;
  expires_ms: number;
  used_ms: number;
}

/** `GET /v1/thopters/{name}/transcript?after=&limit=&last=`: `next` is the new cursor. */
export interface TranscriptPage {
  entries: Entry[];
  next: number;
  total: number;
}

/** `POST /v1/policies/test`: would `method url` go out? By policy `policy`, by that of thopter `name` (with what was allowed it), or by the default one. */
export interface TryRequest {
  url: string;
  method?: string | undefined;
  policy?: string | undefined;
  name?: string | undefined;
}

/** `POST /v1/secrets/unbind`: everywhere, or only on `host` or in `policy`. */
export interface UnbindRequest {
  name: string;
  host?: string | undefined;
  policy?: string | undefined;
}

/** What no longer holds; requests under way that used it have ended. */
export interface Unbound {
  removed: Binding[];
}

/** A file for the box: absolute `path` there (`~/` is the box's home), content, permissions. */
export interface Upload {
  path: string;
  content: string;
  mode?: number | undefined;
}

/** Of a run, all models together: list prices, before any discount or subscription. `cost_usd` is null when the price of some of it is not known; `known_usd` is what the rest costs. */
export interface Usage {
  requests: number;
  failed: number;
  input_tokens: number;
  output_tokens: number;
  cache_read_tokens: number;
  cache_write_tokens: number;
  cache_write_1h_tokens: number;
  cost_usd: number | null;
  known_usd: number;
  first_ms: number;
  last_ms: number;
  models: ModelUse[];
}

/** `GET /v1/usage?name=&all=`: by run, newest last. `prices`: the day the price table was checked. `lost`: calls that could not be counted because the hub was away for too long. */
export interface UsageReport {
  runs: RunUsage[];
  total: Usage;
  prices: string;
  lost: number;
}

/** `GET /v1/variables`. */
export interface VariableList {
  variables: VariableView[];
}

/** A variable as it is listed: of the value only its beginning. */
export interface VariableView {
  name: string;
  masked: string;
  size: number;
  changed_ms: number;
}

/** `verdict`: allow, deny, ask. `inspect`: the gateway opens the TLS. `note` adds what a test without the network can't know. */
export interface Verdict {
  verdict: string;
  policy: string;
  host: string;
  port: number;
  code: string;
  reason: string;
  rule: string;
  inspect: boolean;
  credential: string;
  note: string;
}

/** A box of a pool. `state`: `filling` (it is being made), `warm` (its agent waits), `unready` (warm, but it can't be given out at this moment) or `retired` (it is being destroyed). */
export interface WarmBox {
  name: string;
  box: string;
  state: string;
  since_ms: number;
}

/** `POST /v1/thopters/{name}/put`: bytes now in the file. */
export interface Written {
  size: number;
}

/** Every JSON call: what it takes and what it answers. */
export interface Calls {
  "GET /v1/approvals": { query: { name?: string | undefined; all?: boolean | undefined }; answer: ApprovalList };
  "POST /v1/approvals/{id}": { body: AnswerRequest; answer: Approval };
  "GET /v1/audit": { query: { after?: number | undefined; limit?: number | undefined; last?: number | undefined; box?: string | undefined; kind?: string | undefined; since_ms?: number | undefined; wait_ms?: number | undefined }; answer: AuditPage };
  "GET /v1/audit/verify": { query: { expect?: string | undefined }; answer: AuditVerdict };
  "POST /v1/credentials/renew": { answer: Renewed };
  "GET /v1/doctor": { answer: Checks };
  "GET /v1/doctor/leaks": { answer: Leaks };
  "POST /v1/doctor/sweep": { answer: Leaks };
  "GET /v1/flows/{id}": { answer: FlowView };
  "GET /v1/hub": { answer: HubInfo };
  "POST /v1/hub/stop": { answer: Nothing };
  "DELETE /v1/messages/{id}": { answer: Message };
  "GET /v1/messages/{id}": { answer: Message };
  "POST /v1/messages/{id}/edit": { body: EditRequest; answer: Message };
  "GET /v1/notes": { query: { limit?: number | undefined; name?: string | undefined }; answer: Notes };
  "POST /v1/notes/mute": { body: MuteRequest; answer: NotifyState };
  "GET /v1/notes/state": { answer: NotifyState };
  "POST /v1/notes/test": { body: TestRequest; answer: NoteView };
  "GET /v1/openapi.json": { answer: Record<string, unknown> };
  "GET /v1/page": { answer: PageInfo };
  "GET /v1/policies": { answer: PolicyBook };
  "POST /v1/policies/check": { body: PolicyText; answer: Findings };
  "POST /v1/policies/test": { body: TryRequest; answer: Verdict };
  "GET /v1/pools": { answer: Pools };
  "POST /v1/pools": { body: PoolRequest; answer: PoolView };
  "POST /v1/pools/clear": { body: PoolClear; answer: Pools };
  "GET /v1/push/key": { answer: PushKey };
  "GET /v1/push/subscriptions": { answer: DeviceList };
  "POST /v1/push/subscriptions": { body: SubscribeRequest; answer: DeviceView };
  "DELETE /v1/push/subscriptions/{id}": { answer: Nothing };
  "POST /v1/runs": { body: RunRequest; answer: Accepted };
  "GET /v1/secrets": { answer: SecretList };
  "POST /v1/secrets/bind": { body: BindRequest; answer: Bound };
  "POST /v1/secrets/changed": { body: SecretChanged; answer: Nothing };
  "POST /v1/secrets/unbind": { body: UnbindRequest; answer: Unbound };
  "GET /v1/sessions": { answer: SessionList };
  "POST /v1/sessions": { body: LoginRequest; answer: Login };
  "POST /v1/sessions/end-all": { answer: Ended };
  "POST /v1/sessions/links": { body: LinkRequest; answer: LoginLink };
  "DELETE /v1/sessions/{id}": { answer: Nothing };
  "POST /v1/snapshot-builds": { body: BuildRequest; answer: SnapshotAccepted };
  "POST /v1/snapshot-prunings": { body: PruneRequest; answer: SnapshotList };
  "GET /v1/snapshots": { answer: SnapshotList };
  "POST /v1/snapshots": { body: SnapshotRequest; answer: SnapshotAccepted };
  "DELETE /v1/snapshots/{id}": { answer: SnapshotView };
  "GET /v1/snapshots/{id}": { answer: SnapshotView };
  "GET /v1/thopters": { query: { gone?: boolean | undefined }; answer: Thopters };
  "POST /v1/thopters": { body: CreateRequest; answer: Accepted };
  "DELETE /v1/thopters/{name}": { answer: Accepted };
  "GET /v1/thopters/{name}": { answer: ThopterDetail };
  "GET /v1/thopters/{name}/budget": { answer: BudgetView };
  "POST /v1/thopters/{name}/budget": { body: BudgetRequest; answer: BudgetView };
  "GET /v1/thopters/{name}/changes": { query: { checkout?: string | undefined }; answer: ChangeList };
  "GET /v1/thopters/{name}/changes/diff": { query: { checkout?: string | undefined; file: string; context?: number | undefined }; answer: FileDiff };
  "GET /v1/thopters/{name}/check": { answer: CheckResult };
  "GET /v1/thopters/{name}/checkpoints": { answer: SnapshotList };
  "POST /v1/thopters/{name}/checkpoints": { body: CheckpointRequest; answer: SnapshotAccepted };
  "GET /v1/thopters/{name}/diff": { query: { checkout?: string | undefined }; answer: DiffResult };
  "POST /v1/thopters/{name}/done": { body: DoneRequest; answer: Nothing };
  "GET /v1/thopters/{name}/egress": { query: { limit?: number | undefined; all?: boolean | undefined }; answer: EgressView };
  "POST /v1/thopters/{name}/egress/allow": { body: AllowRequest; answer: Allowed };
  "POST /v1/thopters/{name}/egress/always": { body: AllowRequest; answer: Allowed };
  "POST /v1/thopters/{name}/fork": { body: ForkRequest; answer: ForkAccepted };
  "POST /v1/thopters/{name}/freeze": { answer: Nothing };
  "POST /v1/thopters/{name}/interrupt": { answer: Nothing };
  "GET /v1/thopters/{name}/keepalive": { answer: LeaseView };
  "POST /v1/thopters/{name}/keepalive": { body: KeepAliveRequest; answer: LeaseView };
  "GET /v1/thopters/{name}/log/steps": { answer: LogLines };
  "GET /v1/thopters/{name}/messages": { answer: Messages };
  "POST /v1/thopters/{name}/messages": { body: SendRequest; answer: Message };
  "POST /v1/thopters/{name}/note": { body: NoteRequest; answer: Nothing };
  "POST /v1/thopters/{name}/pull": { body: PullRequest; answer: PullInfo };
  "GET /v1/thopters/{name}/pushes": { answer: PushList };
  "POST /v1/thopters/{name}/pushes": { body: PushRequest; answer: PushList };
  "POST /v1/thopters/{name}/refresh": { answer: PushList };
  "POST /v1/thopters/{name}/restart": { body: RestartRequest; answer: Accepted };
  "POST /v1/thopters/{name}/resume": { body: ResumeRequest; answer: Accepted };
  "POST /v1/thopters/{name}/rewind": { body: RewindRequest; answer: RewindAccepted };
  "GET /v1/thopters/{name}/screen": { answer: ScreenText };
  "POST /v1/thopters/{name}/statusline": { body: StatuslineRequest; answer: Nothing };
  "POST /v1/thopters/{name}/stop": { answer: Nothing };
  "POST /v1/thopters/{name}/suspend": { body: SuspendRequest; answer: SuspendResult };
  "POST /v1/thopters/{name}/tell": { body: TellRequest; answer: TellResult };
  "POST /v1/thopters/{name}/thaw": { answer: Nothing };
  "GET /v1/thopters/{name}/transcript": { query: { after?: number | undefined; limit?: number | undefined; last?: number | undefined }; answer: TranscriptPage };
  "POST /v1/tickets": { body: TicketRequest; answer: Ticket };
  "GET /v1/tokens": { answer: TokenList };
  "POST /v1/tokens": { body: CreateToken; answer: NewToken };
  "POST /v1/tokens/revoke": { body: RevokeToken; answer: Nothing };
  "GET /v1/usage": { query: { name?: string | undefined; all?: boolean | undefined }; answer: UsageReport };
  "GET /v1/variables": { answer: VariableList };
  "POST /v1/variables": { body: SetVariables; answer: Nothing };
  "POST /v1/variables/delete": { body: DeleteVariable; answer: Deleted };
}
