"""Every error that a user can act on is one kind, so that the command line can print it as one line."""

from __future__ import annotations

import inspect

from modelworks.core import errors


def test_every_error_is_the_users_to_mend_and_says_when_it_comes() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
    assert len(kinds) > 5
    for kind in kinds:
        assert issubclass(kind, errors.ModelworksError)
        assert kind.__doc__ is not None
        assert "\n\n" not in kind.__doc__
