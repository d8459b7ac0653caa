"""Text that clients keep for a model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.tenants.sealing import open_sealed, seal, seal_key

KEY = seal_key(b"secret of the cluster", "alice")


@given(st.text())
def test_what_is_sealed_opens(text):
    assert open_sealed(seal(text, KEY, "here"), KEY) == text


@pytest.mark.parametrize("key", [seal_key(b"secret of the cluster", "bob"), seal_key(b"another", "alice")])
def test_only_its_own_key_opens_it(key):
    assert open_sealed(seal("thought", KEY, "here"), key) is None


def test_what_was_changed_does_not_open():
    sealed = seal("thought", KEY, "here")
    assert "thought" not in sealed and seal("thought", KEY, "there") != sealed
    for place in range(len(sealed)):
        changed = sealed[:place] + ("A" if sealed[place] != "A" else "B") + sealed[place + 1 :]
        assert open_sealed(changed, KEY) is None


def test_a_text_is_sealed_to_the_same_bytes_at_the_same_place():
    assert seal("thought", KEY, "here") == seal("thought", KEY, "here")


@pytest.mark.parametrize("other", ["", "x", "EqQBCgIYAhIM1gbcDa9GJwZA2b3h", "gAAAAABoISQ24OyVRYbk", "é", "=" * 40])
def test_signatures_of_other_servers_do_not_open(other):
    assert open_sealed(other, KEY) is None
