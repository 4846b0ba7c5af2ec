"""The error for keys, secrets and files that the gateway cannot check credentials with."""

from bamboo_gateway.domain.errors import BambooError


class CredentialsUnusable(BambooError):
    """A file or setting of credentials cannot be used; `detail` is one line for the operator.

    `detail` names a path, so it is never part of an answer: it stops the start or goes to the log.
    """

    code = "credentials_unusable"
