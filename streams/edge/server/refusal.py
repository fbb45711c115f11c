"""A refusal as bytes, for a connection on which no request has reached the app."""

from __future__ import annotations

from http import HTTPStatus

from turnstream.streams.edge.server.problems import Problem, problem_bytes


def refusal(status: int, code: str, detail: str) -> bytes:
    """Return a whole answer with a problem body, for a connection that ends with it."""
    phrase = HTTPStatus(status).phrase
    retryable = status == HTTPStatus.SERVICE_UNAVAILABLE
    problem = Problem(title=phrase, status=status, code=code, detail=detail, retryable=retryable)
    body = problem_bytes(problem)
    again = "retry-after: 1\r\n" if retryable else ""
    head = (
        f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\n{again}connection: close\r\n\r\n"
    )
    return head.encode() + body
