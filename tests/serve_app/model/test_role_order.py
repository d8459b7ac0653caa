"""Strict templates and the conversations of agents."""

import pytest

from engine.errors import RequestError
from tests.serve_app.toy import toy_model

ALTERNATING = (
    "{% for message in messages %}"
    "{% if message.role == 'system' and not loop.first %}{{ raise_exception('system comes first') }}{% endif %}"
    "{% if not loop.first and message.role == loop.previtem.role %}{{ raise_exception('roles alternate') }}{% endif %}"
    "[{{ message.role }}] {{ message.content }} {% endfor %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + ALTERNATING


def rendered(template, *messages):
    shown = [{"role": role, "content": content} for role, content in messages]
    return toy_model(template=template).template.render(shown)


def test_what_a_template_takes_is_left_as_it_is():
    assert (
        rendered(ALTERNATING, ("system", "s"), ("user", "a"), ("assistant", "b"))
        == "[system] s [user] a [assistant] b "
    )


def test_system_messages_in_the_middle_and_neighbors_become_one_message_of_the_user():
    conversation = [("system", "s"), ("user", "a"), ("system", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")]
    assert rendered(ALTERNATING, *conversation) == "[system] s [user] a\nb\nc [assistant] d [user] e "


def test_a_template_without_a_system_reads_it_as_the_user():
    assert rendered(NO_SYSTEM, ("system", "s"), ("user", "a")) == "[user] s\na "


def test_what_is_refused_in_any_order_is_told_in_the_templates_first_words():
    with pytest.raises(RequestError, match="roles alternate"):
        rendered(ALTERNATING, ("user", "a"), ("assistant", "b"), ("assistant", "c"))
