"""The issuer: accounts and credentials. Who may speak on the bus, for how long, and what they may say and hear."""
