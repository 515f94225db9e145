"""The hub's own record: that it exists, when it came up and when it went down in order."""
