"""What sends webhooks: HTTP requests to servers that users have named."""
