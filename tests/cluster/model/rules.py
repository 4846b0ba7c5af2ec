"""The rules of the protocol, each of which a test can take away, and the bounds of a search."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules. With all of them, no search finds a broken invariant.

    Attributes:
        fence: An append applies only at the head it was decided on (compare and set).
        epoch_fence: An append names the epoch of its session, and no other takes it.
        delete_fence: A deletion names the epoch of the session that it deletes.
        tombstone: A deletion leaves `(id, epoch)`, and a creation needs a greater epoch.
        gone_keys: The tombstone has the keys of the deleted session, which are answered from it.
        look_up: A commit whose answer was lost is looked for by its id when it is refused.
        unknown_stays: A commit that was sent twice, and whose session has gone since, is answered
            as unknown. It is not decided again.
        packed_is_unknown: So is one whose session was archived since: a lookup finds no rows there.
        unknown_is_asked: Nobody is answered before the outcome of his commit is known.
        decide_again: What was refused is decided again on the new head, never only renumbered.
        keep_drafts: A refused event of a run is decided again, and not dropped.
        lock_third: After two conflicts in a row, the row is locked for the third decision.
        lock_timeout: The database ends a transaction whose owner does nothing.
        start_after_answer: An agent starts only once its `run_start` is known to be stored.
        never_again: A run of a dead executor is closed; no other executor runs it.
        second_check: The closing append checks that the counter stands where the judge saw it.
        judged_counter: That counter is the one of the judgement, and is not read again later.
        start_needs_row: A run starts only for an executor that has a row.
        new_row: A process whose row is gone takes a new id, and stops its agents.
        quick_retry: A renewal that failed is tried again before the next one is due.
        own_renewals: An observer counts silence only over its own renewals that succeeded.
        new_ids: Each process has an executor id of its own.
        tidy: A replica closes open runs that it owns and does not execute.
        tidy_waits: It does so only while no statement of its own is on its way.
        wish_is_stored: A cancellation stores its wish in the session, and moves its version.
        loop_watched: The heartbeat stops when the event loop does not turn.
        rows_last: A process that ends removes its executor row behind its last run.
        keys_stored: The key of a request is stored with its effect, and looked up on the new head.
        any_starts: Any replica starts a queued run, and not only the one that queued it.
        new_epochs: A session that is created again under an id gets a greater epoch.
        paced: Renewals are a round apart, also after a SIGCONT: none are made up for.
    """

    fence: bool = True
    epoch_fence: bool = True
    delete_fence: bool = True
    tombstone: bool = True
    gone_keys: bool = True
    look_up: bool = True
    unknown_stays: bool = True
    packed_is_unknown: bool = True
    unknown_is_asked: bool = True
    decide_again: bool = True
    keep_drafts: bool = True
    lock_third: bool = True
    lock_timeout: bool = True
    start_after_answer: bool = True
    never_again: bool = True
    second_check: bool = True
    judged_counter: bool = True
    start_needs_row: bool = True
    new_row: bool = True
    quick_retry: bool = True
    own_renewals: bool = True
    new_ids: bool = True
    tidy: bool = True
    tidy_waits: bool = True
    wish_is_stored: bool = True
    loop_watched: bool = True
    rows_last: bool = True
    keys_stored: bool = True
    any_starts: bool = True
    new_epochs: bool = True
    paced: bool = True

    def without(self, *names: str) -> "Rules":
        """Return the protocol without some of its rules."""
        return replace(self, **dict.fromkeys(names, False))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request that a client makes once, and with a key perhaps again at another replica.

    Attributes:
        name: Its name. A chat's run has the same.
        kind: `chat`, `interrupt`, `post`, `cancel`, `archive` or `delete`.
        run: The run that a `cancel` is about.
        is_keyed: Whether it has an idempotency key, so that its client may repeat it.
        after: The request that its client waits for before it makes this one.
    """

    name: str
    kind: str
    run: str = ""
    is_keyed: bool = False
    after: str = ""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a search explores: the clients' requests, and how many faults of each kind.

    Attributes:
        wanted: The requests.
        tokens: How many tokens an agent says.
        has_clock: Renew heartbeats in rounds. Otherwise, whoever is stopped may be judged at once.
        silent_rounds: How many of its own renewals an observer sees without a move of the counter.
        kills: `kill -9`; each process that died is started again once.
        stops: SIGSTOP; SIGCONT may follow at any time.
        losses: Answers of the database that are lost.
        outages: How often the database goes away.
        hangs: How many event loops stop turning for good.
        terms: SIGTERM to one replica.
        spawns: Processes started in the place of one that is stopped or draining.
        reaps: Rows of executors that do not move and have no run, removed by somebody.
        with_run: Begin with an executing run `r` of the first replica.
    """

    wanted: tuple[Wanted, ...]
    tokens: int = 1
    has_clock: bool = False
    silent_rounds: int = 3
    kills: int = 0
    stops: int = 0
    losses: int = 0
    outages: int = 0
    hangs: int = 0
    terms: int = 0
    spawns: int = 0
    reaps: int = 0
    with_run: bool = False
