"""The built-in agent, as a program of its own inside the sandbox: the Anthropic SDK's tool runner and its tools.

Run as `python -P -s -m agent.loop` with a `Task` as JSON on standard input; it says on standard output, a JSON object
a line in Claude Code's `stream-json` form, what the model said, which tools ran and how it ended. It imports nothing of
ours, so a sandbox needs to see this package and an interpreter with `anthropic`, and nothing else.
"""
