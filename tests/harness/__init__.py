"""What every test may use: real servers, databases, and waiting for a level."""
