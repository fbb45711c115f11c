"""Every request of the LangGraph SDK reaches a route, or a 501 that names the call."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import langgraph_sdk

from turnstream.streams.edge.routes.unserved import ROUTES

PATH = re.compile(r'f?"(/[^"]*)"')
# in conditional expressions, or behind a name
OTHERS = {
    ("POST", "/threads/x/runs/stream"),
    ("POST", "/runs/stream"),
    ("POST", "/threads/x/runs/wait"),
    ("POST", "/runs/wait"),
    ("POST", "/runs"),
    ("GET", "/threads/x/runs/x/join"),
    ("PATCH", "/threads/x/state"),  # the SDK in JavaScript
}


def requests_of_the_sdk():
    found = set(OTHERS)
    for module in (Path(langgraph_sdk.__file__).parent / "_async").glob("*.py"):
        text = module.read_text()
        for call in re.finditer(r"self\.http\.(get|post|put|patch|delete|stream)\(", text):
            path = PATH.search(text, call.end())
            between = text[call.end() : path.start()] if path else "?"
            if re.fullmatch(r'[\s]*(?:"(?:GET|POST)",\s*)?', between):
                verb = call.group(1).upper()
                if verb == "STREAM":
                    verb = "GET" if '"GET"' in text[call.end() : path.end() + 40] else "POST"
                    verb = "GET" if path.group(1).endswith("/stream") else verb
                found.add((verb, re.sub(r"\{[^}]*\}", "x", path.group(1))))
    return found


async def test_no_request_of_the_sdk_is_an_unknown_route(edge):
    asked = requests_of_the_sdk()
    assert len(asked) > 40
    unserved = {(method, re.sub(r"\{[^}]*\}", "x", path)) for method, path, _ in ROUTES}
    answered = set()
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        for method, path in sorted(asked | unserved):
            got = await client.request(method, path)
            assert got.status_code != 405, (method, path)
            if got.status_code == 404:
                assert got.json()["code"] != "not_found", (method, path)
            if got.status_code == 501:
                answered.add((method, path))
                problem = got.json()
                assert problem["code"] == "not_served"
                assert got.headers["content-type"] == "application/problem+json"
    assert answered == unserved
    assert unserved <= asked
