"""The graphs of a process: those that settings name, and the built-in agent with its models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnstream.connectors.models.openai.client import ModelLimits, OpenAIModel
from turnstream.connectors.models.routes import RoutedModel
from turnstream.graph.agent.builder import agent_entry
from turnstream.graph.agent.retries import RetrySettings
from turnstream.graph.agent.state import AgentSettings
from turnstream.graph.langgraph.catalog import Catalog
from turnstream.graph.ports.lookup import Services
from turnstream.graph.ports.model import MODEL
from turnstream.graph.tools import built_in_tools

if TYPE_CHECKING:
    from turnstream.graph.langgraph.catalog import GraphEntry
    from turnstream.graph.ports.model import ModelClient
    from turnstream.streams.app.settings import Settings


def edge_catalog(settings: Settings) -> Catalog:
    """Return the graphs, to read states with."""
    return _catalog(settings, agent_entry(Services()))


def _catalog(settings: Settings, built_in: GraphEntry) -> Catalog:
    catalog = Catalog()
    if settings.langgraph_json is not None:
        catalog.load(settings.langgraph_json)
    catalog.add_built_in(built_in)
    return catalog


def model_of(settings: Settings) -> RoutedModel:
    """Return the client of the model servers that settings name. Use `async with`."""
    limits = ModelLimits(
        connect_timeout_s=settings.model_connect_timeout_s,
        first_token_timeout_s=settings.model_first_token_timeout_s,
        token_gap_timeout_s=settings.model_token_gap_timeout_s,
        connections_max=2 * settings.turns_max,
    )
    key = settings.model_api_key.get_secret_value()
    default = OpenAIModel(settings.model_url, model=settings.model_name, api_key=key, limits=limits)
    routes = {
        model: OpenAIModel(url, model=model, api_key=key, limits=limits)
        for model, url in settings.model_routes.items()
    }
    return RoutedModel(default, routes)


def worker_catalog(settings: Settings, model: ModelClient) -> Catalog:
    """Return the graphs to run turns with."""
    agent = AgentSettings(
        system_prompt=settings.system_prompt,
        steps_max=settings.agent_steps_max,
        tool_timeout_s=settings.tool_timeout_s,
        retries=RetrySettings(
            tries_max=settings.model_tries_max,
            turn_retries_max=settings.model_turn_retries_max,
            backoff_s=settings.model_backoff_s,
            backoff_max_s=settings.model_backoff_max_s,
            retry_after_max_s=settings.model_retry_after_max_s,
        ),
    )
    return _catalog(settings, agent_entry(Services().adding(MODEL, model), built_in_tools(), agent))
