// Made of openapi/openapi.json by `npm run types`. Do not edit.
export interface components {
    schemas: {
        /**
         * About
         * @description What this is, and where to go. Every value of `links` is a path of this gateway.
         */
        About: {
            /** Name */
            name: string;
            /** Description */
            description: string;
            /** Version */
            version: string | null;
            /** Links */
            links: {
                [key: string]: string;
            };
        };
        /**
         * AgentInfo
         * @description An agent that a chat may name.
         */
        AgentInfo: {
            /** Name */
            name: string;
            /**
             * Kind
             * @description `openai`, `http`, `https`, `python` or `demo`.
             */
            kind: string;
            /**
             * Model
             * @description The model that answers, unless `options` name another one.
             */
            model: string | null;
            /** Description */
            description: string | null;
            /**
             * Is Default
             * @description It answers chats that name no agent.
             */
            is_default: boolean;
            /**
             * Options
             * @description The JSON Schema of the `options` that a chat may set.
             */
            options: {
                [key: string]: unknown;
            };
        };
        /**
         * AgentList
         * @description The agents, by name.
         */
        AgentList: {
            /** Agents */
            agents: components["schemas"]["AgentInfo"][];
        };
        /**
         * ArchivePage
         * @description A page of archived sessions.
         */
        ArchivePage: {
            /** Archives */
            archives: components["schemas"]["ArchivedSession"][];
            /** Next Cursor */
            next_cursor: string | null;
            /** Has More */
            has_more: boolean;
            /** Total */
            total?: number;
            /** Offset */
            offset?: number;
        };
        /**
         * ArchivedSession
         * @description An archived session, and its bytes on the disk: compressed, and before.
         */
        ArchivedSession: {
            session: components["schemas"]["Session"];
            /** Archived At */
            archived_at: string;
            /** Bytes */
            bytes: number;
            /** Original Bytes */
            original_bytes: number;
        };
        /**
         * Branch
         * @description A branch of a conversation. Its path goes from the first message to its tip.
         */
        Branch: {
            /**
             * Branch Id
             * @description That of the first branch is `main`.
             */
            branch_id: string;
            /**
             * Parent Branch Id
             * @description The branch that has `from_message_id`.
             */
            parent_branch_id: string | null;
            /**
             * From Message Id
             * @description It begins behind this message; null: before the first one.
             */
            from_message_id: string | null;
            /**
             * Tip Message Id
             * @description The last message of its path.
             */
            tip_message_id: string | null;
            /**
             * Message Count
             * @description The messages of its path.
             */
            message_count: number;
            /** Created At */
            created_at: string;
            /**
             * Current
             * @description Whether new messages go here.
             */
            current: boolean;
        };
        /**
         * BranchSelected
         * @description The branch that is current now.
         */
        BranchSelected: {
            /**
             * Branch Id
             * @description That of the first branch is `main`.
             */
            branch_id: string;
            /**
             * Parent Branch Id
             * @description The branch that has `from_message_id`.
             */
            parent_branch_id: string | null;
            /**
             * From Message Id
             * @description It begins behind this message; null: before the first one.
             */
            from_message_id: string | null;
            /**
             * Tip Message Id
             * @description The last message of its path.
             */
            tip_message_id: string | null;
            /**
             * Message Count
             * @description The messages of its path.
             */
            message_count: number;
            /** Created At */
            created_at: string;
            /**
             * Current
             * @description Whether new messages go here.
             */
            current: boolean;
            /**
             * Position
             * @description The end of the log.
             */
            position: string;
        };
        /**
         * BranchSelectedEvent
         * @description Another branch is the current one: load the messages again.
         */
        BranchSelectedEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "branch_selected";
            /** Branch Id */
            branch_id: string;
        };
        /**
         * BranchStartedEvent
         * @description A branch has begun behind `from_message_id` (null: before the first message).
         *
         *     It is the current one: cut the shown messages behind that message, and go on from there.
         */
        BranchStartedEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "branch_started";
            /** Branch Id */
            branch_id: string;
            /** From Message Id */
            from_message_id: string | null;
            /**
             * Parent Branch Id
             * @description The branch that `from_message_id` belongs to.
             */
            parent_branch_id: string | null;
            /**
             * Created At
             * @description Of an import: when it first began.
             */
            created_at?: string;
            /**
             * Path
             * @description What the gateway counts of the path. Skip it.
             */
            path: {
                [key: string]: unknown;
            };
        };
        /**
         * Branches
         * @description All branches of a session, oldest first.
         */
        Branches: {
            /** Branches */
            branches: components["schemas"]["Branch"][];
        };
        /**
         * BulkArchived
         * @description What archiving many sessions has done.
         */
        BulkArchived: {
            /** Archived */
            archived: components["schemas"]["Done"][];
            /** Failed */
            failed: components["schemas"]["NotDone"][];
        };
        /**
         * BulkExportInput
         * @description Sessions to write as one zip.
         */
        BulkExportInput: {
            /**
             * Format
             * @description Default: `"markdown"`.
             * @enum {string}
             */
            format?: "markdown" | "json" | "yaml";
            /**
             * Include Metadata
             * @description Default: `true`.
             */
            include_metadata?: boolean;
            /**
             * Include Tool Calls
             * @description Default: `true`.
             */
            include_tool_calls?: boolean;
            /** Session Ids */
            session_ids: string[];
        };
        /**
         * BulkRestored
         * @description What restoring many sessions has done.
         */
        BulkRestored: {
            /** Restored */
            restored: components["schemas"]["Done"][];
            /** Failed */
            failed: components["schemas"]["NotDone"][];
        };
        /**
         * CancelledEvent
         * @description Terminal: the run was cancelled.
         */
        CancelledEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /** Run Id */
            run_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "cancelled";
            /** Reason */
            reason: string;
        };
        /**
         * ChangeEvent
         * @description The `data` of one frame of a stream of changes.
         */
        ChangeEvent: components["schemas"]["SessionChanged"] | components["schemas"]["SessionGone"] | components["schemas"]["ChangesReset"] | components["schemas"]["ChangesOpen"] | components["schemas"]["HeartbeatEvent"] | components["schemas"]["GoodbyeEvent"];
        /**
         * ChangeFrame
         * @description One frame of a stream of changes. There is never an `event` line.
         */
        ChangeFrame: {
            /**
             * Id
             * @description The cursor behind this frame.
             */
            id: string;
            /**
             * Retry
             * @description Milliseconds to wait before a reconnect; only in the first frame.
             */
            retry?: number;
            /**
             * Data
             * @description A `ChangeEvent` as JSON.
             */
            data: string;
        };
        /**
         * ChangePage
         * @description Which sessions have changed after the cursor; each with its last state only.
         */
        ChangePage: {
            /** Changes */
            changes: (components["schemas"]["SessionChanged"] | components["schemas"]["SessionGone"] | components["schemas"]["ChangesReset"])[];
            /**
             * Next
             * @description The `after` of the next request.
             */
            next: string;
            /** Has More */
            has_more: boolean;
        };
        /**
         * ChangesOpen
         * @description The first event of a stream of changes. Its `id` is where the stream begins.
         */
        ChangesOpen: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "open";
            /** Connection Id */
            connection_id: string;
        };
        /**
         * ChangesReset
         * @description The cursor cannot be served: list the sessions again, and go on from the answer's `next`.
         */
        ChangesReset: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "reset";
            /**
             * Reason
             * @constant
             */
            reason: "unknown_position";
        };
        /**
         * ChatAccepted
         * @description The gateway has stored the turn. At any time `stream_url` shows all of its events, once.
         */
        ChatAccepted: {
            /** Session Id */
            session_id: string;
            /** Run Id */
            run_id: string;
            /** Message Ids */
            message_ids: string[];
            /**
             * Status
             * @enum {string}
             */
            status: "queued" | "running";
            /** Position */
            position: string;
            /** Stream Url */
            stream_url: string;
        };
        /**
         * ChatCompleted
         * @description The run has ended: how, and the last assistant message.
         */
        ChatCompleted: {
            /** Session Id */
            session_id: string;
            /** Run Id */
            run_id: string;
            /** Message Ids */
            message_ids: string[];
            /**
             * Status
             * @enum {string}
             */
            status: "completed" | "failed" | "cancelled" | "interrupted";
            /** Position */
            position: string;
            /** Stream Url */
            stream_url: string;
            message: components["schemas"]["Message"] | null;
            usage: components["schemas"]["Usage"] | null;
            error: components["schemas"]["RunError"] | null;
        };
        /**
         * ChatInput
         * @description One turn of a conversation.
         */
        ChatInput: {
            /**
             * Message
             * @description The user's text, or a message, or a list of messages (tool results).
             */
            message: string | components["schemas"]["MessageInput"] | components["schemas"]["MessageInput"][];
            /**
             * Session Id
             * @description Absent: a new session. Unknown: created under exactly this id.
             */
            session_id?: string | null;
            /** User Id */
            user_id?: string | null;
            /** Title */
            title?: string | null;
            /** Working Dir */
            working_dir?: string | null;
            /**
             * Session Type
             * @description Default: `"user"`.
             * @enum {string}
             */
            session_type?: "user" | "sub_agent" | "scheduled";
            /** Metadata */
            metadata?: {
                [key: string]: unknown;
            };
            /**
             * Agent
             * @description Which configured agent answers.
             */
            agent?: string | null;
            /**
             * Options
             * @description Options for the agent: those that its `allow` names, within its bounds.
             */
            options?: {
                [key: string]: unknown;
            };
            /**
             * Run Id
             * @description The client's own name for the run, with which it can cancel the run before it has the answer.
             */
            run_id?: string | null;
            /**
             * On Busy
             * @description When a run is active: wait for its end, answer 409, or cancel it and go first. Default: `"enqueue"`.
             * @enum {string}
             */
            on_busy?: "enqueue" | "reject" | "interrupt";
            /**
             * Edit Message Id
             * @description A user's message of the session. The new message takes its place, in a new branch; the old one stays in its own.
             */
            edit_message_id?: string | null;
        };
        /**
         * ChatRequest
         * @description A request of `DefaultChatTransport`, or of one that sends the last message alone.
         */
        ChatRequest: {
            /**
             * Id
             * @description The chat: the session, which is created when there is none.
             */
            id: string;
            /**
             * Messages
             * @description The client's messages. Those that the session has already count nothing.
             */
            messages?: components["schemas"]["UiMessage"][] | null;
            /** @description In the place of `messages`: the last one alone. */
            message?: components["schemas"]["UiMessage"] | null;
            /**
             * Trigger
             * @description Default: `"submit-message"`.
             * @enum {string}
             */
            trigger?: "submit-message" | "regenerate-message";
            /**
             * Messageid
             * @description With `submit-message` the user's message whose place the last one takes, or the assistant's message with results of tools or approvals. With `regenerate-message` the message that is answered again; absent: the last.
             */
            messageId?: string | null;
            /**
             * Agent
             * @description Which configured agent answers.
             */
            agent?: string | null;
            /**
             * Options
             * @description Options for the agent: those that its `allow` names, within its bounds.
             */
            options?: {
                [key: string]: unknown;
            };
            /**
             * Tools
             * @description Tools that the client runs: a list of `{name, description, parameters}`, or an object by name. `inputSchema` is read as `parameters`.
             */
            tools?: {
                [key: string]: unknown;
            }[] | {
                [key: string]: {
                    [key: string]: unknown;
                };
            } | null;
        };
        /**
         * Check
         * @description One check: what it saw, and what to do when it is not `ok`.
         */
        Check: {
            /** Name */
            name: string;
            /**
             * Status
             * @enum {string}
             */
            status: "ok" | "warn" | "fail";
            /** Seen */
            seen: string;
            /** Action */
            action: string;
        };
        /**
         * CleanupInput
         * @description Which sessions to delete.
         */
        CleanupInput: {
            /**
             * Before
             * @description An RFC 3339 time: all without activity since then, whatever their retention.
             */
            before?: string | null;
            /** Dry Run */
            dry_run?: boolean;
        };
        /**
         * CleanupStats
         * @description What a cleanup has deleted, or with `dry_run` would delete.
         */
        CleanupStats: {
            /** Sessions Cleaned */
            sessions_cleaned: number;
            /** Archives Cleaned */
            archives_cleaned: number;
            /** Bytes Freed */
            bytes_freed: number;
            /** Session Ids */
            session_ids: string[];
            /** Dry Run */
            dry_run: boolean;
        };
        /**
         * CompleteEvent
         * @description Terminal: the run completed.
         */
        CompleteEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /** Run Id */
            run_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "complete";
            /** Finish Reason */
            finish_reason: string;
            usage?: components["schemas"]["Usage"] | null;
            /**
             * Model
             * @description The model that answered, if the agent said so.
             */
            model?: string;
        };
        /**
         * ConnectInput
         * @description What a client sends to see a thread: RunAgentInput, of which only the thread counts.
         */
        ConnectInput: {
            /**
             * Threadid
             * @description The session.
             */
            threadId: string;
            /**
             * Runid
             * @description Names the answer when the thread has had no run.
             */
            runId?: string | null;
        };
        /**
         * Connection
         * @description An open stream.
         */
        Connection: {
            /** Connection Id */
            connection_id: string;
            /** Session Id */
            session_id: string;
            /** Since */
            since: string;
            /** Position */
            position: string;
            /** Lag Events */
            lag_events: number;
            /** Remote Address */
            remote_address: string | null;
        };
        /**
         * ConnectionPage
         * @description The open streams of a session.
         */
        ConnectionPage: {
            /** Connections */
            connections: components["schemas"]["Connection"][];
            /** Next Cursor */
            next_cursor: string | null;
            /** Has More */
            has_more: boolean;
        };
        /**
         * ConversationCreate
         * @description A new conversation.
         */
        ConversationCreate: {
            /**
             * Items
             * @description Messages that it begins with.
             */
            items?: unknown;
            /**
             * Metadata
             * @description Up to 16 texts.
             */
            metadata?: unknown;
        } & {
            [key: string]: unknown;
        };
        /**
         * ConversationUpdate
         * @description Changes of a conversation.
         */
        ConversationUpdate: {
            /**
             * Metadata
             * @description Replaces what there is.
             */
            metadata?: unknown;
        } & {
            [key: string]: unknown;
        };
        /**
         * CustomEvent
         * @description Anything that an agent or a program tells its front end.
         */
        CustomEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "custom";
            /** Run Id */
            run_id?: string;
            /** Name */
            name: string;
            /** Value */
            value: unknown;
        };
        /**
         * Delivery
         * @description One attempt to tell a receiver something.
         */
        Delivery: {
            /** Message Id */
            message_id: string;
            /** Type */
            type: string;
            /** Session Id */
            session_id: string | null;
            /** Run Id */
            run_id: string | null;
            /** Attempt */
            attempt: number;
            /** Attempted At */
            attempted_at: string;
            /** Duration Ms */
            duration_ms: number;
            /**
             * Status
             * @description The status of the answer; null without one.
             */
            status: number | null;
            /**
             * Error
             * @description null: acknowledged. `status`, `timeout`, `unreachable`, `tls-failed`, `address-refused`, `broken`; `given-up`: there is no further attempt.
             */
            error: string | null;
            /** Next Attempt At */
            next_attempt_at: string | null;
        };
        /**
         * DeliveryPage
         * @description A page of attempts, the latest first.
         */
        DeliveryPage: {
            /** Deliveries */
            deliveries: components["schemas"]["Delivery"][];
            /** Next Cursor */
            next_cursor: string | null;
            /** Has More */
            has_more: boolean;
        };
        /**
         * Diagnostics
         * @description All checks; `status` is the worst of them.
         */
        Diagnostics: {
            /**
             * Status
             * @enum {string}
             */
            status: "ok" | "warn" | "fail";
            /** Checks */
            checks: components["schemas"]["Check"][];
        };
        /**
         * Done
         * @description One session that a bulk call has handled.
         */
        Done: {
            /** Session Id */
            session_id: string;
            /** Bytes */
            bytes: number;
        };
        /**
         * ErasedPart
         * @description A part of what the gateway keeps, and when nothing of the user is in it any more.
         */
        ErasedPart: {
            /** Store */
            store: string;
            /** What */
            what: string;
            /**
             * Gone
             * @description `now`, or under which condition.
             */
            gone: string;
        };
        /**
         * ErrorEvent
         * @description Terminal: the run failed. `code` is `interrupted` when the gateway stopped before it.
         */
        ErrorEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /** Run Id */
            run_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "error";
            /** Message */
            message: string;
            /** Code */
            code: string;
        };
        /**
         * Event
         * @description One event of a session's log. `type` says which; a client skips types it does not know.
         */
        Event: components["schemas"]["MessageEvent"] | components["schemas"]["TokenEvent"] | components["schemas"]["ThinkingEvent"] | components["schemas"]["ToolStartEvent"] | components["schemas"]["ToolDeltaEvent"] | components["schemas"]["ToolCompleteEvent"] | components["schemas"]["ToolErrorEvent"] | components["schemas"]["RunQueuedEvent"] | components["schemas"]["RunStartEvent"] | components["schemas"]["CompleteEvent"] | components["schemas"]["ErrorEvent"] | components["schemas"]["CancelledEvent"] | components["schemas"]["InputRequiredEvent"] | components["schemas"]["InputGivenEvent"] | components["schemas"]["InputClosedEvent"] | components["schemas"]["StateChangeEvent"] | components["schemas"]["SessionCreatedEvent"] | components["schemas"]["SessionUpdatedEvent"] | components["schemas"]["SessionForkedEvent"] | components["schemas"]["SessionMergedEvent"] | components["schemas"]["SummarySavedEvent"] | components["schemas"]["BranchStartedEvent"] | components["schemas"]["BranchSelectedEvent"] | components["schemas"]["MessageHiddenEvent"] | components["schemas"]["RunHiddenEvent"] | components["schemas"]["ExtensionsUpdatedEvent"] | components["schemas"]["SessionSharedEvent"] | components["schemas"]["ShareRevokedEvent"] | components["schemas"]["CustomEvent"];
        /**
         * EventPage
         * @description A page of events; the next page begins after `next`.
         */
        EventPage: {
            /** Events */
            events: components["schemas"]["Event"][];
            /** Next */
            next: string;
            /** Has More */
            has_more: boolean;
        };
        /**
         * EventShare
         * @description A share as the log has it; of a link with the digest of its token.
         */
        EventShare: {
            /** Id */
            id: string;
            /** User Id */
            user_id: string | null;
            /** Created At */
            created_at: string;
            /** Expires At */
            expires_at: string | null;
            /**
             * Scope
             * @description Default: `"read"`.
             * @enum {string}
             */
            scope?: "read" | "answer";
            /** Token Sha256 */
            token_sha256?: string | null;
        };
        /**
         * EventsAppended
         * @description The positions of the events; null for a streamed body without lines.
         */
        EventsAppended: {
            /** First */
            first: string | null;
            /** Last */
            last: string | null;
            /** Count */
            count: number;
        };
        /**
         * ExportDocument
         * @description A session, without loss. `bamboo_export` is the version of this format.
         *
         *     With `include_metadata=false` it has neither `summary` nor `lineage`. With `branches` the
         *     messages are those of all branches, in the order of the log.
         */
        ExportDocument: {
            /**
             * Bamboo Export
             * @constant
             */
            bamboo_export: 1;
            session: components["schemas"]["ExportedSession"];
            summary?: components["schemas"]["ExportedSummary"] | null;
            lineage?: components["schemas"]["ExportedLineage"] | null;
            branches?: components["schemas"]["ExportedBranches"] | null;
            /** Messages */
            messages: components["schemas"]["ExportedMessage"][];
            /**
             * Message Count
             * @description The last member: it is there when the document is whole.
             */
            message_count: number;
        };
        /**
         * ExportInput
         * @description A file to write under `export_dir`.
         */
        ExportInput: {
            /**
             * Format
             * @description Default: `"markdown"`.
             * @enum {string}
             */
            format?: "markdown" | "json" | "yaml";
            /**
             * Include Metadata
             * @description Default: `true`.
             */
            include_metadata?: boolean;
            /**
             * Include Tool Calls
             * @description Default: `true`.
             */
            include_tool_calls?: boolean;
            /** Path */
            path: string;
        };
        /**
         * Exported
         * @description A file that was written under `export_dir`.
         */
        Exported: {
            /** Path */
            path: string;
            /** Bytes */
            bytes: number;
        };
        /**
         * ExportedBranch
         * @description A branch as it is exported.
         */
        ExportedBranch: {
            /** Branch Id */
            branch_id: string;
            /** Parent Branch Id */
            parent_branch_id: string | null;
            /** From Message Id */
            from_message_id: string | null;
            /** Created At */
            created_at: string;
        };
        /**
         * ExportedBranchSummary
         * @description A summary that counts on the paths with `message_id`.
         */
        ExportedBranchSummary: {
            /** Summary */
            summary: string;
            /** Turn Count */
            turn_count: number;
            /** Message Id */
            message_id: string | null;
            /** Created At */
            created_at: string;
        };
        /**
         * ExportedBranches
         * @description The branches of a session that has several.
         */
        ExportedBranches: {
            /** Current */
            current: string;
            /** Branches */
            branches: components["schemas"]["ExportedBranch"][];
            /** Summaries */
            summaries: components["schemas"]["ExportedBranchSummary"][];
        };
        /**
         * ExportedLineage
         * @description What `parent` does not say: all sessions it was forked from, and what was merged in.
         */
        ExportedLineage: {
            /** Ancestors */
            ancestors: {
                [key: string]: unknown;
            }[];
            /** Merged From */
            merged_from: {
                [key: string]: unknown;
            }[];
            /** @description The usage of `session`, by agent and by model. */
            usage_parts?: components["schemas"]["UsageParts"] | null;
        };
        /**
         * ExportedMessage
         * @description A message as it is exported.
         *
         *     With `include_metadata=false` it has no `metadata`, `model`, `usage` and `run_id`.
         */
        ExportedMessage: {
            /**
             * Parent Id
             * @description The message before it; null: it is the first one of its path.
             */
            parent_id?: string | null;
            /**
             * Branch Id
             * @description The branch that it belongs to.
             */
            branch_id?: string;
            /**
             * Siblings
             * @description At a branching point: all messages with the same parent, itself included, oldest first. Only where messages are read, never in events.
             */
            siblings?: string[];
            /** Tool Calls */
            tool_calls?: components["schemas"]["ToolCall"][];
            /** Tool Call Id */
            tool_call_id?: string;
            /** Run Id */
            run_id?: string;
            usage?: components["schemas"]["Usage"] | null;
            /** Model */
            model?: string;
            /**
             * Copied From
             * @description The message that a merge has copied it from.
             */
            copied_from?: string;
            /** Id */
            id: string;
            /**
             * Role
             * @enum {string}
             */
            role: "system" | "user" | "assistant" | "tool";
            /** Content */
            content: string | (components["schemas"]["TextPart"] | components["schemas"]["MediaPart"] | components["schemas"]["FilePart"])[];
            /**
             * Status
             * @enum {string}
             */
            status: "complete" | "incomplete";
            /** Created At */
            created_at: string;
            /** Metadata */
            metadata?: {
                [key: string]: unknown;
            };
        };
        /**
         * ExportedSession
         * @description A session as it is exported: without what holds only at the moment.
         *
         *     With `include_metadata=false` it has only its id, title and times.
         */
        ExportedSession: {
            /** Id */
            id: string;
            /** Title */
            title: string | null;
            /** User Id */
            user_id?: string | null;
            /**
             * Session Type
             * @description Default: `"user"`.
             * @enum {string}
             */
            session_type?: "user" | "sub_agent" | "scheduled";
            /** Working Dir */
            working_dir?: string | null;
            /** Created At */
            created_at: string;
            /** Updated At */
            updated_at: string;
            /** Last Activity At */
            last_activity_at: string;
            /** Ttl Seconds */
            ttl_seconds?: number | null;
            /** Message Count */
            message_count?: number;
            usage?: components["schemas"]["Usage"] | null;
            /** Metadata */
            metadata?: {
                [key: string]: unknown;
            };
            /** Extension Data */
            extension_data?: {
                [key: string]: unknown;
            };
            parent?: components["schemas"]["Parent"] | null;
            /** Position */
            position?: string | null;
            /** Open Requests */
            open_requests?: components["schemas"]["OpenRequest"][];
        };
        /**
         * ExportedSummary
         * @description A summary as it is exported.
         *
         *     After an import positions belong to another log; a count of messages still holds.
         */
        ExportedSummary: {
            /** Session Id */
            session_id: string;
            /** Summary */
            summary: string;
            /** Turn Count */
            turn_count: number;
            /** Position */
            position: string;
            /**
             * Message Id
             * @description The last message that it covers; null: not known, or none.
             */
            message_id?: string | null;
            /** Created At */
            created_at: string;
            /**
             * Covers Messages
             * @description How many messages, from the first, the summary covers.
             */
            covers_messages?: number;
        };
        /**
         * ExtensionDataAnswer
         * @description ExtensionData: which extensions are enabled, the todo list, and custom values.
         */
        ExtensionDataAnswer: {
            /** Enabled Extensions */
            enabled_extensions: components["schemas"]["ExtensionState"][];
            todo_state: components["schemas"]["TodoState"] | null;
            /** Custom */
            custom: {
                [key: string]: unknown;
            };
        };
        /**
         * ExtensionDataInput
         * @description ExtensionData, whole: members that are absent become empty.
         */
        ExtensionDataInput: {
            /** Enabled Extensions */
            enabled_extensions?: components["schemas"]["NamedExtensionInput"][];
            todo_state?: components["schemas"]["TodoInput"] | null;
            /** Custom */
            custom?: {
                [key: string]: unknown;
            };
        };
        /**
         * ExtensionDataPatch
         * @description A JSON merge patch of ExtensionData; lists are replaced whole.
         */
        ExtensionDataPatch: {
            /** Enabled Extensions */
            enabled_extensions?: components["schemas"]["NamedExtensionInput"][] | null;
            /** Todo State */
            todo_state?: {
                [key: string]: unknown;
            } | null;
            /** Custom */
            custom?: {
                [key: string]: unknown;
            } | null;
        };
        /**
         * ExtensionState
         * @description The state of one extension.
         */
        ExtensionState: {
            /** Name */
            name: string;
            /** Config */
            config: {
                [key: string]: unknown;
            };
            /** Enabled */
            enabled: boolean;
        };
        /**
         * ExtensionStateInput
         * @description The state of one extension; its name is in the path or in the list's entry.
         */
        ExtensionStateInput: {
            /** Config */
            config?: {
                [key: string]: unknown;
            };
            /**
             * Enabled
             * @description Default: `true`.
             */
            enabled?: boolean;
        };
        /**
         * ExtensionsUpdatedEvent
         * @description The extension data has changed; all of it is here.
         */
        ExtensionsUpdatedEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "extensions_updated";
            /** Extension Data */
            extension_data: {
                [key: string]: unknown;
            };
        };
        /**
         * FailedErasure
         * @description A session that could not be deleted, or whose share could not be removed, for now.
         */
        FailedErasure: {
            /** Session Id */
            session_id: string;
            /** Code */
            code: string;
        };
        /**
         * File
         * @description A file. Messages name it by its `file_id`; `url` has its content.
         */
        File: {
            /** File Id */
            file_id: string;
            /** Name */
            name: string;
            /** Media Type */
            media_type: string;
            /** Bytes */
            bytes: number;
            /** Sha256 */
            sha256: string;
            /** Created At */
            created_at: string;
            /** Url */
            url: string;
        };
        /**
         * FileList
         * @description A page of files, the oldest first.
         */
        FileList: {
            /** Files */
            files: components["schemas"]["File"][];
            /** Next Cursor */
            next_cursor: string | null;
            /** Has More */
            has_more: boolean;
        };
        /**
         * FilePart
         * @description An image or a file that was uploaded: `POST /files` answers its `file_id`.
         *
         *     The gateway adds what it knows of the file (`name`, `media_type`, `bytes`); what a client sends
         *     of it is ignored. Its content is at `/files/{file_id}`.
         */
        FilePart: {
            /**
             * Type
             * @enum {string}
             */
            type: "image" | "file";
            /** File Id */
            file_id: string;
            /** Name */
            name?: string | null;
            /** Media Type */
            media_type?: string | null;
            /** Bytes */
            bytes?: number | null;
        };
        /**
         * ForkInput
         * @description Where the new session's history ends: at a message, or with everything.
         */
        ForkInput: {
            /** From Message Id */
            from_message_id?: string | null;
            /**
             * From Message Index
             * @description Counts from 0.
             */
            from_message_index?: number | null;
            /**
             * New Name
             * @description Default: `<title> (fork)`.
             */
            new_name?: string | null;
            /** New Id */
            new_id?: string | null;
            /**
             * Metadata Strategy
             * @description Default: `"inherit"`.
             * @enum {string}
             */
            metadata_strategy?: "inherit" | "reset";
        };
        /**
         * Forked
         * @description The new session; `cut_moved` when the cut was moved to keep a tool exchange whole.
         */
        Forked: {
            /** Id */
            id: string;
            /** Title */
            title: string | null;
            /** User Id */
            user_id: string | null;
            /**
             * Session Type
             * @enum {string}
             */
            session_type: "user" | "sub_agent" | "scheduled";
            /**
             * State
             * @enum {string}
             */
            state: "active" | "needs_input" | "idle" | "disconnected" | "closed" | "expired" | "archived";
            /** Working Dir */
            working_dir: string | null;
            /** Created At */
            created_at: string;
            /** Updated At */
            updated_at: string;
            /** Last Activity At */
            last_activity_at: string;
            /** Expires At */
            expires_at: string | null;
            /** Ttl Seconds */
            ttl_seconds: number | null;
            /** Message Count */
            message_count: number;
            /**
             * Preview
             * @description The first 120 characters of the last text that the user or the assistant said; whitespace is folded. Null: there is none, or none since an upgrade.
             */
            preview: string | null;
            usage: components["schemas"]["Usage"];
            /** Metadata */
            metadata: {
                [key: string]: unknown;
            };
            /** Extension Data */
            extension_data: {
                [key: string]: unknown;
            };
            parent: components["schemas"]["Parent"] | null;
            /** Position */
            position: string;
            /** Active Run Id */
            active_run_id: string | null;
            /** Open Requests */
            open_requests: components["schemas"]["OpenRequest"][];
            /** Stream Url */
            stream_url: string;
            /** Cut Moved */
            cut_moved?: boolean;
            /** Cut Message Id */
            cut_message_id?: string | null;
            /** Detail */
            detail?: string;
        };
        /**
         * GoodbyeEvent
         * @description The last event, when the gateway ends a stream. It is not in the log.
         */
        GoodbyeEvent: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "goodbye";
            /**
             * Reason
             * @enum {string}
             */
            reason: "shutdown" | "superseded" | "deleted" | "closed" | "slow" | "lifetime" | "unauthorized";
            /**
             * Retry
             * @description Whether a reconnect may succeed.
             */
            retry: boolean;
        };
        /**
         * Health
         * @description Whether the gateway lives, or is ready.
         */
        Health: {
            /**
             * Status
             * @enum {string}
             */
            status: "ok" | "ready" | "unavailable";
            /** Detail */
            detail: string;
        };
        /**
         * HeartbeatEvent
         * @description Nothing has happened. Only with `heartbeat=event`; it is not in the log.
         */
        HeartbeatEvent: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "heartbeat";
        };
        /**
         * ImportNote
         * @description Something of an imported document that the gateway did not understand.
         */
        ImportNote: {
            /** Place */
            place: string;
            /** What */
            what: string;
        };
        /**
         * ImportedConversation
         * @description One line of an import with `conversation=all`: the new session, or why there is none.
         */
        ImportedConversation: {
            /**
             * Conversation
             * @description Counts from 1.
             */
            conversation: number;
            /**
             * Of
             * @description How many conversations the document has.
             */
            of: number;
            /** Notes */
            notes: components["schemas"]["ImportNote"][];
            session?: components["schemas"]["Session"] | null;
            /** Code */
            code?: string;
            /** Detail */
            detail?: string;
        };
        /**
         * ImportedSession
         * @description The new session; `notes` names what the gateway did not understand of the document.
         */
        ImportedSession: {
            /** Id */
            id: string;
            /** Title */
            title: string | null;
            /** User Id */
            user_id: string | null;
            /**
             * Session Type
             * @enum {string}
             */
            session_type: "user" | "sub_agent" | "scheduled";
            /**
             * State
             * @enum {string}
             */
            state: "active" | "needs_input" | "idle" | "disconnected" | "closed" | "expired" | "archived";
            /** Working Dir */
            working_dir: string | null;
            /** Created At */
            created_at: string;
            /** Updated At */
            updated_at: string;
            /** Last Activity At */
            last_activity_at: string;
            /** Expires At */
            expires_at: string | null;
            /** Ttl Seconds */
            ttl_seconds: number | null;
            /** Message Count */
            message_count: number;
            /**
             * Preview
             * @description The first 120 characters of the last text that the user or the assistant said; whitespace is folded. Null: there is none, or none since an upgrade.
             */
            preview: string | null;
            usage: components["schemas"]["Usage"];
            /** Metadata */
            metadata: {
                [key: string]: unknown;
            };
            /** Extension Data */
            extension_data: {
                [key: string]: unknown;
            };
            parent: components["schemas"]["Parent"] | null;
            /** Position */
            position: string;
            /** Active Run Id */
            active_run_id: string | null;
            /** Open Requests */
            open_requests: components["schemas"]["OpenRequest"][];
            /** Stream Url */
            stream_url: string;
            /** Notes */
            notes?: components["schemas"]["ImportNote"][];
        };
        /**
         * InputClosedEvent
         * @description A request has ended without an answer.
         */
        InputClosedEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "input_closed";
            /** Request Id */
            request_id: string;
            /**
             * Reason
             * @enum {string}
             */
            reason: "superseded" | "cancelled" | "expired";
        };
        /**
         * InputGivenEvent
         * @description A request was answered. The last answer's commit also starts the run that gets them all.
         */
        InputGivenEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "input_given";
            /** Request Id */
            request_id: string;
            /** Answer */
            answer: unknown;
            /** User Id */
            user_id: string | null;
            /**
             * Run Id
             * @description The run that starts with it, if one does.
             */
            run_id?: string;
            /**
             * Position
             * @description Just before the first answer of the commit.
             */
            position: string;
        };
        /**
         * InputRequiredEvent
         * @description The run asks people for input, and ends with `finish_reason: "input_required"`.
         */
        InputRequiredEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /** Run Id */
            run_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "input_required";
            /** Request Id */
            request_id: string;
            /**
             * Kind
             * @enum {string}
             */
            kind: "approval" | "question" | "form";
            /**
             * Prompt
             * @description The question, for people.
             */
            prompt: string;
            /**
             * Tool Call Id
             * @description The call that it is about, which stays open.
             */
            tool_call_id?: string;
            /**
             * Schema
             * @description The JSON Schema of the answer.
             */
            schema?: {
                [key: string]: unknown;
            };
            /**
             * Expires At
             * @description When it ends without an answer.
             */
            expires_at?: string;
            /**
             * Options
             * @description Those of the run, for the run that gets the answers.
             */
            options?: {
                [key: string]: unknown;
            };
            /**
             * Client Tools
             * @description Those of the run, in its first request, for the run with the answers.
             */
            client_tools?: {
                [key: string]: unknown;
            }[];
        };
        /**
         * InputsAccepted
         * @description The answers are stored. With `run_id` the run that gets them has started.
         */
        InputsAccepted: {
            /** Session Id */
            session_id: string;
            /** Run Id */
            run_id: string | null;
            /** Position */
            position: string;
            /** Stream Url */
            stream_url: string;
        };
        /**
         * InputsCompleted
         * @description The run that got the answers has ended: how, and its last assistant message.
         */
        InputsCompleted: {
            /** Session Id */
            session_id: string;
            /** Run Id */
            run_id: string;
            /** Position */
            position: string;
            /** Stream Url */
            stream_url: string;
            /**
             * Status
             * @enum {string}
             */
            status: "completed" | "failed" | "cancelled" | "interrupted";
            usage: components["schemas"]["Usage"] | null;
            error: components["schemas"]["RunError"] | null;
            message: components["schemas"]["Message"] | null;
        };
        /**
         * InputsInput
         * @description Answers, by the id of their request. Of an approval: `{"approved": true}`.
         */
        InputsInput: {
            /** Answers */
            answers: {
                [key: string]: unknown;
            };
            /**
             * Run Id
             * @description The client's own name for the run that starts with the last answer.
             */
            run_id?: string | null;
            /**
             * Options
             * @description Options for the agent of that run. Absent: those of the run that asked.
             */
            options?: {
                [key: string]: unknown;
            } | null;
        };
        /**
         * ItemsCreate
         * @description Items for a conversation.
         */
        ItemsCreate: {
            /**
             * Items
             * @description Messages, calls and their results.
             */
            items?: unknown;
        } & {
            [key: string]: unknown;
        };
        /**
         * JointStreamFrame
         * @description One frame of a stream of several sessions. There is never an `event` line.
         */
        JointStreamFrame: {
            /**
             * Id
             * @description The positions in all sessions, as one text that a client sends back: in `Last-Event-ID`, or in `after`.
             */
            id: string;
            /**
             * Retry
             * @description Milliseconds to wait before a reconnect; only in the first frame.
             */
            retry?: number;
            /**
             * Data
             * @description A `StreamEvent` as JSON, with the `session_id` of its session. Only a `heartbeat` has none.
             */
            data: string;
        };
        /**
         * MediaPart
         * @description An image or a file: its address in `url`, or its content as Base64 in `data`.
         */
        MediaPart: {
            /**
             * Type
             * @enum {string}
             */
            type: "image" | "file";
            /** Url */
            url?: string | null;
            /** Data */
            data?: string | null;
            /** Media Type */
            media_type: string;
            /** Name */
            name?: string | null;
        };
        /**
         * MergeInput
         * @description The session to merge, and how.
         */
        MergeInput: {
            /** Source Id */
            source_id: string;
            /**
             * Strategy
             * @description Default: `"append"`.
             * @enum {string}
             */
            strategy?: "append" | "interleave" | "replace";
            /**
             * Metadata Strategy
             * @description Default: `"target"`.
             * @enum {string}
             */
            metadata_strategy?: "target" | "source" | "merge";
        };
        /**
         * MergeSource
         * @description The session that was merged in, and up to where.
         */
        MergeSource: {
            /** Session Id */
            session_id: string;
            /** Title */
            title: string | null;
            /** Position */
            position: string;
            counted_usage?: components["schemas"]["Usage"] | null;
            counted_parts?: components["schemas"]["UsageParts"] | null;
        };
        /**
         * Merged
         * @description The target; with `notes` when the merge has closed tool calls that had no result.
         */
        Merged: {
            /** Id */
            id: string;
            /** Title */
            title: string | null;
            /** User Id */
            user_id: string | null;
            /**
             * Session Type
             * @enum {string}
             */
            session_type: "user" | "sub_agent" | "scheduled";
            /**
             * State
             * @enum {string}
             */
            state: "active" | "needs_input" | "idle" | "disconnected" | "closed" | "expired" | "archived";
            /** Working Dir */
            working_dir: string | null;
            /** Created At */
            created_at: string;
            /** Updated At */
            updated_at: string;
            /** Last Activity At */
            last_activity_at: string;
            /** Expires At */
            expires_at: string | null;
            /** Ttl Seconds */
            ttl_seconds: number | null;
            /** Message Count */
            message_count: number;
            /**
             * Preview
             * @description The first 120 characters of the last text that the user or the assistant said; whitespace is folded. Null: there is none, or none since an upgrade.
             */
            preview: string | null;
            usage: components["schemas"]["Usage"];
            /** Metadata */
            metadata: {
                [key: string]: unknown;
            };
            /** Extension Data */
            extension_data: {
                [key: string]: unknown;
            };
            parent: components["schemas"]["Parent"] | null;
            /** Position */
            position: string;
            /** Active Run Id */
            active_run_id: string | null;
            /** Open Requests */
            open_requests: components["schemas"]["OpenRequest"][];
            /** Stream Url */
            stream_url: string;
            /** Notes */
            notes?: components["schemas"]["ImportNote"][];
        };
        /**
         * Message
         * @description A message of the history. Members that do not apply are absent.
         */
        Message: {
            /**
             * Parent Id
             * @description The message before it; null: it is the first one of its path.
             */
            parent_id?: string | null;
            /**
             * Branch Id
             * @description The branch that it belongs to.
             */
            branch_id?: string;
            /**
             * Siblings
             * @description At a branching point: all messages with the same parent, itself included, oldest first. Only where messages are read, never in events.
             */
            siblings?: string[];
            /** Tool Calls */
            tool_calls?: components["schemas"]["ToolCall"][];
            /** Tool Call Id */
            tool_call_id?: string;
            /** Run Id */
            run_id?: string;
            usage?: components["schemas"]["Usage"] | null;
            /** Model */
            model?: string;
            /**
             * Copied From
             * @description The message that a merge has copied it from.
             */
            copied_from?: string;
            /** Id */
            id: string;
            /**
             * Role
             * @enum {string}
             */
            role: "system" | "user" | "assistant" | "tool";
            /** Content */
            content: string | (components["schemas"]["TextPart"] | components["schemas"]["MediaPart"] | components["schemas"]["FilePart"])[];
            /**
             * Status
             * @enum {string}
             */
            status: "complete" | "incomplete";
            /** Created At */
            created_at: string;
            /** Metadata */
            metadata: {
                [key: string]: unknown;
            };
        };
        /**
         * MessageEvent
         * @description A whole message: it replaces whatever deltas of `message_id` a client has shown.
         */
        MessageEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "message";
            /** Run Id */
            run_id?: string;
            /** Message Id */
            message_id: string;
            message: components["schemas"]["Message"];
        };
        /**
         * MessageHiddenEvent
         * @description The last message was taken back: the branch that began just before it is without it.
         */
        MessageHiddenEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "message_hidden";
            /** Message Id */
            message_id: string;
        };
        /**
         * MessageInput
         * @description A message as a client sends it. A tool message is the result of its `tool_call_id`.
         */
        MessageInput: {
            /**
             * Role
             * @enum {string}
             */
            role: "system" | "user" | "assistant" | "tool";
            /** Content */
            content: string | (components["schemas"]["TextPart"] | components["schemas"]["MediaPart"] | components["schemas"]["FilePart"])[];
            /**
             * Id
             * @description Absent: the gateway makes one.
             */
            id?: string | null;
            /** Tool Calls */
            tool_calls?: components["schemas"]["ToolCallInput"][] | null;
            /** Tool Call Id */
            tool_call_id?: string | null;
            /** Model */
            model?: string | null;
            usage?: components["schemas"]["UsageInput"] | null;
            /** Metadata */
            metadata?: {
                [key: string]: unknown;
            };
        };
        /**
         * MessagePage
         * @description A page of messages. Open `stream_url` after it, never `position`: nothing is missed.
         */
        MessagePage: {
            /** Messages */
            messages: components["schemas"]["Message"][];
            /** Next Cursor */
            next_cursor: string | null;
            /** Has More */
            has_more: boolean;
            /** Position */
            position: string;
            /** Stream Url */
            stream_url: string;
        };
        /**
         * MessagesAdded
         * @description The messages of a list, as they are stored.
         */
        MessagesAdded: {
            /** Messages */
            messages: components["schemas"]["Message"][];
            /** Position */
            position: string;
        };
        /**
         * NamedExtensionInput
         * @description An entry of `enabled_extensions`.
         */
        NamedExtensionInput: {
            /** Config */
            config?: {
                [key: string]: unknown;
            };
            /**
             * Enabled
             * @description Default: `true`.
             */
            enabled?: boolean;
            /** Name */
            name: string;
        };
        /**
         * NewShareAnswer
         * @description The share that was just made.
         */
        NewShareAnswer: {
            /** Id */
            id: string;
            /** User Id */
            user_id: string | null;
            /** Created At */
            created_at: string;
            /** Expires At */
            expires_at: string | null;
            /**
             * Scope
             * @description Default: `"read"`.
             * @enum {string}
             */
            scope?: "read" | "answer";
            /**
             * Token
             * @description The token of a link. Only this answer has it: it is not kept.
             */
            token?: string;
        };
        /**
         * NewWebhookAnswer
         * @description The webhook with its new secret.
         */
        NewWebhookAnswer: {
            /** Id */
            id: string;
            /** Url */
            url: string;
            /** Events */
            events: ("run.ended" | "input.required" | "session.created" | "session.deleted")[];
            /** User Id */
            user_id: string | null;
            /** Enabled */
            enabled: boolean;
            /**
             * Disabled Reason
             * @description `request`, `gone` (the receiver answered 410) or `failing` (it failed for `webhook_disable_after_days`).
             */
            disabled_reason: string | null;
            /**
             * Failing Since
             * @description The first failure since the last success; null: the last attempt succeeded.
             */
            failing_since: string | null;
            /**
             * Secrets
             * @description How many secrets sign now.
             */
            secrets: number;
            /** Created At */
            created_at: string;
            /** Updated At */
            updated_at: string;
            /**
             * Secret
             * @description Verifies requests: `whsec_…`. Only this answer has it.
             */
            secret?: string;
        };
        /**
         * NotDone
         * @description One session that a bulk call could not handle, and why.
         */
        NotDone: {
            /** Session Id */
            session_id: string;
            /** Code */
            code: string;
            /** Detail */
            detail: string;
        };
        /**
         * OpenAIConversation
         * @description OpenAI's Conversation; a session.
         */
        OpenAIConversation: {
            /** Id */
            id: string;
            /**
             * Object
             * @constant
             */
            object: "conversation";
            /** Created At */
            created_at: number;
            /** Metadata */
            metadata: {
                [key: string]: unknown;
            };
        } & {
            [key: string]: unknown;
        };
        /**
         * OpenAIDeleted
         * @description What was deleted.
         */
        OpenAIDeleted: {
            /** Id */
            id: string;
            /** Object */
            object: string;
            /**
             * Deleted
             * @constant
             */
            deleted: true;
        } & {
            [key: string]: unknown;
        };
        /**
         * OpenAIError
         * @description An error in OpenAI's form.
         */
        OpenAIError: {
            error: components["schemas"]["OpenAIErrorDetail"];
        };
        /**
         * OpenAIErrorDetail
         * @description What was wrong.
         */
        OpenAIErrorDetail: {
            /** Message */
            message: string;
            /** Type */
            type: string;
            /** Param */
            param: string | null;
            /** Code */
            code: string | null;
        };
        /**
         * OpenAIItem
         * @description An item of a conversation.
         */
        OpenAIItem: {
            /** Id */
            id: string;
            /** Type */
            type: string;
        } & {
            [key: string]: unknown;
        };
        /**
         * OpenAIItems
         * @description A page of items.
         */
        OpenAIItems: {
            /**
             * Object
             * @constant
             */
            object: "list";
            /** Data */
            data: {
                [key: string]: unknown;
            }[];
            /** First Id */
            first_id: string | null;
            /** Last Id */
            last_id: string | null;
            /** Has More */
            has_more: boolean;
        } & {
            [key: string]: unknown;
        };
        /**
         * OpenAIModel
         * @description OpenAI's Model; an agent.
         */
        OpenAIModel: {
            /** Id */
            id: string;
            /**
             * Object
             * @constant
             */
            object: "model";
            /** Created */
            created: number;
            /** Owned By */
            owned_by: string;
        } & {
            [key: string]: unknown;
        };
        /**
         * OpenAIModels
         * @description All agents.
         */
        OpenAIModels: {
            /**
             * Object
             * @constant
             */
            object: "list";
            /** Data */
            data: components["schemas"]["OpenAIModel"][];
        } & {
            [key: string]: unknown;
        };
        /**
         * OpenAIResponse
         * @description OpenAI's Response; a run.
         */
        OpenAIResponse: {
            /** Id */
            id: string;
            /**
             * Object
             * @constant
             */
            object: "response";
            /** Created At */
            created_at: number;
            /** Status */
            status: string;
            /** Model */
            model: string;
            /** Output */
            output: {
                [key: string]: unknown;
            }[];
        } & {
            [key: string]: unknown;
        };
        /**
         * OpenEvent
         * @description The first event of every stream: where it begins. It is not in the log.
         */
        OpenEvent: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "open";
            /** Session Id */
            session_id: string;
            /**
             * Connection Id
             * @description The connection's name, for `/reconnect`.
             */
            connection_id: string;
            /** Position */
            position: string;
            /** Active Run Id */
            active_run_id: string | null;
        };
        /**
         * OpenInput
         * @description A request for input that waits for an answer, with all that a form needs.
         */
        OpenInput: {
            /** Request Id */
            request_id: string;
            /**
             * Kind
             * @enum {string}
             */
            kind: "approval" | "question" | "form";
            /** Prompt */
            prompt: string;
            /** Run Id */
            run_id: string;
            /** Tool Call Id */
            tool_call_id: string | null;
            /**
             * Schema
             * @description The JSON Schema of the answer, if it has one.
             */
            schema: {
                [key: string]: unknown;
            } | null;
            /** Asked At */
            asked_at: string;
            /** Expires At */
            expires_at: string | null;
        };
        /**
         * OpenInputs
         * @description The open requests of a session, in the order in which they were asked.
         */
        OpenInputs: {
            /** Inputs */
            inputs: components["schemas"]["OpenInput"][];
        };
        /**
         * OpenRequest
         * @description A request for input that waits for an answer; `prompt` is the begin of the question.
         */
        OpenRequest: {
            /** Request Id */
            request_id: string;
            /**
             * Kind
             * @enum {string}
             */
            kind: "approval" | "question" | "form";
            /** Prompt */
            prompt: string;
            /** Run Id */
            run_id: string;
            /** Tool Call Id */
            tool_call_id: string | null;
            /** Asked At */
            asked_at: string;
            /** Expires At */
            expires_at: string | null;
        };
        /**
         * OpenapiDocument
         * @description An OpenAPI document.
         */
        OpenapiDocument: {
            /** Openapi */
            openapi: string;
            /** Info */
            info: {
                [key: string]: unknown;
            };
            /** Paths */
            paths: {
                [key: string]: unknown;
            };
        } & {
            [key: string]: unknown;
        };
        /**
         * Overview
         * @description Statistics over all sessions; days are those of creation, in UTC.
         */
        Overview: {
            /** Sessions */
            sessions: number;
            /** By Type */
            by_type: {
                [key: string]: number;
            };
            /** By State */
            by_state: {
                [key: string]: number;
            };
            /** By Day */
            by_day: {
                [key: string]: number;
            };
            /** Total Messages */
            total_messages: number;
            /** Tool Calls */
            tool_calls: number;
            /** Runs */
            runs: number;
            /** Prompt Tokens */
            prompt_tokens: number;
            /** Completion Tokens */
            completion_tokens: number;
            /** Cached Tokens */
            cached_tokens: number;
            /** Reasoning Tokens */
            reasoning_tokens: number;
            /** Total Tokens */
            total_tokens: number;
            /** By Agent */
            by_agent: {
                [key: string]: components["schemas"]["Usage"];
            };
            /** By Model */
            by_model: {
                [key: string]: components["schemas"]["Usage"];
            };
            oldest: components["schemas"]["SessionInBrief"] | null;
            newest: components["schemas"]["SessionInBrief"] | null;
            /** Most Active */
            most_active: components["schemas"]["SessionInBrief"][];
        };
        /**
         * Parent
         * @description Where a session was forked from.
         */
        Parent: {
            /** Session Id */
            session_id: string;
            /** Message Id */
            message_id: string | null;
            /** Position */
            position: string | null;
        };
        /**
         * PostedCancelled
         * @description Terminal: the run was cancelled.
         */
        PostedCancelled: {
            /**
             * Run Id
             * @description An open external run.
             */
            run_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "cancelled";
            /**
             * Reason
             * @description Default: `"cancelled"`.
             */
            reason?: string;
        };
        /**
         * PostedComplete
         * @description Terminal: the run completed.
         */
        PostedComplete: {
            /**
             * Run Id
             * @description An open external run.
             */
            run_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "complete";
            usage?: components["schemas"]["PostedUsage"] | null;
            /**
             * Finish Reason
             * @description Default: `"stop"`.
             */
            finish_reason?: string;
            /** Model */
            model?: string | null;
        };
        /**
         * PostedCustom
         * @description Anything for the session's front ends; with `run_id` as part of an external run.
         */
        PostedCustom: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "custom";
            /** Name */
            name: string;
            /** Value */
            value?: unknown;
            /** Run Id */
            run_id?: string | null;
        };
        /**
         * PostedError
         * @description Terminal: the run failed. `message` is for people and holds no secret.
         */
        PostedError: {
            /**
             * Run Id
             * @description An open external run.
             */
            run_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "error";
            /** Message */
            message: string;
            /**
             * Code
             * @description Default: `"agent_error"`.
             */
            code?: string;
        };
        /**
         * PostedEvent
         * @description An event to append. All but `custom` belong to an open external run.
         */
        PostedEvent: components["schemas"]["PostedToken"] | components["schemas"]["PostedThinking"] | components["schemas"]["PostedToolStart"] | components["schemas"]["PostedToolDelta"] | components["schemas"]["PostedToolComplete"] | components["schemas"]["PostedToolError"] | components["schemas"]["PostedMessage"] | components["schemas"]["PostedInputRequired"] | components["schemas"]["PostedComplete"] | components["schemas"]["PostedError"] | components["schemas"]["PostedCancelled"] | components["schemas"]["PostedCustom"];
        /**
         * PostedInputRequired
         * @description A request for input. The run ends with its terminal event, and the next one gets the answers.
         *
         *     `expires_at` is an RFC 3339 time. Without a `request_id` the gateway makes one.
         */
        PostedInputRequired: {
            /**
             * Run Id
             * @description An open external run.
             */
            run_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "input_required";
            /** Prompt */
            prompt: string;
            /**
             * Kind
             * @description Default: `"question"`.
             * @enum {string}
             */
            kind?: "approval" | "question" | "form";
            /** Tool Call Id */
            tool_call_id?: string | null;
            /**
             * Schema
             * @description The JSON Schema of the answer.
             */
            schema?: {
                [key: string]: unknown;
            } | null;
            /** Expires At */
            expires_at?: string | null;
            /** Request Id */
            request_id?: string | null;
        };
        /**
         * PostedMessage
         * @description A whole message: `role`, `content`, and what else a message may have.
         */
        PostedMessage: {
            /**
             * Run Id
             * @description An open external run.
             */
            run_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "message";
            /** Message */
            message: {
                [key: string]: unknown;
            };
        };
        /**
         * PostedThinking
         * @description A delta of the assistant's reasoning.
         */
        PostedThinking: {
            /**
             * Run Id
             * @description An open external run.
             */
            run_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "thinking";
            /** Content */
            content: string;
        };
        /**
         * PostedToken
         * @description A delta of the assistant's text.
         */
        PostedToken: {
            /**
             * Run Id
             * @description An open external run.
             */
            run_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "token";
            /** Content */
            content: string;
        };
        /**
         * PostedToolComplete
         * @description A tool call has its result.
         */
        PostedToolComplete: {
            /**
             * Run Id
             * @description An open external run.
             */
            run_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "tool_complete";
            /** Tool Call Id */
            tool_call_id: string;
            result: components["schemas"]["PostedToolResult"];
        };
        /**
         * PostedToolDelta
         * @description A delta of a tool call's arguments or output.
         */
        PostedToolDelta: {
            /**
             * Run Id
             * @description An open external run.
             */
            run_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "tool_delta";
            /** Tool Call Id */
            tool_call_id: string;
            /** Content */
            content: string;
        };
        /**
         * PostedToolError
         * @description A tool call has failed.
         */
        PostedToolError: {
            /**
             * Run Id
             * @description An open external run.
             */
            run_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "tool_error";
            /** Tool Call Id */
            tool_call_id: string;
            /** Error */
            error: string;
        };
        /**
         * PostedToolResult
         * @description What a tool returned. `content` is text, or any JSON value.
         */
        PostedToolResult: {
            /** Success */
            success: boolean;
            /** Content */
            content: unknown;
        };
        /**
         * PostedToolStart
         * @description A tool call. A string of `arguments` that holds a JSON object is read as that object.
         */
        PostedToolStart: {
            /**
             * Run Id
             * @description An open external run.
             */
            run_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "tool_start";
            /** Tool Call Id */
            tool_call_id: string;
            /** Tool Name */
            tool_name: string;
            /** Arguments */
            arguments?: {
                [key: string]: unknown;
            } | string;
        };
        /**
         * PostedUsage
         * @description What the run cost, in tokens of the model.
         */
        PostedUsage: {
            /** Prompt Tokens */
            prompt_tokens?: number;
            /** Completion Tokens */
            completion_tokens?: number;
            /** Total Tokens */
            total_tokens?: number;
            /** Cached Tokens */
            cached_tokens?: number;
            /** Reasoning Tokens */
            reasoning_tokens?: number;
        };
        /**
         * Problem
         * @description A problem document (RFC 9457). `code` is stable; further members depend on it.
         */
        Problem: {
            /** Type */
            type: string;
            /** Title */
            title: string;
            /** Status */
            status: number;
            /** Detail */
            detail: string;
            /** Instance */
            instance: string;
            /** Code */
            code: string;
            /** Retryable */
            retryable: boolean;
            /** Errors */
            errors?: components["schemas"]["ProblemPlace"][];
        } & {
            [key: string]: unknown;
        };
        /**
         * ProblemPlace
         * @description One thing that is wrong with a request, and where.
         */
        ProblemPlace: {
            /** Loc */
            loc: (string | number)[];
            /** Msg */
            msg: string;
        };
        /**
         * Refusal
         * @description A refused request: the protocol's RUN_ERROR, with the members of the gateway's problem.
         */
        Refusal: {
            /**
             * Type
             * @constant
             */
            type: "RUN_ERROR";
            /** Message */
            message: string;
            /** Title */
            title: string;
            /** Status */
            status: number;
            /** Detail */
            detail: string;
            /**
             * Code
             * @description As in a problem of the gateway.
             */
            code: string;
            /** Retryable */
            retryable: boolean;
            /** Errors */
            errors?: {
                [key: string]: unknown;
            }[];
        };
        /**
         * RegenerateInput
         * @description What is answered again, and how.
         */
        RegenerateInput: {
            /**
             * Message Id
             * @description An answer, or the user's message itself. Absent: the last message of the current branch.
             */
            message_id?: string | null;
            /**
             * Agent
             * @description Which configured agent answers.
             */
            agent?: string | null;
            /**
             * Options
             * @description Options for the agent: those that its `allow` names, within its bounds.
             */
            options?: {
                [key: string]: unknown;
            };
            /**
             * Run Id
             * @description The client's own name for the run.
             */
            run_id?: string | null;
            /**
             * On Busy
             * @description When a run is active: wait for its end, answer 409, or cancel it and go first. Default: `"enqueue"`.
             * @enum {string}
             */
            on_busy?: "enqueue" | "reject" | "interrupt";
        };
        /**
         * Remaining
         * @description What an erasure leaves, where, and until when.
         */
        Remaining: {
            /** Where */
            where: string;
            /** What */
            what: string;
            /** Until */
            until: string;
        };
        /**
         * ReopenInput
         * @description How long a reopened session lives.
         */
        ReopenInput: {
            /**
             * Ttl Seconds
             * @description The new time to live. Absent: the present one, counted again; null: none.
             */
            ttl_seconds?: number | null;
        };
        /**
         * Report
         * @description A session for people: who, what, how long, how much.
         */
        Report: {
            /** Session Id */
            session_id: string;
            /** Title */
            title: string | null;
            /** User Id */
            user_id: string | null;
            /** Session Type */
            session_type: string;
            /** State */
            state: string;
            /** Working Dir */
            working_dir: string | null;
            /** Created At */
            created_at: string;
            /** Last Activity At */
            last_activity_at: string;
            /** Parent */
            parent: {
                [key: string]: unknown;
            } | null;
            /** Merged From */
            merged_from: {
                [key: string]: unknown;
            }[];
            /** Has Summary */
            has_summary: boolean;
            statistics: components["schemas"]["Statistics"];
        };
        /**
         * ResetEvent
         * @description The client's position cannot be served exactly. It is not in the log.
         *
         *     Load `/messages` again. The stream goes on from `position` by itself.
         */
        ResetEvent: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "reset";
            /**
             * Reason
             * @enum {string}
             */
            reason: "unknown_position" | "epoch_changed";
            /** Position */
            position: string;
        };
        /**
         * ResponseCreate
         * @description A request for a response. Members that are not here are in the how-to page.
         */
        ResponseCreate: {
            /**
             * Model
             * @description The name of an agent.
             */
            model?: unknown;
            /**
             * Input
             * @description A text, or a list of items.
             */
            input?: unknown;
            /**
             * Stream
             * @description Answer with the stream of the response.
             */
            stream?: unknown;
            /**
             * Background
             * @description Answer at once, without its end.
             */
            background?: unknown;
            /**
             * Store
             * @description `false`: it cannot be retrieved.
             */
            store?: unknown;
            /**
             * Previous Response Id
             * @description Go on behind this response.
             */
            previous_response_id?: unknown;
            /**
             * Conversation
             * @description Go on in this conversation.
             */
            conversation?: unknown;
            /**
             * Instructions
             * @description Needs `allow=system` of the agent.
             */
            instructions?: unknown;
            /**
             * Tools
             * @description Functions that the client runs.
             */
            tools?: unknown;
            /**
             * Metadata
             * @description Up to 16 texts that the response keeps.
             */
            metadata?: unknown;
        } & {
            [key: string]: unknown;
        };
        /**
         * Resumed
         * @description The message that carries a conversation into a new context.
         */
        Resumed: {
            message: components["schemas"]["Message"];
        };
        /**
         * RotateInput
         * @description How the secret is replaced.
         */
        RotateInput: {
            /**
             * Overlap Seconds
             * @description How long the present secret signs as well. Default: `86400`.
             */
            overlap_seconds?: number;
        };
        /**
         * Run
         * @description One turn of an agent.
         */
        Run: {
            /** Run Id */
            run_id: string;
            /** Session Id */
            session_id: string;
            /** Agent */
            agent: string;
            /**
             * Status
             * @enum {string}
             */
            status: "queued" | "running" | "completed" | "failed" | "cancelled" | "interrupted";
            /** Position */
            position: string;
            /** Message Ids */
            message_ids: string[];
            /** Created At */
            created_at: string;
            /** Started At */
            started_at: string | null;
            /** Ended At */
            ended_at: string | null;
            usage: components["schemas"]["Usage"] | null;
            /** Finish Reason */
            finish_reason: string | null;
            error: components["schemas"]["RunError"] | null;
            /** Stream Url */
            stream_url: string;
        };
        /**
         * RunAgentInput
         * @description RunAgentInput of AG-UI 1.0.
         */
        RunAgentInput: {
            /**
             * Threadid
             * @description The session.
             */
            threadId: string;
            /**
             * Runid
             * @description The run. A repeat with the same one starts no other.
             */
            runId: string;
            /**
             * State
             * @description Passed to agents that allow the option `state`; else ignored.
             */
            state?: unknown;
            /**
             * Messages
             * @description The conversation. Known messages are ignored, new ones at its end appended.
             */
            messages?: components["schemas"]["SentMessage"][];
            /**
             * Tools
             * @description Tools that the client runs.
             */
            tools?: components["schemas"]["SentTool"][] | null;
            /**
             * Context
             * @description Passed to agents that allow the option `context`; else ignored.
             */
            context?: components["schemas"]["SentContext"][] | null;
            /**
             * Forwardedprops
             * @description Members that are options which the agent allows are set; others ignored.
             */
            forwardedProps?: unknown;
            /**
             * Resume
             * @description Answers to the interrupts of the run before.
             */
            resume?: components["schemas"]["SentAnswer"][] | null;
        };
        /**
         * RunCancelled
         * @description A run. `cancel_requested` is true while its terminal event is not in the log yet.
         */
        RunCancelled: {
            /** Run Id */
            run_id: string;
            /** Session Id */
            session_id: string;
            /** Agent */
            agent: string;
            /**
             * Status
             * @enum {string}
             */
            status: "queued" | "running" | "completed" | "failed" | "cancelled" | "interrupted";
            /** Position */
            position: string;
            /** Message Ids */
            message_ids: string[];
            /** Created At */
            created_at: string;
            /** Started At */
            started_at: string | null;
            /** Ended At */
            ended_at: string | null;
            usage: components["schemas"]["Usage"] | null;
            /** Finish Reason */
            finish_reason: string | null;
            error: components["schemas"]["RunError"] | null;
            /** Stream Url */
            stream_url: string;
            /** Cancel Requested */
            cancel_requested?: boolean;
        };
        /**
         * RunCounts
         * @description Runs by status.
         */
        RunCounts: {
            /** Queued */
            queued: number;
            /** Running */
            running: number;
            /** Completed */
            completed: number;
            /** Failed */
            failed: number;
            /** Cancelled */
            cancelled: number;
            /** Interrupted */
            interrupted: number;
        };
        /**
         * RunError
         * @description Why a run failed.
         */
        RunError: {
            /** Code */
            code: string;
            /** Message */
            message: string;
        };
        /**
         * RunHiddenEvent
         * @description A client has deleted the response of a run in a protocol that shows runs by themselves.
         */
        RunHiddenEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "run_hidden";
            /** Run Id */
            run_id: string;
        };
        /**
         * RunInput
         * @description An external run to open.
         */
        RunInput: {
            /**
             * Agent
             * @constant
             */
            agent: "external";
            /**
             * Run Id
             * @description Absent: the gateway makes one.
             */
            run_id?: string | null;
        };
        /**
         * RunPage
         * @description A page of runs.
         */
        RunPage: {
            /** Runs */
            runs: components["schemas"]["Run"][];
            /** Next Cursor */
            next_cursor: string | null;
            /** Has More */
            has_more: boolean;
        };
        /**
         * RunQueuedEvent
         * @description A run waits, with its input; the input becomes messages when the run starts.
         */
        RunQueuedEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /** Run Id */
            run_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "run_queued";
            /** Agent */
            agent: string;
            /** Messages */
            messages: components["schemas"]["Message"][];
            /** Options */
            options?: {
                [key: string]: unknown;
            };
            /**
             * Client Tools
             * @description The tools that the client brought, and runs.
             */
            client_tools?: {
                [key: string]: unknown;
            }[];
            /**
             * Front
             * @description The run goes before the others that wait.
             */
            front?: boolean;
            /**
             * Branch From
             * @description `message_id`: the run begins a branch behind that message.
             */
            branch_from?: {
                [key: string]: unknown;
            };
        };
        /**
         * RunStartEvent
         * @description A run has started; `message_ids` is its input, or the message that it answers again.
         */
        RunStartEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /** Run Id */
            run_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "run_start";
            /** Agent */
            agent: string;
            /** Message Ids */
            message_ids: string[];
            /**
             * Position
             * @description Just before the run's first event; absent when it was queued.
             */
            position?: string;
            /**
             * Model
             * @description The model that answers, if that is known.
             */
            model?: string;
            /**
             * Request Ids
             * @description The requests for input whose answers the run gets.
             */
            request_ids?: string[];
            /**
             * Tool Call Ids
             * @description The open calls of the run that asked; this one goes on.
             */
            tool_call_ids?: string[];
        };
        /**
         * RunWaited
         * @description A run. With `Prefer: wait`, once it has ended, also its last assistant message.
         */
        RunWaited: {
            /** Run Id */
            run_id: string;
            /** Session Id */
            session_id: string;
            /** Agent */
            agent: string;
            /**
             * Status
             * @enum {string}
             */
            status: "queued" | "running" | "completed" | "failed" | "cancelled" | "interrupted";
            /** Position */
            position: string;
            /** Message Ids */
            message_ids: string[];
            /** Created At */
            created_at: string;
            /** Started At */
            started_at: string | null;
            /** Ended At */
            ended_at: string | null;
            usage: components["schemas"]["Usage"] | null;
            /** Finish Reason */
            finish_reason: string | null;
            error: components["schemas"]["RunError"] | null;
            /** Stream Url */
            stream_url: string;
            message?: components["schemas"]["Message"] | null;
        };
        /**
         * SearchResult
         * @description A message that was found.
         */
        SearchResult: {
            /** Session Id */
            session_id: string;
            /**
             * Title
             * @description The title of the session.
             */
            title: string | null;
            /** Message Id */
            message_id: string;
            /**
             * Role
             * @enum {string}
             */
            role: "system" | "user" | "assistant" | "tool";
            /** Created At */
            created_at: string;
            /**
             * Position
             * @description The position of the message in its session.
             */
            position: string;
            /**
             * Snippet
             * @description Plain text: the part of the message around the first hit.
             */
            snippet: string;
            /**
             * Ranges
             * @description The hits in `snippet`: start and end, in code points.
             */
            ranges: number[][];
        };
        /**
         * SearchResults
         * @description A page of found messages, the newest first.
         */
        SearchResults: {
            /** Results */
            results: components["schemas"]["SearchResult"][];
            /** Next Cursor */
            next_cursor: string | null;
            /** Has More */
            has_more: boolean;
        };
        /**
         * SentAnswer
         * @description The answer to an interrupt.
         */
        SentAnswer: {
            /** Interruptid */
            interruptId: string;
            /**
             * Status
             * @enum {string}
             */
            status: "resolved" | "cancelled";
            /** Payload */
            payload?: unknown;
        };
        /**
         * SentContext
         * @description Something that the agent should know.
         */
        SentContext: {
            /** Description */
            description: string;
            /** Value */
            value: string;
        };
        /**
         * SentMessage
         * @description A message of the client's conversation.
         */
        SentMessage: {
            /** Id */
            id: string;
            /**
             * Role
             * @enum {string}
             */
            role: "user" | "assistant" | "system" | "developer" | "tool" | "reasoning" | "activity";
            /** Content */
            content?: unknown;
            /** Toolcalls */
            toolCalls?: {
                [key: string]: unknown;
            }[] | null;
            /** Toolcallid */
            toolCallId?: string | null;
        };
        /**
         * SentTool
         * @description A tool of the client's.
         */
        SentTool: {
            /** Name */
            name: string;
            /** Description */
            description?: string | null;
            /** Parameters */
            parameters?: unknown;
        };
        /**
         * Session
         * @description A conversation with its whole history.
         */
        Session: {
            /** Id */
            id: string;
            /** Title */
            title: string | null;
            /** User Id */
            user_id: string | null;
            /**
             * Session Type
             * @enum {string}
             */
            session_type: "user" | "sub_agent" | "scheduled";
            /**
             * State
             * @enum {string}
             */
            state: "active" | "needs_input" | "idle" | "disconnected" | "closed" | "expired" | "archived";
            /** Working Dir */
            working_dir: string | null;
            /** Created At */
            created_at: string;
            /** Updated At */
            updated_at: string;
            /** Last Activity At */
            last_activity_at: string;
            /** Expires At */
            expires_at: string | null;
            /** Ttl Seconds */
            ttl_seconds: number | null;
            /** Message Count */
            message_count: number;
            /**
             * Preview
             * @description The first 120 characters of the last text that the user or the assistant said; whitespace is folded. Null: there is none, or none since an upgrade.
             */
            preview: string | null;
            usage: components["schemas"]["Usage"];
            /** Metadata */
            metadata: {
                [key: string]: unknown;
            };
            /** Extension Data */
            extension_data: {
                [key: string]: unknown;
            };
            parent: components["schemas"]["Parent"] | null;
            /** Position */
            position: string;
            /** Active Run Id */
            active_run_id: string | null;
            /** Open Requests */
            open_requests: components["schemas"]["OpenRequest"][];
            /** Stream Url */
            stream_url: string;
        };
        /**
         * SessionCancelled
         * @description The runs that cancelling a session has ended.
         */
        SessionCancelled: {
            /** Session Id */
            session_id: string;
            /** Runs */
            runs: components["schemas"]["RunCancelled"][];
        };
        /**
         * SessionChanged
         * @description A session has changed, and is now as described here.
         */
        SessionChanged: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "session_changed";
            /** Session Id */
            session_id: string;
            /**
             * Position
             * @description The end of its log.
             */
            position: string;
            /**
             * State
             * @enum {string}
             */
            state: "active" | "needs_input" | "idle" | "disconnected" | "closed" | "expired" | "archived";
            /** Title */
            title: string | null;
            /**
             * Preview
             * @description The beginning of its last message.
             */
            preview: string | null;
            /** Updated At */
            updated_at: string;
            /** Active Run Id */
            active_run_id: string | null;
        };
        /**
         * SessionCreatedEvent
         * @description The first event of every session: what it was created with.
         */
        SessionCreatedEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "session_created";
            /** User Id */
            user_id?: string | null;
            /** Title */
            title?: string | null;
            /**
             * Session Type
             * @description Default: `"user"`.
             * @enum {string}
             */
            session_type?: "user" | "sub_agent" | "scheduled";
            /** Working Dir */
            working_dir?: string | null;
            /** Metadata */
            metadata?: {
                [key: string]: unknown;
            };
            /** Ttl Seconds */
            ttl_seconds?: number | null;
            /** Extension Data */
            extension_data?: {
                [key: string]: unknown;
            };
            /**
             * Created At
             * @description Of an import: when it was first created.
             */
            created_at?: string;
            parent?: components["schemas"]["Parent"] | null;
            /** Ancestors */
            ancestors?: {
                [key: string]: unknown;
            }[];
            /** Merged From */
            merged_from?: {
                [key: string]: unknown;
            }[];
            usage_total?: components["schemas"]["Usage"] | null;
            usage_parts?: components["schemas"]["UsageParts"] | null;
        };
        /**
         * SessionForkedEvent
         * @description The session was forked; `message_id` is the last message that the child has.
         */
        SessionForkedEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "session_forked";
            /** Child Id */
            child_id: string;
            /** Title */
            title: string | null;
            /** Message Id */
            message_id: string | null;
        };
        /**
         * SessionGone
         * @description The session was deleted, you may not read it any more, or it has left the filter.
         */
        SessionGone: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "session_gone";
            /** Session Id */
            session_id: string;
        };
        /**
         * SessionIdsInput
         * @description The sessions of a bulk call. The gateway handles each by itself.
         */
        SessionIdsInput: {
            /** Session Ids */
            session_ids: string[];
        };
        /**
         * SessionInBrief
         * @description A session as the overview names it.
         */
        SessionInBrief: {
            /** Session Id */
            session_id: string;
            /** Title */
            title: string | null;
            /** Created At */
            created_at: string;
            /** Message Count */
            message_count: number;
        };
        /**
         * SessionInput
         * @description A session to create.
         */
        SessionInput: {
            /**
             * Id
             * @description Absent: the gateway makes one.
             */
            id?: string | null;
            /**
             * Session Id
             * @description The same as `id`; chat calls it so.
             */
            session_id?: string | null;
            /** User Id */
            user_id?: string | null;
            /** Title */
            title?: string | null;
            /**
             * Session Type
             * @description Default: `"user"`.
             * @enum {string}
             */
            session_type?: "user" | "sub_agent" | "scheduled";
            /** Working Dir */
            working_dir?: string | null;
            /** Metadata */
            metadata?: {
                [key: string]: unknown;
            };
            /** Extension Data */
            extension_data?: {
                [key: string]: unknown;
            };
            /**
             * Ttl Seconds
             * @description Time to live after the last activity.
             */
            ttl_seconds?: number | null;
        };
        /**
         * SessionMergedEvent
         * @description Another session was merged in. Its `message_count` messages follow this event.
         */
        SessionMergedEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "session_merged";
            source: components["schemas"]["MergeSource"];
            /**
             * Strategy
             * @enum {string}
             */
            strategy: "append" | "interleave" | "replace";
            /** Message Count */
            message_count: number;
            /**
             * Replaces
             * @description The messages before count no more: only in logs of earlier versions.
             */
            replaces: boolean;
            /** Metadata */
            metadata?: {
                [key: string]: unknown;
            };
            /** Extension Data */
            extension_data?: {
                [key: string]: unknown;
            };
            usage_total?: components["schemas"]["Usage"] | null;
            usage_parts?: components["schemas"]["UsageParts"] | null;
        };
        /**
         * SessionPage
         * @description A page of sessions; with `total` unless `count=false`, with `offset` when that was given.
         */
        SessionPage: {
            /** Sessions */
            sessions: components["schemas"]["Session"][];
            /** Next Cursor */
            next_cursor: string | null;
            /** Has More */
            has_more: boolean;
            /** Total */
            total?: number;
            /** Offset */
            offset?: number;
        };
        /**
         * SessionPatch
         * @description A JSON merge patch (RFC 7396): null removes a member, also inside `metadata`.
         */
        SessionPatch: {
            /** Title */
            title?: string | null;
            /** Working Dir */
            working_dir?: string | null;
            /** Metadata */
            metadata?: {
                [key: string]: unknown;
            } | null;
            /** Ttl Seconds */
            ttl_seconds?: number | null;
            /**
             * Session Type
             * @enum {string}
             */
            session_type?: "user" | "sub_agent" | "scheduled";
            /** Extension Data */
            extension_data?: {
                [key: string]: unknown;
            } | null;
        };
        /**
         * SessionSharedEvent
         * @description The session was shared. A client may skip this event.
         */
        SessionSharedEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "session_shared";
            share: components["schemas"]["EventShare"];
        };
        /**
         * SessionUpdatedEvent
         * @description The session was changed: the members that changed, with their new values.
         *
         *     Clients change them, and the gateway gives a title to a session without one.
         */
        SessionUpdatedEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "session_updated";
            /** Title */
            title?: string | null;
            /**
             * Session Type
             * @enum {string}
             */
            session_type?: "user" | "sub_agent" | "scheduled";
            /** Working Dir */
            working_dir?: string | null;
            /** Metadata */
            metadata?: {
                [key: string]: unknown;
            };
            /** Ttl Seconds */
            ttl_seconds?: number | null;
            /** Extension Data */
            extension_data?: {
                [key: string]: unknown;
            };
        };
        /**
         * SessionWithMessages
         * @description A session; with `include_messages` also all of its messages.
         */
        SessionWithMessages: {
            /** Id */
            id: string;
            /** Title */
            title: string | null;
            /** User Id */
            user_id: string | null;
            /**
             * Session Type
             * @enum {string}
             */
            session_type: "user" | "sub_agent" | "scheduled";
            /**
             * State
             * @enum {string}
             */
            state: "active" | "needs_input" | "idle" | "disconnected" | "closed" | "expired" | "archived";
            /** Working Dir */
            working_dir: string | null;
            /** Created At */
            created_at: string;
            /** Updated At */
            updated_at: string;
            /** Last Activity At */
            last_activity_at: string;
            /** Expires At */
            expires_at: string | null;
            /** Ttl Seconds */
            ttl_seconds: number | null;
            /** Message Count */
            message_count: number;
            /**
             * Preview
             * @description The first 120 characters of the last text that the user or the assistant said; whitespace is folded. Null: there is none, or none since an upgrade.
             */
            preview: string | null;
            usage: components["schemas"]["Usage"];
            /** Metadata */
            metadata: {
                [key: string]: unknown;
            };
            /** Extension Data */
            extension_data: {
                [key: string]: unknown;
            };
            parent: components["schemas"]["Parent"] | null;
            /** Position */
            position: string;
            /** Active Run Id */
            active_run_id: string | null;
            /** Open Requests */
            open_requests: components["schemas"]["OpenRequest"][];
            /** Stream Url */
            stream_url: string;
            /** Messages */
            messages?: components["schemas"]["Message"][] | null;
        };
        /**
         * Share
         * @description A grant to read a session, or also to answer; without a `user_id` it is a link.
         */
        Share: {
            /** Id */
            id: string;
            /** User Id */
            user_id: string | null;
            /** Created At */
            created_at: string;
            /** Expires At */
            expires_at: string | null;
            /**
             * Scope
             * @description Default: `"read"`.
             * @enum {string}
             */
            scope?: "read" | "answer";
        };
        /**
         * ShareInput
         * @description With whom to share: one user, or everyone who has the link.
         */
        ShareInput: {
            /** User Id */
            user_id?: string | null;
            /** Link */
            link?: boolean;
            /**
             * Expires In
             * @description Seconds until the share ends; absent: until it is revoked.
             */
            expires_in?: number | null;
            /**
             * Scope
             * @description `answer`: they may also answer the session's requests for input. Default: `"read"`.
             * @enum {string}
             */
            scope?: "read" | "answer";
        };
        /**
         * SharePage
         * @description The valid shares of a session.
         */
        SharePage: {
            /** Shares */
            shares: components["schemas"]["Share"][];
            /** Next Cursor */
            next_cursor: string | null;
            /** Has More */
            has_more: boolean;
        };
        /**
         * ShareRevokedEvent
         * @description A share was revoked. A client may skip this event.
         */
        ShareRevokedEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "share_revoked";
            /** Share Id */
            share_id: string;
        };
        /**
         * StateChangeEvent
         * @description The session was closed, reopened, archived or restored, or it has expired.
         */
        StateChangeEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "state_change";
            /** From */
            from: string;
            /** To */
            to: string;
        };
        /**
         * Statistics
         * @description The counts of a session. They are exact, also when deltas have left the log.
         */
        Statistics: {
            /** Session Id */
            session_id: string;
            /** Total Messages */
            total_messages: number;
            /** User Messages */
            user_messages: number;
            /** Assistant Messages */
            assistant_messages: number;
            /** Tool Messages */
            tool_messages: number;
            /** Tool Calls */
            tool_calls: number;
            /** Tool Errors */
            tool_errors: number;
            runs: components["schemas"]["RunCounts"];
            /** Prompt Tokens */
            prompt_tokens: number;
            /** Completion Tokens */
            completion_tokens: number;
            /** Cached Tokens */
            cached_tokens: number;
            /** Reasoning Tokens */
            reasoning_tokens: number;
            /** Total Tokens */
            total_tokens: number;
            /** By Agent */
            by_agent: {
                [key: string]: components["schemas"]["Usage"];
            };
            /** By Model */
            by_model: {
                [key: string]: components["schemas"]["Usage"];
            };
            /** Duration Seconds */
            duration_seconds: number;
            /** Active Seconds */
            active_seconds: number;
            /** First Message At */
            first_message_at: string | null;
            /** Last Message At */
            last_message_at: string | null;
        };
        /**
         * Stopped
         * @description The runs of a thread that were stopped.
         */
        Stopped: {
            /**
             * Stopped
             * @description Whether there was one.
             */
            stopped: boolean;
            /** Threadid */
            threadId: string;
            /** Runids */
            runIds: string[];
        };
        /**
         * StreamEvent
         * @description The `data` of one frame of a stream: an event of the log, or one of the stream itself.
         */
        StreamEvent: components["schemas"]["MessageEvent"] | components["schemas"]["TokenEvent"] | components["schemas"]["ThinkingEvent"] | components["schemas"]["ToolStartEvent"] | components["schemas"]["ToolDeltaEvent"] | components["schemas"]["ToolCompleteEvent"] | components["schemas"]["ToolErrorEvent"] | components["schemas"]["RunQueuedEvent"] | components["schemas"]["RunStartEvent"] | components["schemas"]["CompleteEvent"] | components["schemas"]["ErrorEvent"] | components["schemas"]["CancelledEvent"] | components["schemas"]["InputRequiredEvent"] | components["schemas"]["InputGivenEvent"] | components["schemas"]["InputClosedEvent"] | components["schemas"]["StateChangeEvent"] | components["schemas"]["SessionCreatedEvent"] | components["schemas"]["SessionUpdatedEvent"] | components["schemas"]["SessionForkedEvent"] | components["schemas"]["SessionMergedEvent"] | components["schemas"]["SummarySavedEvent"] | components["schemas"]["BranchStartedEvent"] | components["schemas"]["BranchSelectedEvent"] | components["schemas"]["MessageHiddenEvent"] | components["schemas"]["RunHiddenEvent"] | components["schemas"]["ExtensionsUpdatedEvent"] | components["schemas"]["SessionSharedEvent"] | components["schemas"]["ShareRevokedEvent"] | components["schemas"]["CustomEvent"] | components["schemas"]["OpenEvent"] | components["schemas"]["HeartbeatEvent"] | components["schemas"]["ResetEvent"] | components["schemas"]["GoodbyeEvent"];
        /**
         * StreamFrame
         * @description One frame of a stream (Server-Sent Events). There is never an `event` line.
         */
        StreamFrame: {
            /**
             * Id
             * @description A position: a client reconnects with the last one it has seen.
             */
            id?: string;
            /**
             * Retry
             * @description Milliseconds to wait before a reconnect; only in the first frame.
             */
            retry?: number;
            /**
             * Data
             * @description A `StreamEvent` as JSON.
             */
            data: string;
        };
        /**
         * Summary
         * @description SummaryCacheData: a summary that replaces the session's events up to `position`.
         */
        Summary: {
            /** Session Id */
            session_id: string;
            /** Summary */
            summary: string;
            /** Turn Count */
            turn_count: number;
            /** Position */
            position: string;
            /**
             * Message Id
             * @description The last message that it covers; null: not known, or none.
             */
            message_id?: string | null;
            /** Created At */
            created_at: string;
        };
        /**
         * SummaryInput
         * @description A summary of the current path up to `position` (default: the log's end).
         */
        SummaryInput: {
            /** Summary */
            summary: string;
            /** Turn Count */
            turn_count?: number | null;
            /** Position */
            position?: string | null;
        };
        /**
         * SummaryPage
         * @description A page of summaries.
         */
        SummaryPage: {
            /** Summaries */
            summaries: components["schemas"]["Summary"][];
            /** Next Cursor */
            next_cursor: string | null;
            /** Has More */
            has_more: boolean;
        };
        /**
         * SummarySavedEvent
         * @description A summary of everything up to `position` was saved; null: it was deleted.
         */
        SummarySavedEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "summary_saved";
            /** Summary */
            summary: string | null;
            /** Turn Count */
            turn_count: number;
            /** Position */
            position: string;
            /**
             * Message Id
             * @description The last message that it covers.
             */
            message_id?: string | null;
            /**
             * Message Seq
             * @description The seq of that message, or 0.
             */
            message_seq?: number;
            /** Created At */
            created_at?: string;
        };
        /**
         * TextPart
         * @description Text; with the type `thinking`, the assistant's reasoning.
         */
        TextPart: {
            /**
             * Type
             * @enum {string}
             */
            type: "text" | "thinking";
            /** Text */
            text: string;
        };
        /**
         * ThinkingEvent
         * @description A delta of the assistant's reasoning.
         */
        ThinkingEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /** Run Id */
            run_id: string;
            /**
             * Message Id
             * @description The message that this becomes part of.
             */
            message_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "thinking";
            /** Content */
            content: string;
        };
        /**
         * Ticket
         * @description A ticket to one session.
         */
        Ticket: {
            /**
             * Ticket
             * @description Opens the session's reading routes as `?ticket=`.
             */
            ticket: string;
            /**
             * Expires At
             * @description When the ticket ends.
             */
            expires_at: string;
            /**
             * Stream Url
             * @description The session's stream, with the ticket.
             */
            stream_url: string;
        };
        /**
         * TodoInput
         * @description The todo list.
         */
        TodoInput: {
            /** Content */
            content: string;
        };
        /**
         * TodoState
         * @description The session's todo list, as its agent or its user writes it.
         */
        TodoState: {
            /** Content */
            content: string;
        };
        /**
         * TokenEvent
         * @description A delta of the assistant's text.
         */
        TokenEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /** Run Id */
            run_id: string;
            /**
             * Message Id
             * @description The message that this becomes part of.
             */
            message_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "token";
            /** Content */
            content: string;
        };
        /**
         * ToolCall
         * @description A tool call in a message. `arguments` is a string only when a model's text is not JSON.
         */
        ToolCall: {
            /** Id */
            id: string;
            /** Name */
            name: string;
            /** Arguments */
            arguments: {
                [key: string]: unknown;
            } | string;
        };
        /**
         * ToolCallInput
         * @description A tool call of an assistant message.
         */
        ToolCallInput: {
            /** Id */
            id: string;
            /** Name */
            name: string;
            /** Arguments */
            arguments?: {
                [key: string]: unknown;
            };
        };
        /**
         * ToolCompleteEvent
         * @description A tool call has its result.
         */
        ToolCompleteEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /** Run Id */
            run_id: string;
            /**
             * Message Id
             * @description The message that this becomes part of.
             */
            message_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "tool_complete";
            /** Tool Call Id */
            tool_call_id: string;
            result: components["schemas"]["ToolResult"];
        };
        /**
         * ToolDeltaEvent
         * @description A delta of a tool call's arguments or output.
         */
        ToolDeltaEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /** Run Id */
            run_id: string;
            /**
             * Message Id
             * @description The message that this becomes part of.
             */
            message_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "tool_delta";
            /** Tool Call Id */
            tool_call_id: string;
            /** Content */
            content: string;
        };
        /**
         * ToolErrorEvent
         * @description A tool call has failed.
         */
        ToolErrorEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /** Run Id */
            run_id: string;
            /**
             * Message Id
             * @description The message that this becomes part of.
             */
            message_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "tool_error";
            /** Tool Call Id */
            tool_call_id: string;
            /** Error */
            error: string;
        };
        /**
         * ToolResult
         * @description What a tool returned. `content` is text, or any JSON value.
         */
        ToolResult: {
            /** Success */
            success: boolean;
            /** Content */
            content: unknown;
        };
        /**
         * ToolStartEvent
         * @description A tool call. `arguments` is a string only when a model's text is not JSON.
         */
        ToolStartEvent: {
            /**
             * Seq
             * @description Counts 1, 2, 3 … in one session.
             */
            seq: number;
            /**
             * Time
             * @description When it was appended: RFC 3339, in UTC.
             */
            time: string;
            /** Run Id */
            run_id: string;
            /**
             * Message Id
             * @description The message that this becomes part of.
             */
            message_id: string;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "tool_start";
            /** Tool Call Id */
            tool_call_id: string;
            /** Tool Name */
            tool_name: string;
            /** Arguments */
            arguments: {
                [key: string]: unknown;
            } | string;
        };
        /**
         * Tree
         * @description The whole tree from its root; `current` is the requested session.
         */
        Tree: {
            /** Session Id */
            session_id: string;
            /** Title */
            title: string | null;
            /** State */
            state: ("active" | "needs_input" | "idle" | "disconnected" | "closed" | "expired" | "archived") | "deleted";
            /** Created At */
            created_at: string | null;
            /** Forked At */
            forked_at: string | null;
            /** Merged From */
            merged_from: string[];
            /** Branches */
            branches: components["schemas"]["TreeNode"][];
            /** Current */
            current: string;
            /** Truncated */
            truncated: boolean;
        };
        /**
         * TreeNode
         * @description A session in its branch tree. A deleted one is a stub, with the state `deleted`.
         */
        TreeNode: {
            /** Session Id */
            session_id: string;
            /** Title */
            title: string | null;
            /** State */
            state: ("active" | "needs_input" | "idle" | "disconnected" | "closed" | "expired" | "archived") | "deleted";
            /** Created At */
            created_at: string | null;
            /** Forked At */
            forked_at: string | null;
            /** Merged From */
            merged_from: string[];
            /** Branches */
            branches: components["schemas"]["TreeNode"][];
        };
        /**
         * UiMessage
         * @description A message of the AI SDK (`UIMessage`).
         */
        UiMessage: {
            /** Id */
            id?: string;
            /**
             * Role
             * @enum {string}
             */
            role: "system" | "user" | "assistant";
            /** Parts */
            parts: {
                [key: string]: unknown;
            }[];
            /** Metadata */
            metadata?: unknown;
        };
        /**
         * UiMessageList
         * @description The messages of a path, in order.
         */
        UiMessageList: components["schemas"]["UiMessageShown"][];
        /**
         * UiMessageShown
         * @description A message of the AI SDK. Its parts are those of the client's version.
         */
        UiMessageShown: {
            /** Id */
            id: string;
            /**
             * Role
             * @enum {string}
             */
            role: "system" | "user" | "assistant";
            /** Parts */
            parts: {
                [key: string]: unknown;
            }[];
            /** Metadata */
            metadata?: {
                [key: string]: unknown;
            };
        };
        /**
         * Usage
         * @description Tokens of the model. In messages and events of earlier versions the details are absent.
         */
        Usage: {
            /** Prompt Tokens */
            prompt_tokens: number;
            /** Completion Tokens */
            completion_tokens: number;
            /**
             * Cached Tokens
             * @description The part of `prompt_tokens` that came from the server's cache.
             */
            cached_tokens?: number;
            /**
             * Reasoning Tokens
             * @description The part of `completion_tokens` that is reasoning.
             */
            reasoning_tokens?: number;
            /** Total Tokens */
            total_tokens: number;
        };
        /**
         * UsageInput
         * @description What a message cost, in tokens.
         */
        UsageInput: {
            /** Prompt Tokens */
            prompt_tokens?: number;
            /** Completion Tokens */
            completion_tokens?: number;
            /** Cached Tokens */
            cached_tokens?: number;
            /** Reasoning Tokens */
            reasoning_tokens?: number;
            /** Total Tokens */
            total_tokens?: number;
        };
        /**
         * UsageParts
         * @description The usage that was counted, by the agent and by the model that it was used for.
         */
        UsageParts: {
            /** By Agent */
            by_agent?: {
                [key: string]: components["schemas"]["Usage"];
            };
            /** By Model */
            by_model?: {
                [key: string]: components["schemas"]["Usage"];
            };
        };
        /**
         * UserErasure
         * @description The receipt of an erasure: what of one user has gone, or with `dry_run` would go.
         */
        UserErasure: {
            /** User Id */
            user_id: string;
            /** Dry Run */
            dry_run: boolean;
            /**
             * Complete
             * @description Whether everything has gone; else repeat the call.
             */
            complete: boolean;
            /**
             * Sessions
             * @description The sessions deleted by this call, without archives.
             */
            sessions: number;
            /**
             * Archives
             * @description The archived sessions deleted by this call.
             */
            archives: number;
            /** Bytes Freed */
            bytes_freed: number;
            /**
             * Shares
             * @description The shares in other users' sessions that were ended.
             */
            shares: number;
            /**
             * Keys
             * @description The keys that were removed, revoked ones too.
             */
            keys: number;
            /**
             * Webhooks
             * @description The user's webhooks that were deleted.
             */
            webhooks: number;
            /**
             * Files
             * @description The user's files that were removed.
             */
            files: number;
            /**
             * Exports
             * @description The files below `export_dir` that were removed.
             */
            exports: number;
            /**
             * Sessions Left
             * @description The user's sessions that wait for the next call.
             */
            sessions_left: number;
            /** Failed */
            failed: components["schemas"]["FailedErasure"][];
            /**
             * Stores
             * @description Empty with `dry_run`.
             */
            stores: components["schemas"]["ErasedPart"][];
            /**
             * Remains
             * @description What the gateway cannot reach.
             */
            remains: components["schemas"]["Remaining"][];
        };
        /**
         * Webhook
         * @description A webhook.
         */
        Webhook: {
            /** Id */
            id: string;
            /** Url */
            url: string;
            /** Events */
            events: ("run.ended" | "input.required" | "session.created" | "session.deleted")[];
            /** User Id */
            user_id: string | null;
            /** Enabled */
            enabled: boolean;
            /**
             * Disabled Reason
             * @description `request`, `gone` (the receiver answered 410) or `failing` (it failed for `webhook_disable_after_days`).
             */
            disabled_reason: string | null;
            /**
             * Failing Since
             * @description The first failure since the last success; null: the last attempt succeeded.
             */
            failing_since: string | null;
            /**
             * Secrets
             * @description How many secrets sign now.
             */
            secrets: number;
            /** Created At */
            created_at: string;
            /** Updated At */
            updated_at: string;
        };
        /**
         * WebhookInput
         * @description A webhook to create.
         */
        WebhookInput: {
            /**
             * Url
             * @description Where requests are sent: `https`, and a server of the internet.
             */
            url: string;
            /**
             * Events
             * @description What the receiver is told of.
             */
            events: ("run.ended" | "input.required" | "session.created" | "session.deleted")[];
            /**
             * User Id
             * @description Of whose sessions; absent: of all that the caller owns.
             */
            user_id?: string | null;
        };
        /**
         * WebhookPage
         * @description The caller's webhooks, the oldest first.
         */
        WebhookPage: {
            /** Webhooks */
            webhooks: components["schemas"]["Webhook"][];
            /** Next Cursor */
            next_cursor: string | null;
            /** Has More */
            has_more: boolean;
        };
        /**
         * WebhookPatch
         * @description What changes; what is absent stays.
         */
        WebhookPatch: {
            /** Url */
            url?: string;
            /** Events */
            events?: ("run.ended" | "input.required" | "session.created" | "session.deleted")[];
            /** User Id */
            user_id?: string | null;
            /**
             * Enabled
             * @description `false`: nothing new is recorded, and what waits is kept; `true`: what waits is sent, and what happens from now on.
             */
            enabled?: boolean;
        };
        /**
         * WriteSummaryInput
         * @description The agent that writes the summary.
         */
        WriteSummaryInput: {
            /** Agent */
            agent?: string | null;
        };
    };
    responses: never;
    parameters: never;
    requestBodies: never;
    headers: never;
    pathItems: never;
}
export interface operations {
    streamSession: {
        parameters: {
            query?: {
                /** @description A position: the stream begins after it. A bare seq works too. */
                after?: string | null;
                /** @description `start`: before the first event. */
                from?: "start" | null;
                /** @description `complete`: the stream ends right after the terminal event of the run. */
                until?: "complete" | null;
                /** @description The run that `until` means; absent: the active run, else the next. */
                run_id?: string | null;
                /** @description `event`: heartbeats are events, for clients that cannot see comments. */
                heartbeat?: "event" | null;
                /** @description The client's own name for this connection. */
                connection_id?: string | null;
                /** @description `Last-Event-ID` for clients that send no header of that name, as the npm package event-source-polyfill. The header counts when both are given. */
                lastEventId?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    reconnectSession: {
        parameters: {
            query?: {
                /** @description A position: the stream begins after it. A bare seq works too. */
                after?: string | null;
                /** @description `start`: before the first event. */
                from?: "start" | null;
                /** @description `complete`: the stream ends right after the terminal event of the run. */
                until?: "complete" | null;
                /** @description The run that `until` means; absent: the active run, else the next. */
                run_id?: string | null;
                /** @description `event`: heartbeats are events, for clients that cannot see comments. */
                heartbeat?: "event" | null;
                /** @description The client's own name for this connection. */
                connection_id?: string | null;
                /** @description `Last-Event-ID` for clients that send no header of that name, as the npm package event-source-polyfill. The header counts when both are given. */
                lastEventId?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    listConnections: {
        parameters: {
            query?: {
                /** @description Entries of one page. */
                limit?: number;
                /** @description The `next_cursor` of the page before. */
                cursor?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    streamSessions: {
        parameters: {
            query: {
                /** @description A session, or `<session>@<position>`: its events begin after that position. 1 to 32 times. */
                session_id: string[];
                /** @description The `id` of a frame of a stream with the same list of sessions. */
                after?: string | null;
                /** @description `start`: before the first event of each session. */
                from?: "start" | null;
                /** @description `event`: heartbeats are events, for clients that cannot see comments. */
                heartbeat?: "event" | null;
                /** @description The client's own name for this connection. */
                connection_id?: string | null;
                /** @description `Last-Event-ID` for clients that send no header of that name, as the npm package event-source-polyfill. The header counts when both are given. */
                lastEventId?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    listChanges: {
        parameters: {
            query?: {
                /** @description The `next` of the answer before, or the `id` of a frame; absent: now. */
                after?: string | null;
                /** @description Seconds to wait for a first change (long poll). */
                wait?: number;
                /** @description Entries of one page. */
                limit?: number;
                user_id?: string | null;
                session_type?: ("user" | "sub_agent" | "scheduled") | null;
                parent_id?: string | null;
                /** @description `event`: heartbeats are events, for clients that cannot see comments. */
                heartbeat?: "event" | null;
                /** @description `Last-Event-ID` for clients that send no header of that name, as the npm package event-source-polyfill. The header counts when both are given. */
                lastEventId?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    listEvents: {
        parameters: {
            query?: {
                /** @description A position: the page begins after it. A bare seq is one of this epoch. */
                after?: string | null;
                /** @description Entries of one page. */
                limit?: number;
                /** @description Only these types; give several, or separate them with commas. */
                type?: string[] | null;
                /** @description Seconds to wait for a first event (long poll). */
                wait?: number;
                /** @description `asc`: oldest first. */
                order?: "asc" | "desc";
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    listRuns: {
        parameters: {
            query?: {
                /** @description Entries of one page. */
                limit?: number;
                /** @description The `next_cursor` of the page before. */
                cursor?: string | null;
                /** @description `asc`: oldest first. */
                order?: "asc" | "desc";
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    listMessages: {
        parameters: {
            query?: {
                /** @description Entries of one page. */
                limit?: number;
                /** @description A message id, or the `next_cursor` of a page; not in the page itself. */
                before?: string | null;
                /** @description A message id, or the `next_cursor` of a page; not in the page itself. */
                after?: string | null;
                /** @description `asc`: oldest first. */
                order?: "asc" | "desc";
                /** @description A branch, or `all`. Absent: the current one. */
                branch?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    listFiles: {
        parameters: {
            query?: {
                /** @description Entries of one page. */
                limit?: number;
                /** @description The `next_cursor` of the page before. */
                cursor?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    uploadFile: {
        parameters: {
            query?: {
                /** @description What the file is called. A path is cut to its last part. */
                name?: string | null;
                /** @description The user that the file belongs to; only for operators. */
                user_id?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    downloadFile: {
        parameters: {
            query?: {
                /** @description Save it as a file, also a picture. */
                download?: boolean;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    listSessions: {
        parameters: {
            query?: {
                /** @description `true`: the sessions that others share with you, in place of your own. */
                shared?: boolean;
                user_id?: string | null;
                state?: ("active" | "needs_input" | "idle" | "disconnected" | "closed" | "expired" | "archived") | null;
                session_type?: ("user" | "sub_agent" | "scheduled") | null;
                /** @description An RFC 3339 time. */
                created_after?: string | null;
                /** @description An RFC 3339 time. */
                created_before?: string | null;
                /** @description An RFC 3339 time. */
                active_after?: string | null;
                /** @description Case is ignored. */
                title_contains?: string | null;
                /** @description Only sessions whose ids begin with this. */
                id_prefix?: string | null;
                parent_id?: string | null;
                /** @description Only sessions with a message that `GET /search` finds for this. */
                q?: string | null;
                /** @description `metadata.KEY=VALUE`: only sessions whose metadata has KEY with this value. A text is compared as it is, a number, `true`, `false` and `null` by their JSON. Up to 5 keys; a session has all of them. */
                "metadata.*"?: string;
                sort_by?: "last_activity_at" | "created_at" | "updated_at" | "message_count" | "title";
                sort_order?: "asc" | "desc";
                /** @description The `next_cursor` of the page before. */
                cursor?: string | null;
                /** @description How many entries to skip; in place of `cursor`. */
                offset?: number | null;
                /** @description Entries of one page. */
                limit?: number;
                /** @description `false`: without `total`, which saves counting. */
                count?: boolean;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    getSession: {
        parameters: {
            query?: {
                /** @description With all `messages`; the answer is streamed then. */
                include_messages?: boolean;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    search: {
        parameters: {
            query: {
                /** @description Up to 10 words, or phrases in quotes; a message has all of them. Case is ignored, and a word is found inside others. */
                q: string;
                user_id?: string | null;
                /** @description Results of tools are found with `tool` alone. */
                role?: ("system" | "user" | "assistant" | "tool") | null;
                session_id?: string | null;
                /** @description An RFC 3339 time. */
                created_after?: string | null;
                /** @description An RFC 3339 time. */
                created_before?: string | null;
                /** @description Messages of archived sessions. */
                archived?: "exclude" | "only" | "include";
                /** @description Entries of one page. */
                limit?: number;
                /** @description The `next_cursor` of the page before. */
                cursor?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    listArchivedSessions: {
        parameters: {
            query?: {
                user_id?: string | null;
                state?: ("active" | "needs_input" | "idle" | "disconnected" | "closed" | "expired" | "archived") | null;
                session_type?: ("user" | "sub_agent" | "scheduled") | null;
                /** @description An RFC 3339 time. */
                created_after?: string | null;
                /** @description An RFC 3339 time. */
                created_before?: string | null;
                /** @description An RFC 3339 time. */
                active_after?: string | null;
                /** @description Case is ignored. */
                title_contains?: string | null;
                /** @description Only sessions whose ids begin with this. */
                id_prefix?: string | null;
                parent_id?: string | null;
                /** @description Only sessions with a message that `GET /search` finds for this. */
                q?: string | null;
                /** @description `metadata.KEY=VALUE`: only sessions whose metadata has KEY with this value. A text is compared as it is, a number, `true`, `false` and `null` by their JSON. Up to 5 keys; a session has all of them. */
                "metadata.*"?: string;
                sort_by?: "last_activity_at" | "created_at" | "updated_at" | "message_count" | "title";
                sort_order?: "asc" | "desc";
                /** @description The `next_cursor` of the page before. */
                cursor?: string | null;
                /** @description How many entries to skip; in place of `cursor`. */
                offset?: number | null;
                /** @description Entries of one page. */
                limit?: number;
                /** @description `false`: without `total`, which saves counting. */
                count?: boolean;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    exportSession: {
        parameters: {
            query?: {
                format?: "markdown" | "json" | "yaml";
                include_metadata?: boolean;
                include_tool_calls?: boolean;
                /** @description A zip with the document and the files that messages name, by digest. */
                include_files?: boolean;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    importSession: {
        parameters: {
            query?: {
                /** @description `keep`: the id in the document; 409 when a session has it. */
                id?: "new" | "keep";
                /** @description The document's format; absent: recognised by its content. */
                format?: string | null;
                /** @description Which conversation of a document with several, from 1; or `all`. */
                conversation?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    listDeliveries: {
        parameters: {
            query?: {
                /** @description Entries of one page. */
                limit?: number;
                /** @description The `next_cursor` of the page before. */
                cursor?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    listSummaries: {
        parameters: {
            query?: {
                user_id?: string | null;
                state?: ("active" | "needs_input" | "idle" | "disconnected" | "closed" | "expired" | "archived") | null;
                session_type?: ("user" | "sub_agent" | "scheduled") | null;
                /** @description An RFC 3339 time. */
                created_after?: string | null;
                /** @description An RFC 3339 time. */
                created_before?: string | null;
                /** @description An RFC 3339 time. */
                active_after?: string | null;
                /** @description Case is ignored. */
                title_contains?: string | null;
                /** @description Only sessions whose ids begin with this. */
                id_prefix?: string | null;
                parent_id?: string | null;
                /** @description Only sessions with a message that `GET /search` finds for this. */
                q?: string | null;
                /** @description `metadata.KEY=VALUE`: only sessions whose metadata has KEY with this value. A text is compared as it is, a number, `true`, `false` and `null` by their JSON. Up to 5 keys; a session has all of them. */
                "metadata.*"?: string;
                sort_by?: "last_activity_at" | "created_at" | "updated_at" | "message_count" | "title";
                sort_order?: "asc" | "desc";
                /** @description The `next_cursor` of the page before. */
                cursor?: string | null;
                /** @description How many entries to skip; in place of `cursor`. */
                offset?: number | null;
                /** @description Entries of one page. */
                limit?: number;
                /** @description `false`: without `total`, which saves counting. */
                count?: boolean;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    resumeSession: {
        parameters: {
            query?: {
                /** @description `false`: with the instruction to go on without asking. */
                interactive?: boolean;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    eraseUser: {
        parameters: {
            query?: {
                /** @description Change nothing; answer what would go. */
                dry_run?: boolean;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    aiSdkStream: {
        parameters: {
            query?: {
                /** @description The `Stream-After` of the messages that the page has loaded: an answer that has ended since then is streamed too. */
                after?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    aiSdkMessages: {
        parameters: {
            query?: {
                /** @description Entries of one page. */
                limit?: number;
                /** @description The id of a user's message: only turns before it. */
                before?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    aiSdkSixStream: {
        parameters: {
            query?: {
                /** @description The `Stream-After` of the messages that the page has loaded: an answer that has ended since then is streamed too. */
                after?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    aiSdkSixMessages: {
        parameters: {
            query?: {
                /** @description Entries of one page. */
                limit?: number;
                /** @description The id of a user's message: only turns before it. */
                before?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    aiSdkSevenStream: {
        parameters: {
            query?: {
                /** @description The `Stream-After` of the messages that the page has loaded: an answer that has ended since then is streamed too. */
                after?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    aiSdkSevenMessages: {
        parameters: {
            query?: {
                /** @description Entries of one page. */
                limit?: number;
                /** @description The id of a user's message: only turns before it. */
                before?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    readDurableStream: {
        parameters: {
            query?: {
                /** @description Begin behind this offset, which an answer has named; `-1`, or absent: before the first event; `now`: behind the last one. Required with `live`. */
                offset?: string | null;
                /** @description `long-poll`: wait 20 seconds for the first event; `sse`: Server-Sent Events. Absent: what there is, up to 1000 events. */
                live?: "long-poll" | "sse";
                /** @description The `Stream-Cursor` of the answer before. */
                cursor?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    getOpenaiResponse: {
        parameters: {
            query?: {
                /** @description `true`: its events, from the first one to its end. */
                stream?: boolean;
                /** @description With `stream`: behind this `sequence_number`. */
                starting_after?: number | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    listOpenaiInputItems: {
        parameters: {
            query?: {
                /** @description Items of one page. */
                limit?: number;
                /** @description `desc`: the latest first. */
                order?: "asc" | "desc";
                /** @description The last item of the page before. */
                after?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
    listOpenaiItems: {
        parameters: {
            query?: {
                /** @description Items of one page. */
                limit?: number;
                /** @description `desc`: the latest first. */
                order?: "asc" | "desc";
                /** @description The last item of the page before. */
                after?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: never;
    };
}
