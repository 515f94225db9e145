"""What is shipped to run elsewhere."""
