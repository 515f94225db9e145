"""What is said about a new credential is what makes it work."""

import pytest

from cli.commands.credentials import Kind, inbox_prefix
from events.words import Role
from services.issuer.accounts import client_permissions, operator_permissions

USUAL = "_INBOX"


@pytest.mark.parametrize("role", list(Role))
def test_an_operator_is_told_the_inbox_that_its_role_may_hear(role: Role) -> None:
    said = inbox_prefix(Kind.OPERATOR, role) or USUAL
    assert f"{said}.>" in operator_permissions(role).subscribe
    assert (said == USUAL) == (role is Role.ADMIN)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
def test_a_client_of_a_project_has_the_usual_inbox(role: Role) -> None:
    assert not inbox_prefix(Kind.CLIENT, role)
    assert f"{USUAL}.>" in client_permissions("webshop", role).subscribe
