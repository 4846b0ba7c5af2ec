"""AI SDK: sessions for `useChat` of the Vercel AI SDK, by its UI message stream.

A *UI message* of the assistant is everything between two user messages: the messages of several
runs, their tool calls with results. Its id is that of its first message. A stream shows one run, or
on resume the whole UI message; both are folds over the log.

The protocol: https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol.
"""
