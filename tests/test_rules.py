"""docs/rules.md, docs/promises.md, the code and the tests name each other, in both directions."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from tests.model.plants.every import PLANTS

ROOT = Path(__file__).parents[1]
CODE = ("schemas", "connectors", "graph", "streams", "deploy")
RULE_ID = re.compile(r"\b[AFGRTW]\d{1,2}n?\b")
RULE = re.compile(r"^### (?P<id>\w+): (?P<title>.+)\n(?P<text>(?:(?!#).*\n)*)", re.MULTILINE)
LINE = re.compile(r"^- (Kept in|Tests|Planted): (.+)$", re.MULTILINE)
NAMED = re.compile(r"`([^`]+)`")
PROMISE = re.compile(r"^\| (P\d+) \|(.+)\|(.+)\|(.+)\|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/.-]+?)(?:::(\w+))?`")


def named(text: str, what: str) -> list[str]:
    """The names that stand in a rule's line of this kind."""
    return [
        name for kind, line in LINE.findall(text) if kind == what for name in NAMED.findall(line)
    ]


RULES = {rule["id"]: rule["text"] for rule in RULE.finditer((ROOT / "docs/rules.md").read_text())}
PAGE = (ROOT / "docs/promises.md").read_text()
PROMISES = {row[0]: row[3] for row in PROMISE.findall(PAGE)}


def names_in(path: str) -> set[str]:
    """The tests that a module holds."""
    tree = ast.parse((ROOT / path).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, functions) and "test" in node.name}


@cache
def cited() -> dict[str, set[str]]:
    """The ids of rules that code, SQL, tests and pages name, with where they do."""
    found = defaultdict(set)
    folders = [*(ROOT / folder for folder in (*CODE, "tests")), ROOT / "docs"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    for path in (*files, *ROOT.glob("*.md")):
        if path.suffix in (".py", ".sql", ".md") and path.name not in ("rules.md", "test_rules.py"):
            for rule in RULE_ID.findall(path.read_text()):
                found[rule].add(str(path.relative_to(ROOT)))
    return found


def test_every_rule_that_is_cited_is_defined():
    assert {rule: where for rule, where in cited().items() if rule not in RULES} == {}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_says_why_and_is_cited_where_it_is_kept(rule):
    text = RULES[rule]
    assert "\nWhy: " in text
    kept_in = named(text, "Kept in")
    assert kept_in
    assert set(kept_in) <= cited()[rule]
    assert {path.split("/")[0] for path in kept_in} <= set(CODE)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_names_tests_that_exist(rule):
    tests = named(RULES[rule], "Tests")
    assert tests
    for test in tests:
        path, _, name = test.partition("::")
        assert name in names_in(path), test


def test_rules_and_planted_errors_name_each_other():
    in_page = {name: rule for rule, text in RULES.items() for name in named(text, "Planted")}
    assert in_page == {name: error.rule for name, error in PLANTS.items()}


def test_every_test_that_a_page_names_exists():
    for path, name in TEST.findall(PAGE):
        assert (ROOT / path).exists(), path
        assert not name or name in names_in(path), f"{path}::{name}"
    assert "`::test" not in PAGE  # a test is named with its module, so that this finds it


def test_every_promise_names_tests():
    assert len(PROMISES) >= 12
    assert list(PROMISES) == [f"P{number}" for number in range(1, len(PROMISES) + 1)]
    for promise, shown_by in PROMISES.items():
        assert TEST.search(shown_by), promise


def contract_tests() -> dict[str, set[str]]:
    """Each contract test with the promises that it or its module names (`pytest.mark.promises`)."""
    found = {}
    for path in sorted((ROOT / "tests/contracts").glob("test_*.py")):
        tree = ast.parse(path.read_text())
        of_module = [node.value for node in tree.body if isinstance(node, ast.Assign)
                     and ast.unparse(node.targets[0]) == "pytestmark"]  # fmt: skip
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "test" in node.name:
                marks = [ast.unparse(mark) for mark in (*of_module, *node.decorator_list)]
                names = {name for mark in marks if "promises" in mark
                         for name in re.findall(r"P\d+", mark)}  # fmt: skip
                found[f"{path.relative_to(ROOT)}::{node.name}"] = names
    return found


@pytest.mark.parametrize(("test", "promises"), contract_tests().items())
def test_a_contract_test_names_its_promises_and_they_name_it(test, promises):
    assert promises
    assert promises <= set(PROMISES)
    path = test.partition("::")[0]
    for promise in promises:
        assert f"`{path}`" in PROMISES[promise] or f"`{test}`" in PROMISES[promise], promise


def test_a_promise_that_names_a_contract_is_named_by_it():
    by_path = defaultdict(set)
    for test, promises in contract_tests().items():
        by_path[test] |= promises
        by_path[test.partition("::")[0]] |= promises
    for promise, shown_by in PROMISES.items():
        for path, name in TEST.findall(shown_by):
            if path.startswith("tests/contracts/"):
                assert promise in by_path[f"{path}::{name}" if name else path], (promise, path)
