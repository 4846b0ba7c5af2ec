"""The gate: it verifies credentials, names their callers, and knows which are still valid."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import anyio
import structlog
from anyio import to_thread

from bamboo_gateway.credentials.errors import CredentialsUnusable
from bamboo_gateway.credentials.keyfile import KeyFile, check_owner, parse_keys
from bamboo_gateway.credentials.keys import KeyTable, PlainKeys, looks_like_key
from bamboo_gateway.credentials.refusals import Refusal, RefusalLog
from bamboo_gateway.credentials.remote_keys import RemoteKeys
from bamboo_gateway.credentials.shared_keys import SharedKeys, WatchedKeys
from bamboo_gateway.credentials.signing import (
    WITHOUT_CREDENTIAL,
    Signed,
    Signer,
    chance,
    checked_secret,
    kept_secret,
    proposed_secret,
    root_of,
)
from bamboo_gateway.credentials.tokens import looks_like_token, make_verifier
from bamboo_gateway.credentials.watched import WatchedFile
from bamboo_gateway.domain.api_keys import ApiKey, user_caller
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import Forbidden, Unavailable
from bamboo_gateway.domain.ids import check_user_id
from bamboo_gateway.settings import Settings

log = structlog.get_logger(__name__)

_KEYS_TOLD_MAX: Final = 20
"""The most keys that one log line names: people make one at a time, scripts many."""

_LOOK_SECONDS: Final = 1.0
"""How often files and the store are looked at, and so how soon a revoked key is refused."""


KeepSecret = Callable[[bytes], Awaitable[bytes]]
"""Returns the secret that a store keeps for all its gateways; without one it keeps the argument."""


class Gate:
    """All credentials of one gateway.

    An async context manager: while it is entered it notices changed files and keys. Its answers
    never say why a credential is invalid, so that nobody learns which part of a guess was right.
    The log has the reason.

    Attributes:
        refusals: Logs the reasons.

    Raises:
        CredentialsUnusable: A file or setting of credentials cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        keep_secret: KeepSecret | None = None,
        shared_keys: SharedKeys | None = None,
    ) -> None:
        """Read the files.

        Args:
            settings: Name the credentials.
            clock: The clock for ends of credentials.
            keep_secret: Keeps the secret of tickets in place of the file, if it is given.
            shared_keys: The keys that the store keeps in place of the keys file, if it does. They
                are read when the gate is entered, and until then nobody is let in.
        """
        self.refusals = RefusalLog(clock)
        self._clock = clock
        self._plain = PlainKeys(settings.api_keys)
        self._tokens = make_verifier(settings, clock)
        path = settings.keys_path
        self._keys: WatchedFile[KeyTable] | WatchedKeys | None = None
        if shared_keys is not None:
            assert path is not None
            self._keys = WatchedKeys(shared_keys, path)
        elif path is not None:
            self._keys = WatchedFile(path, lambda data: KeyTable(parse_keys(data)), _no_keys)
            if self._keys.exists:
                check_owner(path)
        self._secret_path = settings.ticket_secret_path
        self._keep_secret = keep_secret
        self._signer: Signer | None = None
        if settings.ticket_secret is not None:
            self._signer = Signer(checked_secret(settings.ticket_secret.get_secret_value()), clock)
        elif self._secret_path is None:
            self._signer = Signer(chance(), clock)
        self._ticket_seconds = settings.ticket_ttl_seconds
        self._login_seconds = settings.login_ttl_seconds
        self._stack = AsyncExitStack()
        # Nobody knows yet whether the store has keys.
        self._is_open = shared_keys is None
        self._close_if_configured()

    async def __aenter__(self) -> Self:
        if isinstance(self._keys, WatchedKeys):
            await to_thread.run_sync(self._keys.load)
            self._is_open = True
            self._close_if_configured()
        if self._signer is None:
            assert self._secret_path is not None
            self._signer = Signer(await self._secret(self._secret_path), self._clock)
        async with AsyncExitStack() as stack:
            stack.callback(self.refusals.close)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            tasks.start_soon(self._watch, name="credential files")
            if self._tokens is not None and self._tokens.remote is not None:
                tasks.start_soon(self._tokens.remote.run, name="keys of the identity provider")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    async def _secret(self, path: Path) -> bytes:
        if self._keep_secret is None:
            return await to_thread.run_sync(kept_secret, path)
        return await self._keep_secret(await to_thread.run_sync(proposed_secret, path))

    @property
    def is_open(self) -> bool:
        """Whether no credentials are configured, so that the gateway serves everybody.

        A keys file counts even if it is empty, and so does a store that ever had a key: revoking
        the last key must not open the gateway.
        Once there were credentials, the gateway stays closed until the next start, whatever happens
        to the file.
        """
        return self._is_open

    def check_loaded(self) -> None:
        """Refuse to judge credentials before the keys of the store are known.

        Raises:
            Unavailable: They are not known yet.
        """
        if isinstance(self._keys, WatchedKeys) and not self._keys.is_loaded:
            raise _not_recovered()

    @property
    def remote_keys(self) -> RemoteKeys | None:
        """The keys that come from an identity provider's URL, if any do."""
        return self._tokens.remote if self._tokens is not None else None

    async def prepare_bearer(self, sent: bytes) -> None:
        """Get ready for `bearer`: a token may be signed with a key that is new.

        Only a request with such a token waits, and no longer than `remote_keys.FETCH_SECONDS`.

        Raises:
            Unavailable: The identity provider cannot be reached, and no key is known.
        """
        if self._tokens is not None and self._tokens.remote is not None:
            await self._tokens.look_for_key_of(sent)

    def bearer(self, sent: bytes, acting_for: str | None) -> Caller | None:
        """Return the caller with a key or token; None if the credential is invalid.

        Args:
            sent: The credential as it was sent.
            acting_for: The user that the caller wants to act for, unchecked.

        Raises:
            Forbidden: The credential is valid but not for that user, or it is a service's key and
                names no user.
            InvalidId: `acting_for` cannot be a user id.
        """
        caller = self._plain.find(sent)
        if caller is None and self._keys is not None:
            key = self._keys.value.find(sent, self._clock.now_ms())
            caller = key.caller() if key is not None else None
        if caller is None and self._tokens is not None:
            caller = self._tokens.verify(sent)
        if caller is None or not self.is_live(caller):
            self.refusals.note(self._why_no_bearer(sent))
            return None
        if caller.user_id is None and acting_for is None and "admin" not in caller.rights:
            raise Forbidden("This is a service's key: name the user it acts for in X-User-Id.")
        return _acting(caller, acting_for)

    def ticket(self, sent: str, acting_for: str | None) -> Caller | None:
        """Return the caller with a ticket, a reader of one session; None if it is invalid.

        Raises:
            Forbidden, InvalidId: As `bearer`.
        """
        caller = self._if_live(self._signed().read_ticket(sent), acting_for)
        if caller is None:
            self.refusals.note(self._signed().why_not("ticket", sent))
        return caller

    def cookie(self, sent: str, acting_for: str | None) -> Caller | None:
        """Return the caller with the cookie of a login; None if it is invalid.

        Raises:
            Forbidden, InvalidId: As `bearer`.
        """
        caller = self._if_live(self._signed().read_cookie(sent), acting_for)
        if caller is None:
            self.refusals.note(self._signed().why_not("cookie", sent))
        return caller

    def make_ticket(self, caller: Caller, session_id: str) -> Signed:
        """Make a ticket to a session that the caller may see."""
        return self._signed().ticket(caller, session_id, self._ticket_seconds)

    def make_cookie(self, caller: Caller) -> Signed:
        """Make a cookie with the caller's rights."""
        return self._signed().cookie(caller, self._login_seconds)

    def is_live(self, caller: Caller) -> bool:
        """Return whether the caller's credential is still valid."""
        now_ms = self._clock.now_ms()
        if caller.expires_at is not None and now_ms >= caller.expires_at:
            return False
        if caller.share_id is not None:
            return True  # the session's log knows how long a share is valid
        root = root_of(caller.credential or WITHOUT_CREDENTIAL)
        if root == WITHOUT_CREDENTIAL:
            return self._is_open
        if root.startswith("token-"):
            return self._tokens is not None
        in_file = self._keys is not None and self._keys.value.is_live(root, now_ms)
        return in_file or self._plain.is_live(root)

    async def forget_keys_of(self, user_id: str, *, dry_run: bool = False) -> int:
        """Remove a user's keys, revoked ones too; return how many there are.

        What was made with them (tickets, cookies, streams) ends with them.

        Raises:
            Unavailable, StorageFailed: They cannot be removed.
        """
        keys = self._keys
        if keys is None or not keys.exists:
            return 0
        return await to_thread.run_sync(partial(self._forget_keys, keys, user_id, dry_run=dry_run))

    def _forget_keys(
        self, keys: WatchedFile[KeyTable] | WatchedKeys, user_id: str, *, dry_run: bool
    ) -> int:
        found = 0

        def others(known: Sequence[ApiKey]) -> Sequence[ApiKey]:
            nonlocal found
            kept = [key for key in known if key.user_id != user_id]
            found = len(known) - len(kept)
            return kept

        def forget(kept: SharedKeys | KeyFile) -> int:
            others(kept.read())
            if found and not dry_run:
                kept.change(others)
            return found

        try:
            if isinstance(keys, WatchedFile):
                count = forget(KeyFile(keys.path))
            else:
                count = forget(keys.shared)
                # What was taken over is still in the file.
                forget(KeyFile(keys.file))
        except CredentialsUnusable as error:
            raise Unavailable(f"The user's keys are still there: {error.detail}.") from error
        if count and not dry_run:
            keys.refresh()
        return count

    def _why_no_bearer(self, sent: bytes) -> Refusal:
        if self._tokens is None and looks_like_token(sent):
            return Refusal("token", "tokens_not_configured")
        if self._keys is not None and (looks_like_key(sent) or self._tokens is None):
            return self._keys.value.why_not(sent)
        if self._tokens is not None and not looks_like_key(sent):
            return self._tokens.why_not(sent)
        return Refusal("key", "unknown_key")

    def _if_live(self, caller: Caller | None, acting_for: str | None) -> Caller | None:
        if caller is None or not self.is_live(caller):
            return None
        return _acting(caller, acting_for)

    def _signed(self) -> Signer:
        if self._signer is None:
            raise _not_recovered()
        return self._signer

    async def _watch(self) -> None:
        tokens = self._tokens.file if self._tokens is not None else None
        while True:
            await anyio.sleep(_LOOK_SECONDS)
            self.refusals.flush()
            if tokens is not None:
                await to_thread.run_sync(tokens.refresh)
            if self._keys is not None:
                before = self._keys.value
                if await to_thread.run_sync(self._keys.refresh):
                    self._tell(before, self._keys.value)
            self._close_if_configured()

    def _tell(self, before: KeyTable, after: KeyTable) -> None:
        now_ms = self._clock.now_ms()
        was, now = before.live_ids(now_ms), after.live_ids(now_ms)
        added, ended = sorted(now - was), sorted(was - now)
        log.info(
            "keys changed",
            keys=len(now),
            added=added[:_KEYS_TOLD_MAX],
            ended=ended[:_KEYS_TOLD_MAX],
        )

    def _close_if_configured(self) -> None:
        has_file = self._keys is not None and self._keys.exists
        if self._plain or has_file or self._tokens is not None:
            self._is_open = False


def _acting(caller: Caller, user_id: str | None) -> Caller:
    """Return the caller, acting for that user.

    An operator or a service may act for any user, a user only for itself.
    """
    if user_id is None:
        return caller
    check_user_id(user_id)
    if caller.user_id is None:
        acting = user_caller(user_id, caller.rights, caller.credential or "", caller.expires_at)
        return replace(acting, session_id=caller.session_id)
    if caller.user_id != user_id:
        raise Forbidden("This credential is another user's than X-User-Id names.")
    return caller


def _not_recovered() -> Unavailable:
    return Unavailable("The gateway is recovering its sessions; try again in a moment.")


def _no_keys() -> KeyTable:
    return KeyTable(())
