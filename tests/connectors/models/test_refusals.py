"""What the errors of model servers mean, and what of them is shown."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from turnstream.connectors.models.openai.refusals import (
    MESSAGE_CHARS_MAX,
    error_in,
    error_of_event,
    error_of_response,
    shown,
)
from turnstream.schemas.errors import ModelContextError, ModelOverloadedError

TOO_LONG = [
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000",
    (
        "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context "
        "length is 4096 tokens and your request has 100 input tokens"
    ),
    "The decoder prompt (length 9000) is longer than the maximum model length of 4096.",
    "the request exceeds the available context size. try increasing the context size",
    "Context size has been exceeded.",
    "Requested tokens (9000) exceed context window of 2048",
    "input length exceeds the context length",
    "prompt too long; exceeded max context length by 4 tokens",
    "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000",
    "`inputs` tokens + `max_new_tokens` must be <= 2048",
    "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
    "Trying to keep the first 9000 tokens when context the overflows.",
    "Reached context length of 4096 tokens with model (arch: qwen2)",
    "Error: Input length 6491 exceeds context length 1500",
    "prompt is too long: 210000 tokens > 200000 maximum",
    "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
    "The input token count (1100000) exceeds the maximum number of tokens allowed (1048576).",
    "Input is too long for requested model.",
    "too many tokens: size limit exceeded by 100 tokens",
    "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
    "Your request exceeded model token limit: 8192",
    "prompt token count of 70000 exceeds the limit of 64000",
    "Prompt has 9000 tokens, which is larger than the context window (8192)",
    "context window exceeds limit",
]
OTHER = [
    "Rate limit reached on tokens per min (TPM): Limit 10000, Used 9000, Requested 2000",
    "max_tokens must be at least 1, got -1",
    "Unrecognized request argument supplied: context_length",
    "The model `Meta-Llama-3.1-8B-Instruct-AWQ-INT4` does not exist.",
    "temperature must be less than or equal to 2",
    "tool_choice is not supported in this context",
    "The server is out of memory; the batch exceeds the budget",
]


@pytest.mark.parametrize("status", [400, 413, 422, 500])
@pytest.mark.parametrize("text", TOO_LONG)
def test_a_context_that_is_too_small(text, status):
    error = error_of_response(status, json.dumps({"error": {"message": text}}).encode(), {})
    assert type(error) is ModelContextError
    assert type(error_of_event({"error": text, "code": status}, {})) is ModelContextError


@pytest.mark.parametrize("text", OTHER)
def test_what_is_no_matter_of_the_context(text):
    for status in (400, 500):
        error = error_of_response(status, json.dumps({"detail": text}).encode(), {})
        assert error.code == f"model_http_{status}"
        assert str(error) == f"the model server answered {status}: {text}"


def test_a_rate_limit_on_tokens_is_one():
    text = "Request too large: it exceeds the maximum context length of tokens per minute"
    error = error_of_event({"message": text, "code": 429}, {})
    assert (error.code, error.retryable) == ("model_http_429", True)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"message": "m", "code": "429"}, "model_http_429"),
        ({"message": "m", "code": 429.0}, "model_http_429"),
        ({"message": "m", "code": None, "type": "rate_limit_error"}, "model_http_429"),
        ({"message": "m", "code": "insufficient_quota"}, "model_http_429"),
        ({"message": "m", "status": "RESOURCE_EXHAUSTED"}, "model_http_429"),
        ({"message": "m", "type": "overloaded_error"}, "model_http_503"),
        ({"message": "m", "type": "invalid_request_error"}, "model_http_400"),
        ({"message": "m", "type": "BadRequestError"}, "model_http_400"),
        ({"message": "m", "type": "authentication_error"}, "model_http_401"),
        ({"message": "m", "type": "NotFoundError"}, "model_http_404"),
        ({"message": "m", "type": "server_error"}, "model_http_500"),
        ({"message": "m", "code": 7}, "model_http_500"),
        ({"message": "m", "code": True}, "model_http_500"),
        ({"message": "m", "code": [429], "status_code": 503}, "model_http_503"),
        ({"message": "m", "code": "1302", "http_status_code": 422}, "model_http_422"),
        ({"error": {"message": "m", "code": 403}, "code": 500}, "model_http_403"),
        ({"error": "m", "error_type": "validation"}, "model_http_400"),
        ({"message": "m", "type": "content_filter"}, "model_refused"),
        ({"error": {"message": "m", "code": "content_policy_violation"}}, "model_refused"),
        ({"error": 429, "message": "m"}, "model_http_429"),
        ("m", "model_http_500"),
        (None, "model_http_500"),
        ([{"message": "m"}], "model_http_500"),
    ],
)
def test_the_status_of_an_error(error, code):
    found = error_of_event(error, {})
    assert found.code == code
    assert error is None or str(found).endswith(": m")


@pytest.mark.parametrize(
    "value",
    [
        {"error": {"message": "m"}}, {"error": "m"}, {"error": {}}, {"error": True, "message": "m"},
        {"object": "error"}, {"type": "error", "x": {}}, {"detail": "m"}, {"message": "m"},
        {"detail": [{"msg": "m"}]}, {"errors": ["m"]}, {"error_msg": "m", "error_code": 17},
        {"choices": [], "error": {"code": 1}}, {"choices": [{}], "error": {"message": "m"}},
    ],
)  # fmt: skip
def test_what_is_an_error(value):
    assert error_in(value) is not None


@pytest.mark.parametrize(
    "value",
    [
        {}, {"choices": []}, {"usage": {}}, {"type": "ping"}, {"error": None}, {"error": False},
        {"choices": [{}], "error": {}}, {"choices": [{}], "error": ""}, {"detail": ""},
        {"choices": [{}], "error": {"message": "", "code": None}}, {"message": {"content": "a"}},
        {"choices": [{}], "message": "m", "detail": "m"}, {"base_resp": {"status_code": 0}},
    ],
)  # fmt: skip
def test_what_is_no_error(value):
    assert error_in(value) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at http://10.0.0.1:8000/v1?k=1, sorry", "at [address] sorry"),
        ("postgres://u:p@h/db is gone", "[address] is gone"),
        ("to 10.0.0.1:8000 or 127.0.0.1", "to [address] or [address]"),
        ("vllm-0.models.svc:8000 refused", "[address] refused"),
        ("localhost:8000 refused", "[address] refused"),
        ("key sk-proj-abcDEF123_x is bad", "key [key] is bad"),
        ("Bearer abc.def is bad", "Bearer [key] is bad"),
        ("api_key=hunter22 x", "api_key=[key] x"),
        ('{"api-key": "hunter22"}', '{"api-key": "[key]"}'),
        ("token=abcd1234&x", "token=[key]&x"),
        ("hash " + "a1" * 20, "hash [key]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc", "[key]"),
        ("Meta-Llama-3.1-8B-Instruct-AWQ-INT4", "Meta-Llama-3.1-8B-Instruct-AWQ-INT4"),
        ("qwen2.5:14b has 4096 tokens at 12:30", "qwen2.5:14b has 4096 tokens at 12:30"),
        ("two\nlines\x00\ud800", "two lines\ufffd\ufffd"),
    ],
)
def test_addresses_and_keys_are_not_shown(text, expected):
    assert shown(text) == expected


def test_a_message_is_cut():
    found = str(error_of_event({"message": "word " * 1000}, {}))
    assert len(found) == len("the model server answered 500: ") + MESSAGE_CHARS_MAX
    assert found.endswith("…")


def test_a_body_without_a_message_is_not_shown():
    for body in (b"<html>SECRET</html>", b"SECRET", b'{"input":"SECRET"}', b"\xff", b"[" * 9999):
        assert str(error_of_response(503, body, {})) == "the model server answered 503"


def test_a_retry_after_may_be_a_date():
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=3000), usegmt=True)
    for text, low, high in ((at, 2000, 3000), ("7", 7, 7), ("x", 0, 0), ("-5", 0, 0), ("", 0, 0)):
        error = error_of_response(503, b"", {"retry-after": text})
        assert isinstance(error, ModelOverloadedError)
        assert low <= error.retry_after_s <= high
