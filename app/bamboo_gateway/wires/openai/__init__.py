"""OpenAI's Responses and Conversations over the same sessions.

A conversation is a session, and a response is a run. The protocol:
https://platform.openai.com/docs/api-reference/responses
"""
