"""A web application with users whose pages talk with the gateway.

The server logs people in and holds the gateway's service key. A page gets a ticket from it: that
opens the user's own conversation, to read, for a minute. Run it from the repository:

    GATEWAY_KEY=… .venv/bin/python examples/users_and_tickets/server.py

The tutorial "A web page with users and tickets" in docs/ explains every step.
"""

import os
import secrets
from pathlib import Path
from typing import Annotated

import httpx
import uvicorn
from fastapi import Cookie, Depends, FastAPI, HTTPException, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel

GATEWAY = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8080")
PORT = int(os.environ.get("PORT", "8000"))
PAGE = Path(__file__).with_name("page.html")

# Your application has these already: people with passwords, and who has logged in.
PASSWORDS = {"alice": "wonderland", "bob": "builder"}
logged_in: dict[str, str] = {}

app = FastAPI()
gateway = httpx.AsyncClient(
    base_url=f"{GATEWAY}/api/v1",
    headers={"Authorization": f"Bearer {os.environ['GATEWAY_KEY']}"},
    timeout=30,
)


class Credentials(BaseModel):
    name: str
    password: str


class Words(BaseModel):
    message: str


def current_user(login: Annotated[str, Cookie()] = "") -> str:
    if user := logged_in.get(login):
        return user
    raise HTTPException(401, "Log in first.")


User = Annotated[str, Depends(current_user)]


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(PAGE)


@app.post("/login")
async def login(given: Credentials, response: Response) -> None:
    expected = PASSWORDS.get(given.name, "")
    if not expected or not secrets.compare_digest(expected.encode(), given.password.encode()):
        raise HTTPException(401, "Wrong name or password.")
    token = secrets.token_urlsafe(32)
    logged_in[token] = given.name
    response.set_cookie("login", token, httponly=True, samesite="strict")


@app.post("/ticket")
async def ticket(user: User) -> dict[str, str]:
    """Let the page read the user's conversation."""
    session_id = await conversation_of(user)
    answer = await ask(user, f"/sessions/{session_id}/ticket")
    # Only what the page needs. The key stays here.
    return {"gateway": GATEWAY, "session_id": session_id, "ticket": answer["ticket"]}


@app.post("/say", status_code=202)
async def say(words: Words, user: User) -> None:
    """Pass on what the user says; the page sees the answer in its stream."""
    session_id = await conversation_of(user)
    await ask(user, "/chat", {"session_id": session_id, "message": words.message})


async def conversation_of(user: str) -> str:
    """Return the id of the user's conversation, which is created at its first use."""
    session_id = f"support-{user}"
    await ask(user, "/sessions", {"id": session_id, "title": "Support"}, known=409)
    return session_id


async def ask(user: str, path: str, body: object = None, known: int = 200) -> dict:
    """Call the gateway for a user: `X-User-Id` says for whom the service acts."""
    answer = await gateway.post(path, json=body, headers={"X-User-Id": user})
    if answer.is_error and answer.status_code != known:
        raise HTTPException(502, f"The gateway answered {answer.status_code}.")
    return answer.json()


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning")
