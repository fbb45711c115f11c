"""`/metrics` of the scripted server, under the names that vLLM gives its own; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from turnstream.deploy.local.scripted.server import ScriptedServer


def metrics_text(server: ScriptedServer) -> str:
    """Return the metrics in Prometheus' text format."""
    running, waiting = len(server.running), len(server.waiting)
    used = running / server.slots if server.slots else min(1.0, running / 256)
    labels = f'{{engine="0",model_name="{server.model}"}}'
    lines: list[str] = []

    def metric(name: str, kind: str, what: str, value: float) -> None:
        lines.extend(
            (f"# HELP {name} {what}", f"# TYPE {name} {kind}", f"{name}{labels} {value:g}")
        )

    metric("vllm:num_requests_running", "gauge", "Requests that are answered.", running)
    metric("vllm:num_requests_waiting", "gauge", "Requests that wait for a slot.", waiting)
    metric("vllm:kv_cache_usage_perc", "gauge", "KV-cache usage; 1 is all of it.", used)
    metric("vllm:prompt_tokens_total", "counter", "Prompt tokens.", server.prompt_tokens)
    metric("vllm:generation_tokens_total", "counter", "Generated tokens.", server.generation_tokens)
    name = "vllm:request_success_total"
    lines += [f"# HELP {name} Requests that came to their end.", f"# TYPE {name} counter"]
    lines += [
        f'{name}{{engine="0",finished_reason="{reason}",model_name="{server.model}"}} {count}'
        for reason, count in sorted(server.finished.items())
    ]
    return "\n".join(lines) + "\n"
