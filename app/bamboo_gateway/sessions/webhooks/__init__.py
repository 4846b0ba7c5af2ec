"""Webhooks: programs that are told what happens in sessions, over HTTP.

**What is promised.** Each event that a webhook asks for is sent at least once, with an id that is
the same for every attempt and after every crash; the events of one session in their order, of
which each waits until the one before is acknowledged. Sessions do not wait for each other.

**The log is the truth.** No commit of a session waits for webhooks, and nothing is paid when there
are none. The `Feed` asks the store which sessions have changed (`SessionStore.changes`), reads the
ends of runs that are new in their logs, and writes what is to be told. The `Looker` has it do so
after a commit that webhooks may be told of, and each second. `Courier`s send, one for each webhook.
`Webhooks` has all of them; `WebhookService` has the commands of callers.

**What is kept** are values beside the sessions (`SessionStore.write_values`):

    webhook           <webhook>                 who is told what, its secrets, how it fares
    webhook-cursor    feed                      up to which change the feed has looked
    webhook-seen      <session>                 up to which seq of its log the feed has looked
    webhook-due       <webhook>/<session>       what is not acknowledged yet (`Entry`)
    webhook-delivery  <webhook>/<number>        one attempt, for the list of deliveries
    webhook-ask       <what>                    what other processes ask of the one that sends

**What a crash leaves.** For a page of changes the feed writes the entries, the seen seqs and the
cursor at once, all or nothing. A crash before it: the same page is read again, and gives the same
notices with the same ids, since an id is a digest of webhook, session, epoch, seq and type.
Nothing is sent that was not written before. A courier sends the first notice of an entry, and
takes it off, with one write, after the acknowledgement. A crash in between: it is sent again,
under the same id. Nothing behind it was sent before. So nothing is lost, and nothing is out of
order: the first sending of each event comes after the acknowledgement of the event before.

**Sessions that are deleted.** Before the log goes, the feed looks at it out of turn
(`Webhooks.before_deletion`), so that the ends of runs that nobody has read yet are written down.
The deletion itself is a change without a head. What an entry has by itself (up to
`WEBHOOK_NOTICES_MAX` notices, and a page more) is still sent, then `session.deleted`. What it
would have read from the log is gone; that is logged.

**Sessions that the feed has not seen.** A webhook is told of events since its creation. The first
time that the feed meets a session it compares times of events with `Webhook.since`. When the clock
is set back, the feed sees it, and moves `since` back as well (`clock_set_back`): too much is
better than too little.

**Changes that are lost.** A store that was restored or copied has another feed, and one that
forgot deletions says so (`ChangesLost`). Then the feed goes through all sessions once, page by
page, and compares each with what it has seen; then through what it has seen, for sessions that are
gone. The place is kept with each page, so that a crash goes on there. A log with a new epoch is
the same session when it was created at the same time, and goes on at the seq that was seen.

**Several processes over one store.** One of them sends (`leading`), and has all of this in memory;
the others only read and write the values `webhook`. A change of one is made on what the store has
(`SessionStore.change_value`), so that no process undoes it with what it remembers. Who does not
lead any more writes nothing. A deletion at another process waits until the leader has looked at
what happened before.

**Failures.** A notice that is not acknowledged is sent again after `webhook_retry_seconds`. After
`webhook_disable_after_days` without any success the webhook is disabled; when others were
acknowledged meanwhile, it is the notice that is given up, so that it does not hold up its session
for ever. After 410 the webhook is disabled at once. A disabled webhook keeps what it has, and gets
nothing new.
"""
