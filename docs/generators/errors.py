"""reference/errors.md: every code that a refusal can carry, and what it asks of who asked."""

from collections.abc import Iterator

from docs.generators.markdown import code, page, table
from docs.generators.source import calls, literal
from services.query.problems import STATUS_OF_CODE

OF_THE_DOOR_OTHERWISE = 422

MEANING = {
    "ambiguous": "More than one thing has an id that begins so. Write more of it.",
    "bad_body": "The body is no JSON, or a field is missing, unknown, of the wrong type or out of its bounds: `field` and "
    "`limit` say which.",
    "bad_header": "A `ce-*` or `Nats-Msg-Id` header cannot be what it says.",
    "bad_parameter": "A parameter is unknown, given twice, missing, or not what is expected.",
    "bad_report": "A machine's report cannot be read.",
    "bad_subject": "The subject is not `<project>.<aggregate>.<id>.<Type>`, or the id does not fit the aggregate.",
    "behind": "The read model has not come as far as `at_least_seq` asked. Ask again.",
    "busy": "So many comparisons already run. Ask again a little later.",
    "conflict": "It does not fit what has happened: the machine has ended, an id is taken.",
    "exists": "There is one of this name.",
    "failed_again": "The dead letter's handler failed once more; the letter stays.",
    "id_reused": "An earlier event has this id and another content. A repetition must be the same.",
    "internal": "A fault on our side, which the service's log explains. Try again.",
    "missing_chunks": "The chunk store does not hold all of the checkpoint.",
    "model_not_allowed": "The project's agent policy allows other models: `limit` says which.",
    "no_model": "An AI agent needs a model, and neither the request, the project nor the hub names one.",
    "no_model_used": "A machine of this type uses no model. Leave it out.",
    "no_parent": "The checkpoint is the first of its tree: name a second one to compare with.",
    "no_such_checkpoint": "There is no such checkpoint in this project.",
    "no_such_credential": "There is no such credential.",
    "no_such_machine": "There is no such machine in this project.",
    "no_such_project": "There is no such project. Create it first.",
    "not_allowed": "The key, the account or the event type does not allow it.",
    "not_found": "There is no such thing, or the key may not see it.",
    "not_runnable": "This machine type cannot be run here.",
    "project_archived": "The project takes no more requests.",
    "project_paused": "The project takes no requests for now.",
    "purged": "The checkpoint's bytes were dropped by retention.",
    "rate": "Too many knocks of this project at once. Ask again a little later.",
    "refused": "The log, or the service that a machine reports to, did not take it; the message says why.",
    "too_large": "Larger than what is taken. Large content goes to the chunk store.",
    "too_slow": "It took longer than it may. Ask for less.",
    "unauthenticated": "No API key, or one that is unknown, ended or revoked.",
    "unavailable": "It could not be done now; whether it was is unknown. Asking again with the same id is safe.",
    "unknown_model": "No price is known of the model, so its calls are refused. Give it one, or declare it free.",
    "unknown_type": "There is no such event type.",
    "wrong_method": "There is another method at this path.",
}

_INTRODUCTION = """
A refusal says what was asked, what stood against it and what helps. Over HTTP it is a problem document (RFC 9457, media
type `application/problem+json`), at the NATS door the answer of `ask.…` (with the headers `Nats-Service-Error` and
`Nats-Service-Error-Code`), or for what was published a record under `rejected.…`. The fields are the same:

| field | what |
| --- | --- |
| `code` | One of the words below; programs go by this. |
| `message` (HTTP: `detail`) | For humans. |
| `field` | Which field, parameter or header it is about. |
| `value` | What was given, shortened. |
| `limit` | What would be right. |
| `remedy` | What helps. |
"""


def codes() -> set[str]:
    """Return every code that the source can say."""
    return set(_said()) | set(STATUS_OF_CODE)


def text() -> str:
    rows = ((code(one), _status(one), MEANING[one]) for one in sorted(codes()))
    return page(
        "Refusals",
        "the refusals of `domain/` and `services/`",
        _INTRODUCTION,
        table(("code", "HTTP", "meaning"), rows),
        "Exit codes of the command line: [cli.md](cli.md#exit-codes).",
    )


def _said() -> Iterator[str]:
    for _, name, call in calls(("domain", "services"), frozenset({"Problem", "HttpProblem"})):
        keyword = next((one.value for one in call.keywords if one.arg == "code"), None)
        found = literal(keyword or (call.args[1] if name == "HttpProblem" and len(call.args) > 1 else None))
        if found:
            yield found


def _status(one: str) -> str:
    statuses = {str(STATUS_OF_CODE.get(one, OF_THE_DOOR_OTHERWISE))} if one not in _ONLY_HTTP else set[str]()
    for _, _, call in calls(("services/query",), frozenset({"HttpProblem"})):
        status = getattr(call.args[0], "value", None) if call.args else None
        if len(call.args) > 1 and literal(call.args[1]) == one and isinstance(status, int):
            statuses.add(str(status))
    return ", ".join(sorted(statuses))


_ONLY_HTTP = frozenset(
    {
        "ambiguous", "bad_parameter", "behind", "busy", "failed_again", "missing_chunks", "no_parent", "not_found", "purged",
        "too_slow", "unauthenticated", "wrong_method",
    }
)  # fmt: skip
