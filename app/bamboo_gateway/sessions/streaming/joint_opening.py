"""Opens joint streams: each of their sessions as a stream of its own would be opened.

A session that the caller may not read, that is unknown, or has expired, ends with a `goodbye` at
once, and the stream goes on for the others.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import structlog

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import BambooError, Gone, NotFound, StorageFailed
from bamboo_gateway.sessions.commands import StreamRequest
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.streaming.channels import Channels
from bamboo_gateway.sessions.streaming.hub import Sessions, StreamHub, StreamPlace
from bamboo_gateway.sessions.streaming.joint_stream import Absent, JointStream
from bamboo_gateway.sessions.streaming.presences import NOWHERE_ELSE, Elsewhere
from bamboo_gateway.sessions.streaming.rendering import GoodbyeReason, JointRenderer
from bamboo_gateway.sessions.streaming.session_writer import LookAgain, SessionWriter
from bamboo_gateway.sessions.streaming.strand import Strand
from bamboo_gateway.sessions.streaming.subscription import Subscription, claimed

log = structlog.get_logger(__name__)

Wanted = Sequence[tuple[str, StreamRequest]]
"""The sessions of a joint stream, each with where it begins. All name the same connection."""


class JointStreams:
    """Opens joint streams.

    Args:
        context: Has the store, the clock and the limits.
        sessions: Where sessions are looked up.
        channels: The channels that have readers.
        hub: Opens the streams of one session, and counts all streams.
    """

    def __init__(
        self, context: Context, sessions: Sessions, channels: Channels, hub: StreamHub
    ) -> None:
        self._context = context
        self._sessions = sessions
        self._channels = channels
        self._hub = hub

    async def connect(
        self, caller: Caller, wanted: Wanted, renderer: JointRenderer, *, comes_back: bool
    ) -> JointStream | None:
        """Open a joint stream. It takes the place of one stream.

        Args:
            caller: Who reads.
            wanted: The sessions.
            renderer: Makes the bytes of this response.
            comes_back: The client has a cursor, so it was told already what cannot be read.

        Returns:
            The stream, or None when a client comes back and none of its sessions can be read.

        Raises:
            Unavailable, LimitReached: As `StreamHub.reserve`.
        """
        first = wanted[0][1]
        with self._place(caller, wanted) as place:
            clock = self._context.clock
            is_named = first.connection_id is not None
            name = first.connection_id or self._context.ids.make("c_", clock.now_ms())
            joint = JointStream(
                name,
                [session_id for session_id, _ in wanted],
                caller,
                clock,
                renderer,
                partial(self._closed, place),
                heartbeat_events=first.heartbeat_events,
            )
            try:
                for number, (session_id, request) in enumerate(wanted):
                    named = replace(request, connection_id=name)
                    await self._open(joint, number, session_id, named, renderer, is_named=is_named)
            except BaseException:
                for strand in joint.strands:
                    strand.aclose()
                raise
            if not joint.strands and comes_back:
                return None
            place.is_used = True
            self._hub.clock.responses.add(joint)
            self._context.tally.streams_opened += 1
            return joint

    def _place(self, caller: Caller, wanted: Wanted) -> StreamPlace:
        """Take the place of the stream, or of the older one that it replaces as a whole."""
        session_ids = {session_id for session_id, _ in wanted}
        for session_id, request in wanted:
            channel = self._channels.get(session_id)
            if channel is None or request.connection_id is None:
                continue
            older = channel.connections.get(request.connection_id)
            if (
                isinstance(older, Strand)
                and older.caller.id == caller.id
                and session_ids.issuperset(older.joint.open_ids)
            ):
                return self._hub.take_place(caller)
        return self._hub.reserve(caller)

    async def _open(
        self,
        joint: JointStream,
        number: int,
        session_id: str,
        request: StreamRequest,
        renderer: JointRenderer,
        *,
        is_named: bool,
    ) -> None:
        elsewhere = NOWHERE_ELSE

        async def open_strand(writer: SessionWriter) -> None:
            self._context.states.check_not_expired(writer.head)
            try:
                # Streams show what is durable: what is only decided may be undone.
                await writer.settled()
            except BambooError:
                raise LookAgain from None
            joint.add(self._strand(joint, number, writer, request, renderer, elsewhere))

        reason: GoodbyeReason
        try:
            if is_named:
                elsewhere = await self._hub.look_elsewhere(joint.caller, session_id, request)
            await self._sessions.within(joint.caller, session_id, open_strand, "read", place=False)
            return
        except NotFound:
            reason = "deleted"
        except Gone:
            reason = "closed"
        except StorageFailed as error:
            # The files of one session take the others nothing (R10).
            log.warning(
                "a session of a joint stream cannot be read",
                session_id=session_id,
                error=error.detail,
            )
            reason = "shutdown"
        joint.miss(Absent(number, reason), claimed(request))

    def _strand(
        self,
        joint: JointStream,
        number: int,
        writer: SessionWriter,
        request: StreamRequest,
        renderer: JointRenderer,
        elsewhere: Elsewhere,
    ) -> Strand:
        context, channel, caller = self._context, writer.channel, joint.caller

        def close(strand: Subscription) -> None:
            self._hub.detach(channel, strand)
            joint.left(strand)

        strand = Strand(
            joint,
            number,
            self._hub.name_of(caller, writer, request, elsewhere),
            channel,
            context.store,
            context.clock,
            context.tally,
            self._hub.start_of(channel, request, elsewhere),
            request,
            caller,
            renderer.shared(number),
            close,
        )
        self._hub.attach(writer, strand)
        return strand

    def _closed(self, place: StreamPlace, joint: JointStream) -> None:
        place.release()
        self._hub.clock.responses.discard(joint)
        context = self._context
        context.tally.streams_ended[joint.ended_by,] += 1
        if context.settings.access_log:
            log.info(
                "stream ended",
                session_ids=joint.session_ids,
                connection_id=joint.id,
                reason=joint.ended_by,
                seconds=round(context.clock.monotonic() - joint.opened_at, 1),
            )
