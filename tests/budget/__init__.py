"""The budget service, on a real server; and the pure world that the decider's tests share."""
