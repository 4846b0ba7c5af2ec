"""What can be wrong with the credentials that a gateway is given to check."""

from bamboo_gateway.domain.errors import BambooError


class CredentialsUnusable(BambooError):
    """A file or setting of credentials cannot be used; `detail` is one line for the operator.

    It names a path, so it never leaves in an answer: it stops the start, or stands in the log.
    """

    code = "credentials_unusable"
