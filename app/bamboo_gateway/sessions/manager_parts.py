"""The objects that the parts of `SessionManager` share."""

from bamboo_gateway.sessions.changes.feed import ChangeFeed
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.erasure import ForgetKeys
from bamboo_gateway.sessions.registry import SessionRegistry
from bamboo_gateway.sessions.runs.cancellation import Cancellation
from bamboo_gateway.sessions.runs.chat import ChatService
from bamboo_gateway.sessions.runs.external import ExternalRuns
from bamboo_gateway.sessions.runs.factory import Agents, Maker
from bamboo_gateway.sessions.runs.input_expiry import InputExpiry
from bamboo_gateway.sessions.runs.inputs import InputService
from bamboo_gateway.sessions.runs.scheduler import RunScheduler
from bamboo_gateway.sessions.streaming.hub import StreamHub
from bamboo_gateway.sessions.streaming.joint_opening import JointStreams
from bamboo_gateway.sessions.transaction import Transactions
from bamboo_gateway.sessions.webhooks.administration import WebhookService
from bamboo_gateway.sessions.webhooks.service import Webhooks


class ManagerParts:
    """The objects behind the methods of `SessionManager`, which makes them when it is entered.

    The methods are in three classes, one for each group, so that a reader finds them:
    `ConversationCommands`, `LifecycleCommands` and `FileCommands`. They are thin: each calls the
    module that does the work.
    """

    _context: Context
    _registry: SessionRegistry
    _transactions: Transactions
    _agents: Agents
    _maker: Maker
    _external: ExternalRuns
    _scheduler: RunScheduler
    _chats: ChatService
    _inputs: InputService
    _input_expiry: InputExpiry
    _cancellation: Cancellation
    _hub: StreamHub
    _joint_streams: JointStreams
    _feed: ChangeFeed
    _forget_keys: ForgetKeys
    _webhooks: Webhooks
    _webhook_service: WebhookService
