"""Make the agent of a URL. A new kind is one file, and one case here."""

from bamboo_gateway.agents.base import Agent, SessionAnswer
from bamboo_gateway.agents.options import KINDS, AgentAddress
from bamboo_gateway.settings import Settings


def make_agent(name: str, url: str, settings: Settings, session_answer: SessionAnswer) -> Agent:
    """Make the agent that `url` describes.

    Args:
        name: The name of the agent in the settings.
        url: `demo:`, `openai:MODEL?…`, `python:module:object`, `https://…`, `agui+https://…`; the
            module of each kind describes its URLs.
        settings: Limits for agents (`max_event_bytes`).
        session_answer: Makes the API's Session for agents that are services.

    Raises:
        AgentConfigError: The URL cannot be used; the message is one line that says why.
    """
    address = AgentAddress.parse(name, url)
    match address.kind:
        case "demo":
            from bamboo_gateway.agents.demo import DemoAgent

            return DemoAgent.from_address(address)
        case "openai":
            from bamboo_gateway.agents.openai import OpenAIAgent

            return OpenAIAgent.from_address(address, settings)
        case "python":
            from bamboo_gateway.agents.python import PythonAgent

            return PythonAgent.from_address(address)
        case "http" | "https":
            from bamboo_gateway.agents.http import HttpAgent

            return HttpAgent.from_address(address, settings, session_answer)
        case "agui+http" | "agui+https":
            from bamboo_gateway.agents.agui import AgUiAgent

            return AgUiAgent.from_address(address, settings)
        case _:
            # Without the kind itself: it may be a key, pasted in the wrong place.
            raise address.refuse(f"its URL is of no known kind; use {KINDS}")
