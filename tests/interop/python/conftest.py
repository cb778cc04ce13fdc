"""Clients of the two gateways that the runner started: the demonstration, and one with faults."""

import json
import os
import urllib.request
import uuid

import anthropic
import openai
import pytest

# Seconds without a byte; the gateway gives up on an upstream long before.
PATIENCE = 20
DEMO, DEMO_KEY = os.environ["INTEROP_DEMO"], os.environ["INTEROP_DEMO_KEY"]
FAULTS, KEY = os.environ["INTEROP_FAULTS"], os.environ["INTEROP_KEY"]


@pytest.fixture(scope="session")
def demo():
    """The OpenAI client as its users set it up."""
    return openai.OpenAI(base_url=f"{DEMO}/v1", api_key=DEMO_KEY, timeout=PATIENCE)


@pytest.fixture(scope="session")
def faults():
    return openai.OpenAI(base_url=f"{FAULTS}/v1", api_key=KEY, timeout=PATIENCE)


@pytest.fixture(scope="session")
def claude():
    """The Anthropic client as its users set it up: without the version in the address."""
    return anthropic.Anthropic(base_url=DEMO, api_key=DEMO_KEY, timeout=PATIENCE)


@pytest.fixture(scope="session")
def claude_faults():
    return anthropic.Anthropic(base_url=FAULTS, api_key=KEY, timeout=PATIENCE)


class Scripted:
    """A model of the origin whose calls are counted apart from those of every other test."""

    def __init__(self, script):
        self.name = f"origin/{script}@{uuid.uuid4().hex[:8]}"

    def hits(self):
        address = f"{os.environ['INTEROP_ORIGIN']}/hits?model={self.name}"
        with urllib.request.urlopen(address, timeout=5) as reply:
            return json.load(reply)["hits"]


@pytest.fixture
def scripted():
    return Scripted
